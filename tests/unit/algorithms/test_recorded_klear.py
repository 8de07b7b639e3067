"""Klear's GPPO on recorded inputs: advantages, loss and gradient are those of its public code."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mmreason.algorithms.advantages import group
from mmreason.algorithms.clips import Bounds
from mmreason.algorithms.losses import Objective, policy_loss
from tests.unit.algorithms.rows import tokens_of

RECORD = json.loads((Path(__file__).parents[2] / "recorded" / "klear_gppo.json").read_text("utf-8"))


@pytest.mark.parametrize("case", RECORD["cases"], ids=lambda case: str(case["input"]["rewards"]))
def test_advantages_loss_and_gradient(case: dict[str, dict[str, Any]]) -> None:
    given, wanted = case["input"], case["output"]
    advantages = group(torch.tensor([given["rewards"]], dtype=torch.float64), 1e-6)[0]
    assert advantages.tolist() == pytest.approx(wanted["advantages"], abs=1e-6)
    gaps = [[n - o for n, o in zip(*pair, strict=True)] for pair in zip(given["new"], given["old"], strict=True)]
    tokens, leaf = tokens_of(gaps, wanted["advantages"])
    bounds = Bounds(low=given["clip_low"], high=given["clip_high"], dual=given["dual"])
    loss = policy_loss(tokens, Objective(clip="gppo", bounds=bounds)).loss
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert loss.item() == pytest.approx(wanted["loss"], abs=1e-9)
    assert gradient.tolist() == pytest.approx([value for row in wanted["gradient"] for value in row], abs=1e-9)
