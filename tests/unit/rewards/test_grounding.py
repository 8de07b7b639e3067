"""Golden values: research notes "rewards", sections 0.1, 0.2, 2.4 and 8."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmreason.geometry import convert_box
from mmreason.rewards import bind
from mmreason.rewards.grounding import Variant, box_iou, read_box
from mmreason.types import Box, CoordinateFrame, Geometry
from tests.unit.rewards.helpers import answered, sample

FRAMES: list[CoordinateFrame] = ["original_pixels", "resized_pixels", "per_thousand", "unit"]


def overlap(answer: str, gold: Any = (10, 20, 30, 40), frame: Any = "original_pixels", **options: Any) -> float | None:
    question = sample(task="grounding", golds={"box": list(gold)})
    (score,) = bind("iou", {"frame": frame, **options})(question, answered(answer))
    assert score.error is None
    return score.total


@pytest.mark.parametrize(
    ("a", "b", "plain", "vlmr1", "plus_one"),
    [
        ((0, 0, 100, 100), (50, 50, 150, 150), 0.142857, 0.142857, 0.146115),
        ((0, 0, 10, 10), (9, 0, 19, 10), 0.052632, 0, 0.1),
        ((0, 0, 10, 10), (20, 20, 30, 30), 0, 0, 0),
        ((0, 0, 10, 10), (0, 0, 10, 10), 1, 1, 1),
    ],
)
def test_variants(a: Any, b: Any, plain: float, vlmr1: float, plus_one: float) -> None:
    wanted: dict[Variant, float] = {"plain": plain, "vlmr1": vlmr1, "plus_one": plus_one}
    for variant, expected in wanted.items():
        assert box_iou(a, b, variant) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "answer",
    [
        "[10, 20, 30, 40]",
        "[10.0,20.,30.0,40]",
        "(10,20),(30,40)",
        "<|box_start|>(10,20),(30,40)<|box_end|>",
        "(10, 20, 30, 40)",
        '{"bbox_2d": [10, 20, 30, 40], "label": "cat"}',
        '```json\n[\n{"bbox_2d": [10, 20, 30, 40], "label": "cat 2"}\n]\n```',
        "[{'bbox_2d': [10, 20, 30, 40]}]",
        "[[10, 20], [30, 40]]",
        "[10,20,30,40] [10,20,30,40]",
    ],
)
def test_ways_to_write_a_box(answer: str) -> None:
    assert overlap(answer) == 1


@pytest.mark.parametrize(
    "answer",
    ["", "the cat", "[10,20,30]", "[10,20,30,40,50]", "[10,20,30,40] or [0,0,9,9]", "[30,40,10,20]", "[10,20,10,40]",
     "[nan,20,30,40]", "[10,20,1e999,40]", "None"],
)  # fmt: skip
def test_unusable_answers_score_zero(answer: str) -> None:
    (score,) = bind("iou", {"frame": "unit"})(
        sample(golds={"box": {"value": [0, 0, 1, 1], "frame": "unit"}}), answered(answer)
    )
    assert score.total == 0
    assert score.flags == {"correct": False, "answered": False}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("answer", ["[" + "1" * 100_000, "[" * 100_000, "[" + " " * 100_000 + "1", "[" + "1" * 1900])
def test_long_answers_cost_no_time(answer: str) -> None:
    started = time.monotonic()
    assert overlap(answer) == 0
    assert time.monotonic() - started < 1


def test_boxes_in_the_thoughts_do_not_count() -> None:
    assert read_box("<think>[1,2,3,4]</think><answer>none</answer>") is None


def test_negative_numbers_are_read() -> None:
    assert overlap("[-10,20,30,40]") == pytest.approx(0.5)


def test_power_and_threshold() -> None:
    assert overlap("[0,0,100,80]", gold=(0, 0, 100, 100), power=2) == pytest.approx(0.64)
    assert overlap("[0,0,100,80]", gold=(0, 0, 100, 100), threshold=0.5) == 1
    assert overlap("[0,0,100,50]", gold=(0, 0, 100, 100), threshold=0.5) == 0


def test_the_frame_comes_from_the_model() -> None:
    geometry = (
        Geometry(original=(10, 10), resized=(28, 28), frame="unit"),
        Geometry(original=(640, 480), resized=(644, 476), frame="resized_pixels"),
    )
    question = sample(golds={"box": [99.378882, 100.840336, 298.136646, 201.680672]}, geometry=geometry)
    (score,) = bind("iou", {"media_index": 1})(question, answered("[100,100,300,200]"))
    assert score.total == pytest.approx(1, abs=1e-6)
    (score,) = bind("iou", {"media_index": 2})(question, answered("[100,100,300,200]"))
    assert score.error == "file.jsonl:1: media_index 2, but the prompt has 2 images and videos"


@given(
    st.sampled_from(FRAMES),
    st.sampled_from(FRAMES),
    st.tuples(st.integers(56, 4000), st.integers(56, 4000)),
    st.tuples(st.integers(56, 4000), st.integers(56, 4000)),
    st.tuples(st.floats(0, 0.4), st.floats(0, 0.4), st.floats(0.5, 1), st.floats(0.5, 1)),
    st.sampled_from(["plain", "vlmr1", "plus_one"]),
)
def test_the_same_box_is_1_in_every_frame(
    spoken: CoordinateFrame, gold_frame: CoordinateFrame, original: tuple[int, int], resized: tuple[int, int],
    corners: tuple[float, float, float, float], variant: str,
) -> None:  # fmt: skip
    x1, y1, x2, y2 = corners
    unit = Box(x1=x1, y1=y1, x2=x2, y2=y2, frame="unit")
    said, gold = (convert_box(unit, frame, original, resized) for frame in (spoken, gold_frame))
    geometry = (Geometry(original=original, resized=resized, frame=spoken),)
    value = [gold.x1, gold.y1, gold.x2, gold.y2]
    question = sample(golds={"box": {"value": value, "frame": gold_frame}}, geometry=geometry)
    answer = f"[{said.x1!r}, {said.y1!r}, {said.x2!r}, {said.y2!r}]"
    (score,) = bind("iou", {"variant": variant})(question, answered(answer))
    assert score.total == pytest.approx(1, abs=1e-6)


@given(*[st.tuples(*[st.floats(-100, 100)] * 4)] * 2, st.sampled_from(["plain", "vlmr1", "plus_one"]))
def test_iou_is_symmetric_and_bounded(a: Any, b: Any, variant: Any) -> None:
    value = box_iou(a, b, variant)
    assert 0 <= value <= 1 + 1e-9
    assert value == pytest.approx(box_iou(b, a, variant))


@pytest.mark.parametrize(
    ("golds", "message"),
    [
        ({"box": [0, 0, 0, 5]}, "no area"),
        ({"box": [5, 5, 0, 0]}, "no area"),
        ({"box": [0, 0, float("nan"), 5]}, "no area"),
        ({"box": [0, 0, 5]}, "expected [x1, y1, x2, y2]"),
        ({"box": [0, 0, "5", 5]}, "expected [x1, y1, x2, y2]"),
        ({"box": {"value": [0, 0, 5, 5], "frame": "pixels"}}, "gold box in frame 'pixels'"),
        ({"box": [0, 0, 5, 5]}, "original image size is not known"),
        ({}, "gold box None"),
    ],
)
def test_gold_that_cannot_be_used_is_an_error(golds: dict[str, Any], message: str) -> None:
    scores = bind("iou", {"frame": "per_thousand"})(sample(task="grounding", golds=golds), answered("[0,0,5,5]"))
    assert scores[0].total is None
    assert scores[0].error is not None
    assert message in scores[0].error


def test_frame_must_be_known() -> None:
    (score,) = bind("iou", {})(sample(golds={"box": [0, 0, 5, 5]}), answered("[0,0,5,5]"))
    assert score.error is not None
    assert "give the option frame" in score.error


def test_a_generalised_iou_is_correct_by_the_iou() -> None:
    question = sample(task="grounding", golds={"box": [0, 0, 10, 10]})
    scores = bind("giou", {"frame": "original_pixels"})(question, answered("[0, 0, 10, 6]", "[0, 0, 10, 4]", "none"))
    assert [(score.flags["correct"], score.flags["answered"]) for score in scores] == [
        (True, True),
        (False, True),
        (False, False),
    ]


def test_samples_without_a_box_are_left_alone() -> None:
    (score,) = bind("iou", {})(sample("A", "mcq"), answered("A"))
    assert (score.total, score.error) == (None, None)


@pytest.mark.parametrize(
    ("box", "frame", "line"),
    [
        ((700, 500, 900, 900), "original_pixels", "(640 x 480 pixels); it looks like per_thousand"),
        ((700, 10, 1000, 90), "original_pixels", "it looks like per_thousand"),
        ((700, 10, 1001, 90), "original_pixels", "it looks like another frame, or another image"),
        ((1500, 10, 1600, 90), "original_pixels", "it looks like another frame, or another image"),
        ((200, 100, 300, 400), "unit", "it looks like per_thousand"),
        ((643, 10, 660, 90), "original_pixels", "it looks like per_thousand"),
        ((-30, 10, -5, 90), "original_pixels", "[-30, 10, -5, 90] in original_pixels is outside of its image"),
    ],
)
def test_a_gold_outside_of_its_image_is_bad(box: Any, frame: CoordinateFrame, line: str) -> None:
    geometry = (Geometry(original=(640, 480), resized=(644, 476), frame="per_thousand"),)
    for reward, golds in (("iou", {"box": list(box)}), ("giou", {"box": list(box)}), ("det_iou", {"boxes": [box]})):
        question = sample(task="grounding", golds=golds, geometry=geometry)
        (score,) = bind(reward, {"gold_frame": frame})(question, answered("[[1, 2, 3, 4]]"))
        assert (score.total, score.flags) == (None, {"bad_gold": True})
        assert line in str(score.error)


@pytest.mark.parametrize(
    "box", [(600, 400, 642, 483), (641, 10, 642, 20), (-2, -2, 640, 480), (639, 479, 2000, 900), (0, 0, 1, 1)]
)
def test_a_gold_that_reaches_out_of_its_image_is_scored(box: Any) -> None:
    """Rounding moves boxes by a pixel or two, and some data sets box what is cut off by the edge."""
    geometry = (Geometry(original=(640, 480), resized=(640, 480), frame="original_pixels"),)
    question = sample(task="grounding", golds={"box": list(box)}, geometry=geometry)
    (score,) = bind("iou", {})(question, answered(str(list(box))))
    assert (score.total, score.error) == (1, None)
