"""Small packed rows for the tests of losses, made of answers given as lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmreason.algorithms.aggregation import AGGREGATIONS, StepCounts
from mmreason.algorithms.ratios import Tokens

LONGEST = 8
"""Longest possible answer, of the aggregation `constant`."""


def tokens_of(
    log_ratios: Sequence[Sequence[float]],
    advantages: Sequence[float],
    *,
    aggregation: str = "token_mean",
    old: float = -1.0,
    groups: Sequence[int] = (),
) -> tuple[Tokens, Tensor]:
    """Answers side by side, every old log-prob `old`, in float64; and the leaf whose gradient is wanted."""
    lengths = [len(answer) for answer in log_ratios]
    counts = StepCounts(sequences=len(lengths), tokens=sum(lengths), max_new_tokens=LONGEST)
    gaps = torch.tensor([gap for answer in log_ratios for gap in answer], dtype=torch.float64)
    logprob = (gaps + old).requires_grad_()

    def spread(values: Sequence[Any]) -> Tensor:
        return torch.tensor([v for v, n in zip(values, lengths, strict=True) for _ in range(n)], dtype=torch.float64)

    tokens = Tokens(
        logprob=logprob,
        old=torch.full_like(gaps, old),
        advantage=spread(advantages),
        weight=spread([AGGREGATIONS[aggregation](n, counts) for n in lengths]),
        answer=spread(range(1, len(lengths) + 1)).long(),
        group=spread(groups or [1] * len(lengths)).long(),
    )
    return tokens, logprob
