"""Losses over one packed row, as pure functions. T: tokens of the row.

Weights sum to 1 over the whole optimizer step (see `aggregation`), and so losses and metrics add up over rows and
processes to the step's values.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from mmreason.algorithms.clips import CLIPS, Bounds
from mmreason.algorithms.kl import KL_ESTIMATORS, k3
from mmreason.algorithms.off_policy import CORRECTIONS
from mmreason.algorithms.ratios import MAX_LOG_RATIO, RATIOS, Tokens
from mmreason.types import LossOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """Which ratio, which clip with which bounds, which correction.

    Example: GSPO: `Objective(ratio="sequence", bounds=Bounds(low=3e-4, high=4e-4))`, with sequence_mean.
    """

    ratio: str = "token"
    clip: str = "ppo"
    bounds: Bounds = field(default_factory=Bounds)
    correction: str = "none"
    weight_low: float = 0.0
    weight_high: float = 2.0
    """Bounds of the off-policy weight."""


def policy_loss(tokens: Tokens, objective: Objective, sampling: Tensor | None = None) -> LossOutput:
    """Minus the weighted sum of the surrogate. `sampling`: log-probs [T] of what sampled, for a correction."""
    surrogate = CLIPS[objective.clip](RATIOS[objective.ratio](tokens), tokens, objective.bounds)
    low, high = surrogate.low.float(), surrogate.high.float()
    metrics = {
        "clip_fraction": _total(low + high, tokens),
        "clip_fraction/low": _total(low, tokens),
        "clip_fraction/high": _total(high, tokens),
        "ratio": _total(surrogate.ratio, tokens),
        "kl_old": _total(k3(tokens.old, tokens.logprob), tokens),
    }
    value = surrogate.value
    if objective.correction != "none":
        assert sampling is not None, "a correction needs the sampling log-probs"
        correct = CORRECTIONS[objective.correction]
        bounded = correct(tokens.old - sampling, tokens, objective.weight_low, objective.weight_high)
        free = correct.level(tokens.old - sampling, tokens).exp()
        value = value * bounded
        metrics["off_policy/weight"] = _total(bounded, tokens)
        metrics["off_policy/bounded"] = _total((bounded != free).float(), tokens)
    return LossOutput(loss=-(value * tokens.weight).sum(), metrics=metrics)


def kl_loss(
    tokens: Tokens, reference: Tensor, *, coefficient: float, estimator: str, limit: float = MAX_LOG_RATIO
) -> LossOutput:
    """coefficient x weighted mean of a per-token KL estimate. The metric `kl` is without the coefficient."""
    kl = (KL_ESTIMATORS[estimator](tokens.logprob, reference, tokens.old, limit) * tokens.weight).sum()
    return LossOutput(loss=coefficient * kl, metrics={"kl": kl.item()})


def imitation_loss(logprob: Tensor, weight: Tensor) -> LossOutput:
    """Cross-entropy on demonstrations: -log p, weighted."""
    loss = -(logprob * weight).sum()
    return LossOutput(loss=loss, metrics={"nll": loss.item()})


def add(first: LossOutput, second: LossOutput) -> LossOutput:
    """Both losses; metrics side by side."""
    return LossOutput(loss=first.loss + second.loss, metrics={**first.metrics, **second.metrics})


def _total(values: Tensor, tokens: Tokens) -> float:
    return float((values.detach() * tokens.weight).sum())
