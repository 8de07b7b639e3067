"""What the numbers of an answer and of a gold mean: the frame of each, and the image that they are about.

Every reward of places asks here, and `mmreason.geometry` converts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, cast, get_args

from mmreason.errors import DataError
from mmreason.geometry import Size, convert_point, stretch_point
from mmreason.rewards.base import BAD_GOLD, one_line
from mmreason.rewards.boxes import Corners, Item, Point, is_proper
from mmreason.types import CoordinateFrame, Geometry, Rollout, Sample, Score

GRACE = 2.0
"""Pixels: so far may rounding push a gold out of its image."""
_FRAMES: tuple[CoordinateFrame, ...] = get_args(CoordinateFrame)
_Options = ParamSpec("_Options")
_Reward = Callable[Concatenate[Sample, Sequence[Rollout], _Options], list[Score]]


def for_golds(*names: str, task: str) -> Callable[[_Reward[_Options]], _Reward[_Options]]:
    """Decorator of a reward of samples that are of this task, or have one of these golds: others it leaves alone.

    A DataError that the reward raises - its gold cannot be read - marks the sample as BAD_GOLD.
    """

    def decorate(reward: _Reward[_Options]) -> _Reward[_Options]:
        @functools.wraps(reward)
        def guarded(
            sample: Sample, rollouts: Sequence[Rollout], *args: _Options.args, **options: _Options.kwargs
        ) -> list[Score]:
            if sample.task != task and not any(name in sample.golds for name in names):
                return [Score(total=None)] * len(rollouts)
            try:
                return reward(sample, rollouts, *args, **options)
            except DataError as error:
                return [Score(total=None, error=f"{sample.id}: {error}", flags={BAD_GOLD: True})] * len(rollouts)

        return cast(_Reward[_Options], guarded)

    return decorate


@dataclass(frozen=True, slots=True, kw_only=True)
class Gold:
    """A gold as the data has it, with the frame of its numbers."""

    value: Any
    frame: CoordinateFrame
    geometry: Geometry | None
    """Of the image that it is about; None where rewards run without a model."""
    spoken: CoordinateFrame
    """The frame in which the model speaks of that image."""

    def said(self, item: Point, to: CoordinateFrame | Size) -> Point:
        """A point of the answer in another frame, or in pixels of the image stretched to a size."""
        return _convert(item, self.spoken, to, self.geometry)

    def meant(self, item: Point, to: CoordinateFrame | Size) -> Point:
        """The same for a point of the gold."""
        return _convert(item, self.frame, to, self.geometry)

    @property
    def shown(self) -> str:
        """For error messages."""
        return one_line(repr(self.value), limit=80)


def find_gold(
    sample: Sample, name: str, *, frame: CoordinateFrame | None, gold_frame: CoordinateFrame, media_index: int
) -> Gold:
    """`golds[name]` with its frame and its image. Raises DataError for a frame or an image that does not exist.

    The gold is the value itself, or {"value": .., "frame": .., "image": ..}; `golds["frame"]` and `golds["image"]`
    say it for all golds of the sample, `gold_frame` and `media_index` for all samples. Images and videos of the prompt
    are counted from 0.
    """
    given: Any = sample.golds.get(name)
    own = given if isinstance(given, Mapping) and "value" in given else {}
    meant = own.get("frame", sample.golds.get("frame", gold_frame))
    if meant not in _FRAMES:
        raise DataError(f"gold {name} in frame {meant!r}; expected one of {', '.join(_FRAMES)}")
    geometry = _geometry(sample, own.get("image", sample.golds.get("image")), media_index)
    if frame is None and geometry is None:
        raise DataError("which frame the answer's places are in is not known without a model; give the option frame")
    return Gold(
        value=own.get("value", given),
        frame=cast(CoordinateFrame, meant),
        geometry=geometry,
        spoken=frame or cast(Geometry, geometry).frame,
    )


def said_box(gold: Gold, box: Corners | None, to: CoordinateFrame | Size) -> Corners | None:
    """A box of the answer in another frame; None where there is none, or one without an area."""
    if box is None or not is_proper(box):
        return None
    return (*gold.said(box[:2], to), *gold.said(box[2:], to))


def meant_box(gold: Gold, box: Corners, to: CoordinateFrame | Size) -> Corners:
    """The same for a box of the gold. Raises DataError for one without an area, or wholly outside of its image."""
    if not is_proper(box):
        raise DataError(f"gold box {one_line(repr(box), limit=80)} has no area; expected x1 < x2 and y1 < y2")
    if gold.geometry is not None:
        width, height = gold.geometry.original
        x1, y1, x2, y2 = (*gold.meant(box[:2], "original_pixels"), *gold.meant(box[2:], "original_pixels"))
        if x1 >= width + GRACE or y1 >= height + GRACE or x2 <= -GRACE or y2 <= -GRACE:
            shown = f"gold box {[round(number, 3) for number in box]} in {gold.frame}"
            raise DataError(f"{shown} is outside of its image ({width} x {height} pixels); it looks like {guess(box)}")
    return (*gold.meant(box[:2], to), *gold.meant(box[2:], to))


def guess(numbers: Sequence[float]) -> str:
    """Which frame a box looks like that reaches out of its image in its own."""
    return "per_thousand" if max(numbers) <= 1000 else "another frame, or another image"


def said_items(gold: Gold, items: Sequence[Item], to: CoordinateFrame | Size) -> list[Item]:
    """Items of the answer in another frame; boxes without an area are left out of their items."""
    return [
        Item(
            box=said_box(gold, item.box, to),
            points=tuple(gold.said(point, to) for point in item.points),
            label=item.label,
            confidence=item.confidence,
        )
        for item in items
    ]


def meant_items(gold: Gold, items: Sequence[Item], to: CoordinateFrame | Size) -> list[Item]:
    """The same for items of the gold. Raises DataError for one without a usable box."""
    boxes = [item.box for item in items]
    if any(box is None for box in boxes):
        raise DataError(f"gold {gold.shown}: expected boxes [x1, y1, x2, y2]")
    return [
        Item(
            box=meant_box(gold, cast(Corners, item.box), to),
            points=tuple(gold.meant(point, to) for point in item.points),
            label=item.label,
        )
        for item in items
    ]


def _convert(point: Point, frame: CoordinateFrame, to: CoordinateFrame | Size, geometry: Geometry | None) -> Point:
    sizes = (geometry.original, geometry.resized) if geometry else (None, None)
    if isinstance(to, tuple):
        return stretch_point(point, frame, to, *sizes)
    return convert_point(point, frame, to, *sizes)


def _geometry(sample: Sample, image: Any, media_index: int) -> Geometry | None:
    index = media_index if image is None else image
    whole = isinstance(index, int) and not isinstance(index, bool)
    if not whole or (sample.geometry and not 0 <= index < len(sample.geometry)):
        name = "media_index" if image is None else "gold image"
        raise DataError(f"{name} {index!r}, but the prompt has {len(sample.geometry)} images and videos")
    return sample.geometry[index] if sample.geometry else None
