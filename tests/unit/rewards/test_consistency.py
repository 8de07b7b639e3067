"""The rule for thinking and answer: whether the last sentence states what is answered."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmreason.rewards import bind
from mmreason.rewards.consistency import last_sentence
from mmreason.types import Rollout
from tests.unit.rewards.helpers import sample

OPTIONS = ("red", "blue car", "green")


@pytest.mark.parametrize(
    ("thinking", "answer", "value", "concluded"),
    [
        ("It moves. So the answer is B.", "B", 1.0, True),
        ("It moves. So the answer is B.", "A", 0.0, True),
        ("Not A, but option (C)", "C", 1.0, True),
        ("Maybe B. No: it must be A.", "A", 1.0, True),
        ("I see a blue car.", "B", 1.0, True),
        ("I see a blue car.", "blue car", 1.0, True),
        ("A car is red or green.", "A", 0.0, False),
        ("A car stands there.", "A", 0.0, False),
        ("The answer is B.\nLet me write it down.", "B", 0.0, False),
        ("Thus, C", "C", 1.0, True),
        ("So I pick D", "A", 0.0, False),  # there are three
        ("Not option A, but option C", "C", 1.0, True),
        ("Not option A, but option C", "A", 0.0, True),
        ("Thus **B**.", "B", 1.0, True),
    ],
)
def test_choices(thinking: str, answer: str, value: float, concluded: bool) -> None:
    text = f"<think>{thinking}</think><answer>{answer}</answer>"
    (score,) = bind("think_answer", {})(sample("B", "mcq", options=OPTIONS), [Rollout(text=text)])
    assert (score.total, score.flags) == (value, {"answered": True, "concluded": concluded})


@pytest.mark.parametrize(
    ("task", "thinking", "answer", "value"),
    [
        ("numeric", "2 + 3. That makes 5.", "5.0", 1.0),
        ("numeric", "2 + 3 = 5", "5", 1.0),
        ("numeric", "That makes 5.1.", "5", 0.0),
        ("numeric", "2 + 3 = 5", "2", 0.0),
        ("numeric", "It costs 1,250 in all.", "1250", 1.0),
        ("counting", "I count five.", "5", 1.0),
        ("numeric", "It is clear.", "5", 0.0),
        ("exact", "It must be a barn owl.", "Barn owl", 1.0),
        ("exact", "It must be a tit.", "owl", 0.0),
        ("exact", "It is knowledge.", "know", 0.0),
    ],
)
def test_numbers_and_words(task: str, thinking: str, answer: str, value: float) -> None:
    text = f"<think>{thinking}</think><answer>{answer}</answer>"
    (score,) = bind("think_answer", {})(sample("5", task), [Rollout(text=text)])
    assert score.total == value


@pytest.mark.parametrize(
    "text", ["", "<answer>B</answer>", "<think>So B.</think>", "<think></think><answer>B</answer>"]
)
def test_what_is_not_there_does_not_agree(text: str) -> None:
    (score,) = bind("think_answer", {})(sample("B", "mcq"), [Rollout(text=text)])
    assert (score.total, score.flags["concluded"]) == (0.0, False)


def test_the_last_sentence() -> None:
    assert last_sentence("One. It is 1.5 m. Two!  \n ...") == "Two!"
    assert last_sentence("\u4e00\u3002\u4e8c\u3002") == "\u4e8c\u3002"
    assert last_sentence(" \n") == ""


@given(st.text(max_size=200), st.text(max_size=30), st.sampled_from(["mcq", "numeric", "exact"]))
def test_any_text(thinking: str, answer: str, task: Any) -> None:
    question = sample("A", task, options=OPTIONS if task == "mcq" else ())
    (score,) = bind("think_answer", {})(question, [Rollout(text=f"<think>{thinking}</think><answer>{answer}</answer>")])
    assert score.total in (0.0, 1.0)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", ["1," * 60_000, "answer is " * 20_000, "(" * 99_999, "\n" * 99_999, ". " * 60_000])
def test_long_texts_take_no_time(text: str) -> None:
    for task in ("mcq", "numeric", "exact"):
        bind("think_answer", {})(sample("5", task), [Rollout(text=f"<think>{text}</think><answer>5</answer>")])
