"""One text inside the other, and grades for wrong answers with the right thoughts."""

from typing import Any

import pytest

from mmreason.rewards.likeness import carft_partial
from mmreason.types import Score
from tests.unit.rewards.helpers import grade, sample


def inside(answer: str, gold: Any, **options: Any) -> float | None:
    return grade("substring", sample(gold), f"<answer>{answer}</answer>", **options).total


@pytest.mark.parametrize(
    ("answer", "gold", "sane", "published"),
    [
        ("Paris", "paris, france", 1, 1),
        ("in the city of Paris.", "Paris", 1, 1),
        ("London", "Paris", 0, 0),
        ("the", "Paris", 0, 1),  # normalises to nothing, which is in everything
        ("A.", "Paris", 0, 1),
        ("?!", "Paris", 0, 1),
        ("1", "10", 0, 1),
        ("art", "a chart", 0, 1),
        ("The", "the", 1, 1),  # a gold that is all article is compared as it is
        ("cat", "the", 0, 1),
        ("?!", "the", 0, 1),
        ("cat", ["dog", "a cat"], 1, 1),
        ("7", 7, 1, 1),
    ],
)
def test_substring(answer: str, gold: Any, sane: float, published: float) -> None:
    assert inside(answer, gold) == sane
    assert inside(answer, gold, variant="qwenlong") == published


def test_substring_reads_the_last_answer_only() -> None:
    score = grade("substring", sample("Paris"), "<think>Paris</think><answer>Paris</answer> no, <answer>Rome</answer>")
    assert score == Score(total=0.0, flags={"correct": False, "answered": True})
    assert grade("substring", sample("Paris"), "<think>Paris</think><answer></answer>").flags["answered"] is False
    assert grade("substring", sample("Paris"), "<think>x</think>Paris").total == 0
    assert grade("substring", sample("Paris"), "<think>x</think>Paris", require_tags=False).total == 1


@pytest.mark.parametrize("gold", [None, "", [], [None], {"a": 1}])
def test_substring_without_a_gold(gold: Any) -> None:
    score = grade("substring", sample(gold), "<answer>x</answer>")
    assert (score.total, score.flags) == (None, {"bad_gold": True})


def test_partial_reward_of_carft() -> None:
    assert [carft_partial(cosine) for cosine in (-1, 0, 1)] == pytest.approx([0.1, 0.2, 0.3])


def test_partial_credit() -> None:
    question = sample("4", "numeric", demos=("<think>two and two are four</think><answer>4</answer>",))
    right, same, other, none = (
        grade("partial_credit", question, text)
        for text in (
            "<answer>4</answer>",
            "<think>two and two are four</think><answer>5</answer>",
            "<think>je ne sais rien</think><answer>5</answer>",
            "<think>two and two are four</think>",
        )
    )
    assert (right.total, none.total) == (1.0, 0.0)
    assert same.total is not None
    assert other.total is not None
    assert 0.2 <= other.total < 0.25 < 0.28 < same.total <= 0.3
    assert right.flags == {"correct": True, "answered": True}


def test_partial_credit_needs_an_annotated_thought_and_a_gold() -> None:
    score = grade("partial_credit", sample("4"), "<answer>4</answer>")
    assert score.flags == {"bad_gold": True}
    assert "no demo to compare the thought with" in str(score.error)
    bad = grade("partial_credit", sample("abc", "numeric", demos=("x",)), "<answer>4</answer>")
    assert (bad.total, bad.flags) == (None, {"bad_gold": True})
