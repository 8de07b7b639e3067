"""The one conversion between the frames in which boxes and points are given.

Qwen2-VL and Qwen3-VL speak in thousandths of the image, Qwen2.5-VL in pixels of the resized image, data sets mostly in
pixels of the file. Mixing them up is the commonest cause of a grounding reward that is silently zero, so every box
that crosses from one world to another goes through here. All conversions are per axis; nothing is rounded or clipped.
"""

from __future__ import annotations

from mmreason.errors import DataError
from mmreason.types import Box, CoordinateFrame

Size = tuple[int, int]
"""(width, height) in pixels."""


def convert_box(box: Box, to: CoordinateFrame, original: Size | None = None, resized: Size | None = None) -> Box:
    """The same rectangle in another frame. `original` and `resized` are the image's sizes before and after resizing.

    A size is needed only where one of the two frames counts its pixels. Raises DataError where it is not known.

    Example: `convert_box(Box(x1=250, y1=500, x2=750, y2=1000, frame="per_thousand"), "original_pixels", (640, 480))`
    is (160, 240, 480, 480).
    """
    x1, y1 = convert_point((box.x1, box.y1), box.frame, to, original, resized)
    x2, y2 = convert_point((box.x2, box.y2), box.frame, to, original, resized)
    return Box(x1=x1, y1=y1, x2=x2, y2=y2, frame=to)


def convert_point(
    point: tuple[float, float],
    frame: CoordinateFrame,
    to: CoordinateFrame,
    original: Size | None = None,
    resized: Size | None = None,
) -> tuple[float, float]:
    """The same place (x, y) in another frame; see `convert_box`."""
    return point if frame == to else stretch_point(point, frame, _extent(to, original, resized), original, resized)


def stretch_point(
    point: tuple[float, float],
    frame: CoordinateFrame,
    canvas: Size,
    original: Size | None = None,
    resized: Size | None = None,
) -> tuple[float, float]:
    """The same place in pixels of the image stretched to `canvas`: (500, 500) per_thousand is (420, 420) on 840 x 840.

    Raises DataError as `convert_box`.
    """
    width, height = _extent(frame, original, resized)
    return point[0] * canvas[0] / width, point[1] * canvas[1] / height


def _extent(frame: CoordinateFrame, original: Size | None, resized: Size | None) -> Size:
    """How far the image reaches in this frame."""
    extents = {"original_pixels": original, "resized_pixels": resized, "per_thousand": (1000, 1000), "unit": (1, 1)}
    extent = extents[frame]
    if extent is None:
        raise DataError(f"a box in {frame} cannot be converted: the {frame.partition('_')[0]} image size is not known")
    if min(extent) <= 0:
        raise DataError(f"a box in {frame} cannot be converted: the image size is {extent[0]} x {extent[1]}")
    return extent
