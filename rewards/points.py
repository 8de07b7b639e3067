"""Did the model point at the right place?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mmreason.errors import DataError
from mmreason.geometry import Size
from mmreason.rewards.base import extract_answer
from mmreason.rewards.boxes import LARGEST, Corners, Point, is_proper, items_of, read_points
from mmreason.rewards.frames import Gold, find_gold, for_golds
from mmreason.types import CoordinateFrame, Rollout, Sample, Score

Kind = Literal["inside", "nndc", "nndc_or_inside", "l1"]


@for_golds("point", "mask", task="pointing")
def point(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    kind: Kind = "inside",
    limit: float = 50.0,
    canvas: int | None = None,
    frame: CoordinateFrame | None = None,
    gold_frame: CoordinateFrame = "original_pixels",
    media_index: int = 0,
) -> list[Score]:
    """Whether the answered point is in the gold's mask or box, or how near it is to the gold's point, 0 to 1.

    `kind`: "inside" of `golds["mask"]` (a polygon [[x, y], ..], or several; COCO's flat lists) or of `golds["box"]`;
    "nndc" (exp(-5 d) - exp(-5 sqrt 2)) / (1 - exp(-5 sqrt 2)), d the distance to `golds["point"]`, or else to the
    middle of mask or box, with the image's sides as 1 (SpaceTools, 2512.04069); "nndc_or_inside" the larger of both
    (SpaceTools' reward); "l1" 1 where |dx| + |dy| < `limit` pixels of the file, or of the image stretched to `canvas` x
    `canvas`. Of several answered points the mean counts (ours). Golds have frames and images as `iou`'s box. Flag
    "correct": over 0.5.
    """
    found = {
        name: _region(find_gold(sample, name, frame=frame, gold_frame=gold_frame, media_index=media_index), name)
        for name in ("point", "mask", "box")
        if name in sample.golds
    }
    region = found.get("mask") or found.get("box")
    target = found.get("point") or region
    if target is None or (kind == "inside" and region is None):
        raise DataError(f"no gold {'mask or box' if kind == 'inside' else 'point, mask or box'}")
    size = (canvas, canvas) if canvas else None
    scores = []
    for rollout in rollouts:
        said = read_points(extract_answer(rollout.text) or "") or []
        usable = [at for at in said if max(map(abs, at)) <= LARGEST]
        values = [_value(kind, at, target, region, limit, size) for at in usable]
        total = sum(values) / len(said) if values else 0.0
        scores.append(Score(total=total, flags={"correct": total > 0.5, "answered": bool(usable)}))
    return scores


def nndc(distance: float) -> float:
    """SpaceTools' normalised negative distance to the centre: 1 at 0, 0.606196 at 0.1, 0 at sqrt 2 and beyond."""
    least = math.exp(-5.0 * math.sqrt(2.0))
    return max(0.0, (math.exp(-5.0 * distance) - least) / (1.0 - least))


def in_polygons(at: Point, polygons: Sequence[Sequence[Point]]) -> bool:
    """By the even-odd rule over all polygons together: a polygon within another is a hole."""
    x, y = at
    inside = False
    for polygon in polygons:
        for (ax, ay), (bx, by) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
            if (ay > y) != (by > y) and x < (bx - ax) * (y - ay) / (by - ay) + ax:
                inside = not inside
    return inside


@dataclass(frozen=True, slots=True, kw_only=True)
class _Region:
    """A place of the gold, with its numbers in the gold's own frame."""

    gold: Gold
    middle: Point
    box: Corners | None = None
    polygons: Sequence[Sequence[Point]] = ()

    def holds(self, said: Point) -> bool:
        at = self.gold.said(said, self.gold.frame)
        if self.box is not None:
            return self.box[0] <= at[0] <= self.box[2] and self.box[1] <= at[1] <= self.box[3]
        return in_polygons(at, self.polygons)


def _value(kind: Kind, at: Point, target: _Region, region: _Region | None, limit: float, size: Size | None) -> float:
    inside = kind in ("inside", "nndc_or_inside") and region is not None and region.holds(at)
    if kind == "inside" or inside:
        return float(inside)
    to: CoordinateFrame | Size = (size or "original_pixels") if kind == "l1" else "unit"
    (x, y), (meant_x, meant_y) = target.gold.said(at, to), target.gold.meant(target.middle, to)
    if kind == "l1":
        return float(abs(x - meant_x) + abs(y - meant_y) < limit)
    return nndc(math.hypot(x - meant_x, y - meant_y))


def _region(gold: Gold, name: str) -> _Region:
    """Raises DataError for a gold that is no point, box or mask."""
    if name == "mask":
        polygons = _polygons(gold)
        return _Region(gold=gold, middle=_centroid(polygons), polygons=polygons)
    items = items_of(gold.value)
    item = items[0] if len(items) == 1 else None
    if name == "point" and item is not None and len(item.points) == 1 and max(map(abs, item.points[0])) <= LARGEST:
        return _Region(gold=gold, middle=item.points[0])
    if name == "box" and item is not None and item.box is not None and is_proper(item.box):
        x1, y1, x2, y2 = item.box
        return _Region(gold=gold, middle=((x1 + x2) / 2, (y1 + y2) / 2), box=item.box)
    wanted = "[x, y]" if name == "point" else "[x1, y1, x2, y2]"
    raise DataError(f"gold {name} {gold.shown}; expected {wanted}")


def _polygons(gold: Gold) -> list[list[Point]]:
    """Of [[x, y], ..], several of these, or COCO's [[x1, y1, x2, y2, ..], ..]."""
    given = gold.value if isinstance(gold.value, (list, tuple)) else []
    numbers = [_flat(polygon) for polygon in ([given] if given and _is_pair(given[0]) else given)]
    if not numbers or any(n is None or len(n) < 6 or len(n) % 2 for n in numbers):
        raise DataError(f"gold mask {gold.shown}; expected polygons of three or more points [x, y]")
    return [list(zip(flat[::2], flat[1::2], strict=True)) for flat in numbers if flat]


def _is_pair(value: object) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and not isinstance(value[0], (list, tuple))


def _flat(polygon: object) -> list[float] | None:
    """The numbers of [x1, y1, x2, y2, ..] or [[x1, y1], [x2, y2], ..]."""
    if not isinstance(polygon, (list, tuple)):
        return None
    numbers = [number for corner in polygon for number in (corner if isinstance(corner, (list, tuple)) else [corner])]
    usual = all(isinstance(n, (int, float)) and not isinstance(n, bool) and abs(n) <= LARGEST for n in numbers)
    return numbers if usual else None


def _centroid(polygons: Sequence[Sequence[Point]]) -> Point:
    """Of the largest polygon's area; of its corners where it has none."""
    sums = []
    for polygon in polygons:
        edges = list(zip(polygon, [*polygon[1:], polygon[0]], strict=True))
        cross = [ax * by - bx * ay for (ax, ay), (bx, by) in edges]
        x = sum((a[0] + b[0]) * c for (a, b), c in zip(edges, cross, strict=True))
        y = sum((a[1] + b[1]) * c for (a, b), c in zip(edges, cross, strict=True))
        sums.append((abs(sum(cross)), sum(cross), x, y, polygon))
    _, area, x, y, polygon = max(sums, key=lambda entry: entry[0])
    if area == 0:
        return sum(p[0] for p in polygon) / len(polygon), sum(p[1] for p in polygon) / len(polygon)
    return x / (3 * area), y / (3 * area)
