"""What bounds the push on a token: clips of the ratio, hard and soft. Each maps log-ratios [T] to a surrogate [T].

A surrogate is what is maximised, before weights. Written with rho = exp(log-ratio), A the advantage, sg() a constant
for the gradient. At rho = 1 the gradient of every one of them is A x grad log pi (REINFORCE).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mmreason.algorithms.disco import drift, hardness
from mmreason.algorithms.ratios import MAX_LOG_RATIO, Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Constants of the clips; each uses some. Defaults: DAPO's clip-higher, no dual clip, SAPO's temperatures."""

    low: float = 0.2
    """The ratio's lower bound is 1 - low; 1 or more is no lower bound."""
    high: float = 0.28
    """The ratio's upper bound is 1 + high."""
    dual: float = math.inf
    """With a negative advantage the loss is at most dual x |A| (Ye et al. 2020 have 3)."""
    tau_positive: float = 1.0
    tau_negative: float = 1.05
    tau: float = 10.0
    """DisCO's temperature: 10 with log-probs as scores, 1 with ratios."""
    drift_beta: float = 1e3
    drift_delta: float = 1e-4
    """DisCO's bound on the KL to the old policy, and the price of being over it."""
    max_log_ratio: float = MAX_LOG_RATIO
    """Log-ratios are cut to +-this before exp()."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surrogate:
    """Example: a token at its upper bound: `Surrogate(value=[1.28], ratio=[1.5], low=[False], high=[True])`"""

    value: Tensor
    """[T], with gradient."""
    ratio: Tensor
    """[T]."""
    low: Tensor
    """bool [T]: the lower bound acts."""
    high: Tensor
    """bool [T]: the upper bound, or the dual one, acts."""


def none(log_ratio: Tensor, tokens: Tokens, bounds: Bounds) -> Surrogate:
    """rho A, unbounded. Strictly on-policy (one update per batch) it is REINFORCE: Video-R1's code, GPG."""
    ratio = _ratio(log_ratio, bounds)
    never = torch.zeros_like(ratio, dtype=torch.bool)
    return Surrogate(value=ratio * tokens.advantage, ratio=ratio, low=never, high=never)


def ppo(log_ratio: Tensor, tokens: Tokens, bounds: Bounds) -> Surrogate:
    """min(rho A, clip(rho, 1 - low, 1 + high) A). Schulman et al. 2017, equation 7.

    low == high is GRPO's, high > low DAPO's clip-higher (Yu et al. 2025). With `dual` c, where A < 0: at least c A
    (Ye et al. 2020, equation 5; TRL's `delta` is the same). A clipped token has no gradient.
    Example: A = -1, rho = 4, c = 3 -> -3.
    """
    ratio = _ratio(log_ratio, bounds)
    return _pessimistic(ratio, ratio.clamp(1 - bounds.low, 1 + bounds.high), tokens, bounds)


def gppo(log_ratio: Tensor, tokens: Tokens, bounds: Bounds) -> Surrogate:
    """`ppo` in value, but a clipped token keeps the gradient of its bound: clip(rho) A grad log pi.

    Su et al. 2025 (Klear-Reasoner), their core_algos.py at 5d2d0b8. The dual bound still stops the gradient, as there.
    Example: rho = 1.5, A = 1, high .28: value 1.28, gradient 1.28 (ppo: 0).
    """
    ratio = _ratio(log_ratio, bounds)
    clipped = ratio.detach().clamp(1 - bounds.low, 1 + bounds.high)
    return _pessimistic(ratio, clipped * (log_ratio - log_ratio.detach()).exp(), tokens, bounds)


def cispo(log_ratio: Tensor, tokens: Tokens, bounds: Bounds) -> Surrogate:
    """sg(clip(rho, 1 - low, 1 + high)) A log pi: every token keeps a gradient. MiniMax 2025 (MiniMax-M1), equation 4.

    The paper has no lower bound: low = 1. TRL's `epsilon_high` is 1 + high. EasyR1's script (low 0, high 4) makes 1
    the LEAST weight. Example: rho = 6, low 1, high 4 -> weight 5.
    """
    ratio = _ratio(log_ratio, bounds)
    weight = ratio.detach().clamp(1 - bounds.low, 1 + bounds.high)
    low, high = ratio.detach() < weight, ratio.detach() > weight
    return Surrogate(value=weight * tokens.advantage * tokens.logprob, ratio=ratio, low=low, high=high)


def sapo(log_ratio: Tensor, tokens: Tokens, bounds: Bounds) -> Surrogate:
    """4 / tau sigmoid(tau (rho - 1)) A: a soft gate, tau by the sign of A. Gao et al. 2025 (SAPO); TRL, verl.

    Example: rho = 1.5, tau 1: 2.489837. `low` and `high` are where the gradient is under half of REINFORCE's.
    """
    ratio = _ratio(log_ratio, bounds)
    tau = torch.where(tokens.advantage > 0, bounds.tau_positive, bounds.tau_negative)
    gate = torch.sigmoid(tau * (ratio - 1))
    weak = 4 * gate * (1 - gate) * ratio < 0.5
    value = 4 / tau * gate * tokens.advantage
    return Surrogate(value=value, ratio=ratio, low=weak & (ratio < 1), high=weak & (ratio > 1))


