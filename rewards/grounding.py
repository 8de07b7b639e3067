"""Did the model find the place? Overlap of the answered box with the gold box.

Model and data rarely count in the same frame; frames.py converts, and nothing here does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from mmreason.errors import DataError
from mmreason.rewards.base import extract_answer
from mmreason.rewards.boxes import Corners, find_boxes, is_proper, items_of
from mmreason.rewards.frames import Gold, find_gold, for_golds, meant_box, said_box
from mmreason.types import CoordinateFrame, Rollout, Sample, Score

Variant = Literal["plain", "vlmr1", "plus_one"]
Several = Literal["none", "first"]
Form = Literal["plus_one", "unit"]

LONGEST = 2000
"""Characters: a longer answer holds no box."""


@for_golds("box", task="grounding")
def iou(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    variant: Variant = "plain",
    power: float = 1.0,
    threshold: float | None = None,
    several: Several = "none",
    frame: CoordinateFrame | None = None,
    gold_frame: CoordinateFrame = "original_pixels",
    media_index: int = 0,
) -> list[Score]:
    """Intersection over union of the answered box with `golds["box"]`; flags "correct" (IoU > 0.5) and "answered".

    The gold is [x1, y1, x2, y2] in `gold_frame`, or {"value": [..], "frame": .., "image": ..} with its own frame and
    the number, from 0, of the image or video that it is in (also as `golds["image"]`; else `media_index`).
    `variant`: "plain"; "vlmr1" (VLM-R1, UniVG-R1: last pixel x2 - 1, an overlap of one pixel is none); "plus_one"
    (Seg-Zero: every side one pixel longer). The two pixel variants are computed in pixels. `power`: 2 is
    Perception-R1's IoU squared. `threshold`: 1 if IoU is above it, else 0, instead of the IoU. `frame`: what the
    model's numbers mean; by default the frame of the model.

    The last `<answer>` must hold one box, as JSON, [x1,y1,x2,y2] or (x1,y1),(x2,y2). `several`: what different boxes
    are, "none" no answer, "first" the first of them (VLM-R1). An inverted or empty box scores 0. Samples without a
    gold box are left to other rewards.
    """
    gold = find_gold(sample, "box", frame=frame, gold_frame=gold_frame, media_index=media_index)
    pixels = variant != "plain" and gold.frame not in ("original_pixels", "resized_pixels")
    to: CoordinateFrame = "original_pixels" if pixels else gold.frame
    target = gold_box(gold, to)
    boxes = [said_box(gold, read_box(rollout.text, several), to) for rollout in rollouts]
    return [_score(None if box is None else box_iou(box, target, variant), power, threshold) for box in boxes]


@for_golds("box", task="grounding")
def giou(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    form: Form = "plus_one",
    several: Several = "none",
    frame: CoordinateFrame | None = None,
    gold_frame: CoordinateFrame = "original_pixels",
    media_index: int = 0,
) -> list[Score]:
    """Generalized IoU of the answered box with `golds["box"]`, moved to [0, 2] or [0, 1]; flags as `iou`.

    GIoU = IoU - (hull - union) / hull (Rezatofighi et al. 2019): boxes that do not overlap still tell near from far.
    `form`: "plus_one" is GIoU + 1, the LISA reward of Visual-RFT (`grpo_lisa.py`), in [0, 2]; "unit" is half of it.
    An answer without a usable box scores 0. Gold and the other options as in `iou`.
    """
    gold = find_gold(sample, "box", frame=frame, gold_frame=gold_frame, media_index=media_index)
    target = gold_box(gold, gold.frame)
    boxes = [said_box(gold, read_box(rollout.text, several), gold.frame) for rollout in rollouts]
    scale = 1.0 if form == "plus_one" else 0.5
    return [
        Score(
            total=0.0 if box is None else scale * (box_giou(box, target) + 1.0),
            flags={"correct": box is not None and box_iou(box, target) > 0.5, "answered": box is not None},
        )
        for box in boxes
    ]


def read_box(text: str, several: Several = "none") -> Corners | None:
    """The box in the last `<answer>`; None where there is none. `several` as in `iou`."""
    answer = extract_answer(text) or ""
    found = list(dict.fromkeys(find_boxes(answer))) if len(answer) <= LONGEST else []
    return found[0] if len(found) == 1 or (found and several == "first") else None


def gold_box(gold: Gold, to: CoordinateFrame) -> Corners:
    """The one box of a gold. Raises DataError for anything else."""
    items = items_of(gold.value)
    if len(items) != 1 or items[0].box is None:
        raise DataError(f"gold box {gold.shown}; expected [x1, y1, x2, y2]")
    return meant_box(gold, items[0].box, to)


def box_iou(a: Corners, b: Corners, variant: Variant = "plain") -> float:
    """Intersection over union of two boxes in the same frame; 0 where a box is empty, inverted or not finite.

    Research notes "rewards" 0.2: [0,0,10,10] with [9,0,19,10] is 1/19 plain, 0 as vlmr1, 0.1 as plus_one.
    """
    if not (is_proper(a) and is_proper(b)):
        return 0.0
    extra = 1.0 if variant == "plus_one" else 0.0
    width = min(a[2], b[2]) - max(a[0], b[0]) + extra
    height = min(a[3], b[3]) - max(a[1], b[1]) + extra
    least = 1.0 if variant == "vlmr1" else 0.0
    if width <= least or height <= least:
        return 0.0
    areas = sum((box[2] - box[0] + extra) * (box[3] - box[1] + extra) for box in (a, b))
    return width * height / (areas - width * height)


def box_giou(a: Corners, b: Corners) -> float:
    """Generalized IoU of two boxes with an area, -1 to 1: [0,0,.5,.5] with [.25,.25,.75,.75] is -0.079365."""
    overlap = box_iou(a, b)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    union = areas / (1.0 + overlap)  # areas = union + intersection
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return overlap - (hull - union) / hull


def _score(value: float | None, power: float, threshold: float | None) -> Score:
    overlap = value or 0.0
    total: Any = overlap**power if threshold is None else overlap > threshold
    return Score(total=float(total), flags={"correct": overlap > 0.5, "answered": value is not None})
