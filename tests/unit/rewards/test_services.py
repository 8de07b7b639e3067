"""What is asked of a reward service, and what becomes of its values; tests/unit/serving has the service itself."""

import math
from collections.abc import Iterator
from typing import Any

import pytest

from mmreason.errors import RewardError
from mmreason.rewards import bind
from mmreason.rewards.remote import Nonsense
from mmreason.rewards.service import score_of
from mmreason.types import MediaRef, Message, Rollout, Sample, Score
from tests.unit.rewards.helpers import answered, sample
from tests.unit.rewards.judge_server import JudgeServer, judge_server

IMAGE, SOUND = MediaRef(kind="image", data=b"png"), MediaRef(kind="audio", path="/there/a.wav", options={"start": 1.0})
SHOWN = (Message(role="user", content=(IMAGE, SOUND, "What is it?")),)


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with judge_server() as server:
        yield server


def ask(server: JudgeServer, name: str, question: Sample, rollouts: list[Rollout], **options: Any) -> list[Score]:
    given = {"url": server.url, "on_outage": "drop", "retries": 0, **options}
    return list(bind(name, given)(question, rollouts))


def say(server: JudgeServer, values: dict[str, Any]) -> None:
    """The value of each text."""
    server.values = lambda body: {"values": [values[text] for text in body["texts"]]}


def test_values_are_scores() -> None:
    whole = {"total": 0.5, "parts": {"a": 1}, "flags": {"correct": 1}, "error": "odd"}
    assert score_of(whole) == Score(total=0.5, parts={"a": 1.0}, flags={"correct": True}, error="odd")
    assert score_of({"total": 2, "flags": {}}) == score_of(2) == Score(total=2.0)
    assert score_of({"error": "no"}) == Score(total=None, error="no")
    assert score_of(None) == Score(total=None)
    for odd in ({"total": 1, "score": 2}, "1", [1], float("nan"), {"total": "1"}):
        with pytest.raises(RewardError):
            score_of(odd)


def test_all_that_is_known_is_sent_once(server: JudgeServer) -> None:
    say(server, {"x": 1.0, "y": {"total": 0.25}})
    question = sample("owl", "exact", messages=SHOWN, golds={"box": [1, 2]})
    scores = ask(server, "service", question, [Rollout(text="x"), Rollout(text="y")])
    assert [score.total for score in scores] == [1, 0.25]
    (body,) = server.requests
    assert body == {
        "path": "/v1/score",
        "texts": ["x", "y"],
        "question": "What is it?",
        "media": [
            {"kind": "image", "options": {}, "content": "cG5n"},
            {"kind": "audio", "options": {"start": 1.0}, "path": "/there/a.wav"},
        ],
        "sample": {"id": "file.jsonl:1", "task": "exact", "answer": "owl", "options": [], "golds": {"box": [1, 2]}},
    }


@pytest.mark.parametrize("reply", [{"values": [1.0, 2.0]}, {"values": {"a": 1}}, {"value": [1]}, [], {"values": []}])
def test_a_reply_of_another_form_is_nonsense(server: JudgeServer, reply: Any) -> None:
    server.values = lambda body: reply
    with pytest.raises(Nonsense, match="no list of 1 values"):
        ask(server, "service", sample("A"), [Rollout(text="x")])


def test_a_reply_of_another_form_is_asked_for_again(server: JudgeServer) -> None:
    server.values = lambda body: {"values": [1.0] if len(server.requests) > 2 else []}
    assert ask(server, "service", sample("A"), [Rollout(text="x")], retries=2)[0].total == 1


def test_semantic_shows_the_pictures_and_no_gold(server: JudgeServer) -> None:
    say(server, {"Red.": {"frames": [0.1, 0.3], "mean": 0.25}})
    text = "<think>I look. Red.</think>"
    for mode, total in (("paper", 0.5), ("code", 0.4)):
        question = sample("owl", messages=SHOWN, golds={"box": [1, 2]})
        (score, same) = ask(server, "semantic", question, [Rollout(text=text)] * 2, mode=mode)
        assert score.total == pytest.approx(total)
        assert (same, score.parts) == (score, {"cosine": 0.25})
    assert [entry["kind"] for entry in server.requests[0]["media"]] == ["image"]
    assert (server.requests[0]["sample"], server.requests[0]["texts"]) == ({}, ["Red."])
    assert ask(server, "semantic", sample("owl"), [Rollout(text=text)]) == [Score(total=None)]


def test_relative_to_the_reference(server: JudgeServer) -> None:
    say(server, {"owl": 0.5, "bird": 1.5, "tit": 0.25, "odd": None, "bad": {"error": "too odd"}})
    group = [*answered("bird", "tit", "owl", "odd", "bad"), Rollout(text="none")]
    scores = ask(server, "rm_relative", sample("owl"), group)
    assert [score.total for score in scores] == [pytest.approx(1 - math.exp(-1)), 0, 0, None, None, 0]
    assert [score.parts.get("margin") for score in scores] == [1, -0.25, 0, None, None, None]
    assert [score.flags["answered"] for score in scores] == [True] * 5 + [False]
    assert [score.error for score in scores[3:5]] == ["the reward model has no score for it", "too odd"]
    assert ask(server, "rm_relative", sample("owl"), group, beta=2.0)[0].total == pytest.approx(1 - math.exp(-2))


def test_a_reference_without_a_score_leaves_none_of_them_one(server: JudgeServer) -> None:
    say(server, {"owl": {"error": "too odd"}, "bird": 1.0})
    scores = ask(server, "rm_relative", sample("owl"), [*answered("bird"), Rollout(text="none")])
    assert [(score.total, score.error) for score in scores] == [(None, "too odd"), (0, None)]
