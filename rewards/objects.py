"""Things with a box and points at once: the rewards of Seg-Zero and VisionReasoner (dvlab-research/Seg-Zero).

Both count pixels of images that were stretched to 840 x 840 beforehand, so that their limits (10, 30, 100 pixels) mean
nothing elsewhere. Here golds and answers are stretched to a square of `canvas` pixels before anything is measured: the
limits are parts of the image's sides (10 of 840 is 1.2 %), and on 840 x 840 images the published numbers come out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from mmreason.errors import DataError
from mmreason.rewards.base import extract_answer
from mmreason.rewards.boxes import Corners, Item, Point, items_of, read_items
from mmreason.rewards.detection import gold_items
from mmreason.rewards.frames import find_gold, for_golds, meant_items, said_items
from mmreason.rewards.grounding import Variant, box_iou
from mmreason.rewards.matching import best_assignment
from mmreason.types import CoordinateFrame, Rollout, Sample, Score

MOST = 120
"""Objects that count, of golds and of answers: the matching takes the cube of it."""


@for_golds("boxes", task="detection")
def vision_reasoner(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    canvas: int = 840,
    box_limit: float = 10.0,
    point_limit: float = 30.0,
    variant: Variant = "plain",
    frame: CoordinateFrame | None = None,
    gold_frame: CoordinateFrame = "original_pixels",
    media_index: int = 0,
) -> list[Score]:
    """Boxes and points of several things, matched one to one, 0 to 6: VisionReasoner's reward without think format.

    Parts: "accuracy" (0 to 3): for a pair of gold and found 1 each for IoU > 0.5, for corners off by less than
    `box_limit` on average, and for the point less than `point_limit` from the gold's and in the found box; the largest
    sum over one-to-one pairs, over the larger number of things. "items" (0 to 2): mean of 1 for a box of four numbers
    and 1 for a point of two. "no_repeats": 0 where two sentences of the text repeat earlier ones. The limits are in
    pixels of the image stretched to `canvas` x `canvas`. Things: {"bbox_2d": [..], "point_2d": [..]}.

    `vision_reasoner.py` has `variant: plus_one`; its think format is `format` with `variant: video_r1`. There a thing
    without a box or a point voids the whole answer, and the first `<answer>` counts. "correct": accuracy over 1.5.
    """
    gold, items = gold_items(sample, frame, gold_frame, media_index)
    targets = meant_items(gold, items, (canvas, canvas))[:MOST]
    scores = []
    for rollout in rollouts:
        said = read_items(extract_answer(rollout.text) or "")
        found = said_items(gold, (said or [])[:MOST], (canvas, canvas))
        gains = [[_gain(target, item, box_limit, point_limit, variant) for item in found] for target in targets]
        parts = {
            "accuracy": _matched(gains, said, len(targets), len(found)),
            "items": _well_formed(said or []),
            "no_repeats": float(not repeats_itself(rollout.text)),
        }
        flags = {"correct": parts["accuracy"] > 1.5, "answered": said is not None}
        scores.append(Score(total=sum(parts.values()), parts=parts, flags=flags))
    return scores


@for_golds("box", task="grounding")
def seg_zero(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    canvas: int = 840,
    box_limit: float = 10.0,
    point_limit: float = 100.0,
    variant: Variant = "plain",
    frame: CoordinateFrame | None = None,
    gold_frame: CoordinateFrame = "original_pixels",
    media_index: int = 0,
) -> list[Score]:
    """A box and two points of one thing, 0 to 4: Seg-Zero's reward without think format.

    The gold is `golds["box"]` and `golds["points"]`, two points. Parts, 0 or 1 each: "items" (one thing with a box and
    two points), "iou" (over 0.5), "l1" (corners off by less than `box_limit` on average), "points" (both in the said
    box, and less than `point_limit` from the gold's on average, in the better order). Limits are in pixels of the image
    stretched to `canvas` x `canvas`. `seg_restrict.py` has `variant: plus_one`, and names that are exactly "bbox",
    "points_1" and "points_2"; `seg.py` takes any with "bbox" and "point" in them, as here. "correct": "iou" is 1.
    """
    sizes = (canvas, canvas)
    gold = find_gold(sample, "box", frame=frame, gold_frame=gold_frame, media_index=media_index)
    dots = find_gold(sample, "points", frame=frame, gold_frame=gold_frame, media_index=media_index)
    boxes = meant_items(gold, items_of(gold.value), sizes)
    points = [dots.meant(point, sizes) for item in items_of(dots.value) for point in item.points]
    if len(boxes) != 1 or len(points) != 2:
        raise DataError(f"gold box {gold.shown} and points {dots.shown}: expected one box and two points")
    target = Item(box=boxes[0].box, points=tuple(points))
    scores = []
    for rollout in rollouts:
        said = read_items(extract_answer(rollout.text) or "") or []
        found = said_items(gold, said[:1], sizes) if len(said) == 1 else []
        item = found[0] if found else Item()
        parts = {
            "items": float(len(said) == 1 and said[0].box is not None and len(said[0].points) == 2),
            "iou": float(_overlaps(target.box, item.box, variant)),
            "l1": float(_near_box(target.box, item.box, box_limit)),
            "points": float(_near_points(target, item, point_limit)),
        }
        flags = {"correct": parts["iou"] == 1, "answered": item.box is not None}
        scores.append(Score(total=sum(parts.values()), parts=parts, flags=flags))
    return scores


def repeats_itself(text: str) -> bool:
    """Whether at least two sentences (what stands between full stops) are repetitions of earlier ones."""
    sentences = [sentence for piece in text.split(".") if (sentence := piece.strip())]
    return len(sentences) - len(set(sentences)) >= 2


def _matched(gains: Sequence[Sequence[float]], said: Sequence[Item] | None, golds: int, found: int) -> float:
    if said is None:
        return 0.0
    if not golds or not found:
        return 3.0 * (not golds and not found)
    return sum(gains[i][j] for i, j in best_assignment(gains)) / max(golds, found)


def _well_formed(said: Sequence[Item]) -> float:
    """Mean of boxes and points that were given, 0 to 2."""
    return sum((item.box is not None) + (len(item.points) == 1) for item in said) / len(said) if said else 0.0


def _gain(target: Item, item: Item, box_limit: float, point_limit: float, variant: Variant) -> float:
    point = target.points and item.points and item.box is not None
    near = point and _inside(item.points[0], item.box) and math.dist(target.points[0], item.points[0]) < point_limit
    return float(_overlaps(target.box, item.box, variant) + _near_box(target.box, item.box, box_limit) + bool(near))


def _overlaps(target: Corners | None, box: Corners | None, variant: Variant) -> bool:
    return target is not None and box is not None and box_iou(target, box, variant) > 0.5


def _near_box(target: Corners | None, box: Corners | None, limit: float) -> bool:
    if target is None or box is None:
        return False
    return sum(abs(one - other) for one, other in zip(target, box, strict=True)) / 4 < limit


def _near_points(target: Item, item: Item, limit: float) -> bool:
    if item.box is None or len(item.points) != 2 or not all(_inside(point, item.box) for point in item.points):
        return False
    orders = itertools.permutations(item.points)
    return min(sum(map(math.dist, target.points, order)) for order in orders) / 2 < limit


def _inside(point: Point, box: Corners | None) -> bool:
    return box is not None and box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]
