import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmreason.config import RewardConfig
from mmreason.config.reward_names import gate_mistakes, labels
from mmreason.rewards.combine import Combine, closed_gates, combine
from mmreason.types import Score

GATED: list[str | None] = [None, None, "accuracy"]
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


# ---- gates


def gated(scores: list[Score], gates: list[str | None], how: Combine = "sum") -> Score:
    names = ["format", "accuracy", "meaning"][-len(scores) :]
    return combine(scores, names, [1.0] * len(scores), how, closed_gates(scores, names, gates))


@pytest.mark.parametrize(
    ("accuracy", "cosine", "total"), [(1.0, 0.3, 2.6), (0.0, 0.9, 1.0), (0.4, 0.45, 2.3), (1.0, -0.2, 2.0)]
)
def test_totals_of_videorft(accuracy: float, cosine: float, total: float) -> None:
    """algorithms.md section 2: R_f + R_a + 1[R_a > 0] min(1, 2 max(cos, 0)), with R_f = 1."""
    meaning = min(1.0, 2 * max(cosine, 0.0))
    score = gated([Score(total=1.0), Score(total=accuracy), Score(total=meaning)], GATED)
    assert score.total == pytest.approx(total)
    assert score.parts["meaning"] == (meaning if accuracy > 0 else 0.0)


def test_the_gate_is_found_by_name_not_by_place() -> None:
    scores = [Score(total=0.6), Score(total=0.0), Score(total=1.0)]
    names = ["meaning", "accuracy", "format"]
    assert closed_gates(scores, names, ["accuracy", None, None]) == [True, False, False]
    assert closed_gates(scores, names, ["format", None, None]) == [False, False, False]


def test_gates_behind_gates() -> None:
    gates: list[str | None] = [None, "format", "accuracy"]
    assert closed_gates([Score(total=0.0), A, A], ["format", "accuracy", "m"], gates) == [False, True, True]
    assert closed_gates([A, Score(total=0.0), A], ["format", "accuracy", "m"], gates) == [False, False, True]


@pytest.mark.parametrize(("how", "total"), [("sum", 1.0), ("product", 0.0), ("first", 1.0)])
def test_what_a_closed_gate_leaves(how: Combine, total: float) -> None:
    scores = [Score(total=0.7), Score(total=1.0), Score(total=0.0)]
    names = ["meaning", "format", "accuracy"]
    closed = closed_gates(scores, names, ["accuracy", None, None])
    assert combine(scores, names, [1.0, 1.0, 1.0], how, closed).total == total


def test_behind_a_closed_gate_a_product_is_zero() -> None:
    names, scores = ["penalty", "bonus"], [Score(total=-2.0), Score(total=3.0)]
    closed = closed_gates(scores, names, [None, "penalty"])
    assert combine(scores, names, [1.0, 1.0], "product", closed).total == 0
    assert combine(scores, names, [1.0, 1.0], "product").total == -6


def test_first_with_nothing_but_closed_gates_is_zero() -> None:
    scores = [Score(total=0.7), Score(total=None)]
    closed = closed_gates(scores, ["a", "b"], ["b", None])
    assert combine(scores, ["a", "b"], [1.0, 1.0], "first", closed).total == 0.0


def test_behind_a_closed_gate_an_error_is_none() -> None:
    wrong, right = [Score(total=0.0), FAILED], [Score(total=1.0), FAILED]
    assert gated(wrong, [None, "accuracy"]) == Score(total=0.0, parts={"accuracy": 0.0, "meaning": 0.0})
    assert gated(right, [None, "accuracy"]).error == FAILED.error


def test_a_gate_that_failed_fails_the_rollout() -> None:
    score = gated([FAILED, Score(total=0.5)], [None, "accuracy"])
    assert (score.total, score.error, score.parts) == (None, FAILED.error, {"meaning": 0.5})


def test_a_gate_that_does_not_apply_is_closed_and_what_does_not_apply_has_no_part() -> None:
    assert gated([Score(total=1.0), NOT_MINE, B], GATED).parts == {"format": 1.0, "meaning": 0.0}
    assert gated([Score(total=1.0), Score(total=0.0), NOT_MINE], GATED).parts == {"format": 1.0, "accuracy": 0.0}


def test_gates_keep_flags() -> None:
    assert gated([Score(total=0.0), Score(total=1.0, flags={"correct": True})], [None, "accuracy"]).flags["correct"]


def test_gates_that_are_none() -> None:
    def mistakes(*pairs: tuple[str, str | None]) -> list[str]:
        return list(gate_mistakes([RewardConfig(name=name, gate=gate) for name, gate in pairs]))

    assert mistakes(("iou", None), ("iou", None), ("format", "iou#2")) == []
    assert mistakes(("format", "acuracy"), ("accuracy", None)) == [
        "rewards.0.gate: 'acuracy', expected the label of another reward; did you mean 'accuracy'?"
    ]
    assert mistakes(("a", "a")) == ["rewards.0.gate: the gates are a circle (a -> a), so none would ever open"]
    assert mistakes(("x", "a"), ("a", "b"), ("b", "a")) == [
        "rewards.1.gate: the gates are a circle (a -> b -> a), so none would ever open"
    ]
