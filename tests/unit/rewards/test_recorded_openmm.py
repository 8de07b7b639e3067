"""OpenMMReasoner's rewards on recorded answers: ours give what its public code gave."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmreason.rewards import bind
from mmreason.rewards.openmm import boxed, choice, grade, read_answer
from mmreason.types import Message, Rollout, Sample

RECORD = json.loads((Path(__file__).parents[2] / "recorded" / "openmmreasoner_rewards.json").read_text("utf-8"))


def rewards(completion: str, gold: str) -> tuple[float, float]:
    question = Message(role="user", content=("?",))
    sample = Sample(id="q", messages=(question,), answer=gold, task="exact")
    (accuracy,) = bind("accuracy", {"variant": "openmm"})(sample, [Rollout(text=completion)])
    (shape,) = bind("openmm_format", {})(sample, [Rollout(text=completion)])
    assert accuracy.total is not None
    assert shape.total is not None
    return accuracy.total, shape.total


@pytest.mark.parametrize("case", RECORD["cases"], ids=lambda case: case["input"]["completion"][-40:])
def test_rewards_are_those_of_the_public_code(case: dict[str, dict[str, Any]]) -> None:
    accuracy, shape = rewards(**case["input"])
    assert (accuracy, shape) == (case["output"]["accuracy"], case["output"]["format"])
    assert 0.9 * accuracy + 0.1 * shape == pytest.approx(case["output"]["score"])


@pytest.mark.parametrize(("accuracy", "shape", "total"), [(1, 1, 1), (1, 0.8, 0.98), (1, 0, 0.9), (0, 1, 0.1)])
def test_worked_totals(accuracy: float, shape: float, total: float) -> None:
    assert 0.9 * accuracy + 0.1 * shape == pytest.approx(total)


def test_of_marked_letters_the_first_in_the_text_counts() -> None:
    assert choice("it is (B), (A) is not") == "B"


def test_as_long_as_is_asked_for() -> None:
    assert [grade("<answer>abcdefghij</answer>", gold, "exact") for gold in ("abcdefghi", "abcdefgh")] == [1, 0]
    assert [rewards("=" * signs + " 7", "A")[1] for signs in (48, 49)] == [0, 0.8]


@given(st.text(alphabet="AB(){}.\\boxed<answer>/ \n19=", max_size=80))
def test_any_text_is_graded(text: str) -> None:
    assert grade(text, "B", "mcq") in (0, 1)
    assert choice(text) in (*"ABCDEFGH", "")
    assert read_answer(text) in text
    assert boxed(text) in text


def test_long_texts_take_no_time() -> None:
    for text in ("<answer>" * 20000, "\\boxed{" * 20000, "<think></think>" * 20000, "answer " * 20000, "1 " * 50000):
        rewards(text, "B")
