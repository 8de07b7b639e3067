"""From scored groups to trees whose tokens carry advantages: one number per answer and span, spread over its tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from mmreason.algorithms.advantages import ADVANTAGES, Outcomes
from mmreason.algorithms.spans import ALL, token_advantages
from mmreason.config import RunConfig
from mmreason.config.columns import spans_of
from mmreason.errors import PluginError
from mmreason.plugins import load_symbol
from mmreason.training.outcomes import factors_of, outcomes_of
from mmreason.training.run import Run
from mmreason.types import Rollout, RolloutGroup, Segment, Tree


def advantages_of(run: Run, groups: Sequence[RolloutGroup], penalties_NG: Tensor) -> Tensor:
    """float64 [N, G + D, S] for this process's groups and every span of an answer (`config.columns.spans_of`).

    D: most scored demonstrations of a group; they stand behind the rollouts and count in the group's statistics.
    """
    spans = [advantages_in(run, groups, penalties_NG, span) for span in spans_of(run.config)]
    return torch.stack(spans, -1) * factors_of(groups)[:, None, None]


def advantages_in(run: Run, groups: Sequence[RolloutGroup], penalties_NG: Tensor, span: str) -> Tensor:
    """float64 [N, G + D]: the same for one span, from the groups of all processes: some rows look at them together."""
    config = run.config
    mine = outcomes_of(config, groups, span)
    penalties_NG = pad(penalties_NG, (0, mine.total_NG.shape[1] - penalties_NG.shape[1]))
    parts = run.engine.gather((mine.total_NG - penalties_NG, mine.parts_NGK, mine.tokens_NG, mine.greedy_N))
    width = max(total_NG.shape[1] for total_NG, *_ in parts)
    outcomes = Outcomes(
        total_NG=torch.cat([_widened(total_NG, width, math.nan) for total_NG, _, _, _ in parts]),
        parts_NGK=torch.cat([_widened(parts_NGK, width, math.nan) for _, parts_NGK, _, _ in parts]),
        weights_K=mine.weights_K,
        tokens_NG=torch.cat([_widened(tokens_NG, width, 0.0) for _, _, tokens_NG, _ in parts]),
        greedy_N=torch.cat([greedy_N for *_, greedy_N in parts]),
    )
    advantages_NG = advantage_rule(config)(outcomes)
    first = sum(len(total_NG) for total_NG, *_ in parts[: run.engine.rank])
    return advantages_NG[first : first + len(groups)]


def advantage_rule(config: RunConfig) -> Callable[[Outcomes], Tensor]:
    """From outcomes to advantages [N, G]: a row of the table, or the user's own function of `Outcomes`.

    Raises PluginError where that cannot be loaded, and when it gives anything but N x G finite numbers.
    """
    name = config.grpo.advantage
    if name in ADVANTAGES:
        return lambda outcomes: ADVANTAGES[name](outcomes, config.grpo.option("epsilon"))
    function = load_symbol(name, ADVANTAGES, "mmreason.advantages")
    if not callable(function):
        raise PluginError(f"grpo.advantage: {name} is a {type(function).__name__}; expected a function of Outcomes")
    return lambda outcomes: _sound(function(outcomes), name, outcomes.total_NG.shape)


def _sound(made: object, name: str, shape: torch.Size) -> Tensor:
    """What a user's advantage gave, where it is one number for every answer."""
    wanted = f"expected a tensor {list(shape)} of finite numbers, 0 where total_NG is NaN"
    if not isinstance(made, Tensor):
        raise PluginError(f"grpo.advantage: {name} gave a {type(made).__name__}; {wanted}")
    if made.shape != shape:
        raise PluginError(f"grpo.advantage: {name} gave a tensor {list(made.shape)}; {wanted}")
    if not made.isfinite().all():
        raise PluginError(f"grpo.advantage: {name} gave {int((~made.isfinite()).sum())} numbers not finite; {wanted}")
    return made.double()


def _widened(values: Tensor, width: int, filling: float) -> Tensor:
    """The same with more columns (dimension 1)."""
    lacking = width - values.shape[1]
    return torch.cat([values, values.new_full((len(values), lacking, *values.shape[2:]), filling)], dim=1)


def credit(
    groups: Sequence[RolloutGroup],
    advantages_NGS: Tensor,
    spans: Sequence[str] = (ALL,),
    *,
    trained: Callable[[Rollout], bool],
) -> list[Tree]:
    """Advantages onto tokens; one tree per group, of its answers that have a score and are to be `trained` on.

    Demonstrations hang beside them, with advantages from behind those of the rollouts (0 where there are none).
    """
    trees, demos = [], sum(len(group.rollouts) for group in groups)
    for place, (group, advantages_GS) in enumerate(zip(groups, advantages_NGS.tolist(), strict=True)):
        answers: list[Segment] = []
        for index, (rollout, score) in enumerate(zip(group.rollouts, group.scores, strict=True)):
            if score.total is not None and trained(rollout):
                number, first = 1 + place * len(group.rollouts) + index, 1 + len(answers)
                advantages = dict(zip(spans, advantages_GS[index], strict=True))
                answers += branch(rollout, advantages, number, first=first, reward=score.total)
        for index, demo in enumerate(group.demos if answers else (), len(group.rollouts)):
            demos, first = demos + 1, 1 + len(answers)
            row = advantages_GS[index] if index < len(advantages_GS) else [0.0] * len(spans)
            answers += branch(demo, dict(zip(spans, row, strict=True)), demos, first=first, demo=1.0)
        if answers:
            trees.append(Tree(id=group.sample.id, segments=(group.prompt, *answers)))
    return trees


def branch(
    rollout: Rollout, advantages: Mapping[str, float], number: int, *, first: int, **more: float
) -> list[Segment]:
    """One rollout's path hung below the prompt (segment 0).

    Its trained tokens carry the rollout's advantage in their span, and all of its tokens its number (from 1;
    demonstrations behind rollouts) on this process, and `more`: `reward`, of rollouts; `demo`, 1 for demonstrations.
    """
    hung = []
    rest_T = token_advantages(rollout, advantages)
    for depth, segment in enumerate(rollout.segments):
        parent = 0 if depth == 0 else first + depth - 1
        advantage_T = torch.zeros(segment.ids.shape)
        if segment.kind == "policy":
            advantage_T, rest_T = rest_T[: len(segment.ids)], rest_T[len(segment.ids) :]
        columns = {"advantage": segment.loss_mask.float() * advantage_T}
        columns |= {
            name: torch.full(segment.ids.shape, float(value)) for name, value in {"answer": number, **more}.items()
        }
        hung.append(replace(segment, parent=parent).with_columns(**columns))
    return hung
