"""Video-R1 on recorded inputs: rewards, temporal and length bonus, advantages and the loss are those of its code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mmreason.algorithms.advantages import group
from mmreason.algorithms.aggregation import StepCounts, sequence_mean
from mmreason.algorithms.clips import Bounds
from mmreason.algorithms.losses import Objective, add, kl_loss, policy_loss
from mmreason.algorithms.ratios import Tokens
from mmreason.algorithms.shaping import apply, length_bonus, temporal_bonus
from mmreason.rewards import bind
from mmreason.types import Message, Rollout, RolloutGroup, Sample, Score, Segment

RECORDED = Path(__file__).parents[2] / "recorded"
TASKS = {
    "multiple choice": "mcq",
    "numerical": "numeric",
    "OCR": "ocr",
    "free-form": "free_form",
    "regression": "regression",
}


def cases(name: str) -> list[dict[str, Any]]:
    record = json.loads((RECORDED / f"video_r1_{name}.json").read_text(encoding="utf-8"))
    assert record["commit"] == "59d65c347e44efa71be27abf9d89b4a2bb7d1c05"
    found: list[dict[str, Any]] = record["cases"]
    return found


@pytest.mark.parametrize("case", cases("rewards"), ids=lambda case: str(case["input"])[:60])
def test_rewards(case: dict[str, Any]) -> None:
    given = case["input"]
    if given["problem_type"] not in TASKS:
        assert case["output"]["accuracy"] == 0, "a type that their table lacks"
        return
    question = Message(role="user", content=("?",))
    task = TASKS[given["problem_type"]]
    options = tuple("AB") if task == "mcq" else ()
    sample = Sample(id="q", messages=(question,), answer=given["gold"], task=task, options=options)
    rollout = Rollout(text=given["completion"])
    (accuracy,) = bind("accuracy", {"variant": "video_r1"})(sample, [rollout])
    (shape,) = bind("format", {"variant": "video_r1"})(sample, [rollout])
    assert accuracy.total == pytest.approx(case["output"]["accuracy"], abs=1e-9)
    assert shape.total == case["output"]["format"]


def shaped(given: dict[str, Any]) -> RolloutGroup:
    """The group of a case after Video-R1's shapers in the mode `code`."""
    lengths: list[int] = given["lengths"]
    answers = [
        Segment(kind="policy", ids=torch.zeros(n, dtype=torch.int64), loss_mask=torch.ones(n) > 0) for n in lengths
    ]
    made = RolloutGroup(
        sample=Sample(id="q", messages=(Message(role="user", content=("?",)),)),
        prompt=Segment(kind="prompt", ids=torch.zeros(1, dtype=torch.int64), loss_mask=torch.zeros(1) > 0),
        rollouts=tuple(Rollout(text="", segments=(answer,)) for answer in answers),
        scores=tuple(
            Score(total=right + form, parts={"accuracy": right, "format": form})
            for right, form in zip(given["accuracy"], given["format"], strict=True)
        ),
        contrast=tuple(Score(total=value, parts={"accuracy": value}) for value in given["shuffled"]),
    )
    made = apply(made, temporal_bonus(made, mode="code"), "temporal_bonus", 1.0)
    return apply(made, length_bonus(made), "length_bonus", 1.0)


def advantages(made: RolloutGroup) -> torch.Tensor:
    rewards = torch.tensor([[score.total for score in made.scores]], dtype=torch.float64)
    return group(rewards)[0]


@pytest.mark.parametrize("case", cases("t_grpo"))
def test_bonuses_and_advantages(case: dict[str, Any]) -> None:
    made = shaped(case["input"])
    assert [score.total for score in made.scores] == pytest.approx(case["output"]["rewards"], abs=1e-6)
    assert advantages(made).tolist() == pytest.approx(case["output"]["advantages"], abs=2e-5)


def test_the_recorded_groups_tell_the_rules_apart() -> None:
    given = [case["input"] for case in cases("t_grpo")]
    assert {bool(temporal_bonus(made, mode="code").bonus) for made in map(shaped, given)} == {True, False}
    outputs = [case["output"]["rewards"] for case in cases("t_grpo")]
    plain = [[a + f for a, f in zip(g["accuracy"], g["format"], strict=True)] for g in given]
    gained = {
        round(after - before, 3)
        for new, old in zip(outputs, plain, strict=True)
        for after, before in zip(new, old, strict=True)
    }
    assert gained == {0.0, 0.2, 0.3, 0.5}


@pytest.mark.parametrize("case", cases("loss"))
def test_loss_and_gradient(case: dict[str, Any]) -> None:
    """clip none, k3 with beta 0.04 and log-ratios cut to 10, every answer counting the same."""
    given = case["input"]
    made, lengths = shaped(given), torch.tensor(given["lengths"])
    real = torch.arange(5)[None] < lengths[:, None]
    logprob = torch.tensor(given["logprob"], requires_grad=True)
    counts = StepCounts(sequences=8, tokens=int(lengths.sum()), max_new_tokens=5)
    weight = torch.tensor([sequence_mean(int(length), counts) for length in lengths])[:, None].expand(8, 5)
    tokens = Tokens(
        logprob=logprob[real],
        old=logprob.detach()[real],
        advantage=advantages(made).float()[:, None].expand(8, 5)[real],
        weight=weight[real],
        answer=torch.arange(8)[:, None].expand(8, 5)[real],
        group=torch.zeros(8, 5, dtype=torch.int64)[real],
    )
    reference = torch.tensor(given["reference"])[real]
    gap = (reference - logprob.detach()[real]).abs().max()
    bounds = Bounds(max_log_ratio=10.0) if gap > 10 else Bounds()  # recipes of others have no cut at 10
    kl = kl_loss(tokens, reference, coefficient=0.04, estimator="k3", limit=bounds.max_log_ratio)
    out = add(policy_loss(tokens, Objective(clip="none", bounds=bounds)), kl)
    out.loss.backward()  # type: ignore[no-untyped-call]
    assert logprob.grad is not None
    assert out.loss.item() == pytest.approx(case["output"]["loss"], rel=1e-5, abs=1e-6)
    expected = torch.tensor(case["output"]["gradient"])
    torch.testing.assert_close(logprob.grad, expected, rtol=1e-4, atol=2e-6)


def test_some_recorded_log_ratios_are_cut() -> None:
    gaps = [torch.tensor(c["input"]["reference"]) - torch.tensor(c["input"]["logprob"]) for c in cases("loss")]
    assert max(float(gap.abs().max()) for gap in gaps) > 10
