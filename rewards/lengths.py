"""Two rewards for an answer's length, of recipes for spatial and medical reasoning; more in length_curves.py."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mmreason.rewards.length_curves import Unit, length_of
from mmreason.types import Rollout, Sample, Score


def length_bonus(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    each: float = 0.001,
    most: int | None = None,
    unit: Unit = "tokens",
) -> list[Score]:
    """`each` for every token of the answer, at most for `most` of them (VisualThinker-R1-Zero).

    turningpoint-ai/VisualThinker-R1-Zero grpo.py `length_reward`, shown there as an example of reward hacking: length
    grows, accuracy does not. Range: 0 to each x most; without `most`, which is published, no bound.
    """
    lengths = [length_of(rollout, unit) for rollout in rollouts]
    return [Score(total=each * (length if most is None else min(length, most))) for length in lengths]


def length_limit(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    limit: int = 256,
    scale: float = 64.0,
    least: float = 0.7,
    unit: Unit = "tokens",
) -> list[Score]:
    """1 for an answer of at most `limit` tokens, then falling as e^(-(tokens - limit) / scale), not below `least`.

    Skin-R1's helper `length_suppress_reward` (l593191569/Skin-R1 train_rl_grpo.py), which its training does not use.
    Range: `least` to 1.
    """
    return [Score(total=limited(length_of(rollout, unit), limit, scale, least)) for rollout in rollouts]


def limited(length: int, limit: int, scale: float, least: float) -> float:
    """`length_limit` of such a length: 270 of 256 is 0.803523 at scale 64."""
    return 1.0 if length <= limit else max(least, math.exp((limit - length) / scale))
