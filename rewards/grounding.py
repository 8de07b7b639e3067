"""Did the model find the place? Overlap of the answered box with the gold box.

Model and data rarely count in the same frame; `mmreason.geometry` converts, and nothing here does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast, get_args

from mmreason.errors import DataError
from mmreason.geometry import Size, convert_box
from mmreason.rewards.base import BAD_GOLD, extract_answer, one_line
from mmreason.types import Box, CoordinateFrame, Geometry, Rollout, Sample, Score

Variant = Literal["plain", "vlmr1", "plus_one"]

LONGEST = 2000
"""Characters: a longer answer holds no box."""
_N = r"\s*([-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)\s*"
_BOXES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"\[{_N},{_N},{_N},{_N}\]",  # [x1, y1, x2, y2], alone or after "bbox_2d":
        rf"\({_N},{_N},{_N},{_N}\)",
        rf"\({_N},{_N}\)\s*,?\s*\({_N},{_N}\)",  # (x1,y1),(x2,y2), Qwen2-VL
        rf"\[\s*\[{_N},{_N}\]\s*,\s*\[{_N},{_N}\]\s*\]",
    )
)


def iou(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    variant: Variant = "plain",
    power: float = 1.0,
    threshold: float | None = None,
    frame: CoordinateFrame | None = None,
    gold_frame: CoordinateFrame = "original_pixels",
    media_index: int = 0,
) -> list[Score]:
    """Intersection over union of the answered box with `golds["box"]`; flags "correct" (IoU > 0.5) and "answered".

    The gold is [x1, y1, x2, y2] in `gold_frame`, or {"value": [..], "frame": ..} with its own frame.
    `variant`: "plain"; "vlmr1" (last pixel x2 - 1, an overlap of one pixel is none); "plus_one" (Seg-Zero: every side
    one pixel longer). The two pixel variants are computed in pixels. `power`: 2 is Perception-R1's IoU squared.
    `threshold`: 1 if IoU is above it, else 0, instead of the IoU. `frame`: what the model's numbers mean; by default
    the frame of the model, from image or video number `media_index` of the prompt.

    The last `<answer>` must hold exactly one box, as JSON, [x1,y1,x2,y2] or (x1,y1),(x2,y2); several different boxes
    are no answer. An inverted or empty box scores 0. Samples without a gold box are left to other rewards.
    """
    if "box" not in sample.golds and sample.task != "grounding":
        return [Score(total=None)] * len(rollouts)
    try:
        geometry = _geometry(sample, media_index)
        gold = _gold_box(sample, gold_frame, geometry, pixels=variant != "plain")
        spoken = _spoken_frame(sample, frame, geometry)
        values = [_overlap(read_box(rollout.text, spoken), gold, geometry, variant) for rollout in rollouts]
    except DataError as error:
        return [Score(total=None, error=f"{sample.id}: {error}", flags={BAD_GOLD: True})] * len(rollouts)
    return [_score(value, power, threshold) for value in values]


def read_box(text: str, frame: CoordinateFrame) -> Box | None:
    """The one box in the last `<answer>`; None where there is none, or several that differ."""
    answer = extract_answer(text) or ""
    if len(answer) > LONGEST:
        return None
    found = {tuple(float(n) for n in numbers) for pattern in _BOXES for numbers in pattern.findall(answer)}
    if len(found) != 1:
        return None
    x1, y1, x2, y2 = found.pop()
    return Box(x1=x1, y1=y1, x2=x2, y2=y2, frame=frame)


def box_iou(a: Box, b: Box, variant: Variant = "plain") -> float:
    """Intersection over union of two boxes in the same frame; 0 where a box is empty, inverted or not finite.

    Research notes "rewards" 0.2: [0,0,10,10] with [9,0,19,10] is 1/19 plain, 0 as vlmr1, 0.1 as plus_one.
    """
    assert a.frame == b.frame, f"{a.frame} and {b.frame}"
    if not (is_proper(a) and is_proper(b)):
        return 0.0
    extra = 1.0 if variant == "plus_one" else 0.0
    width = min(a.x2, b.x2) - max(a.x1, b.x1) + extra
    height = min(a.y2, b.y2) - max(a.y1, b.y1) + extra
    least = 1.0 if variant == "vlmr1" else 0.0
    if width <= least or height <= least:
        return 0.0
    areas = sum((box.x2 - box.x1 + extra) * (box.y2 - box.y1 + extra) for box in (a, b))
    return width * height / (areas - width * height)


def is_proper(box: Box) -> bool:
    """Finite, and with an area."""
    finite = all(map(math.isfinite, (box.x1, box.y1, box.x2, box.y2)))
    return finite and box.x1 < box.x2 and box.y1 < box.y2


def _score(value: float | None, power: float, threshold: float | None) -> Score:
    overlap = value or 0.0
    total = overlap**power if threshold is None else float(overlap > threshold)
    return Score(total=total, flags={"correct": overlap > 0.5, "answered": value is not None})


def _overlap(box: Box | None, gold: Box, geometry: Geometry | None, variant: Variant) -> float | None:
    """None where there is no usable box."""
    if box is None or not is_proper(box):
        return None
    return box_iou(convert_box(box, gold.frame, *_sizes(geometry)), gold, variant)


def _gold_box(sample: Sample, frame: CoordinateFrame, geometry: Geometry | None, pixels: bool) -> Box:
    given: Any = sample.golds.get("box")
    if isinstance(given, Mapping):
        given, frame = given.get("value"), cast(CoordinateFrame, given.get("frame", frame))
    if frame not in get_args(CoordinateFrame):
        raise DataError(f"gold box in frame {frame!r}; expected one of {', '.join(get_args(CoordinateFrame))}")
    shown = one_line(repr(given), limit=80)
    numbers = isinstance(given, (list, tuple)) and len(given) == 4
    if not numbers or not all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in given):
        raise DataError(f"gold box {shown}; expected [x1, y1, x2, y2]")
    box = Box(x1=given[0], y1=given[1], x2=given[2], y2=given[3], frame=frame)
    if not is_proper(box):
        raise DataError(f"gold box {shown} has no area; expected x1 < x2 and y1 < y2")
    if pixels and frame not in ("original_pixels", "resized_pixels"):
        return convert_box(box, "original_pixels", *_sizes(geometry))
    return box


def _geometry(sample: Sample, index: int) -> Geometry | None:
    if sample.geometry and not 0 <= index < len(sample.geometry):
        raise DataError(f"media_index {index}, but the prompt has {len(sample.geometry)} images and videos")
    return sample.geometry[index] if sample.geometry else None


def _spoken_frame(sample: Sample, frame: CoordinateFrame | None, geometry: Geometry | None) -> CoordinateFrame:
    if frame is None and geometry is None:
        raise DataError("which frame the answer's boxes are in is not known without a model; give the option frame")
    return frame or cast(Geometry, geometry).frame


def _sizes(geometry: Geometry | None) -> tuple[Size | None, Size | None]:
    return (geometry.original, geometry.resized) if geometry else (None, None)
