"""Length rewards: numbers by hand, the recorded outputs of published code, and what cannot be counted."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmreason.errors import RewardError
from mmreason.rewards import bind
from mmreason.rewards.base import TextRollout
from mmreason.rewards.length_curves import COSINES, Cosine, cosine_value
from mmreason.types import Rollout
from tests.unit.rewards.helpers import sample

RECORDED = Path(__file__).parents[2] / "recorded"
QUESTION = sample("4")


def answer(length: int, right: bool = True) -> TextRollout:
    return TextRollout(text=f"<answer>{4 if right else 5}</answer>", token_count=length)


def totals(name: str, *rollouts: Rollout, **options: Any) -> list[float | None]:
    return [score.total for score in bind(name, options)(QUESTION, rollouts)]


def recorded(name: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((RECORDED / name).read_text())["cases"]
    return cases


@pytest.mark.parametrize(
    ("length", "right", "value"),
    [
        (0, True, 2.0), (7168, True, 1.5), (14319, True, 1.000003), (14320, True, -10.0), (0, False, -10.0),
        (7168, False, -5.0), (20000, False, -10.0),
    ],
)  # fmt: skip
def test_cosine_of_demystify(length: int, right: bool, value: float) -> None:
    assert cosine_value(length, right, 14336, COSINES["demystify"]) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    ("length", "right", "value"),
    [(0, True, 1.0), (512, True, 0.75), (1024, True, 0.5), (2048, True, 0.5), (0, False, -0.5), (512, False, -0.25),
     (1024, False, 0.0), (2048, False, 0.0)],
)  # fmt: skip
def test_cosine_of_vlm_r1_is_clamped_and_knows_wrong_answers(length: int, right: bool, value: float) -> None:
    assert cosine_value(length, right, 1024, COSINES["vlmr1"]) == pytest.approx(value, abs=1e-9)
    if length:
        (total,) = totals("length_cosine", answer(length, right), max_length=1024, variant="vlmr1")
        assert total == pytest.approx(value, abs=1e-9)


def test_cosine_equals_demystify_long_cot() -> None:
    for case in recorded("demystify_cosine.json"):
        asked = case["input"]
        rule = Cosine(right=tuple(asked["right"]), wrong=tuple(asked["wrong"]), over=asked["over"])
        value = cosine_value(asked["length"], asked["correct"], asked["max_length"], rule)
        assert value == pytest.approx(case["output"], abs=1e-9), asked


def test_cosine_equals_vlm_r1_as_it_runs() -> None:
    """Its code sets every answer to right (issue 247 there) and does not clamp: only `vlmr1_code` does so."""
    for case in recorded("vlm_r1_cosine.json"):
        right = case["input"].get("correct", True)
        value = cosine_value(case["input"]["length"], right, 1024, COSINES["vlmr1_code"])
        assert value == pytest.approx(case["output"], abs=1e-9), case
    wrong = answer(2048, right=False)
    assert totals("length_cosine", wrong, max_length=1024, variant="vlmr1_code") == [1.0]
    assert totals("length_cosine", wrong, max_length=1024, variant="vlmr1") == [0.0]


def test_cosine_takes_other_values() -> None:
    options = {"max_length": 100, "variant": "vlmr1", "right": [3.0, 1.0], "over": -7.0}
    assert totals("length_cosine", answer(50), answer(84), **options) == [pytest.approx(2.0), -7.0]
    assert totals("length_cosine", answer(50, right=False), max_length=100, wrong=[-4.0, -2.0]) == [pytest.approx(-3.0)]
    with pytest.raises(RewardError, match=r"right \(1\.0,\), wrong .* expected two values each"):
        totals("length_cosine", answer(1), max_length=100, right=[1.0])


@pytest.mark.parametrize(("length", "value"), [(0, 0), (16384, 0), (18432, -0.5), (20480, -1), (30000, -1)])
def test_overlong_of_dapo(length: int, value: float) -> None:
    text = answer(length) if length else Rollout(text="")
    assert totals("length_overlong", text, max_length=20480, buffer=4096) == [value]
    assert totals("length_overlong", text, max_length=20480, buffer=4096, factor=2.0) == [2 * value]


def test_overlong_needs_a_buffer_within_the_limit() -> None:
    with pytest.raises(RewardError, match="buffer 11: expected more than 0 and at most max_length"):
        totals("length_overlong", answer(1), max_length=10, buffer=11)


def test_group_of_kimi() -> None:
    assert totals("length_group", answer(100), answer(200), answer(300, right=False)) == [0.5, 0.0, -0.5]
    assert totals("length_group", answer(100, right=False), answer(300)) == [0.0, -0.5]
    assert totals("length_group", answer(7), answer(7, right=False)) == [0.0, 0.0]
    assert totals("length_group") == []


def test_budget() -> None:
    assert totals("length_budget", answer(50), answer(100), answer(150), answer(250), budget=100) == [0.5, 1, 0.5, 0]
    assert totals("length_budget", answer(100, right=False), budget=100) == [0.0]
    question = sample("4", golds={"budget": 200})
    (score,) = bind("length_budget", {"budget": 100})(question, [answer(100)])
    assert (score.total, score.parts) == (0.5, {"fidelity": 0.5})


@pytest.mark.parametrize("budget", [None, 0, -1, "many", True, math.inf])
def test_a_budget_that_is_none_is_a_bad_gold(budget: Any) -> None:
    (score,) = bind("length_budget", {})(sample("4", golds={"budget": budget}), [answer(3)])
    assert score.total is None
    assert score.flags == {"bad_gold": True}
    assert f"the budget {budget!r} cannot be used" in str(score.error)


def test_units() -> None:
    text = Rollout(text="<think>one two three</think> <answer>4</answer>")
    options = {"max_length": 8, "buffer": 4}
    with pytest.raises(RewardError, match="counts tokens, and a text alone has none; set the option unit to words or"):
        totals("length_overlong", text, **options)
    assert totals("length_overlong", text, unit="words", **options) == [0.0]
    assert totals("length_overlong", text, unit="characters", **options) == [-1.0]
    assert totals("length_overlong", Rollout(text=""), **options) == [0.0]


def test_without_a_verdict_there_is_no_length_reward() -> None:
    for name, options in (("length_cosine", {"max_length": 9}), ("length_group", {}), ("length_budget", {"budget": 9})):
        (bad,) = bind(name, options)(sample("abc", "numeric"), [answer(3)])
        assert bad.total is None
        assert bad.flags["bad_gold"]
        (skipped,) = bind(name, options)(sample("4", "grounding"), [answer(3)])
        assert (skipped.total, skipped.error) == (None, None)


def test_another_reward_says_what_is_right() -> None:
    by_format = {"right_by": "format", "right_at": 1.0}
    rollouts = [Rollout(text="<think>a</think><answer>5</answer>"), Rollout(text="no form at all")]
    values = totals("length_cosine", *rollouts, max_length=100, variant="vlmr1", unit="words", **by_format)
    assert values == [pytest.approx(1, abs=0.01), pytest.approx(-0.5, abs=0.01)]
    (score,) = bind("length_cosine", {"max_length": 9})(QUESTION, [answer(3)])
    assert score.flags == {"correct": True, "answered": True}


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.booleans())
def test_cosine_stays_within_its_values(length: int, limit: int, right: bool) -> None:
    total = cosine_value(length, right, limit, COSINES["vlmr1"])
    assert (0.5 <= total <= 1.0) if right else (-0.5 <= total <= 0.0)
