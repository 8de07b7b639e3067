"""Golden values: research notes "rewards", section 2.5."""

import json
from typing import Any

import pytest

from mmreason.rewards import bind
from mmreason.rewards.objects import repeats_itself
from mmreason.types import CoordinateFrame, Geometry, Rollout, Score
from tests.unit.rewards.helpers import answered, sample

SQUARE = (Geometry(original=(840, 840), resized=(840, 840), frame="resized_pixels"),)
BOX, POINT = [100, 100, 200, 200], [150, 150]
OTHER = {"bbox_2d": [500, 500, 600, 600], "point_2d": [550, 550]}


def thing(box: Any = BOX, point: Any = POINT) -> dict[str, Any]:
    return {"bbox_2d": list(box), "point_2d": list(point)}


def reasoner(found: Any, golds: Any, **options: Any) -> Score:
    question = sample(task="detection", golds={"boxes": golds}, geometry=SQUARE)
    (score,) = bind("vision_reasoner", {"variant": "plus_one", **options})(question, answered(json.dumps(found)))
    return score


@pytest.mark.parametrize(
    ("found", "golds", "accuracy"),
    [
        ([thing()], [thing()], 3),
        ([thing([108, 108, 208, 208], [164, 164])], [thing()], 3),  # 8 pixels, and a point 20 pixels away
        ([thing([125, 100, 225, 200], [90, 150])], [thing()], 1),  # IoU 0.6, corners 12.5 off, point outside
        ([thing()], [thing(), OTHER], 1.5),
        ([OTHER, thing()], [thing(), OTHER], 3),
        ([thing([140, 100, 240, 200], [160, 150])], [thing()], 1),  # IoU 0.43: only the point
        ([thing([110, 110, 210, 210], [160, 160])], [thing()], 2),  # corners off by 10 exactly
        ([thing(point=[180, 150])], [thing()], 2),  # the point off by 30 exactly
        ([{"bbox_2d": BOX}], [thing()], 2),
        ([{"point_2d": POINT}], [thing()], 0),
        ([], [thing()], 0),
        ([], [], 3),
        ([thing(), thing()], [thing()], 1.5),
    ],
)
def test_vision_reasoner(found: Any, golds: Any, accuracy: float) -> None:
    assert reasoner(found, golds).parts["accuracy"] == pytest.approx(accuracy)


def test_the_parts_of_vision_reasoner() -> None:
    score = reasoner([thing(), {"bbox_2d": BOX}, {"point_2d": POINT}, {"label": "x"}], [thing()])
    assert score.parts == {"accuracy": 3 / 4, "items": 1.0, "no_repeats": 1.0}
    assert score.total == 2.75
    assert score.flags == {"correct": False, "answered": True}


def test_repeated_sentences() -> None:
    assert not repeats_itself("a. b. a")
    assert repeats_itself("a. b. a. b")
    assert repeats_itself("a. a. a.")
    (score,) = bind("vision_reasoner", {"frame": "unit"})(
        sample(task="detection", golds={"boxes": []}), [Rollout(text="<think>a. a. a. a.</think><answer>[]</answer>")]
    )
    assert score.parts == {"accuracy": 3, "items": 0, "no_repeats": 0}


@pytest.mark.parametrize("frame", ["original_pixels", "resized_pixels", "per_thousand", "unit"])
def test_limits_are_parts_of_the_image(frame: CoordinateFrame) -> None:
    """9.9 of 840 pixels are near enough on an image of any size, in every frame; 10.1 are not."""
    geometry = (Geometry(original=(1680, 420), resized=(1652, 392), frame=frame),)
    width, height = {"original_pixels": (1680, 420), "resized_pixels": (1652, 392), "per_thousand": (1000, 1000)}.get(
        frame, (1, 1)
    )
    question = sample(task="detection", golds={"boxes": [thing([200, 50, 1200, 300], [700, 175])]}, geometry=geometry)
    for off, accuracy in ((9.9, 3), (10.1, 2)):
        x1, y1, x2, y2 = (n / side + off / 840 for n, side in ((200, 1680), (50, 420), (1200, 1680), (300, 420)))
        box = [x1 * width, y1 * height, x2 * width, y2 * height]
        point = [700 / 1680 * width, 175 / 420 * height]
        (score,) = bind("vision_reasoner", {})(question, answered(json.dumps([thing(box, point)])))
        assert score.parts["accuracy"] == accuracy


@pytest.mark.parametrize(
    ("found", "parts"),
    [
        ({"bbox": BOX, "points_1": [120, 120], "points_2": [180, 180]}, (1, 1, 1, 1)),
        ({"bbox": BOX, "points_1": [180, 180], "points_2": [120, 120]}, (1, 1, 1, 1)),  # the better order
        ({"bbox": [125, 100, 225, 200], "points_1": [130, 130], "points_2": [180, 180]}, (1, 1, 0, 1)),
        ({"bbox": BOX, "points_1": [90, 120], "points_2": [180, 180]}, (1, 1, 1, 0)),  # one outside of the said box
        ({"bbox": BOX, "points_1": [120, 120]}, (0, 1, 1, 0)),
        ({"bbox": [500, 500, 700, 700], "points_1": [520, 520], "points_2": [580, 580]}, (1, 0, 0, 0)),
        ({"points_1": [120, 120], "points_2": [180, 180]}, (0, 0, 0, 0)),
        ([], (0, 0, 0, 0)),
    ],
)
def test_seg_zero(found: Any, parts: tuple[float, ...]) -> None:
    golds = {"box": BOX, "points": [[120, 120], [180, 180]]}
    question = sample(task="grounding", golds=golds, geometry=SQUARE)
    (score,) = bind("seg_zero", {"variant": "plus_one"})(question, answered(json.dumps(found)))
    assert tuple(score.parts[name] for name in ("items", "iou", "l1", "points")) == parts
    assert score.total == sum(parts)


def test_seg_zero_needs_two_points() -> None:
    question = sample(task="grounding", golds={"box": BOX, "points": [[1, 2]]}, geometry=SQUARE)
    (score,) = bind("seg_zero", {})(question, answered("[]"))
    assert score.error is not None
    assert "two points" in score.error
