"""Intervals and counts by hand; one evaluation with a real model, encoder and engine."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmreason.config import DataConfig, MediaConfig, ModelConfig
from mmreason.encode import Encoder
from mmreason.evaluation import EvalAnswer, EvalResult, EvalRow, evaluate
from mmreason.evaluation.dependence import dependence, dependence_lines
from mmreason.evaluation.rows import Status
from mmreason.evaluation.statistics import estimate, ks_up_to, pass_at_k, wilson
from mmreason.policy.policy import load_policy
from mmreason.processors.pipeline import MediaPipeline
from mmreason.rollout.base import SamplingParams
from mmreason.rollout.hf import HFEngine
from mmreason.types import MediaRef, Message, Rollout, Sample, Score


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (8, 10, 0.4901625, 0.9433178),  # as R's prop.test(8, 10, correct=FALSE)
        (0, 10, 0.0, 0.2775328),
        (10, 10, 0.7224672, 1.0),
        (50, 100, 0.4038315, 0.5961685),
    ],
)
def test_of_right_and_wrong_the_interval_is_wilsons(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes / n, n) == pytest.approx((low, high), abs=1e-6)
    found = estimate([1.0] * successes + [0.0] * (n - successes))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-6)
    assert found.of == n
    assert found.value == successes / n


def test_nothing_known_is_anything_from_0_to_1() -> None:
    assert wilson(0.0, 0) == (0.0, 1.0)
    found = estimate([])
    assert math.isnan(found.value)
    assert (found.low, found.high) == (0.0, 1.0)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_draws_with_a_right_answer(n: int) -> None:
    for right in range(n + 1):
        marks = [True] * right + [False] * (n - right)
        for k in range(1, n + 1):
            draws = list(itertools.combinations(marks, k))
            assert pass_at_k(n, right, k) == pytest.approx(sum(map(any, draws)) / len(draws), abs=1e-12)


def test_pass_at_k_of_many_answers() -> None:
    assert pass_at_k(100_000, 1, 50_000) == pytest.approx(0.5, abs=1e-9)
    assert pass_at_k(10_000, 3, 1) == pytest.approx(3e-4, rel=1e-9)


def test_ks() -> None:
    assert [ks_up_to(n) for n in (1, 2, 3, 8, 12)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 8], [1, 2, 4, 8, 12]]


@pytest.mark.parametrize(("k", "spread"), [(1, (0.5, 0.5)), (1, (5.0, 5.0)), (4, (0.5, 1.5)), (1, (200.0, 200.0))])
def test_intervals_hold_what_they_say(k: int, spread: tuple[float, float]) -> None:
    """95 % intervals of pass@k over 60 questions of random difficulty hold the true value about 95 times of 100."""
    n, questions, times = 8, 60, 1000
    random = np.random.default_rng(0)
    truth = float(np.mean(1 - (1 - random.beta(*spread, 1_000_000)) ** k))
    held = 0
    for _ in range(times):
        right = random.binomial(n, random.beta(*spread, questions))
        found = estimate([pass_at_k(n, int(c), k) for c in right], draws=n / k)
        held += found.low <= truth <= found.high
    assert 0.93 <= held / times <= 0.99, held / times


def test_values_that_agree_claim_no_more_than_their_draws() -> None:
    found = estimate([0.5] * 10, draws=4)
    assert (found.low, found.high) == pytest.approx(wilson(0.5, 40))


def answers(*marks: bool | None, votes: Sequence[int | None] | None = None, **more: Any) -> tuple[EvalAnswer, ...]:
    given = votes or [None] * len(marks)
    return tuple(EvalAnswer(text="t", correct=m, vote=v, **more) for m, v in zip(marks, given, strict=True))


def row(modality: str, *marks: bool | None, task: str = "mcq", source: str = "s", **more: Any) -> EvalRow:
    status: Status = "quarantined" if not marks else "unscored" if None in marks else "scored"
    made = answers(*marks, **{"tokens": 4, **more})
    return EvalRow(id="x", modality=modality, task=task, source=source, status=status, answers=made)


def test_counts_by_hand() -> None:
    first = EvalResult(
        rows=(
            row("image", True),
            row("image", True, task="numeric", tokens=8, truncated=True),
            row("image"),
            row("text", False),
        )
    )
    second = EvalResult(rows=(row("text", True, source="t"), row("video", None), row("text", False)))
    joined = EvalResult.join([first, second])
    metrics = joined.metrics()
    assert metrics["accuracy/image"] == 1.0
    assert metrics["accuracy/text"] == pytest.approx(1 / 3)
    assert metrics["accuracy/mean"] == pytest.approx((1 + 1 / 3) / 2)
    assert metrics["accuracy/all"] == pytest.approx(3 / 5)
    assert (metrics["accuracy/text/low"], metrics["accuracy/text/high"]) == wilson(1 / 3, 3)
    assert metrics["accuracy/task:numeric/of"] == 1
    assert metrics["accuracy/source:t"] == 1.0
    assert "accuracy/video" not in metrics
    assert (metrics["samples"], metrics["quarantined"], metrics["unscored"]) == (7, 1, 1)
    assert metrics["length/mean"] == pytest.approx((4 * 5 + 8) / 6)
    assert metrics["length/truncated"] == pytest.approx(1 / 6)
    expected = "accuracy 60 % [23-88] of 5: image 100, text 33, video -; 1 quarantined; 1 unscored"
    assert joined.summary() == expected


def test_several_answers_by_hand() -> None:
    first = row("image", True, False, False, True, votes=[0, 1, 1, 0])
    second = row("text", False, False, True, False, votes=[0, 1, 2, 1])
    silent = row("text", False, False, False, False, votes=[None, None, None, None])
    assert (first.majority, second.majority, silent.majority) == (0, 1, None), "of two, the one that came first"
    result = EvalResult(rows=(first, second, silent))
    metrics = result.metrics()
    assert metrics["accuracy/all"] == pytest.approx((2 / 4 + 1 / 4) / 3)
    assert metrics["pass@2/all"] == pytest.approx((5 / 6 + 3 / 6) / 3)
    assert metrics["pass@4/all"] == pytest.approx(2 / 3)
    assert metrics["maj@4/all"] == pytest.approx(1 / 3), "a question without a vote is not won"
    assert metrics["pass@4/image"] == 1.0
    assert metrics["maj@4/text/of"] == 2
    assert metrics["length/mean"] == 4
    assert result.table().splitlines()[0].split() == ["%", "of", "accuracy", "pass@2", "pass@4", "maj@4"]
    assert result.table().splitlines()[1].split()[:3] == ["all", "3", "25.0"]


def test_nothing_to_evaluate_gives_no_share() -> None:
    empty = EvalResult(rows=())
    assert math.isnan(empty.mean)
    assert empty.metrics() == {"samples": 0, "quarantined": 0, "unscored": 0}


def test_with_a_real_model(tiny_omni: Path, tmp_path: Path) -> None:
    policy = load_policy(ModelConfig(path=str(tiny_omni)))
    pipeline = MediaPipeline(MediaConfig(workers=0), policy.family.traits(policy.base.config), policy.processor)
    encoder = Encoder(policy.processor, policy.tokenizer, policy.rules, pipeline, DataConfig())
    missing = MediaRef(kind="image", path=str(tmp_path / "absent.png"))
    samples = [
        Sample(id=f"q{index}", messages=(Message(role="user", content=content),), answer=str(index))
        for index, content in enumerate([("2+3?",), (missing, "What?"), ("4+4?",), ("5+1?",)])
    ]

    def score(groups: Sequence[tuple[Sample, Sequence[Rollout]]]) -> list[list[Score]]:
        """q0 is right, q2 cannot be scored, q3 is scored by a reward that knows no right and wrong."""
        marks = {
            "q0": Score(total=1.0, flags={"correct": True}),
            "q2": Score(total=None, error="the gold answer does not parse"),
            "q3": Score(total=0.5),
        }
        return [[marks[sample.id]] * len(answers) for sample, answers in groups]

    params = SamplingParams(greedy=True, max_new_tokens=6)
    result = evaluate(samples, encoder, HFEngine(policy, encoder), score, params)
    assert [item.status for item in result.rows] == ["scored", "quarantined", "unscored", "unscored"]
    assert "absent.png" in result.rows[1].reason
    assert result.rows[2].reason == "the gold answer does not parse"
    assert "add accuracy" in result.rows[3].reason
    assert result.rows[0].answers[0].tokens in range(1, 7)
    assert evaluate(samples, encoder, HFEngine(policy, encoder), score, params) == result
    assert evaluate(samples[1:2], encoder, HFEngine(policy, encoder), score, params).rows[0].status == "quarantined"


def test_dependence_by_hand() -> None:
    """Paired: 4 videos, right and right, right and wrong, right and wrong, wrong and right; one is not scored twice."""

    def rows(*marks: bool | None) -> EvalResult:
        named = [row("video", mark) for mark in marks]
        return EvalResult(rows=tuple(replace(one, id=f"q{number}") for number, one in enumerate(named)))

    shown, shuffled = rows(True, True, True, False, True, None), rows(True, False, False, True, None, True)
    found = dependence(shown, {"shuffled": shuffled})
    half = 1.959964 * math.sqrt((0.25**2 + 0.75**2 * 2 + 1.25**2) / 3 / 4)
    assert found["dependence/shuffled/video"] == found["dependence/shuffled/all"] == 0.25
    assert found["dependence/shuffled/video/of"] == 4
    assert found["dependence/shuffled/video/low"] == pytest.approx(0.25 - half)
    assert found["dependence/shuffled/video/high"] == 1.0
    (line,) = dependence_lines(found)
    assert line == (
        "accuracy as it is minus in view shuffled: all +25.0 [-69 to 100] of 4, video +25.0 [-69 to 100] of 4"
    )
    assert dependence(shown, {"none": EvalResult(rows=())}) == {}
    assert dependence(shown, {"none": rows(False)})["dependence/none/all/low"] == -1.0
