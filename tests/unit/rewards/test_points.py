"""Golden values: research notes "rewards", sections 3.6 and 4.2."""

import math
from typing import Any

import pytest

from mmreason.rewards import bind
from mmreason.rewards.points import nndc
from mmreason.types import CoordinateFrame, Geometry
from tests.unit.rewards.helpers import answered, sample

SQUARE = [[10, 10], [30, 10], [30, 30], [10, 30]]
HOLE = [[15, 15], [25, 15], [25, 25], [15, 25]]


def value(answer: str, golds: dict[str, Any], frame: Any = "original_pixels", **options: Any) -> float | None:
    (score,) = bind("point", {"frame": frame, **options})(sample(task="pointing", golds=golds), answered(answer))
    assert score.error is None, score.error
    return score.total


@pytest.mark.parametrize(
    ("distance", "expected"), [(0, 1), (0.1, 0.606196), (0.5, 0.081305), (math.sqrt(2), 0), (9, 0)]
)
def test_nndc(distance: float, expected: float) -> None:
    assert nndc(distance) == pytest.approx(expected, abs=1e-6)
    unit = {"point": {"value": [0.2, 0.1], "frame": "unit"}}
    assert value(f"[0.2, {0.1 + distance}]", unit, frame="unit", kind="nndc") == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("answer", "inside"),
    [("(12, 12)", 1), ("[20, 20]", 0), ("(40, 20)", 0), ('{"point_2d": [29, 11]}', 1), ("[[12, 12], [20, 20]]", 0.5),
     ("", 0), ("[12, 12, 14, 14]", 0), ("[1e400, 12]", 0)],
)  # fmt: skip
def test_inside_a_mask_with_a_hole(answer: str, inside: float) -> None:
    for mask in ([SQUARE, HOLE], [[n for corner in polygon for n in corner] for polygon in (SQUARE, HOLE)]):
        assert value(answer, {"mask": mask}) == inside


def test_inside_a_box_or_one_polygon() -> None:
    assert value("(30, 30)", {"box": [10, 10, 30, 30]}) == 1
    assert value("(31, 30)", {"box": [10, 10, 30, 30]}) == 0
    assert value("(20, 20)", {"mask": SQUARE}) == 1


def test_spacetools_takes_the_larger() -> None:
    geometry = (Geometry(original=(100, 100), resized=(100, 100), frame="original_pixels"),)
    question = sample(task="pointing", golds={"box": [10, 10, 30, 30]}, geometry=geometry)
    scores = bind("point", {"kind": "nndc_or_inside"})(question, answered("(11, 11)", "(30, 20)", "(20, 40)"))
    assert [score.total for score in scores] == [1, 1, pytest.approx(nndc(0.2))]
    scores = bind("point", {"kind": "nndc"})(question, answered("(20, 20)", "(20, 30)"))
    assert [score.total for score in scores] == [1, pytest.approx(0.606196, abs=1e-6)]


def test_l1() -> None:
    gold = {"point": [100, 100]}
    assert [value(f"({x}, 120)", gold, kind="l1") for x in (70, 71, 129, 130)] == [0, 1, 1, 0]
    geometry = (Geometry(original=(200, 400), resized=(56, 84), frame="per_thousand"),)
    question = sample(task="pointing", golds=gold, geometry=geometry)
    scores = bind("point", {"kind": "l1", "limit": 10, "canvas": 1000})(question, answered("(509, 250)", "(510, 250)"))
    assert [score.total for score in scores] == [1, 0]


def test_the_middle_of_a_mask() -> None:
    triangle = [[0, 0], [30, 0], [0, 30]]
    assert value("(10, 10)", {"mask": triangle}, kind="l1", limit=0.001) == 1
    assert value("(5, 0)", {"mask": [[0, 0], [10, 0], [5, 0]]}, kind="l1", limit=0.001) == 1


@pytest.mark.parametrize("frame", ["original_pixels", "resized_pixels", "per_thousand", "unit"])
def test_the_same_point_in_every_frame(frame: CoordinateFrame) -> None:
    geometry = (Geometry(original=(640, 480), resized=(644, 476), frame=frame),)
    said = {"original_pixels": "160, 120", "resized_pixels": "161, 119", "per_thousand": "250, 250", "unit": ".25, .25"}
    for golds in ({"point": [160, 120]}, {"box": [150, 110, 170, 130]}, {"mask": [[150, 110], [170, 110], [160, 140]]}):
        question = sample(task="pointing", golds=golds, geometry=geometry)
        for kind in ("nndc_or_inside", "l1", *(["inside"] if "point" not in golds else [])):
            (score,) = bind("point", {"kind": kind})(question, answered(f"({said[frame]})"))
            assert score.total == pytest.approx(1)


@pytest.mark.parametrize(
    ("golds", "error"),
    [
        ({}, "no gold mask or box"),
        ({"point": [1, 2]}, "no gold mask or box"),
        ({"mask": [[1, 2], [3, 4]]}, "expected polygons"),
        ({"mask": [[1, 2, 3]]}, "expected polygons"),
        ({"mask": "RLE"}, "expected polygons"),
        ({"mask": []}, "expected polygons"),
        ({"box": [3, 3, 1, 1]}, "expected [x1, y1, x2, y2]"),
        ({"point": [1, 2, 3]}, "expected [x, y]"),
        ({"point": [float("nan"), 1]}, "expected [x, y]"),
    ],
)
def test_gold_that_cannot_be_used(golds: dict[str, Any], error: str) -> None:
    (score,) = bind("point", {"frame": "original_pixels"})(sample(task="pointing", golds=golds), answered("(1, 2)"))
    assert score.total is None
    assert error in (score.error or "")
