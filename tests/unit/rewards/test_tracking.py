"""Research notes "rewards", section 5: VideoChat-R1's tracking."""

import json
from typing import Any

import pytest

from mmreason.rewards import bind
from mmreason.types import Geometry
from tests.unit.rewards.helpers import answered, sample

TRACK = [[0, 0, 100, 100], [10, 0, 110, 100], [20, 0, 120, 100]]


def value(answer: Any, frame: Any = "original_pixels") -> float | None:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    (score,) = bind("tracking", {"frame": frame})(sample(task="tracking", golds={"track": TRACK}), answered(text))
    return score.total


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (TRACK, 1),
        (TRACK[:2], 0),
        ([*TRACK, TRACK[0]], 0),
        ([TRACK[0], TRACK[1], [500, 500, 600, 600]], 2 / 3),
        ([TRACK[0], TRACK[1], [120, 100, 20, 0]], 2 / 3),
        ([[0, 0, 100, 50]] * 3, (0.5 + 4500 / 10500 + 4000 / 11000) / 3),
        (TRACK[::-1], (2 * 8000 / 12000 + 1) / 3),
        ([{"time": 1, "bbox_2d": box} for box in TRACK], 1),
        ("nothing", 0),
        ([TRACK[0], TRACK[1], "x"], 2 / 3),
    ],
)
def test_mean_overlap(answer: Any, expected: float) -> None:
    assert value(answer) == pytest.approx(expected)


def test_the_models_frame() -> None:
    geometry = (Geometry(original=(200, 100), resized=(224, 112), frame="unit"),)
    question = sample(task="tracking", golds={"track": TRACK}, geometry=geometry)
    said = [[x1 / 200, y1 / 100, x2 / 200, y2 / 100] for x1, y1, x2, y2 in TRACK]
    assert bind("tracking", {})(question, answered(json.dumps(said)))[0].total == pytest.approx(1)


@pytest.mark.parametrize("track", [None, [], [[1, 2, 3]], [[5, 5, 1, 1]]])
def test_gold_that_cannot_be_used(track: Any) -> None:
    (score,) = bind("tracking", {"frame": "unit"})(sample(task="tracking", golds={"track": track}), answered("[]"))
    assert score.flags == {"bad_gold": True}
