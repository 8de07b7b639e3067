import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmreason.rewards.combine import Combine, combine, labels
from mmreason.types import Score

A = Score(total=1.0, parts={"x": 0.25}, flags={"correct": True})
B = Score(total=0.5, flags={"correct": False, "format_ok": True})
NOT_MINE = Score(total=None)
FAILED = Score(total=None, error="reward c: raised ValueError")


def test_repeated_names_are_numbered() -> None:
    assert labels(["iou", "format", "iou", "iou"]) == ["iou", "format", "iou#2", "iou#3"]


@pytest.mark.parametrize(("how", "total"), [("sum", 2 * 1.0 + 3 * 0.5), ("product", 2 * 1.0 * 3 * 0.5), ("first", 2.0)])
def test_combination(how: Combine, total: float) -> None:
    score = combine([A, B], ["a", "b"], [2.0, 3.0], how)
    assert score.total == total
    assert score.parts == {"a": 1.0, "a.x": 0.25, "b": 0.5}
    assert score.flags == {"correct": True, "b.correct": False, "format_ok": True}


@pytest.mark.parametrize("how", ["sum", "product", "first"])
def test_what_does_not_apply_is_left_out(how: Combine) -> None:
    score = combine([NOT_MINE, B], ["a", "b"], [7.0, 1.0], how)
    assert (score.total, score.parts, score.error) == (0.5, {"b": 0.5}, None)


@pytest.mark.parametrize("how", ["sum", "product", "first"])
def test_an_error_anywhere_leaves_no_total(how: Combine) -> None:
    score = combine([A, FAILED], ["a", "c"], [1.0, 1.0], how)
    assert (score.total, score.error) == (None, FAILED.error)
    assert score.parts["a"] == 1.0


def test_nothing_applies() -> None:
    score = combine([NOT_MINE, NOT_MINE], ["a", "b"], [1.0, 1.0], "sum")
    assert (score.total, score.error) == (None, "none of the rewards (a, b) applies to this sample")


@given(st.lists(st.tuples(st.floats(-10, 10), st.floats(-2, 2)), min_size=1, max_size=5))
def test_the_sum_is_the_weighted_sum(pairs: list[tuple[float, float]]) -> None:
    names = labels(["r"] * len(pairs))
    score = combine([Score(total=value) for value, _ in pairs], names, [weight for _, weight in pairs], "sum")
    assert score.total is not None
    assert math.isclose(score.total, sum(value * weight for value, weight in pairs), abs_tol=1e-9)
