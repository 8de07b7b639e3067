"""Scored groups as tensors: N groups of G answers, K rewards (and bonuses of shapers)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mmreason.algorithms.advantages import Outcomes, compared, has_signal
from mmreason.algorithms.spans import ALL, span_length
from mmreason.config import RunConfig
from mmreason.config.columns import Column, columns_of, spans_of
from mmreason.types import RolloutGroup, Score


def rewards_of(config: RunConfig, groups: Sequence[RolloutGroup]) -> Tensor:
    """float64 [N, G]: total rewards, NaN where a rollout has none."""
    rows = [[_reward(score, (), ALL) for score in group.scores] for group in groups]
    return torch.tensor(rows, dtype=torch.float64).reshape(len(groups), config.rollout.n)


def outcomes_of(config: RunConfig, groups: Sequence[RolloutGroup], span: str = ALL) -> Outcomes:
    """Totals, rewards one by one and lengths of a span, with empty tensors of the right shapes for no groups.

    Scored demonstrations stand behind the rollouts; NaN where a group has fewer of them.
    """
    columns = _columns(config, span)
    width = config.rollout.n + max((len(group.demo_scores) for group in groups), default=0)
    nothing = Score(total=None)
    scores = [[*group.scores, *group.demo_scores] for group in groups]
    scores = [row + [nothing] * (width - len(row)) for row in scores]
    lengths = [[span_length(one, span) for one in (*group.rollouts, *group.demos)][:width] for group in groups]
    lengths = [row + [0] * (width - len(row)) for row in lengths]
    parts = [[[_part(score, one.label) for one in columns] for score in row] for row in scores]
    totals = [[_reward(score, columns, span) for score in row] for row in scores]
    greedy = [_reward(group.greedy, columns, span) for group in groups]
    return Outcomes(
        total_NG=torch.tensor(totals, dtype=torch.float64).reshape(len(groups), width),
        parts_NGK=torch.tensor(parts, dtype=torch.float64).reshape(len(groups), width, len(columns)),
        weights_K=torch.tensor([one.weight for one in columns], dtype=torch.float64),
        tokens_NG=torch.tensor(lengths, dtype=torch.float64).reshape(len(groups), width),
        greedy_N=torch.tensor(greedy, dtype=torch.float64),
    )


def teaches(config: RunConfig, group: RolloutGroup) -> bool:
    """Whether the advantage in use can tell the answers of a group apart, in any of their spans."""
    grpo = config.grpo
    spans = (outcomes_of(config, [group], span) for span in spans_of(config))
    return any(bool(has_signal(compared(grpo.advantage, one, grpo.option("epsilon")))) for one in spans)


def factors_of(groups: Sequence[RolloutGroup]) -> Tensor:
    """float64 [N]: what shaping multiplies each group's advantages by."""
    return torch.tensor([group.factor for group in groups], dtype=torch.float64)


def _columns(config: RunConfig, span: str) -> list[Column]:
    """What counts in a span: its own rewards and those for all."""
    return [column for column in columns_of(config) if span == ALL or column.span in (span, ALL)]


def _part(score: Score, label: str) -> float:
    """One reward of an answer; NaN where there is none, also of an answer that another reward left without a score."""
    return math.nan if score.total is None else score.parts.get(label, math.nan)


def _reward(score: Score | None, columns: Sequence[Column], span: str) -> float:
    """A score's total, or the weighted sum of a span's rewards; NaN where none applies."""
    if score is None or score.total is None:
        return math.nan
    if span == ALL:
        return score.total
    values = [column.weight * score.parts[column.label] for column in columns if column.label in score.parts]
    return sum(values) if values else math.nan
