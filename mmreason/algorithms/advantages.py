"""From the rewards of a batch of groups to one advantage per rollout.

N groups, G rollouts each, K rewards. NaN marks a rollout that has no score; it takes no part and its advantage is 0.
Deviations are the unbiased ones (n - 1), as TRL and the R1 lineage compute them; a group without spread gets 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mmreason.algorithms.disco import contrast

EPSILON = 1e-4
"""Added to a deviation before dividing (TRL's and Video-R1's constant; verl has 1e-6)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """The rewards of all processes' groups for one batch, float64.

    Example: one group of two answers, 3 and 9 tokens, by accuracy and format: `Outcomes(total_NG=[[1.2, 0.2]],
    parts_NGK=[[[1., 1.], [0., 1.]]], weights_K=[1., .2], tokens_NG=[[3., 9.]], greedy_N=[nan])`
    """

    total_NG: Tensor
    parts_NGK: Tensor
    """Unweighted; NaN where a reward does not apply."""
    weights_K: Tensor
    tokens_NG: Tensor
    """Lengths of the answers."""
    greedy_N: Tensor
    """Reward of the greedy answer to each prompt; NaN where none was sampled or it has no score."""


def group(rewards_NG: Tensor, epsilon: float = EPSILON) -> Tensor:
    """(r - mean of the group) / (std of the group + eps). Shao et al. 2024 (GRPO), equation 3.

    Example: [1, 0, 0, 1] -> [0.865875, -0.865875, -0.865875, 0.865875]; with verl's eps 1e-6 +-0.866024.
    """
    return _zero_missing(_centred(rewards_NG) / (_std(rewards_NG) + epsilon))


def group_mean(rewards_NG: Tensor) -> Tensor:
    """r - mean of the group, undivided. Liu et al. 2025 (Dr.GRPO). Example: [1, 0, 0, 1] -> +-0.5.

    The mean includes r itself, so the expected gradient is (1 - 1/G) times the true one: right direction, smaller.
    """
    return _zero_missing(_centred(rewards_NG))


def batch(rewards_NG: Tensor, epsilon: float = EPSILON) -> Tensor:
    """(r - mean of the group) / (std of all rewards of the batch + eps): TRL's `scale_rewards="batch"`.

    Example: [1, 0, 0, 1] beside [1, 1, 1, 0] -> +-0.9659 and 0.4830 x 3, -1.4489.
    """
    return _zero_missing(_centred(rewards_NG) / (_std(rewards_NG.reshape(1, -1)) + epsilon))


def rloo(rewards_NG: Tensor) -> Tensor:
    """r - mean of the other rollouts = n / (n - 1) (r - mean). Ahmadian et al. 2024. [1, 0, 0, 1] -> +-0.666667.

    The unbiased one of the group baselines. A group with one scored rollout has nothing to compare with and gets 0.
    """
    count_N1 = (~rewards_NG.isnan()).sum(-1, keepdim=True)
    return group_mean(rewards_NG) * count_N1 / (count_N1 - 1).clamp(min=1)


def reinforce_pp(rewards_NG: Tensor, weights_NG: Tensor | None = None, epsilon: float = EPSILON) -> Tensor:
    """(r - mean of the batch) / std of the batch, no groups. Hu et al. 2025 (REINFORCE++).

    Statistics are over answers, our reading of the paper's "global batch"; with `weights_NG` = lengths they are over
    tokens, as verl's masked whitening has them. Example: [1, 0] beside [0, 0] -> 1.4997, -0.4999 x 3.
    """
    weights_NG = torch.ones_like(rewards_NG) if weights_NG is None else weights_NG
    known_NG = ~rewards_NG.isnan()
    weights_NG = weights_NG * known_NG
    values_NG = rewards_NG.nan_to_num()
    total = weights_NG.sum().clamp(min=1)
    centred_NG = (values_NG - (weights_NG * values_NG).sum() / total) * known_NG
    variance = (weights_NG * centred_NG.square()).sum() / (total - 1).clamp(min=1)
    return centred_NG / (variance.sqrt() + epsilon)


def reinforce_pp_baseline(rewards_NG: Tensor, weights_NG: Tensor | None = None, epsilon: float = EPSILON) -> Tensor:
    """r - mean of the group, then `reinforce_pp` over the batch. Hu et al. 2025, the form for reasoning.

    Example: [1, 0, 0, 1] beside [1, 1, 1, 0] -> 1, -1, -1, 1 and .5 x 3, -1.5.
    """
    return reinforce_pp(_centred(rewards_NG), weights_NG, epsilon)


