"""Per-token estimators of KL(policy || reference) from samples of the policy. x = log ref - log policy.

Schulman 2020, "Approximating KL divergence". As a loss their gradients differ: k1's has expectation 0 (useful only
inside the reward), k2's is unbiased for the reverse KL, k3's is that of the forward direction near 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""exp() of more overflows half precision; a token this unlikely under one model carries no usable gradient."""


def k1(logprob: Tensor, reference: Tensor) -> Tensor:
    """-x: unbiased, high variance, may be negative. x = 0.1 -> -0.1."""
    return logprob - reference


def k2(logprob: Tensor, reference: Tensor) -> Tensor:
    """x^2 / 2: biased, never negative. x = 0.1 -> 0.005."""
    return (reference - logprob).square() / 2


def k3(logprob: Tensor, reference: Tensor) -> Tensor:
    """exp(x) - x - 1: unbiased, never negative (GRPO's choice). x = 1 -> 0.718282."""
    x = (reference - logprob).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return torch.expm1(x) - x


KL_ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}
