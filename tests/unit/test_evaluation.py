"""Intervals and counts by hand; one evaluation with a real model, encoder and engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from mmreason.config import DataConfig, MediaConfig, ModelConfig
from mmreason.encode import Encoder
from mmreason.evaluation import EvalResult, EvalRow, Outcome, evaluate, wilson
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
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=1e-6)


def row(modality: str, outcome: Outcome, **more: object) -> EvalRow:
    values = {"id": "x", "task": "mcq", "source": "s", "tokens": 4, **more}
    return EvalRow(modality=modality, outcome=outcome, **values)  # type: ignore[arg-type]


def test_counts_by_hand() -> None:
    first = EvalResult(
        rows=(
            row("image", "correct"),
            row("image", "correct", task="numeric", tokens=8, truncated=True),
            row("image", "quarantined", tokens=0),
            row("text", "wrong"),
        )
    )
    second = EvalResult(rows=(row("text", "correct", source="t"), row("video", "unscored"), row("text", "wrong")))
    joined = EvalResult.join([first, second])
    metrics = joined.metrics()
    assert metrics["accuracy/image"] == 1.0
    assert metrics["accuracy/text"] == pytest.approx(1 / 3)
    assert metrics["accuracy/mean"] == pytest.approx((1 + 1 / 3) / 2)
    assert metrics["accuracy/all"] == pytest.approx(3 / 5)
    assert (metrics["accuracy/text/low"], metrics["accuracy/text/high"]) == wilson(1, 3)
    assert metrics["accuracy/task:numeric/of"] == 1
    assert metrics["accuracy/source:t"] == 1.0
    assert "accuracy/video" not in metrics
    assert (metrics["samples"], metrics["quarantined"], metrics["unscored"]) == (7, 1, 1)
    assert metrics["length/mean"] == pytest.approx((4 * 5 + 8) / 6)
    assert metrics["length/truncated"] == pytest.approx(1 / 6)
    expected = "accuracy 60 % [23-88] of 5: image 100, text 33, video -; 1 quarantined; 1 unscored"
    assert joined.summary() == expected


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
    assert [item.outcome for item in result.rows] == ["correct", "quarantined", "unscored", "unscored"]
    assert "absent.png" in result.rows[1].reason
    assert result.rows[2].reason == "the gold answer does not parse"
    assert "add accuracy" in result.rows[3].reason
    assert result.rows[0].tokens in range(1, 7)
    assert evaluate(samples, encoder, HFEngine(policy, encoder), score, params) == result
    assert evaluate(samples[1:2], encoder, HFEngine(policy, encoder), score, params).rows[0].outcome == "quarantined"
