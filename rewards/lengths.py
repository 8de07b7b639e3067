"""Two rewards for an answer's length in tokens, as recipes for spatial and medical reasoning use them.

`mmreason score` has texts without tokens: there, both are errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from mmreason.types import Rollout, Sample, Score


def length_bonus(
    sample: Sample, rollouts: Sequence[Rollout], *, per_token: float = 0.001, most: int | None = None
) -> list[Score]:
    """`per_token` for each token of the answer, at most for `most` of them (VisualThinker-R1-Zero).

    turningpoint-ai/VisualThinker-R1-Zero grpo.py `length_reward`, shown there as an example of reward hacking: length
    grows, accuracy does not. Range: 0 to per_token x most; without `most`, which is published, no bound.
    """
    return by_tokens(sample, rollouts, lambda tokens: per_token * (tokens if most is None else min(tokens, most)))


def length_limit(
    sample: Sample, rollouts: Sequence[Rollout], *, limit: int = 256, scale: float = 64.0, least: float = 0.7
) -> list[Score]:
    """1 for an answer of at most `limit` tokens, then falling as e^(-(tokens - limit) / scale), not below `least`.

    Skin-R1's helper `length_suppress_reward` (l593191569/Skin-R1 train_rl_grpo.py), which its training does not use.
    Range: `least` to 1.
    """
    return by_tokens(sample, rollouts, lambda tokens: limited(tokens, limit, scale, least))


def limited(tokens: int, limit: int, scale: float, least: float) -> float:
    """`length_limit` of so many tokens: 270 of 256 is 0.803523 at scale 64."""
    return 1.0 if tokens <= limit else max(least, math.exp((limit - tokens) / scale))


def by_tokens(sample: Sample, rollouts: Sequence[Rollout], value: Callable[[int], float]) -> list[Score]:
    """`value` of each rollout's tokens; an error where there are none to count."""
    return [
        without_tokens(sample) if rollout.tokens < 1 else Score(total=value(rollout.tokens)) for rollout in rollouts
    ]


def without_tokens(sample: Sample) -> Score:
    """What a reward that counts tokens says of a text alone."""
    return Score(
        total=None, error=f"{sample.id}: this reward counts tokens, which only answers that a model sampled have"
    )
