"""Answers for the self-test of rewards: what a perfect model, a lucky one and a useless one would write.

The gold is written in the shape that the config's `format` reward asks for, so that a reward which cannot read that
shape, or a gold that no reward can read, shows before training does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from mmreason.config import RewardConfig
from mmreason.errors import ConfigError, DataError
from mmreason.geometry import convert_box
from mmreason.rewards.base import extract_answer
from mmreason.rewards.boxes import items_of
from mmreason.rewards.frames import find_gold, guess, meant_items
from mmreason.rewards.golds import KINDS
from mmreason.types import Box, CoordinateFrame, Geometry, Sample

THOUGHT = "I look at what is given, compare it with the question, and decide."
_SHAPES = (
    "<think>{thought}</think>\n<answer>{answer}</answer>",
    "<think>{thought}</think>\n\n<answer>{answer}</answer>",
    "<answer>{answer}</answer>",
    "<think>{thought}</think>\n\\boxed{{answer}}",
    "\\boxed{{answer}}",
    "<think>{thought}</think>\n{answer}",
    "Answer: {answer}",
    "{answer}",
)
"""Shapes that are tried on a format reward with a pattern of its own."""

_LISTS = ("det_iou", "det_confidence", "det_ap", "det_weighted", "det_miou", "set_f1", "vision_reasoner")
FRAMES: tuple[CoordinateFrame, ...] = ("original_pixels", "resized_pixels", "per_thousand", "unit")


@dataclass(frozen=True, slots=True)
class Shape:
    """How an answer is written: `text` with {thought} and {answer} in it."""

    text: str

    def write(self, answer: str, thought: str = THOUGHT) -> str:
        return self.text.replace("{thought}", thought).replace("{answer}", answer)


def shape_of(rewards: Sequence[RewardConfig], given: str | None = None) -> Shape:
    """The shape that the config's format reward asks for; `given` (with {answer} in it) wins.

    Raises ConfigError: `given` without {answer}, or a pattern that none of the known shapes fits.
    """
    if given is not None:
        if "{answer}" not in given:
            raise ConfigError(f"--answer-format {given!r}: has no {{answer}} in it, where the gold answer goes")
        return Shape(given)
    options = next((reward.options for reward in rewards if reward.name == "format"), {})
    if options.get("pattern"):
        return _fitting(str(options["pattern"]))
    think, answer = str(options.get("think_tag", "think")), str(options.get("answer_tag", "answer"))
    opening = "" if options.get("prefilled") else f"<{think}>"
    between = "\n\n" if options.get("variant") == "cosmos" else "\n"
    return Shape(f"{opening}{{thought}}</{think}>{between}<{answer}>{{answer}}</{answer}>")


def _fitting(pattern: str) -> Shape:
    for text in _SHAPES:
        shape = Shape(text)
        if re.fullmatch(pattern, shape.write("B"), re.DOTALL):
            return shape
    raise ConfigError(
        f"reward format: pattern {pattern!r} fits none of the usual ways to write an answer, so the self-test cannot "
        "write one; give --answer-format, with {answer} where the answer goes"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Gold:
    """What the right answer of one row looks like when a model writes it."""

    text: str
    wrong_frames: tuple[str, ...] = ()
    """The same box as numbers of other coordinate frames."""


def gold_of(sample: Sample, rewards: Sequence[RewardConfig]) -> Gold | None:
    """The gold answer as text; None for a row without one. Raises DataError for a place that cannot be written."""
    if "box" in sample.golds:
        gold = _box_gold(sample, options_of("iou", sample, rewards))
        published = options_of("format", sample, rewards).get("variant") == "vlm_r1"
        return Gold(text=_whole(gold.text), wrong_frames=gold.wrong_frames) if published else gold
    if sample.answer is None and (spans := sample.golds.get("spans")):
        return Gold(text="; ".join(f"[{start}, {end}]" for start, end in spans))
    named = {"boxes": _LISTS, "track": ("tracking",)}
    for name, wanting in named.items():
        if name in sample.golds:
            options = (options_of(reward, sample, rewards) for reward in wanting)
            return Gold(text=_list_gold(sample, name, next(filter(None, options), {})))
    if sample.task in KINDS and not isinstance(sample.answer, str):
        return None  # a plan, a list of pages, ...: its reward reads it, and how a model writes it is not known here
    value = sample.answer[0] if isinstance(sample.answer, (list, tuple)) and sample.answer else sample.answer
    if value is None:
        return None
    if isinstance(value, bool):
        return Gold(text="yes" if value else "no")
    text = str(value)
    return Gold(text=extract_answer(text) or text)


def options_of(name: str, sample: Sample, rewards: Sequence[RewardConfig]) -> Mapping[str, Any]:
    """Options of the first reward of this name that scores the sample; none where there is no such reward."""
    return next((reward.options for reward in rewards if reward.name == name and reward.applies_to(sample.task)), {})


def other_golds(sample: Sample, gold: Gold, others: Iterator[Gold]) -> list[Gold]:
    """Up to three wrong answers: for a choice the other options, else golds of other rows with another text."""
    if sample.task == "mcq" and len(sample.options) > 1:
        letters = [chr(ord("A") + index) for index in range(len(sample.options))]
        right = {gold.text.strip(" .()").upper(), gold.text.strip().casefold()}
        named = zip(letters, sample.options, strict=True)
        wrong = [letter for letter, option in named if not {letter, option.strip().casefold()} & right]
        return [Gold(text=letter) for letter in wrong[:3]]
    different = (other for other in others if other.text.casefold() != gold.text.casefold())
    return [other for other, _ in zip(different, range(3), strict=False)]


# ---- boxes


def _box_gold(sample: Sample, options: Mapping[str, Any]) -> Gold:
    box, geometry = gold_box(sample, options), _geometry(sample, options)
    spoken = options.get("frame") or (geometry.frame if geometry else None)
    if spoken is None:
        raise DataError("the frame that the model speaks in is not known without the model's config")
    sizes = (geometry.original, geometry.resized) if geometry else (None, None)
    wrong = []
    for frame in FRAMES:
        if frame != spoken:
            try:
                text = _written(convert_box(box, frame, *sizes))
            except DataError:  # a size that is not known
                continue
            wrong.append(text)
    right = _written(convert_box(box, cast(CoordinateFrame, spoken), *sizes))
    return Gold(text=right, wrong_frames=tuple(text for text in wrong if text != right))


def gold_box(sample: Sample, options: Mapping[str, Any]) -> Box:
    """`golds["box"]` with its frame. Raises DataError for anything but four numbers."""
    given: Any = sample.golds["box"]
    frame = sample.golds.get("frame", options.get("gold_frame", "original_pixels"))
    if isinstance(given, Mapping):
        given, frame = given.get("value"), given.get("frame", frame)
    usual = isinstance(given, (list, tuple)) and len(given) == 4 and all(isinstance(n, int | float) for n in given)
    if not usual or frame not in FRAMES:
        raise DataError(f"gold box {str(sample.golds['box'])[:80]}: expected [x1, y1, x2, y2] in one of the frames")
    x1, y1, x2, y2 = given
    return Box(x1=x1, y1=y1, x2=x2, y2=y2, frame=frame)


def outside(sample: Sample, options: Mapping[str, Any]) -> str | None:
    """Why a gold box cannot be in the frame that it is said to be in, in a line; None where it can."""
    geometry = _geometry(sample, options)
    if geometry is None:
        return None
    box = gold_box(sample, options)
    unit = convert_box(box, "unit", geometry.original, geometry.resized)
    numbers = [box.x1, box.y1, box.x2, box.y2]
    size = f"{geometry.original[0]} x {geometry.original[1]}"
    shown = f"gold box {[round(n, 3) for n in numbers]} in {box.frame}"
    if max(unit.x2, unit.y2) > 1.01 or min(unit.x1, unit.y1) < -0.01:
        return f"{shown} reaches outside of its image ({size} pixels); it looks like {guess(numbers)}"
    if box.frame != "unit" and max(numbers) <= 1.0:
        return f"{shown} is smaller than a pixel of its image ({size} pixels); it looks like unit"
    return None


def _geometry(sample: Sample, options: Mapping[str, Any]) -> Geometry | None:
    given = sample.golds.get("box")
    own = given.get("image") if isinstance(given, Mapping) else None
    index = next((i for i in (own, sample.golds.get("image")) if i is not None), options.get("media_index", 0))
    return sample.geometry[index] if isinstance(index, int) and 0 <= index < len(sample.geometry) else None


def _list_gold(sample: Sample, name: str, options: Mapping[str, Any]) -> str:
    """The things of `golds[name]` as JSON in the frame of the model. Raises DataError."""
    gold = find_gold(
        sample,
        name,
        frame=options.get("frame"),
        gold_frame=options.get("gold_frame", "original_pixels"),
        media_index=options.get("media_index", 0),
    )
    things = []
    for item in meant_items(gold, items_of(gold.value), gold.spoken):
        thing: dict[str, Any] = {"bbox_2d": [round(n, 6) for n in item.box or ()]}
        if item.points:
            thing["point_2d"] = [round(n, 6) for n in item.points[0]]
        things.append({**thing, "label": item.label, "Confidence": 1} if item.label else {**thing, "Confidence": 1})
    return json.dumps(things)


def _whole(numbers: str) -> str:
    """A box as VLM-R1's format wants it: an object with whole numbers."""
    return json.dumps({"bbox_2d": [round(n) for n in json.loads(numbers)]})


def _written(box: Box) -> str:
    return "[" + ", ".join(f"{n:.6f}".rstrip("0").rstrip(".") for n in (box.x1, box.y1, box.x2, box.y2)) + "]"
