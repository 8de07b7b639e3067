"""From one score per reward to one score per rollout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mmreason.types import Score

Combine = Literal["sum", "product", "first"]


def labels(names: Sequence[str]) -> list[str]:
    """Names made unique: the second "iou" is "iou#2"."""
    return [name if n == 1 else f"{name}#{n}" for i, name in enumerate(names) for n in [names[: i + 1].count(name)]]


def combine(scores: Sequence[Score], names: Sequence[str], weights: Sequence[float], how: Combine) -> Score:
    """One score of one rollout out of its scores by each reward, in config order.

    A reward that does not apply (total None, no error) is left out. sum: of weight x value; product: of weight x
    value; first: weight x value of the first reward that applies. Any error, or no reward that applies, gives no
    total and an error. Parts are unweighted: "iou", and "iou.recall" for a reward's own parts. A flag keeps its name
    where it comes first and is "iou.correct" after that.
    """
    parts: dict[str, float] = {}
    flags: dict[str, bool] = {}
    for name, score in zip(names, scores, strict=True):
        if score.total is not None and score.error is None:
            parts[name] = score.total
        parts |= {f"{name}.{part}": value for part, value in score.parts.items()}
        flags |= {(f"{name}.{flag}" if flag in flags else flag): value for flag, value in score.flags.items()}
    errors = [score.error for score in scores if score.error is not None]
    weighted = [weight * parts[name] for name, weight in zip(names, weights, strict=True) if name in parts]
    if errors or not weighted:
        error = "; ".join(errors) or f"none of the rewards ({', '.join(names)}) applies to this sample"
        return Score(total=None, parts=parts, flags=flags, error=error)
    return Score(total=_total(weighted, how), parts=parts, flags=flags)


def _total(values: Sequence[float], how: Combine) -> float:
    if how == "first":
        return values[0]
    if how == "sum":
        return sum(values)
    product = 1.0
    for value in values:
        product *= value
    return product
