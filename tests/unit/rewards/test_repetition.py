"""Repetition: by hand, as the published codes gave it, and on any text."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmreason.errors import RewardError
from mmreason.rewards import bind
from mmreason.rewards.base import TextRollout
from mmreason.types import Rollout
from tests.unit.rewards.helpers import grade, sample

RECORDED = Path(__file__).parents[2] / "recorded"


def value(text: str, **options: Any) -> float | None:
    return grade("repetition", sample(), text, **options).total


def recorded(name: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((RECORDED / name).read_text())["cases"]
    return cases


def test_worked_numbers() -> None:
    assert value("a b a b a b", n=2) == pytest.approx(-0.6)
    assert value("a b a b a b", n=2, penalty=-0.5) == pytest.approx(-0.3)
    assert value("1 2 3 1 2 4", n=2, variant="dense") == pytest.approx(-0.1)
    assert value("a b", n=3) == value("", n=3) == value("", variant="dense") == value("", variant="vlmr1") == 0


def test_sparse_equals_demystify_long_cot() -> None:
    for case in recorded("demystify_repetition.json"):
        asked = case["input"]
        assert value(asked["text"], n=asked["n"], penalty=asked["penalty"]) == pytest.approx(case["output"])


def test_dense_is_the_sum_of_demystify_long_cots_tokens() -> None:
    for case in recorded("demystify_repetition_dense.json"):
        rollout = TextRollout(text="x", token_ids=tuple(case["input"]["ids"]))
        options = {"variant": "dense", "n": case["input"]["n"], "unit": "tokens"}
        (score,) = bind("repetition", options)(sample(), [rollout])
        assert score.total == pytest.approx(sum(case["output"])), case


def test_boxes_equal_vlm_r1() -> None:
    for case in recorded("vlm_r1_repetition.json"):
        assert value(case["input"]["text"], variant="vlmr1") == pytest.approx(case["output"]), case


def test_tokens_need_an_answer_that_was_sampled() -> None:
    with pytest.raises(RewardError, match="counts tokens, and a text alone has none; set the option unit to words"):
        bind("repetition", {"unit": "tokens"})(sample(), [Rollout(text="a")])
    with pytest.raises(RewardError, match=r"n 6, penalty 1\.0: expected n of at least 1 and a penalty of at most 0"):
        value("a", penalty=1.0)


@given(st.text(alphabet="[]{}\"`json: 12ab,\n", max_size=200), st.sampled_from(["sparse", "vlmr1"]))
def test_any_text_is_within_its_range(text: str, variant: str) -> None:
    total = value(text, variant=variant, n=2)
    assert total is not None
    assert -1 <= total <= 0


@pytest.mark.parametrize("text", ["[{" * 50_000, "[ " * 50_000, "```json" * 30_000, "[" * 100_000, "a " * 40_000])
def test_long_texts_take_no_time(text: str) -> None:
    began = time.process_time()
    value(text, variant="vlmr1")
    value(text, variant="dense", n=40)
    assert time.process_time() - began < 4
