"""Worked numbers and texts of VideoRFT's semantic reward; VLAA-Thinker's relative score."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmreason.errors import ConfigError
from mmreason.rewards import bind
from mmreason.rewards.combine import closed_gates, combine
from mmreason.rewards.reward_models import relative
from mmreason.rewards.semantic import Mode, TextRule, consistency, described, without_first_sentence
from mmreason.types import Rollout, Score
from tests.unit.rewards.helpers import sample


@pytest.mark.parametrize(("cosine", "value"), [(0.3, 0.6), (0.5, 1.0), (0.6, 1.0), (0.12, 0.24), (-0.1, 0.0)])
@pytest.mark.parametrize("mode", ["paper", "code"])
def test_worked_numbers_of_one_frame(cosine: float, value: float, mode: Mode) -> None:
    assert consistency([cosine], cosine, mode, 2.0) == pytest.approx(value, abs=1e-12)


def test_clipping_before_or_after_the_mean() -> None:
    frames = [0.9, 0.9, 0.1, 0.1]
    assert consistency(frames, 0.5, "code", 2.0) == pytest.approx(0.6)
    assert consistency(frames, 0.5, "paper", 2.0) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("right", "cosine", "total"), [(1.0, 0.3, 2.6), (0.0, 0.9, 1.0), (0.4, 0.45, 2.3), (1.0, -0.2, 2.0)]
)
def test_worked_totals_behind_the_gate(right: float, cosine: float, total: float) -> None:
    names = ["format", "accuracy", "semantic"]
    scores = [Score(total=value) for value in (1.0, right, consistency([cosine], cosine, "paper", 2.0))]
    closed = closed_gates(scores, names, [None, None, "accuracy"])
    assert combine(scores, names, [1.0] * 3, "sum", closed).total == pytest.approx(total)


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("I look. It is red.", "It is red."),
        ("It is 1.5 m long. It is red.", "It is red."),
        ("Mr. Li waits. He is old.", "He is old."),
        ("See e.g. the car. It is red.", "It is red."),
        ("J. Li waits? He is old.", "He is old."),
        ("1. Look. 2. Think.", "2. Think."),
        ('He says "no." Then he goes.', "Then he goes."),
        ("Wait... It moves.", "It moves."),
        ("One sentence only.", ""),
        ("none", ""),
        ("", ""),
        ("\u6211\u770b\u3002\u8f66\u662f\u7ea2\u8272\u7684\u3002", "\u8f66\u662f\u7ea2\u8272\u7684\u3002"),
        ("a\nb.\nc", "c"),
    ],
)
def test_the_first_sentence_ends_where_it_ends(text: str, rest: str) -> None:
    assert without_first_sentence(text) == rest


@pytest.mark.parametrize(
    ("response", "rule", "text"),
    [
        ("<think>So. But.</think>x<think>Now. Then.</think>", "sentences", "Then."),
        ("<think>So. But.</think>x<think>Now. Then.</think>", "code", "But."),
        ("<think>It is 1.5 m. Red.</think>", "sentences", "Red."),
        ("<think>It is 1.5 m. Red.</think>", "code", "5 m. Red."),
        ("<think>Mr. Li. Red.</think>", "code", "Li. Red."),
        ("<think>Only this.</think>", "sentences", None),
        ("<think>Only this.</think>", "code", ""),
        ("<think>no stop</think>", "code", "no stop"),
        ("no. block", "sentences", None),
        ("no. block", "code", "no. block"),
    ],
)
def test_what_is_compared(response: str, rule: TextRule, text: str | None) -> None:
    assert described(response, rule) == text


@settings(max_examples=300)
@given(st.text(alphabet="aB. 1<>/think\n\u3002!?", max_size=200))
def test_any_text_is_read(text: str) -> None:
    for rule in ("sentences", "code"):
        found = described(f"<think>{text}</think>", rule)
        assert found is None or len(found) <= len(text) + 15


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", ["." * 100_000, "Mr." * 50_000, "<think>" * 50_000, '."' * 50_000, "a. " * 50_000])
def test_long_texts_take_no_time(text: str) -> None:
    described(f"<think>{text}</think>", "sentences")
    described(text, "code")


RECORD = Path(__file__).parents[2] / "recorded" / "videorft_semantic.json"


@pytest.mark.parametrize("case", json.loads(RECORD.read_text())["cases"], ids=lambda case: case["name"])
def test_as_the_public_reward_does(case: dict[str, Any]) -> None:
    """Texts that reach the encoder, and values from its cosines, as VideoRFT's own function gives them.

    Exceptions: it turns what goes wrong with a video into 0 (here an error); it shows float frames as their colour
    negatives (here uint8 frames stay as they are); its gate is in the trainer (here `rewards[].gate`).
    """
    given = case["input"]
    assert [described(text, "code") for text in given["completions"]] == case["output"]["texts"]
    for column, value in enumerate(case["output"]["rewards"]):
        frames = [row[column] for row in given["cosines"]]
        assert consistency(frames, sum(frames) / len(frames), "code", given["w_scale"]) == pytest.approx(
            value, abs=1e-6
        )


@pytest.mark.parametrize(
    ("answer", "reference", "beta", "value"),
    [(1.0, 0.5, 1.0, 0.393469), (1.0, 0.5, 4.0, 0.864665), (0.5, 0.5, 1.0, 0.0), (0.2, 0.5, 1.0, 0.0)],
)
def test_worked_numbers_relative_to_the_reference(answer: float, reference: float, beta: float, value: float) -> None:
    assert relative(answer - reference, beta) == pytest.approx(value, abs=1e-6)


@given(st.floats(-1e300, 1e300), st.floats(1e-6, 1e3))
def test_it_stays_between_0_and_1(margin: float, beta: float) -> None:
    assert 0.0 <= relative(margin, beta) <= 1.0


def test_without_an_answer_no_reward_model_is_asked() -> None:
    rollouts = [Rollout(text="x"), Rollout(text="<answer></answer>")]
    scores = bind("rm_relative", {"url": "http://127.0.0.1:1", "retries": 0})(sample("owl"), rollouts)
    assert scores == [Score(total=0.0, flags={"answered": False})] * 2


def test_a_beta_that_is_none() -> None:
    with pytest.raises(ConfigError, match=r"option beta: got -1\.0, expected a number above 0"):
        bind("rm_relative", {"url": "http://127.0.0.1:1", "beta": -1.0})
