"""Which answers are the same answer."""

from __future__ import annotations

from typing import Any

import pytest

from mmreason.rewards.agreement import NO_VOTE, agreement
from mmreason.types import Message, Rollout, Sample


def votes(kind: str, *answers: str, gold: Any = "x", options: tuple[str, ...] = (), **more: Any) -> list[int | None]:
    sample = Sample(id="q", messages=(Message(role="user", content=("?",)),), answer=gold, task=kind, options=options)
    scores = agreement(sample, [Rollout(text=f"<answer>{answer}</answer>") for answer in answers], **more)
    assert all(score.total is not None for score in scores)
    return [None if score.total in (None, NO_VOTE) else int(score.total) for score in scores]


@pytest.mark.parametrize(
    ("task", "answers", "same"),
    [
        ("mcq", ["B", "(b)", "green", "A", "A or B", "B. green"], [0, 0, 0, 3, None, 0]),
        ("numeric", ["0.5", "1/2", "many", "0.50", "2"], [0, 0, None, 0, 4]),
        ("counting", ["5", "five", "3.5", "6"], [0, 0, None, 3]),
        ("math", ["\\frac{1}{2}", "0.5", "x+1", "1+x", "There are some"], [0, 0, 2, 2, None]),
        ("exact", ["Red.", "red", " RED ", "blue"], [0, 0, 0, 3]),
        ("yes_no", ["yes", "True", "no", "perhaps"], [0, 0, 2, None]),
        ("free_form", ["A red ball", "a red ball.", "a ball that is red"], [0, 0, 2]),
        ("ocr", ["STOP", "stop", "STOP!"], [0, 0, 2]),
        ("regression", ["10", "10.0", "10.1", "?"], [0, 0, 2, None]),
        ("grounding", ["[1, 2]", "[1,  2]", "[3, 4]"], [0, 0, 2]),
    ],
)
def test_same_answers_share_the_index_of_the_first(task: str, answers: list[str], same: list[int | None]) -> None:
    options = ("red", "green", "blue") if task == "mcq" else ()
    assert votes(task, *answers, options=options) == same


def test_a_gold_that_is_a_number_makes_exact_answers_numbers() -> None:
    assert votes("exact", "5", "5.0", "many", gold=5) == [0, 0, None]
    assert votes("exact", "5", "5.0", gold="5") == [0, 1]


def test_options_are_those_of_accuracy() -> None:
    assert votes("numeric", "100", "101", rel_tol=0.02) == [0, 0]
    assert votes("grounding", "100", "100.0", task="numeric") == [0, 0]


def test_what_has_no_answer_has_no_vote() -> None:
    sample = Sample(id="q", messages=(), answer="5", task="numeric")
    texts = ["5", "<answer>5</answer>", "<answer></answer>", "<think>6</think> 5"]
    rollouts = [Rollout(text=text) for text in texts]
    assert [score.total for score in agreement(sample, rollouts)] == [NO_VOTE, 1, NO_VOTE, NO_VOTE]
    assert [score.total for score in agreement(sample, rollouts, require_tags=False)] == [0, 0, NO_VOTE, 0]


def test_several_golds_of_a_sample_do_not_matter() -> None:
    assert votes("mcq", "A", "a", gold=["A", "B"], options=("red", "green")) == [0, 0]
