"""Losses over one packed row, as pure functions. T: tokens of the row.

Every argument is [T]; `weight` is 0 where a token is not trained on and sums to 1 over the whole optimizer step (see
`aggregation`). So is every metric: add them up over rows and processes to get the step's value.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmreason.algorithms.kl import KL_ESTIMATORS, MAX_LOG_RATIO
from mmreason.types import LossOutput


def policy_loss(
    logprob: Tensor,
    old_logprob: Tensor,
    advantage: Tensor,
    weight: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> LossOutput:
    """PPO's clipped objective per token: -min(ratio A, clip(ratio, 1 - low, 1 + high) A). Schulman et al. 2017, eq. 7.

    With clip_low == clip_high it is GRPO's; clip_high > clip_low is DAPO's clip-higher.
    """
    gap = (logprob - old_logprob).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = gap.exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    surrogate = torch.minimum(ratio * advantage, clipped * advantage)
    with torch.no_grad():
        metrics = {
            "clip_fraction": _total((clipped * advantage < ratio * advantage) * weight),
            "clip_fraction/low": _total((advantage < 0) * (ratio < 1 - clip_low) * weight),
            "clip_fraction/high": _total((advantage > 0) * (ratio > 1 + clip_high) * weight),
            "ratio": _total(ratio * weight),
            "kl_old": _total(KL_ESTIMATORS["k3"](old_logprob, logprob) * weight),
        }
    return LossOutput(loss=-(surrogate * weight).sum(), metrics=metrics)


def kl_loss(logprob: Tensor, reference: Tensor, weight: Tensor, *, coefficient: float, estimator: str) -> LossOutput:
    """coefficient x weighted mean of a per-token KL estimate. The metric `kl` is without the coefficient."""
    kl = (KL_ESTIMATORS[estimator](logprob, reference) * weight).sum()
    return LossOutput(loss=coefficient * kl, metrics={"kl": kl.item()})


def imitation_loss(logprob: Tensor, weight: Tensor) -> LossOutput:
    """Cross-entropy on demonstrations: -log p, weighted."""
    loss = -(logprob * weight).sum()
    return LossOutput(loss=loss, metrics={"nll": loss.item()})


def add(first: LossOutput, second: LossOutput) -> LossOutput:
    """Both losses; metrics side by side."""
    return LossOutput(loss=first.loss + second.loss, metrics={**first.metrics, **second.metrics})


def _total(values: Tensor) -> float:
    return float(values.sum())
