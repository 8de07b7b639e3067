"""RISE's loop: what is cleaned away, what leaks, what a reconstruction is worth, and a second model over real HTTP."""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmreason.errors import RewardError
from mmreason.rewards import bind
from mmreason.rewards.base import BAD_GOLD
from mmreason.rewards.boxes import find_boxes
from mmreason.rewards.reconstruction import (
    leaks,
    likeness,
    mean_overlap,
    near_one,
    read_distribution,
    without_classes,
    without_floats,
)
from mmreason.types import MediaRef, Message, Rollout, Sample, Score
from tests.media_files import picture, write_image
from tests.unit.rewards.helpers import sample
from tests.unit.rewards.judge_server import JudgeServer, judge_server

RECORDED = Path(__file__).parents[2] / "recorded"
FEELINGS = {"fear": 0.7, "joy": 0.3}


@pytest.mark.parametrize(
    ("gold", "found", "value"), [([0.7, 0.3], [0.5, 0.5], 0.94069), ([1.0, 0.0], [0.0, 1.0], 6e-6), ([1.0], [1.0], 1.0)]
)
def test_worked_numbers(gold: list[float], found: list[float], value: float) -> None:
    assert likeness(gold, found) == pytest.approx(value, abs=1e-6)


def test_a_sum_that_is_not_1() -> None:
    assert near_one([0.7, 0.5]) == pytest.approx(0.818731, abs=1e-6)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8))
def test_likeness_stays_between_0_and_1(pairs: list[tuple[float, float]]) -> None:
    gold, found = [a for a, _ in pairs], [b for _, b in pairs]
    assert 0.0 <= likeness(gold, found) <= 1.0


def cases(name: str) -> list[dict[str, Any]]:
    return list(json.loads((RECORDED / f"rise_{name}.json").read_text())["cases"])


@pytest.mark.parametrize("case", cases("distribution"))
def test_distributions_as_the_public_code(case: dict[str, Any]) -> None:
    names, gold, reply = (case["input"][key] for key in ("names", "gold", "reply"))
    assert read_distribution(reply, names) == case["output"]["read"]
    assert likeness(gold, read_distribution(reply, names)) == pytest.approx(case["output"]["reward"], rel=1e-9)


@pytest.mark.parametrize("case", cases("boxes"))
def test_boxes_as_the_public_code(case: dict[str, Any]) -> None:
    gold = [tuple(box) for box in case["input"]["gold"]]
    assert mean_overlap(gold, find_boxes(case["input"]["reply"])) == pytest.approx(case["output"]["reward"], abs=1e-12)


def test_what_a_reply_does_not_state_is_0() -> None:
    assert read_distribution("fear: 0.25, FEAR: 0.5, awe: 7", ["fear", "joy", "awe"]) == [0.5, 0.0, 0.0]


def test_what_is_cleaned_away() -> None:
    text = "The sky is grey. It shows Fear!\nSo one is afraid, joyful\u3002 He runs"
    assert without_classes(text, ["fear", "joy"]) == "The sky is grey. He runs"
    assert without_floats("a 3.14 b -0.5 c 1e-4 d 7 e .25 f 12.") == "a b c d 7 e f"


