"""Per-token estimators of KL(policy || reference) from samples of the policy, and the coefficient's way over a run.

x = log ref - log policy. Schulman 2020, "Approximating KL divergence". As a loss their gradients differ: k1's has
expectation 0, k2's is that of KL(policy || reference) at every token, k3's that of the FORWARD KL(reference || policy).
All of them take the tokens before as given; only k1 inside the reward also counts how they came about
(tests/unit/algorithms/test_oracle.py shows each of these by enumeration).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mmreason.algorithms.ratios import MAX_LOG_RATIO


def k1(logprob: Tensor, reference: Tensor, limit: float = MAX_LOG_RATIO) -> Tensor:
    """-x: unbiased, high variance, may be negative. x = 0.1 -> -0.1."""
    return logprob - reference


def k2(logprob: Tensor, reference: Tensor, limit: float = MAX_LOG_RATIO) -> Tensor:
    """x^2 / 2: biased, never negative. x = 0.1 -> 0.005."""
    return (reference - logprob).square() / 2


def k3(logprob: Tensor, reference: Tensor, limit: float = MAX_LOG_RATIO) -> Tensor:
    """exp(x) - x - 1: unbiased, never negative (GRPO's choice). x = 1 -> 0.718282. x is cut to +-limit."""
    x = (reference - logprob).clamp(-limit, limit)
    return torch.expm1(x) - x


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimator:
    """A value, and how it gets its gradient.

    Example: `Estimator(value=k3, gradient=k2)` is verl's "k3+": k3 in the logs, the reverse KL's gradient.
    """

    value: Callable[[Tensor, Tensor, float], Tensor]
    gradient: Callable[[Tensor, Tensor, float], Tensor] | None = None
    """Straight-through: the gradient of this one instead of the value's own."""
    weighted: bool = False
    """Times the token ratio pi / pi_old, with its gradient: E_old[rho k3] is the KL, and so is its gradient."""

    def __call__(self, logprob: Tensor, reference: Tensor, old: Tensor, limit: float = MAX_LOG_RATIO) -> Tensor:
        """[T]. `old`: log-probs under the policy that sampled, for `weighted` alone. `limit`: of x before exp()."""
        value = self.value(logprob, reference, limit)
        if self.gradient is not None:
            carrier = self.gradient(logprob, reference, limit)
            return value.detach() + carrier - carrier.detach()
        if self.weighted:
            return value * (logprob - old).clamp(-limit, limit).exp()
        return value


KL_ESTIMATORS: dict[str, Estimator] = {
    "k1": Estimator(value=k1),
    "k2": Estimator(value=k2),
    "k3": Estimator(value=k3),
    "k1+": Estimator(value=k1, gradient=k2),
    "k3+": Estimator(value=k3, gradient=k2),
    "k3*": Estimator(value=k3, weighted=True),
}
"""+: verl's straight-through forms. *: DeepSeek-V3.2's unbiased estimate, TRL's `use_bias_correction_kl`."""


# ---- the coefficient -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class KLState:
    """What a schedule may look at. Example: half-way from 0.001 to 0.04: `KLState(start=1e-3, end=4e-2, done=0.5)`"""

    start: float
    """The coefficient that the run begins with."""
    end: float = 0.0
    done: float = 0.0
    """Share of the run's steps that are finished."""
    accuracy: float = 0.0
    """Share of this step's answers that are right."""
    last: float | None = None
    """The coefficient of the step before; None in the first."""
    last_kl: float | None = None
    """The KL per token that was measured in it."""
    target: float = 0.0
    gain: float = 0.1


def constant(state: KLState) -> float:
    """The same all the time."""
    return state.start


def linear(state: KLState) -> float:
    """A straight line from start to end over the run."""
    return state.start + (state.end - state.start) * state.done


def cosine(state: KLState) -> float:
    """Half a cosine from start to end: slow, fast, slow."""
    return state.end + (state.start - state.end) * (1 + math.cos(math.pi * state.done)) / 2


def accuracy(state: KLState) -> float:
    """start where no answer is right, end where all are, a straight line between.

    For GRPO-D (OThink-MR1, 2503.16081), whose KL weight grows as training goes from exploring to exploiting; its
    formula is in no text that we found, so this one is OUR choice.
    """
    return state.start + (state.end - state.start) * state.accuracy


def adaptive(state: KLState) -> float:
    """last x (1 + gain clip(KL / target - 1, -0.2, 0.2)). Ziegler et al. 2019, section 2.2 (gain 0.1).

    Example: last 0.1, KL at twice the target, gain 0.1: 0.102.
    """
    if state.last is None or state.last_kl is None:
        return state.start
    error = min(0.2, max(-0.2, state.last_kl / state.target - 1))
    return state.last * (1 + state.gain * error)


KL_SCHEDULES: dict[str, Callable[[KLState], float]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "accuracy": accuracy,
    "adaptive": adaptive,
}
