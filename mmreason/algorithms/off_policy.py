"""Weights for answers that another policy sampled than the one that is trained: pi_old / pi_sampling, bounded.

They differ where sampling computes otherwise than scoring: lower precision, another engine, older weights. (What top-p
or top-k took away is on neither side or on both: docs/algorithms.md, "Sampling support".) The weight
multiplies the policy term, not the KL, and carries no gradient. [T]: tokens; `gap` = log pi_old - log pi_sampling.
Yao et al. 2025 ("Your efficient RL framework secretly brings you off-policy training"): truncating is TIS, masking MIS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mmreason.algorithms.ratios import MAX_LOG_RATIO, Tokens


def token(gap: Tensor, tokens: Tokens) -> Tensor:
    """Each token's own gap: little variance, biased (it leaves out how the answer's other tokens came about)."""
    return gap


def sequence(gap: Tensor, tokens: Tokens) -> Tensor:
    """Sum over the answer: unbiased, and hopeless for long answers, where it leaves every bound."""
    return tokens.sum(gap)


def geometric(gap: Tensor, tokens: Tokens) -> Tensor:
    """Mean over the answer: a per-token size that does not grow with length. For bounds, not unbiased as a weight."""
    return tokens.mean(gap)


def truncate(weight: Tensor, low: float, high: float) -> Tensor:
    """clip(w, low, high): TRL's `*_truncate`, verl's TIS (low 0)."""
    return weight.clamp(low, high)


def mask(weight: Tensor, low: float, high: float) -> Tensor:
    """w inside [low, high], 0 outside: TRL's `*_mask`, IcePop."""
    return torch.where((weight >= low) & (weight <= high), weight, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """A level and a bound. Example: `Correction(level=sequence, bound=mask)` is TRL's default, sequence_mask."""

    level: Callable[[Tensor, Tokens], Tensor]
    bound: Callable[[Tensor, float, float], Tensor]

    def __call__(self, gap: Tensor, tokens: Tokens, low: float, high: float) -> Tensor:
        """[T], >= 0. Example: gaps (.1, -.2, 1.5), sequence: weight 4.0552; masked with high 3 -> 0 for all three."""
        log_weight = self.level(gap, tokens).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        return self.bound(log_weight.exp(), low, high)


CORRECTIONS: dict[str, Correction] = {
    "token_truncate": Correction(level=token, bound=truncate),
    "token_mask": Correction(level=token, bound=mask),
    "sequence_truncate": Correction(level=sequence, bound=truncate),
    "sequence_mask": Correction(level=sequence, bound=mask),
    "geometric_mask": Correction(level=geometric, bound=mask),
}
