"""Direct preference optimisation as pure functions. P: pairs of a row; T: its tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmreason.types import LossOutput


def log_ratios(logprob: Tensor, reference: Tensor, share: Tensor, pair: Tensor, count: int) -> Tensor:
    """sum_t share_t (log pi - log ref) of each pair's answers. [count + 1]

    `share`: 1 per token for the sum over an answer, 1 / length for its mean; 0 for all other tokens. `pair`: int64 [T],
    the number of each token's pair, from 1.
    """
    return logprob.new_zeros(count + 1).index_add(0, pair, (logprob - reference) * share)


def dpo_loss(chosen: Tensor, rejected: Tensor, *, beta: float, weight: Tensor) -> LossOutput:
    """-log sigmoid(beta (chosen - rejected)) of each pair, weighted. Rafailov et al. 2023 (DPO), equation 7.

    chosen, rejected: [P] log-ratios to the reference: sums over tokens, or means, which is the length-normalised form
    (TRL's `sigmoid_norm`). weight: [P], summing to 1 over the step. Example: log-ratios 1 and -1, beta .5 -> .313262.
    """
    margin = beta * (chosen - rejected)
    loss = -(logsigmoid(margin) * weight).sum()
    metrics = {
        "reward/chosen": _mean(beta * chosen, weight),
        "reward/rejected": _mean(beta * rejected, weight),
        "margin": _mean(margin, weight),
        "accuracy": _mean((margin > 0).to(margin.dtype), weight),
    }
    return LossOutput(loss=loss, metrics=metrics)


def _mean(values: Tensor, weight: Tensor) -> float:
    return float((values.detach() * weight).sum())


def numbered_from_1(pair: Tensor) -> tuple[Tensor, int]:
    """The pairs of a row numbered 1, 2, ... in place of their numbers in the step (0: none), and how many there are."""
    known = torch.unique(pair[pair > 0])
    return torch.searchsorted(known, pair, right=True), len(known)
