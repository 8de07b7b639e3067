"""Shaping: between rewards and advantages, what a group's answers say about each other changes their rewards.

A shaper is a pure function from one scored group to a `Change`; `SHAPING` is all that is built in. They are applied in
the order of the config, each to what the one before it left (Video-R1: accuracy -> temporal -> sum -> length).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mmreason.algorithms.spans import span_length
from mmreason.options import RewardLabel
from mmreason.types import Rollout, RolloutGroup, Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a shaper does to a group of G answers; by default nothing.

    Example: 0.3 more accuracy for the first of two: `Change(bonus=(0.3, 0.0), into="accuracy")`
    """

    bonus: tuple[float, ...] = ()
    """G values that are added; () adds none."""
    into: str | None = None
    """The reward (by its label) that the bonus is a part of, with its weight. None: a reward of its own, weight 1."""
    factor: float = 1.0
    """The group's advantages are multiplied by this; its KL is not."""
    keep: tuple[bool, ...] = ()
    """G values, False for an answer that is left out, as if it had not been sampled; () keeps all."""


Shaper = Callable[..., Change]
"""(group, **options) -> Change."""

NOTHING = Change()

TEMPORAL = {"paper": (1.0, 0.3, 0.5), "code": (0.8, 0.3, 0.1)}
"""mu, alpha and threshold of Video-R1."""


def temporal_bonus(
    group: RolloutGroup,
    *,
    mode: Literal["paper", "code"] = "paper",
    reward: RewardLabel = "accuracy",
    mu: float | None = None,
    alpha: float | None = None,
    threshold: float | None = None,
) -> Change:
    """T-GRPO: alpha more for right answers if the group does no worse than on the contrast view of its media.

    a_i += alpha for every a_i > threshold, iff mean(a) >= mu mean(a of the contrast rollouts). Feng et al. 2025
    (Video-R1, 2503.21776), equation 1, and their trainer at 59d65c3. `mode`: "paper" has mu 1 and threshold 0.5, "code"
    mu 0.8 and threshold 0.1; alpha is 0.3 in both; each can be given instead. `reward`: which one a is. A group without
    contrast rollouts takes no part. With rewards of 0 and 1 alone, dividing by the group's deviation hides the bonus.
    """
    default_mu, default_alpha, default_threshold = TEMPORAL[mode]
    mu, alpha = default_mu if mu is None else mu, default_alpha if alpha is None else alpha
    threshold = default_threshold if threshold is None else threshold
    shown, changed = _known(group.scores, reward), _known(group.contrast, reward)
    if not shown or not changed or _mean(shown) < mu * _mean(changed):
        return NOTHING
    return Change(bonus=tuple(alpha * (_part(score, reward) > threshold) for score in group.scores), into=reward)


def length_bonus(
    group: RolloutGroup,
    *,
    low: int = 320,
    high: int = 512,
    bonus: float = 0.2,
    accuracy: RewardLabel = "accuracy",
    threshold: float = 0.1,
    format: RewardLabel | None = None,
    several: bool = True,
    span: str = "all",
) -> Change:
    """`bonus` for right answers of `low` to `high` tokens (the end token counts), both included.

    Right: `accuracy` above `threshold` and, if named, `format` above 0. `several`: only where more than one answer of
    the group is right, which Video-R1's code asks for (59d65c3) and its paper does not. `span`: length and bonus are of
    this part of the answer (`rewards[].span`). VideoP2R (2511.11113): 128 to 320 for `span: observation`, 320 to 512
    for `span: rest`, threshold 0, `several: false`.
    """
    right = [
        _part(score, accuracy) > threshold and (format is None or _part(score, format) > 0) for score in group.scores
    ]
    if several and sum(right) < 2:
        return NOTHING
    fits = [low <= span_length(rollout, span) <= high for rollout in group.rollouts]
    return Change(bonus=tuple(bonus * (is_right and fit) for is_right, fit in zip(right, fits, strict=True)))


def difficulty_weight(
    group: RolloutGroup,
    *,
    reward: RewardLabel = "accuracy",
    form: Literal["exp", "power", "log"] = "exp",
    power: float = 1.0,
    negative: Literal["zero", "keep"] = "zero",
) -> Change:
    """Harder groups count more: advantages times a weight that falls with m, the group's mean of `reward`.

    "exp": exp(1 - m), the paper's; "power": (1.05 - m)^power, 0 where m is more; "log": -ln(0.02 + m), which is below 0
    for m over 0.98: `negative: zero` cuts it there, "keep" is as published. UniVG-R1, trainer/grpo_trainer.py. The KL
    is not weighed. `power` has no published default that we know; 1 is OUR choice.
    """
    values = _known(group.scores, reward)
    if not values:
        return NOTHING
    m = _mean(values)
    if form == "exp":
        return Change(factor=math.exp(1 - m))
    if form == "power":
        return Change(factor=max(0.0, 1.05 - m) ** power)
    weight = -math.log(0.02 + max(0.0, m))
    return Change(factor=max(0.0, weight) if negative == "zero" else weight)


