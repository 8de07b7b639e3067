"""Scored groups as tensors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mmreason.algorithms.advantages import ADVANTAGES
from mmreason.config import RunConfig, build_config
from mmreason.training.outcomes import outcomes_of, teaches
from mmreason.types import Message, Rollout, RolloutGroup, Sample, Score, Segment


def given(rewards: list[dict[str, Any]], scores: tuple[Score, ...], **grpo: Any) -> tuple[RunConfig, RolloutGroup]:
    model, data = {"path": "m"}, {"train": [{"path": "d.jsonl"}]}
    config = build_config(
        {"run_dir": "r", "model": model, "data": data, "rewards": rewards, "rollout": {"n": len(scores)}, "grpo": grpo},
        "test",
    )
    group = RolloutGroup(
        sample=Sample(id="q", messages=(Message(role="user", content=("?",)),)),
        prompt=Segment(kind="prompt", ids=torch.zeros(1, dtype=torch.int64), loss_mask=torch.zeros(1) > 0),
        rollouts=tuple(Rollout(text="a") for _ in scores),
        scores=scores,
    )
    return config, group


def test_an_answer_without_a_score_is_in_no_statistics_of_any_reward() -> None:
    """Where one of its rewards failed, the others' values are known and do not count either."""
    scores = (Score(total=1.0, parts={"accuracy": 1.0, "format": 0.0}), Score(total=None, parts={"format": 1.0}))
    config, group = given([{"name": "accuracy"}, {"name": "format"}], scores)
    outcomes = outcomes_of(config, [group])
    assert outcomes.parts_NGK[0, 0].tolist() == [1.0, 0.0]
    assert all(map(math.isnan, outcomes.parts_NGK[0, 1].tolist()))
    assert math.isnan(outcomes.total_NG[0, 1])


@pytest.mark.parametrize(
    ("parts", "weights", "expected"),
    [
        ([(1.0, 0.0), (0.0, 1.0)], (1.0, 1.0), {"group": False, "gdpo": False}),  # opposite, and of one weight
        ([(1.0, 0.0), (0.0, 2.0)], (1.0, 0.5), {"group": False, "gdpo": True}),
        ([(0.0, 1.0), (0.0, 1.0)], (1.0, 1.0), {"group": False, "gdpo": False}),
        ([(1.0, 1.0), (0.0, 1.0)], (1.0, 1.0), {"group": True, "gdpo": True}),
    ],
)
def test_a_group_teaches_what_its_advantage_tells_apart(
    parts: list[tuple[float, float]], weights: tuple[float, float], expected: dict[str, bool]
) -> None:
    """GDPO weighs rewards after it has normalised them: equal sums may be unequal advantages."""
    rewards = [{"name": "accuracy", "weight": weights[0]}, {"name": "format", "weight": weights[1]}]
    scores = tuple(
        Score(total=one * weights[0] + two * weights[1], parts={"accuracy": one, "format": two}) for one, two in parts
    )
    for advantage, signal in expected.items():
        config, group = given(rewards, scores, advantage=advantage)
        assert teaches(config, group) == signal, advantage
        advantages = ADVANTAGES[advantage](outcomes_of(config, [group]), 1e-4)
        assert bool(advantages.abs().max() > 1e-6) == signal, advantage


def test_a_signal_in_one_span_is_enough() -> None:
    rewards = [{"name": "accuracy"}, {"name": "format", "span": "think"}]
    scores = (
        Score(total=1.0, parts={"accuracy": 1.0, "format": 0.0}),
        Score(total=1.0, parts={"accuracy": 0.0, "format": 1.0}),
    )
    config, group = given(rewards, scores)
    assert teaches(config, group), "the rest of an answer has accuracy alone"
    assert not teaches(*given(rewards, (scores[0], scores[0])))
