"""PPO's critic: what its values make of rewards, and the loss that fits them. T: tokens of a row; B: answers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmreason.algorithms.advantages import gae
from mmreason.types import LossOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One answer's tokens, float64 [T] each.

    Example: gamma = lam = 1, reward 1, values .5, .6: `Judged(advantage=[.5, .4], target=[1., 1.])`
    """

    advantage: Tensor
    target: Tensor
    """What the values are to become: advantage + value, before whitening."""


def judged(
    rewards: list[float], values: list[Tensor], costs: list[Tensor], *, gamma: float, lam: float
) -> list[Judged]:
    """Per answer: its reward at the last token, less `costs` at every token (KL in the reward), through `gae`.

    `values`: of the text before each token. With gamma = lam = 1 the advantage is what is still to come minus the
    value: unbiased whatever the values are. Ziegler et al. 2019, section 2.2, and ReFT (Luong et al. 2024, 2401.08967)
    have the reward and its KL this way.
    """
    if not values:
        return []
    received = [-cost for cost in costs]
    for reward, tokens in zip(rewards, received, strict=True):
        tokens[-1] += reward
    mask_BT = pad_sequence([torch.ones(len(one), dtype=torch.bool) for one in values], batch_first=True)
    rewards_BT, values_BT = (pad_sequence(some, batch_first=True) for some in (received, values))
    advantages_BT = gae(rewards_BT, values_BT, mask_BT, gamma=gamma, lam=lam)
    return [
        Judged(advantage=advantages_T[: len(one)], target=advantages_T[: len(one)] + one)
        for advantages_T, one in zip(advantages_BT, values, strict=True)
    ]


def value_loss(value: Tensor, old: Tensor, target: Tensor, weight: Tensor, *, clip: float) -> LossOutput:
    """1/2 sum w max((V - R)^2, (V' - R)^2), V' = V kept within V_old +- clip; clip 0: without V'.

    PPO2 of OpenAI's baselines; TRL's and verl's with `cliprange_value`. The larger of the two, so that a value which
    moved too far has no gradient only where it moved away from what it was fitted to. Example: V 1, V_old 0, R 2,
    clip 0.2: max(1, 3.24) / 2 = 1.62, gradient 0; R -1: max(4, 1.44) / 2 = 2, gradient 2.
    """
    near = old + (value - old).clamp(-clip, clip) if clip else value
    free, bounded = (value - target).square(), (near - target).square()
    loss = 0.5 * (torch.maximum(free, bounded) * weight).sum()
    clipped = ((bounded > free).float() * weight).sum()
    metrics = {
        "value/loss": loss.item(),
        "value/clip_fraction": clipped.item(),
        "value/mean": float((value.detach() * weight).sum()),
    }
    return LossOutput(loss=loss, metrics=metrics)
