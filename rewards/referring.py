"""Places found step by step (RoboRefer) and paths drawn through a scene (RoboTracer)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from mmreason.rewards.base import extract_answer
from mmreason.rewards.format import format as well_formed
from mmreason.rewards.frames import Gold, find_gold
from mmreason.rewards.golds import bad_gold, block, by_gold, entry
from mmreason.rewards.texts import plain
from mmreason.types import CoordinateFrame, Rollout, Sample, Score

Numbers = tuple[float, ...]
Kind = Literal["position", "orientation", "size"]

LONGEST = 20_000
"""Characters of an answer, or of a line of the thoughts, that are read."""
SAMPLES = 16
"""Points at which two paths are compared."""
_N = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)"
_NUMBER = re.compile(_N)
_POINT = re.compile(rf"[\[(]\s*({_N})\s*,\s*({_N})\s*[\])]")
_STEP = re.compile(r"\[([^\[\]]+)\]\s*\[([^\[\]]+)\]\s*:(.+)")


class Step(NamedTuple):
    """A fact that the thoughts should name, such as the position of the red cup."""

    kind: Kind
    target: str
    value: Numbers


def refer_steps(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    steps: Literal["mean", "sum"] = "mean",
    process_weight: float = 0.25,
    pixels: float = 50.0,
    frame: CoordinateFrame | None = None,
    gold_frame: CoordinateFrame = "original_pixels",
    media_index: int = 0,
) -> list[Score]:
    """Format + final point + a quarter of the form and the rightness of the steps towards it (RoboRefer).

    R = R_OF + R_P + w (R_PF + R_Acc), RoboRefer's paper, section 3.2; each is a part. R_OF: think and answer blocks.
    R_P: the only point of the answer is less than `pixels` (L1, of the image file) from the gold. R_PF: the thoughts
    hold a line `[Kind] [Target]: value`; how the paper counts lines without that form is not public, this is our
    choice. R_Acc, over the annotated steps in any order: a position less than `pixels` away, an orientation of cosine
    over 0.8, a size within 15 %. The last line on a target counts. `steps`: whether R_Acc is their mean (ours, at most
    1) or their sum (the paper does not say which).

    Gold "steps": [{"kind": "position", "target": "red cup", "value": [320, 240]}, ..], and "point": [x, y] beside it,
    both in the frame and image of the point, which are said as for `iou`. Range: 0 to 2 + 2 w ("mean").
    """

    def grade(rollout: Rollout, golds: list[Step]) -> Score:
        place = find_gold(sample, "point", frame=frame, gold_frame=gold_frame, media_index=media_index)
        wanted = _numbers(place.value, 2, 'a gold "point" [x, y] beside the steps')
        points = set(_points(extract_answer(rollout.text) or ""))
        right = len(points) == 1 and distance(place, points.pop(), wanted) < pixels
        said = read_steps(block(rollout.text, "think") or "")
        held = [_holds(said.get((step.kind, step.target)), step, place, pixels) for step in golds]
        parts = {
            "format": well_formed(sample, [rollout])[0].total or 0.0,
            "point": float(right),
            "process_format": float(bool(said)),
            "steps": sum(held) / (len(held) if steps == "mean" else 1),
        }
        total = parts["format"] + parts["point"] + process_weight * (parts["process_format"] + parts["steps"])
        return Score(total=total, parts=parts, flags={"correct": right, "answered": right or bool(points)})

    return by_gold(sample, rollouts, "steps", _gold_steps, grade)


def trace(sample: Sample, rollouts: Sequence[Rollout]) -> list[Score]:
    """Ends of a path, max(0, 1 - squared distance), plus its course, max(0, 1 - distance); 0 to 2 (RoboTracer).

    Both in the numbers of gold and answer as they are, 0 to 1 (the project's normalised points), of 2 or 3 dimensions.
    The ends count half each. The distance between two courses is our choice, the paper's not being public to us: the
    mean distance of 16 points at equal shares of each path's length. The answer is a list of points, two at least.
    Gold "trace": [[x, y], ..].
    """

    def grade(rollout: Rollout, gold: list[Numbers]) -> Score:
        path = read_path(extract_answer(rollout.text) or "", len(gold[0]))
        if len(path) < 2:
            return Score(total=0.0, flags={"answered": False})
        ends = [max(0.0, 1.0 - math.dist(path[i], gold[i]) ** 2) for i in (0, -1)]
        pairs = zip(resampled(path), resampled(gold), strict=True)
        course = max(0.0, 1.0 - sum(math.dist(a, b) for a, b in pairs) / SAMPLES)
        parts = {"ends": sum(ends) / 2, "course": course}
        return Score(total=sum(parts.values()), parts=parts, flags={"answered": True})

    return by_gold(sample, rollouts, "trace", _gold_path, grade)


def distance(place: Gold, said: Numbers, meant: Numbers) -> float:
    """L1 distance of a point of the answer and one of the gold, in pixels of the file."""
    x1, y1 = place.said((said[0], said[1]), "original_pixels")
    x2, y2 = place.meant((meant[0], meant[1]), "original_pixels")
    return abs(x1 - x2) + abs(y1 - y2)


def read_steps(thoughts: str) -> dict[tuple[str, str], Numbers]:
    """(kind, target) -> numbers, of the lines `[Kind] [Target]: value` of the thoughts; the last on a target counts."""
    found: dict[tuple[str, str], Numbers] = {}
    for line in thoughts.splitlines():
        if len(line) <= LONGEST and (match := _STEP.search(line)):
            kind, target = plain(match[1]), plain(match[2])
            found[kind, target] = tuple(float(number) for number in _NUMBER.findall(match[3]))
    return found


def resampled(path: Sequence[Numbers], count: int = SAMPLES) -> list[Numbers]:
    """`count` points at equal shares of a path's length, its ends among them."""
    lengths = [math.dist(a, b) for a, b in pairwise(path)]
    points, index, before = [], 0, 0.0
    for step in range(count):
        wanted = sum(lengths) * step / (count - 1)
        while index < len(lengths) - 1 and before + lengths[index] < wanted:
            before, index = before + lengths[index], index + 1
        share = min(1.0, (wanted - before) / lengths[index]) if lengths[index] else 0.0
        ends = zip(path[index], path[index + 1], strict=True)
        points.append(tuple(a + share * (b - a) for a, b in ends))
    return points


def read_path(answer: str, dimensions: int) -> list[Numbers]:
    """Groups of so many numbers in brackets, in order; empty where one of them has another count."""
    groups = re.findall(r"[\[(]([^\[\]()]*)[\])]", answer[:LONGEST])
    points = [tuple(float(n) for n in _NUMBER.findall(group)) for group in groups]
    finite = all(len(point) == dimensions and all(map(math.isfinite, point)) for point in points)
    return [tuple(max(-1e6, min(1e6, n)) for n in point) for point in points] if finite else []


def _holds(said: Numbers | None, step: Step, place: Gold, pixels: float) -> bool:
    if said is None or len(said) != len(step.value) or not all(map(math.isfinite, said)):
        return False
    if step.kind == "position":
        return distance(place, said, step.value) < pixels
    if step.kind == "size":
        return all(abs(a - b) <= 0.15 * abs(b) for a, b in zip(said, step.value, strict=True))
    length = math.hypot(*said)
    if length in (0.0, math.inf):
        return False
    return sum(a / length * b for a, b in zip(said, step.value, strict=True)) > 0.8 * math.hypot(*step.value)


def _points(answer: str) -> list[Numbers]:
    return [(float(x), float(y)) for x, y in _POINT.findall(answer[:LONGEST])]


def _numbers(given: Any, count: int | None, wants: str) -> Numbers:
    values = given if isinstance(given, (list, tuple)) else [given]
    plain_numbers = all(isinstance(n, (int, float)) and not isinstance(n, bool) and math.isfinite(n) for n in values)
    if not values or not plain_numbers or (count is not None and len(values) != count):
        bad_gold(given, wants)
    return tuple(float(n) for n in values)


def _gold_steps(given: Any) -> list[Step]:
    wants = 'steps such as {"kind": "position", "target": "red cup", "value": [320, 240]}, or orientation or size'
    if not isinstance(given, (list, tuple)) or not given or not all(isinstance(item, Mapping) for item in given):
        bad_gold(given, wants)
    return [_gold_step(item, wants) for item in given]


def _gold_step(item: Mapping[str, Any], wants: str) -> Step:
    kind, target = entry(item, "kind", wants), entry(item, "target", wants)
    if kind not in ("position", "orientation", "size") or not isinstance(target, str) or not plain(target):
        bad_gold(item, wants)
    value = _numbers(entry(item, "value", wants), 2 if kind == "position" else None, wants)
    if kind == "orientation" and not any(value):
        bad_gold(item, wants)
    return Step(kind, plain(target), value)


def _gold_path(given: Any) -> list[Numbers]:
    wants = "a path of two or more points [x, y] or [x, y, z]"
    if not isinstance(given, (list, tuple)) or len(given) < 2:
        bad_gold(given, wants)
    points = [_numbers(point, None, wants) for point in given]
    if {len(point) for point in points} not in ({2}, {3}):
        bad_gold(given, wants)
    return points