def gdpo(parts_NGK: Tensor, weights_K: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Each reward normalised in its group, their weighted sum, and that over the batch. Liu et al. 2026 (GDPO).

    A reward with a small spread says as much as one with a large one, and one that is constant in a group nothing.
    NaN: a reward that does not apply adds nothing; a rollout without any gets 0. As TRL's `normalize_then_sum`.
    Example: accuracy [1, 1, 0, 0], format [1, 0, 1, 0], weights 1 -> 1.2247, 0, 0, -1.2247.
    """
    return reinforce_pp(_normalised_sum(parts_NGK, weights_K, epsilon), epsilon=epsilon)


def _normalised_sum(parts_NGK: Tensor, weights_K: Tensor, epsilon: float) -> Tensor:
    """[N, G]: weighted sum of the rewards, each normalised in its group; NaN for a rollout without any."""
    parts_NKG = parts_NGK.transpose(1, 2)
    normal_NGK = group(parts_NKG, epsilon).transpose(1, 2)
    return (normal_NGK * weights_K).sum(-1).masked_fill(parts_NGK.isnan().all(-1), torch.nan)


def remax(rewards_NG: Tensor, greedy_N: Tensor) -> Tensor:
    """r - reward of the greedy answer to the same prompt. Li et al. 2023 (ReMax). Unbiased, also for G = 1.

    A prompt whose greedy answer has no score gets 0. It costs one more answer per prompt.
    """
    return _zero_missing(rewards_NG - greedy_N[:, None])


def gae(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, *, gamma: float, lam: float) -> Tensor:
    """A_t = sum_l (gamma lam)^l delta_{t+l}, delta_t = r_t + gamma V_{t+1} - V_t. Schulman et al. 2016, equation 16.

    `mask_BT`: real tokens, a run from 0; nothing follows the last one. 0 elsewhere. Example: reward 1 at the last of
    three tokens, values .5: gamma = lam = 1 -> .5, .5, .5; lam 0 -> 0, 0, .5.
    """
    mask_BT = mask_BT.to(rewards_BT.dtype)
    advantages_BT = torch.zeros_like(rewards_BT)
    following_B = next_value_B = torch.zeros_like(rewards_BT[:, 0])
    for t in reversed(range(rewards_BT.shape[1])):
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        following_B = (delta_B + gamma * lam * following_B) * mask_BT[:, t]
        next_value_B = values_BT[:, t] * mask_BT[:, t]
        advantages_BT[:, t] = following_B
    return advantages_BT


ADVANTAGES: dict[str, Callable[[Outcomes, float], Tensor]] = {
    "group": lambda outcomes, epsilon: group(outcomes.total_NG, epsilon),
    "group_mean": lambda outcomes, epsilon: group_mean(outcomes.total_NG),
    "batch": lambda outcomes, epsilon: batch(outcomes.total_NG, epsilon),
    "rloo": lambda outcomes, epsilon: rloo(outcomes.total_NG),
    "reinforce_pp": lambda outcomes, epsilon: reinforce_pp(outcomes.total_NG, None, epsilon),
    "reinforce_pp_tokens": lambda outcomes, epsilon: reinforce_pp(outcomes.total_NG, outcomes.tokens_NG, epsilon),
    "reinforce_pp_baseline": lambda outcomes, epsilon: reinforce_pp_baseline(outcomes.total_NG, None, epsilon),
    "reinforce_pp_baseline_tokens": lambda outcomes, epsilon: reinforce_pp_baseline(
        outcomes.total_NG, outcomes.tokens_NG, epsilon
    ),
    "remax": lambda outcomes, epsilon: remax(outcomes.total_NG, outcomes.greedy_N),
    "contrast": lambda outcomes, epsilon: contrast(outcomes.total_NG),
    "gae": lambda outcomes, epsilon: _zero_missing(outcomes.total_NG),  # a critic makes advantages of it, by token
    "gdpo": lambda outcomes, epsilon: gdpo(outcomes.parts_NGK, outcomes.weights_K, epsilon),
}

NEEDS_GREEDY = ("remax",)
"""These compare with a greedy answer, which has to be sampled too."""


NEEDS_CRITIC = ("gae",)
"""These look at values of a critic, which has to be trained too."""


def compared(name: str, outcomes: Outcomes, epsilon: float) -> Tensor:
    """[N, G]: the numbers by which an advantage tells the rollouts of a group apart; NaN where there is none.

    Example: gdpo, accuracy [1, 0] of weight 1 beside a length [0, 2] of weight .5: totals 1, 1, but .3535, -.3535.
    """
    if name == "gdpo":
        return _normalised_sum(outcomes.parts_NGK, outcomes.weights_K, epsilon)
    return outcomes.total_NG


def has_signal(rewards_NG: Tensor) -> Tensor:
    """bool [N]: the scored rewards of the group are not all equal. By range: rounding can lift a std over 0."""
    high_N = rewards_NG.nan_to_num(nan=-torch.inf).amax(-1)
    low_N = rewards_NG.nan_to_num(nan=torch.inf).amin(-1)
    return high_N - low_N > 1e-9


def mean_within(rewards_NG: Tensor, low: float, high: float) -> Tensor:
    """bool [N]: low < mean of the scored rewards < high: DAPO's dynamic sampling as EasyR1 has it (.01, .99).

    A group without any score is not within.
    """
    mean_N = rewards_NG.nanmean(-1)
    return (mean_N > low) & (mean_N < high)


def _centred(rewards_NG: Tensor) -> Tensor:
    return rewards_NG - rewards_NG.nanmean(-1, keepdim=True)


def _std(rewards_NG: Tensor) -> Tensor:
    """Unbiased deviation over the last dimension, NaN left out; 0 for fewer than two values. [N, 1]"""
    count_N1 = (~rewards_NG.isnan()).sum(-1, keepdim=True)
    squares_N1 = _centred(rewards_NG).square().nansum(-1, keepdim=True)
    return (squares_N1 / (count_N1 - 1).clamp(min=1)).sqrt()


def _zero_missing(advantages_NG: Tensor) -> Tensor:
    return advantages_NG.nan_to_num(nan=0.0)