def resample_correct(
    group: RolloutGroup,
    *,
    keep: int,
    accuracy: RewardLabel = "accuracy",
    min_wrong: int = 2,
    min_right: int = 2,
    choice: Literal["cleanest", "sampled"] = "cleanest",
) -> Change:
    """GRPO-RoC: of more answers than are trained on, keep `keep`: cleanly written right ones, any wrong ones.

    `rollout.n` answers are sampled; those left out are in no statistics and no loss. Right and wrong ones (`accuracy`
    above 0 or not) keep their ratio, but for at least `min_wrong` and `min_right` where there are as many. "cleanest":
    the right ones with the least penalty and the first wrong ones, as in microsoft/rStar at ecbfb94
    (rstar2_agent/down_sample/roc.py); "sampled": right ones with chances in inverse proportion to the penalty, wrong
    ones uniformly, our reading of rStar2-Agent (2508.20722), UNVERIFIED. Penalty: 0.5 (no tool is called), plus 1
    without matched answer tags, else (answer blocks - 1) / turns, at most 1. A group that has answers without a score
    is left as it is.
    """
    values = _known(group.scores, accuracy)
    count = len(group.scores)
    if count <= keep or len(values) < count:
        return NOTHING
    right = [place for place in range(count) if values[place] > 0]
    wrong = [place for place in range(count) if values[place] <= 0]
    numbers = _shares(len(right), len(wrong), keep, min_right, min_wrong)
    if numbers is None:
        return NOTHING
    penalties = {place: _penalty(group.rollouts[place]) for place in range(count)}
    if choice == "cleanest":
        kept = sorted(right, key=penalties.__getitem__)[: numbers[0]] + wrong[: numbers[1]]
    else:
        rng = random.Random(repr([rollout.seed for rollout in group.rollouts]))
        # Exponential clocks: the first k to ring are k draws without replacement, at these rates.
        clocks = {place: rng.expovariate(1 / penalties[place] if place in right else 1.0) for place in range(count)}
        kept = sorted(right, key=clocks.__getitem__)[: numbers[0]] + sorted(wrong, key=clocks.__getitem__)[: numbers[1]]
    return Change(keep=tuple(place in kept for place in range(count)))


SHAPING: dict[str, Shaper] = {
    "temporal_bonus": temporal_bonus,
    "length_bonus": length_bonus,
    "difficulty_weight": difficulty_weight,
    "resample_correct": resample_correct,
}


def apply(group: RolloutGroup, change: Change, label: str, weight: float) -> RolloutGroup:
    """The group after a shaper's change. `label`: the shaper's; `weight`: of the reward that the bonus goes `into`.

    A bonus is added to the total with that weight, however `scoring.combine` made the total. Answers without a score
    stay without one, and one that is left out loses its score.
    """
    count = len(group.scores)
    bonuses, keep = change.bonus or (0.0,) * count, change.keep or (True,) * count
    assert len(bonuses) == len(keep) == count, f"{label}: {len(bonuses)} and {len(keep)} values for {count} answers"
    target = change.into or (label if change.bonus else None)
    scores = [
        _changed(score, bonus, target, weight, into=change.into is not None)
        if stays
        else Score(total=None, flags={"left_out": True})
        for score, bonus, stays in zip(group.scores, bonuses, keep, strict=True)
    ]
    return replace(group, scores=tuple(scores), factor=group.factor * change.factor)


def _changed(score: Score, bonus: float, target: str | None, weight: float, *, into: bool) -> Score:
    if score.total is None or target is None or (into and not bonus and target not in score.parts):
        return score  # the last: a reward that does not apply is not one of 0
    parts = {**score.parts, target: score.parts.get(target, 0.0) + bonus}
    return replace(score, total=score.total + weight * bonus, parts=parts)


def _part(score: Score, label: str) -> float:
    """A reward's value; NaN, which is above nothing, where there is none."""
    return math.nan if score.total is None else score.parts.get(label, math.nan)


def _known(scores: Sequence[Score], label: str) -> list[float]:
    return [value for score in scores if not math.isnan(value := _part(score, label))]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _shares(right: int, wrong: int, keep: int, min_right: int, min_wrong: int) -> tuple[int, int] | None:
    """How many right and wrong answers are kept; None where so few would be that all stay (as in rStar's code)."""
    kept_wrong, kept_right = round(wrong * keep / (right + wrong)), round(right * keep / (right + wrong))
    if kept_wrong < min_wrong and kept_right < min_right:
        return None
    kept_right = max(keep - max(kept_wrong, min(min_wrong, wrong)), min(min_right, right))
    return kept_right, keep - kept_right


def _penalty(rollout: Rollout) -> float:
    opened, closed = rollout.text.count("<answer>"), rollout.text.count("</answer>")
    turns = sum(segment.kind == "policy" for segment in rollout.segments) or 1
    format = 1.0 if not opened or opened != closed else min((opened - 1) / turns, 1.0)
    return 0.5 + format
