"""From the rewards of a batch of groups to one advantage per rollout.

N groups, G rollouts each. NaN marks a rollout that has no score; it takes no part and its advantage is 0.
Deviations are the unbiased ones (n - 1), as TRL and the R1 lineage compute them; a group without spread gets 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

EPSILON = 1e-4
"""Added to a deviation before dividing (TRL's and Video-R1's constant; verl has 1e-6)."""


def group(rewards_NG: Tensor) -> Tensor:
    """(r - mean of the group) / (std of the group + eps). Shao et al. 2024 (GRPO), equation 3.

    Example: [1, 0, 0, 1] -> [0.865875, -0.865875, -0.865875, 0.865875].
    """
    return _zero_missing(_centred(rewards_NG) / (_std(rewards_NG) + EPSILON))


def group_mean(rewards_NG: Tensor) -> Tensor:
    """r - mean of the group, undivided. Liu et al. 2025 (Dr.GRPO). Example: [1, 0, 0, 1] -> +-0.5."""
    return _zero_missing(_centred(rewards_NG))


def batch(rewards_NG: Tensor) -> Tensor:
    """(r - mean of the group) / (std of all rewards of the batch + eps): TRL's `scale_rewards="batch"`.

    Example: [1, 0, 0, 1] beside [1, 1, 1, 0] -> +-0.9659 and 0.4830 x 3, -1.4489.
    """
    return _zero_missing(_centred(rewards_NG) / (_std(rewards_NG.reshape(1, -1)) + EPSILON))


def rloo(rewards_NG: Tensor) -> Tensor:
    """r - mean of the other rollouts = n / (n - 1) (r - mean). Ahmadian et al. 2024. [1, 0, 0, 1] -> +-0.666667.

    A group with one scored rollout has nothing to compare with and gets 0.
    """
    count_N1 = (~rewards_NG.isnan()).sum(-1, keepdim=True)
    return _zero_missing(_centred(rewards_NG) * count_N1 / (count_N1 - 1).clamp(min=1))


ADVANTAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "group": group,
    "group_mean": group_mean,
    "batch": batch,
    "rloo": rloo,
}


def has_signal(rewards_NG: Tensor) -> Tensor:
    """bool [N]: the scored rewards of the group are not all equal. By range: rounding can lift a std over 0."""
    high_N = rewards_NG.nan_to_num(nan=-torch.inf).amax(-1)
    low_N = rewards_NG.nan_to_num(nan=torch.inf).amin(-1)
    return high_N - low_N > 1e-9


def _centred(rewards_NG: Tensor) -> Tensor:
    return rewards_NG - rewards_NG.nanmean(-1, keepdim=True)


def _std(rewards_NG: Tensor) -> Tensor:
    """Unbiased deviation over the last dimension, NaN left out; 0 for fewer than two values. [N, 1]"""
    count_N1 = (~rewards_NG.isnan()).sum(-1, keepdim=True)
    squares_N1 = _centred(rewards_NG).square().nansum(-1, keepdim=True)
    return (squares_N1 / (count_N1 - 1).clamp(min=1)).sqrt()


def _zero_missing(advantages_NG: Tensor) -> Tensor:
    return advantages_NG.nan_to_num(nan=0.0)
