"""Scored groups as tensors."""

from __future__ import annotations

import math

import torch

from mmreason.config import build_config
from mmreason.training.outcomes import outcomes_of
from mmreason.types import Message, Rollout, RolloutGroup, Sample, Score, Segment


def test_an_answer_without_a_score_is_in_no_statistics_of_any_reward() -> None:
    """Where one of its rewards failed, the others' values are known and do not count either."""
    rewards = [{"name": "accuracy"}, {"name": "format"}]
    model, data = {"path": "m"}, {"train": [{"path": "d.jsonl"}]}
    config = build_config(
        {"run_dir": "r", "model": model, "data": data, "rewards": rewards, "rollout": {"n": 2}}, "test"
    )
    scores = (Score(total=1.0, parts={"accuracy": 1.0, "format": 0.0}), Score(total=None, parts={"format": 1.0}))
    group = RolloutGroup(
        sample=Sample(id="q", messages=(Message(role="user", content=("?",)),)),
        prompt=Segment(kind="prompt", ids=torch.zeros(1, dtype=torch.int64), loss_mask=torch.zeros(1) > 0),
        rollouts=(Rollout(text="a"), Rollout(text="b")),
        scores=scores,
    )
    outcomes = outcomes_of(config, [group])
    assert outcomes.parts_NGK[0, 0].tolist() == [1.0, 0.0]
    assert all(map(math.isnan, outcomes.parts_NGK[0, 1].tolist()))
    assert math.isnan(outcomes.total_NG[0, 1])
