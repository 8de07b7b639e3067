"""GRPO and its relatives: sample groups, score them, push answers by their advantage.

What is not here: no critic, no base trainer, no branch per variant or modality. A variant is a row in a table of
`algorithms`; media are inside the trees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from mmreason.algorithms.advantages import ADVANTAGES, Outcomes
from mmreason.algorithms.clips import WHOLE_GROUPS
from mmreason.config import RunConfig
from mmreason.config.reward_names import labels
from mmreason.errors import ConfigError
from mmreason.training.collect import Collected, collect, is_masked
from mmreason.training.objective import kl_coefficient, kl_sums, objective_of, row_loss
from mmreason.training.run import Run
from mmreason.training.terms import terms_of, with_demos
from mmreason.training.update import rows_of, update, weigh
from mmreason.types import Batch, Rollout, RolloutGroup, Score, Segment, Tree

CARRIED = ("kl", "kl_coef", "temperature", "entropy/sampled")
"""Metrics of a step that the next one looks at."""


def train_grpo(run: Run) -> None:
    """Run every remaining step."""
    config = run.config
    for step in run.steps():
        collected = collect(run, step)
        run.check_stop()
        groups = with_demos(run, collected.groups)
        sampled = sampling_metrics(run, collected)
        coefficient = kl_coefficient(config, step - 1, sampled, run.carried)
        with run.timed("score"):
            penalties_NG, kl = penalties(run, collected.groups, coefficient)
        trees = credit(
            groups,
            advantages_of(run, groups, penalties_NG),
            trained=lambda rollout: not is_masked(config, rollout),
        )
        with run.timed("pack"):
            updates = [rows for rows in prepare(run, trees) if rows]
        with run.timed("score"):
            updates = [
                [with_logprobs(run, row, reference=config.grpo.kl_in == "loss") for row in rows] for rows in updates
            ]
        loss = row_loss(config, objective_of(config, step - 1), coefficient, terms_of(config, step - 1))
        with run.timed("update"):
            changes = [update(run, rows, loss, run.temperature) for rows in updates]
        with run.timed("gallery"):
            run.gallery.keep(step, collected.groups, collected.left_out)
        tokens = collected.tokens + sum(row.ids.shape[0] for rows in updates for row in rows)
        metrics = {**sampled, **kl, **mean(changes)}
        if config.grpo.kl_coef:
            metrics["kl_coef"] = coefficient
        if config.rollout.entropy_target is not None:
            metrics["temperature"] = run.temperature
        run.carried = {name: metrics[name] for name in CARRIED if name in metrics}
        run.finish_step(step, metrics, tokens=tokens)


def advantages_of(run: Run, groups: Sequence[RolloutGroup], penalties_NG: Tensor) -> Tensor:
    """float64 [N, G + D] for this process's groups, from those of all processes: some rows look at them together.

    D: most scored demonstrations of a group; they stand behind the rollouts and count in the group's statistics.
    """
    config = run.config
    mine = outcomes_of(config, groups)
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
    advantages_NG = ADVANTAGES[config.grpo.advantage](outcomes, config.grpo.option("epsilon"))
    first = sum(len(total_NG) for total_NG, *_ in parts[: run.engine.rank])
    return advantages_NG[first : first + len(groups)]


def _widened(values: Tensor, width: int, filling: float) -> Tensor:
    """The same with more columns (dimension 1)."""
    lacking = width - values.shape[1]
    return torch.cat([values, values.new_full((len(values), lacking, *values.shape[2:]), filling)], dim=1)


def outcomes_of(config: RunConfig, groups: Sequence[RolloutGroup]) -> Outcomes:
    """Totals, rewards one by one and lengths, with empty tensors of the right shapes for no groups.

    Scored demonstrations stand behind the rollouts; NaN where a group has fewer of them.
    """
    names = labels([reward.name for reward in config.rewards])
    weights = [reward.weight for reward in config.rewards]
    width = config.rollout.n + max((len(group.demo_scores) for group in groups), default=0)
    nothing = Score(total=None)
    scores = [[*group.scores, *group.demo_scores] for group in groups]
    lengths = [[rollout.tokens for rollout in (*group.rollouts, *group.demos)][:width] for group in groups]
    scores = [row + [nothing] * (width - len(row)) for row in scores]
    lengths = [row + [0] * (width - len(row)) for row in lengths]
    parts = [[[score.parts.get(name, math.nan) for name in names] for score in row] for row in scores]
    totals = [[_total(score) for score in row] for row in scores]
    return Outcomes(
        total_NG=torch.tensor(totals, dtype=torch.float64).reshape(len(groups), width),
        parts_NGK=torch.tensor(parts, dtype=torch.float64).reshape(len(groups), width, len(names)),
        weights_K=torch.tensor(weights, dtype=torch.float64),
        tokens_NG=torch.tensor(lengths, dtype=torch.float64).reshape(len(groups), width),
        greedy_N=torch.tensor([_total(group.greedy) for group in groups], dtype=torch.float64),
    )


def _total(score: Score | None) -> float:
    return math.nan if score is None or score.total is None else score.total


def penalties(run: Run, groups: Sequence[RolloutGroup], coefficient: float) -> tuple[Tensor, dict[str, float]]:
    """float64 [N, G]: what `grpo.kl_in: reward` takes off each answer's reward, else zeros; and the metric `kl`.

    Truncated answers are scored like all others: they count in their group's statistics.
    """
    config = run.config
    blank_NG = torch.zeros(len(groups), config.rollout.n, dtype=torch.float64)
    if not config.grpo.kl_coef or config.grpo.kl_in != "reward":
        return blank_NG, {}
    rows = rows_of(run, credit(groups, blank_NG, trained=lambda rollout: True))
    scored = [with_logprobs(run, row, reference=True) for row in rows]
    sums = kl_sums(scored, blank_NG.numel(), config.grpo.kl_estimator)
    totals = run.engine.sum({"kl": float(sums.sum()), "tokens": float(sum(row.loss_mask.sum() for row in rows))})
    return coefficient * sums.reshape(blank_NG.shape), {"kl": totals["kl"] / max(totals["tokens"], 1.0)}


def credit(groups: Sequence[RolloutGroup], advantages_NG: Tensor, *, trained: Callable[[Rollout], bool]) -> list[Tree]:
    """Advantages onto tokens; one tree per group, of its answers that have a score and are to be `trained` on.

    Demonstrations hang beside them, with advantages from behind those of the rollouts (0 where there are none).
    """
    trees, demos = [], sum(len(group.rollouts) for group in groups)
    for place, (group, advantages_G) in enumerate(zip(groups, advantages_NG, strict=True)):
        answers: list[Segment] = []
        for index, (rollout, score) in enumerate(zip(group.rollouts, group.scores, strict=True)):
            if score.total is not None and trained(rollout):
                number, first = 1 + place * len(group.rollouts) + index, 1 + len(answers)
                answers += branch(rollout.segments, float(advantages_G[index]), number, first=first, reward=score.total)
        for index, demo in enumerate(group.demos if answers else (), len(group.rollouts)):
            demos, first = demos + 1, 1 + len(answers)
            advantage = float(advantages_G[index]) if index < len(advantages_G) else 0.0
            answers += branch(demo.segments, advantage, demos, first=first, demo=1.0)
        if answers:
            trees.append(Tree(id=group.sample.id, segments=(group.prompt, *answers)))
    return trees


def branch(path: Sequence[Segment], advantage: float, number: int, *, first: int, **more: float) -> list[Segment]:
    """One rollout's path hung below the prompt (segment 0).

    Its trained tokens carry the rollout's advantage, and all of its tokens its number (from 1; demonstrations behind
    rollouts) on this process, and `more`: `reward`, of rollouts; `demo`, 1 for demonstrations.
    """
    hung = []
    for depth, segment in enumerate(path):
        parent = 0 if depth == 0 else first + depth - 1
        columns = {"advantage": segment.loss_mask.float() * advantage}
        columns |= {
            name: torch.full(segment.ids.shape, float(value)) for name, value in {"answer": number, **more}.items()
        }
        hung.append(replace(segment, parent=parent).with_columns(**columns))
    return hung


def prepare(run: Run, trees: Sequence[Tree]) -> Iterator[list[Batch]]:
    """Rows for each optimizer step of this batch; an empty list where no process has anything to train on.

    Trees are dealt out by their place in the epoch's order, in which processes take turns, so that no number of
    processes changes how many steps there are.
    """
    parts = run.config.grpo.updates_per_batch
    for part in range(parts):
        mine = [tree for i, tree in enumerate(trees) if (i * run.engine.world + run.engine.rank) % parts == part]
        weighed, answers = weigh(run, mine, run.config.train.aggregation)
        weighed, demos = weigh(run, weighed, run.config.train.aggregation, demos=True)
        rows = rows_of(run, weighed) if answers.tokens + demos.tokens else []
        clip = run.config.grpo.clip
        if clip in WHOLE_GROUPS and any(row.repeated_tokens for row in rows):
            raise ConfigError(
                f"train.row_tokens: {run.config.train.row_tokens} is too little for a prompt with all its answers, "
                f"which grpo.clip {clip} needs in one row; raise it, or lower rollout.max_new_tokens or rollout.n"
            )
        yield rows


def with_logprobs(run: Run, row: Batch, *, reference: bool) -> Batch:
    """Add "logprob.old" and, with a KL and where asked, "logprob.ref", from no-grad passes over the very same row.

    The sampling log-probs ARE the old ones: over the very ids that tokens are scored over, all of them or, with top-p
    or top-k and `options.support`, those that were left to choose among. With `grpo.off_policy` it is the difference
    by rounding, or by another engine, that matters: then they are computed again.
    """
    columns = dict(row.columns)
    temperature = run.temperature
    if run.config.grpo.off_policy == "none":
        columns["logprob.old"] = columns["logprob.sampling"]
    else:
        columns["logprob.old"] = run.policy.token_scores(
            row, temperature=temperature, forward=run.engine.model, grad=False
        ).logprob
    if run.config.grpo.kl_coef and reference:
        scores = run.policy.reference_scores(row, temperature=temperature, forward=run.reference)
        columns["logprob.ref"] = scores.logprob
    return replace(row, columns=columns)


def sampling_metrics(run: Run, collected: Collected) -> dict[str, float]:
    """Means over the groups sampled by all processes, and how many were sampled and kept."""
    counts = run.engine.sum({"groups/sampled": collected.sampled, "groups/kept": len(collected.groups)})
    return {**collected.tally.means(run.engine.gather(collected.tally.totals)), **counts}


def mean(changes: Sequence[dict[str, float]]) -> dict[str, float]:
    """Metrics of one batch from those of its optimizer steps: sums of `tokens/...`, means of all others.

    `updates` says how many steps there were.
    """
    names = sorted({name for change in changes for name in change})
    sums = {name: math.fsum(change[name] for change in changes) for name in names}
    joined = {name: total if name.startswith("tokens/") else total / len(changes) for name, total in sums.items()}
    return {**joined, "updates": float(len(changes))}