def geometric(log_ratio: Tensor, tokens: Tokens, bounds: Bounds) -> Surrogate:
    """A x geometric mean over the answer of token ratios, each clipped to [e^-low, e^high] on the side that A favours.

    Zhao et al. 2025 (GMPO; low = high = 0.4 there); verl's geo_mean. Takes token log-ratios, gives every token of an
    answer the answer's value, and takes the mean advantage of the answer (verl; the paper has one per answer).
    """
    gap = log_ratio.clamp(-bounds.max_log_ratio, bounds.max_log_ratio)
    sign = tokens.advantage.sign()
    kept = sign * torch.minimum(sign * gap, sign * gap.clamp(-bounds.low, bounds.high))
    low, high = (gap < -bounds.low) & (sign < 0), (gap > bounds.high) & (sign > 0)
    value = tokens.mean(tokens.advantage) * tokens.mean(kept).exp()
    return Surrogate(value=value, ratio=gap.exp(), low=low, high=high)


def disco_b(log_ratio: Tensor, tokens: Tokens, bounds: Bounds) -> Surrogate:
    """A log pi, without a ratio, minus the price of drift: DisCO-b (logL), with `contrast` and sequence_mean."""
    return _disco(log_ratio, tokens.advantage * tokens.logprob, tokens, bounds)


def disco(log_ratio: Tensor, tokens: Tokens, bounds: Bounds) -> Surrogate:
    """`disco_b`, wrong answers weighed by |W| softmax(s / tau), s their mean log pi: DisCO (logL)."""
    weight = hardness(tokens.mean(tokens.logprob), tokens, bounds.tau)
    return _disco(log_ratio, weight * tokens.advantage * tokens.logprob, tokens, bounds)


def disco_ratio(log_ratio: Tensor, tokens: Tokens, bounds: Bounds) -> Surrogate:
    """The same with scores s = mean rho: DisCO (Lratio), as the paper has it; their code's dispatch of it fails."""
    ratio = _ratio(log_ratio, bounds)
    weight = hardness(tokens.mean(ratio), tokens, bounds.tau)
    return _disco(log_ratio, weight * tokens.advantage * ratio, tokens, bounds)


CLIPS: dict[str, Callable[[Tensor, Tokens, Bounds], Surrogate]] = {
    "none": none,
    "ppo": ppo,
    "gppo": gppo,
    "cispo": cispo,
    "sapo": sapo,
    "geometric": geometric,
    "disco_b": disco_b,
    "disco": disco,
    "disco_ratio": disco_ratio,
}

WHOLE_GROUPS = ("disco", "disco_ratio")
"""These compare the answers of a group with each other: all of them must be in one row."""


def constant(finished: int, steps: int) -> float:
    """The bounds stay as they are."""
    return 1.0


def shrink(finished: int, steps: int) -> float:
    """prod_{i=1..s} (S - i) / S for s finished steps of S: factor of both bounds. GuardReasoner-VL (2505.11049).

    Example: S = 10, bound .2: .2, .18, .144, .1008, ... and 0 after all steps. Counting from 0 finished steps is our
    choice; so no step has bound 0.
    """
    return math.prod((steps - i) / steps for i in range(1, finished + 1))


CLIP_SCHEDULES: dict[str, Callable[[int, int], float]] = {"constant": constant, "shrink": shrink}


def _ratio(log_ratio: Tensor, bounds: Bounds) -> Tensor:
    return log_ratio.clamp(-bounds.max_log_ratio, bounds.max_log_ratio).exp()


def _disco(log_ratio: Tensor, push: Tensor, tokens: Tokens, bounds: Bounds) -> Surrogate:
    price = drift(tokens, bounds.drift_beta, bounds.drift_delta)
    bounded = (price > 0).expand_as(push)
    value = push - price * (tokens.old - tokens.logprob)
    return Surrogate(value=value, ratio=_ratio(log_ratio, bounds), low=torch.zeros_like(bounded), high=bounded)


def _pessimistic(ratio: Tensor, clipped: Tensor, tokens: Tokens, bounds: Bounds) -> Surrogate:
    """The smaller of both products; not under dual x A where A < 0."""
    advantage = tokens.advantage
    value = torch.minimum(ratio * advantage, clipped * advantage)
    low = (advantage < 0) & (ratio < 1 - bounds.low)
    high = (advantage > 0) & (ratio > 1 + bounds.high)
    floor = torch.where(advantage < 0, bounds.dual * advantage, -torch.inf)
    return Surrogate(value=torch.maximum(value, floor), ratio=ratio, low=low, high=high | (value < floor))
