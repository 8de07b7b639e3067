"""From one score per reward to one score per rollout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from mmreason.types import Score

Combine = Literal["sum", "product", "first"]


def closed_gates(scores: Sequence[Score], names: Sequence[str], gates: Sequence[str | None]) -> list[bool]:
    """For each score of one rollout whether the reward that its gate names keeps it out: 1[R_a > 0] R_s is 0.

    A gate is closed where that reward is 0 or less, does not apply, or is kept out by a gate of its own. Where it
    failed nobody knows, and its error stands. A reward that does not apply is left out, gate or not.
    Source: VideoRFT (2505.12434, section 3.2): R = R_f + R_a + 1[R_a > 0] R_s.
    """
    index = {name: i for i, name in enumerate(names)}

    def shut(i: int) -> bool:
        gate = gates[i]
        if gate is None:
            return False
        by = scores[index[gate]]
        return shut(index[gate]) or (by.error is None and (by.total is None or by.total <= 0))

    return [shut(i) and not _left_out(score) for i, score in enumerate(scores)]


def _left_out(score: Score) -> bool:
    return score.total is None and score.error is None


def combine(
    scores: Sequence[Score],
    names: Sequence[str],
    weights: Sequence[float],
    how: Combine,
    closed: Sequence[bool] | None = None,
) -> Score:
    """One score of one rollout out of its scores by each reward, in config order.

    A reward that does not apply (total None, no error) is left out. One behind a closed gate is 0, whatever it said,
    even an error. sum: of weight x value; product: of weight x value; first: weight x value of the first reward that
    applies and has no closed gate (0 where all have one). Any other error, or no reward that applies, gives no total
    and an error. Parts are unweighted: "iou", and "iou.recall" for a reward's own parts. A flag keeps its name where
    it comes first and is "iou.correct" after that; gates change neither flags nor a reward's own parts.
    """
    closed = closed or [False] * len(scores)
    parts: dict[str, float] = {}
    flags: dict[str, bool] = {}
    for name, score, shut in zip(names, scores, closed, strict=True):
        if shut:
            parts[name] = 0.0
        elif score.total is not None and score.error is None:
            parts[name] = score.total
        parts |= {f"{name}.{part}": value for part, value in score.parts.items()}
        flags |= {(f"{name}.{flag}" if flag in flags else flag): value for flag, value in score.flags.items()}
    errors = [score.error for score, shut in zip(scores, closed, strict=True) if score.error is not None and not shut]
    if errors or not any(name in parts for name in names):
        error = "; ".join(errors) or f"none of the rewards ({', '.join(names)}) applies to this sample"
        return Score(total=None, parts=parts, flags=flags, error=error)
    counted = [
        weight * parts[name]
        for name, weight, shut in zip(names, weights, closed, strict=True)
        if name in parts and not (shut and how == "first")
    ]
    return Score(total=_total(counted or [0.0], how), parts=parts, flags=flags)


def _total(values: Sequence[float], how: Combine) -> float:
    if how == "first":
        return values[0]
    return sum(values) if how == "sum" else math.prod(values)
