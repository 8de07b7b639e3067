"""The same place, said as each family of models says it, has the full score: research notes "rewards", 8.1."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from qwen_vl_utils import smart_resize

from mmreason.geometry import convert_point
from mmreason.policy.families import FAMILIES
from mmreason.rewards import bind
from mmreason.types import CoordinateFrame, Geometry, Sample
from tests.unit.rewards.helpers import answered, sample

FRAMES: tuple[CoordinateFrame, ...] = ("original_pixels", "resized_pixels", "per_thousand", "unit")
Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class Spoken:
    """How the models of one family speak of places in one image."""

    tokens: bool
    geometry: Geometry

    def numbers(self, place: tuple[float, ...], frame: CoordinateFrame | None = None) -> list[float]:
        """A point or a box of the unit square in the family's frame, or in another, with six decimals."""
        sizes = (self.geometry.original, self.geometry.resized)
        pairs = zip(place[::2], place[1::2], strict=True)
        to = frame or self.geometry.frame
        return [round(n, 6) for pair in pairs for n in convert_point(pair, "unit", to, *sizes)]

    def things(self, boxes: list[Corners], labels: list[str]) -> str:
        """A list of boxes with labels, each with its middle as point."""
        if self.tokens:  # Qwen2-VL
            return "".join(
                f"<|object_ref_start|>{label}<|object_ref_end|><|box_start|>({x1},{y1}),({x2},{y2})<|box_end|>"
                for (x1, y1, x2, y2), label in zip(map(self.numbers, boxes), labels, strict=True)
            )
        things = [
            {"bbox_2d": self.numbers(box), "point_2d": self.numbers(middle(box)), "label": label}
            for box, label in zip(boxes, labels, strict=True)
        ]
        return f"```json\n{json.dumps(things)}\n```"

    def point(self, place: tuple[float, float]) -> str:
        x, y = self.numbers(place)
        return f"({x},{y})" if self.tokens else json.dumps([{"point_2d": [x, y]}])


def middle(box: Corners) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


TRAITS = {
    name: traits
    for name, family in FAMILIES.items()
    if (traits := family.traits(getattr(transformers, family.config_class)())).vision
}


@st.composite
def spoken(draw: st.DrawFn, family: str) -> Spoken:
    width, height = draw(st.integers(90, 3000)), draw(st.integers(90, 3000))
    factor = TRAITS[family].pixel_factor
    resized = smart_resize(height, width, factor, 16 * factor**2, 400 * factor**2)
    geometry = Geometry(original=(width, height), resized=(resized[1], resized[0]), frame=TRAITS[family].frame)
    return Spoken(tokens=family == "qwen2_vl", geometry=geometry)


EDGE = st.floats(0.01, 0.45)
BOX = st.tuples(EDGE, EDGE, EDGE, EDGE).map(lambda box: (box[0], box[1], box[0] + 0.1 + box[2], box[1] + 0.1 + box[3]))


def full(reward: str, text: str, question: Sample, **options: Any) -> None:
    (score,) = bind(reward, options)(question, answered(text))
    assert score.error is None, score.error
    part = score.parts["accuracy"] / 3 if reward == "vision_reasoner" else score.total
    assert part == pytest.approx(2 if reward == "giou" else 1, abs=1e-3), (reward, text, question)


def test_every_family_that_sees_has_a_frame() -> None:
    assert {name: traits.frame for name, traits in TRAITS.items()} == {
        "qwen2_vl": "per_thousand",
        "qwen2_5_vl": "resized_pixels",
        "qwen3_vl": "per_thousand",
        "qwen2_5_omni": "resized_pixels",
    }


@pytest.mark.parametrize("family", sorted(TRAITS))
@settings(max_examples=40, deadline=None)
@given(data=st.data(), frame=st.sampled_from(FRAMES), box=BOX)
def test_one_box(family: str, data: st.DataObject, frame: CoordinateFrame, box: Corners) -> None:
    model = data.draw(spoken(family))
    golds = {"box": {"value": model.numbers(box, frame), "frame": frame, "image": 1}}
    other = Geometry(original=(77, 999), resized=(56, 1008), frame=model.geometry.frame)
    question = sample(task="grounding", golds=golds, geometry=(other, model.geometry))
    text = model.things([box], ["it"])
    for reward, options in (("iou", {}), ("iou", {"power": 2}), ("iou", {"threshold": 0.9}), ("giou", {})):
        full(reward, text, question, **options)
    for variant in ("vlmr1", "plus_one"):
        full("iou", text, question, variant=variant)


@pytest.mark.parametrize("family", sorted(TRAITS))
@settings(max_examples=40, deadline=None)
@given(data=st.data(), frame=st.sampled_from(FRAMES), boxes=st.lists(BOX, min_size=1, max_size=4, unique=True))
def test_lists(family: str, data: st.DataObject, frame: CoordinateFrame, boxes: list[Corners]) -> None:
    model = data.draw(spoken(family))
    labels = [data.draw(st.sampled_from(["cat", "dog"])) for _ in boxes]
    things = [
        {"bbox_2d": model.numbers(box, frame), "point_2d": model.numbers(middle(box), frame), "label": label}
        for box, label in zip(boxes, labels, strict=True)
    ]
    question = sample(task="detection", golds={"boxes": things, "frame": frame}, geometry=(model.geometry,))
    text = model.things(boxes, labels)
    for reward in ("det_iou", "det_ap", "det_weighted", "det_miou", "set_f1"):
        full(reward, text, question)
    if not model.tokens:  # which have no points
        full("vision_reasoner", text, question)
    track = sample(task="tracking", golds={"track": things, "frame": frame}, geometry=(model.geometry,))
    full("tracking", text, track)


@pytest.mark.parametrize("family", sorted(TRAITS))
@settings(max_examples=40, deadline=None)
@given(data=st.data(), frame=st.sampled_from(FRAMES), box=BOX)
def test_points(family: str, data: st.DataObject, frame: CoordinateFrame, box: Corners) -> None:
    model = data.draw(spoken(family))
    x1, y1, x2, y2 = model.numbers(box, frame)
    golds = {
        "point": model.numbers(middle(box), frame),
        "mask": [[x1, y1], [x2, y1], [x2, y2], [x1, y2]],
        "frame": frame,
    }
    text = model.point(middle(box))
    for kind in ("inside", "nndc", "nndc_or_inside", "l1"):
        question = sample(task="pointing", golds=golds, geometry=(model.geometry,))
        full("point", text, question, kind=kind, limit=0.5)


@pytest.mark.parametrize("family", sorted(TRAITS))
def test_another_frame_is_not_right(family: str) -> None:
    """The test can fail: numbers of another frame than the model's own do not overlap."""
    geometry = Geometry(original=(2000, 1500), resized=(560, 420), frame=TRAITS[family].frame)
    box = (0.3, 0.3, 0.5, 0.5)
    for frame in FRAMES:
        said = Spoken(tokens=False, geometry=Geometry(original=(2000, 1500), resized=(560, 420), frame=frame))
        question = sample(task="grounding", golds={"box": [600, 450, 1000, 750]}, geometry=(geometry,))
        (score,) = bind("iou", {})(question, answered(said.things([box], ["it"])))
        assert (score.total == pytest.approx(1)) == (frame == geometry.frame)