@pytest.mark.parametrize(
    ("text", "leaking"),
    [
        ("a man with 2 hats", False),
        ("about 0.7 of it", True),
        ("look:\n [10, 20, 30, 40] \nthere", True),
        ("(1, 2)", True),
        ("from [10, 20, 30, 40] on", True),
        ("in 1990, 2000", False),
        ("", False),
    ],
)
def test_what_leaks(text: str, leaking: bool) -> None:
    assert leaks(text) is leaking


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text", ["1" * 200_000, "[" * 100_000, "[1," * 60_000, " " * 100_000, "fear:" * 40_000, "-" * 99_999]
)
def test_long_texts_take_no_time(text: str) -> None:
    leaks(without_floats(text))
    leaks(without_classes(text, ["fear", "joy"]))
    read_distribution(text, ["fear", "joy"])


# ---- the loop


@pytest.fixture
def asked() -> list[Any]:
    return []


@pytest.fixture
def second(asked: list[Any]) -> Iterator[Callable[[str], JudgeServer]]:
    """A server whose model answers what it is told to; what it was shown is in `asked`."""
    with judge_server() as judge:

        def told(reply: str) -> JudgeServer:
            def answer(messages: list[Any]) -> str:
                asked.append(messages)
                return reply

            judge.answer = answer
            return judge

        yield told


def scores(judge: JudgeServer, question: Sample, texts: list[str], **options: Any) -> list[Score]:
    values = {"url": judge.url, "model": "vl", "on_outage": "drop", "retries": 0, **options}
    return list(bind("reconstruction", values)(question, [Rollout(text=text) for text in texts]))


def test_a_distribution_is_reconstructed(
    second: Callable[[str], JudgeServer], asked: list[Any], tmp_path: Path
) -> None:
    image = write_image(tmp_path / "a.png", picture(16, 16))
    shown = (Message(role="user", content=(MediaRef(kind="image", path=str(image)), "Why fear 0.7?")),)
    question = sample(None, golds={"distribution": FEELINGS}, messages=shown)
    judge = second('{"fear": 0.5, "joy": 0.5}')
    texts = ["A dark wood. It means fear.", "A dark wood, 0.7 of it.", "Fear. Joy.", "A dark wood. Joy!"]
    plain, leaked, empty, same = scores(judge, question, texts, annotation="distribution")
    assert plain.total == pytest.approx(0.94069, abs=1e-5)
    assert leaked.total == pytest.approx(0.094069, abs=1e-6)
    assert leaked.flags["leaked"]
    assert (empty.total, empty.flags) == (0.0, {"answered": False, "leaked": False})
    assert same.total == plain.total
    assert plain.parts["sum"] == 1.0
    assert len(asked) == 2  # equal clean texts are asked about once
    ((message,),) = (messages for messages in asked if "0.7" not in messages[0]["content"][1]["text"])
    assert message["content"][0]["image_url"]["url"] == (
        f"data:image/png;base64,{base64.b64encode(image.read_bytes()).decode()}"
    )
    assert "A dark wood." in message["content"][1]["text"]
    assert "It means" not in message["content"][1]["text"]


def test_boxes_are_reconstructed_on_a_canvas_of_1000(second: Callable[[str], JudgeServer]) -> None:
    question = sample(None, golds={"boxes": [[0.1, 0.1, 0.3, 0.3], [0.5, 0.5, 0.9, 0.9]]})
    judge = second("[[500, 500, 900, 900], [100, 100, 300, 300], [0, 0, 10, 10]]")
    (score,) = scores(judge, question, ["two boats"], gold_frame="unit")
    assert score.total == pytest.approx(2 / 3)
    (none,) = scores(second("I see no boxes"), question, ["two boats"], gold_frame="unit")
    assert none.total == 0.0


def test_what_cannot_be_asked_about_is_an_error(second: Callable[[str], JudgeServer], tmp_path: Path) -> None:
    judge = second("{}")
    for gold in ({"fear": 2.0}, {}, "fear", {"fear": 0.0}):
        (score,) = scores(judge, sample(None, golds={"distribution": gold}), ["x"], annotation="distribution")
        assert score.flags == {BAD_GOLD: True}
    png = base64.b64decode("iVBORw0KGgo=")
    for ref in (MediaRef(kind="video", data=png), MediaRef(kind="image", data=b"what?")):
        question = sample(None, golds={"distribution": FEELINGS}, messages=(Message(role="user", content=(ref,)),))
        with pytest.raises(RewardError, match="PNG, JPEG, GIF or WebP images only"):
            scores(judge, question, ["x"], annotation="distribution")
    judge.troubles = ["400"]
    (score,) = scores(judge, sample(None, golds={"distribution": FEELINGS}), ["x"], annotation="distribution")
    assert score.total is None
    assert "HTTP 400" in str(score.error)
    (other,) = scores(judge, sample("A"), ["x"])
    assert (other.total, other.error) == (None, None)
