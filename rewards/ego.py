"""EgoThinker's two grounding rewards in one: a box in an image, or a time span in a video."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from mmreason.rewards.base import extract_answer
from mmreason.rewards.golds import bad_gold, by_gold
from mmreason.types import Rollout, Sample, Score

_BOX = re.compile(r"\[" + r",".join([r"\s*(-?\d{1,9})\s*"] * 4) + r"\]")
_SPAN = re.compile(r"\(\s*([-+]?\d{0,9}\.?\d{1,9})\s*,\s*([-+]?\d{0,9}\.?\d{1,9})\s*\)")


def ego_grounding(sample: Sample, rollouts: Sequence[Rollout]) -> list[Score]:
    """IoU of a box [x1, y1, x2, y2] of whole numbers, or of a time span (start, end), in just this form (EgoThinker).

    InternRobotics/EgoThinker EgoThinker-RFT/src/open_r1/grpo_qa.py: the answer is the box or the span and nothing else,
    another bracket or a decimal point in a box is no answer, and numbers are compared as they are, without frames;
    `iou` is the same with forms and frames understood. Here an inverted or empty box or span scores 0, where the public
    code divides negative areas; the last answer is read, not the first. Gold "ego_grounding": four numbers (a box) or
    two (seconds). Range: 0 to 1.
    """

    def grade(rollout: Rollout, gold: tuple[float, ...]) -> Score:
        match = (_BOX if len(gold) == 4 else _SPAN).fullmatch(extract_answer(rollout.text) or "")
        found = tuple(float(number) for number in match.groups()) if match else None
        overlap = _overlap(found, gold) if found else 0.0
        return Score(total=overlap, flags={"correct": overlap > 0.5, "answered": found is not None})

    return by_gold(sample, rollouts, "ego_grounding", _gold, grade)


def _overlap(found: tuple[float, ...], gold: tuple[float, ...]) -> float:
    """Intersection over union of two boxes or spans; 0 where one has no extent."""
    if not (_has_extent(found) and _has_extent(gold)):
        return 0.0
    half = len(gold) // 2
    sides = [max(0.0, min(found[half + i], gold[half + i]) - max(found[i], gold[i])) for i in range(half)]
    common = math.prod(sides)
    areas = sum(math.prod(box[half + i] - box[i] for i in range(half)) for box in (found, gold))
    return common / (areas - common)


def _has_extent(box: tuple[float, ...]) -> bool:
    half = len(box) // 2
    return all(box[i] < box[half + i] for i in range(half))


def _gold(given: Any) -> tuple[float, ...]:
    wants = "[x1, y1, x2, y2] or [start, end], with an extent"
    if not isinstance(given, (list, tuple)) or len(given) not in (2, 4):
        bad_gold(given, wants)
    if not all(isinstance(n, (int, float)) and not isinstance(n, bool) and math.isfinite(n) for n in given):
        bad_gold(given, wants)
    gold = tuple(float(n) for n in given)
    return gold if _has_extent(gold) else bad_gold(given, wants)
