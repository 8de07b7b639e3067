"""Our losses against TRL's own: loss, every gradient, and weights after 20 AdamW steps, on one batch, float32.

TRL's `_compute_loss` runs as it is installed, on a trainer made without its constructor: only the attributes that the
method reads are set, and the log-probs come from a table of logits instead of a language model.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmreason.algorithms.aggregation import AGGREGATIONS, StepCounts
from mmreason.algorithms.clips import Bounds
from mmreason.algorithms.losses import Objective, add, kl_loss, policy_loss
from mmreason.algorithms.ratios import Tokens

B, T, V, LONGEST = 6, 7, 11, 9
LENGTHS = [7, 1, 4, 6, 3, 5]


class Table(nn.Module):
    """Logits for every place: as good a policy as any, and each gradient can be seen."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.logits = nn.Parameter(torch.randn(B, T, V, generator=generator))
        self.bias = nn.Parameter(torch.randn(V, generator=generator) / 3)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Log-probs of these tokens. [B, T]"""
        return (self.logits + self.bias).log_softmax(-1).gather(-1, ids_BT[..., None])[..., 0]


@dataclass(frozen=True)
class Recorded:
    """One batch: sampled ids, advantages, and log-probs under the old, sampling and reference policies."""

    ids: Tensor
    mask: Tensor
    advantages: Tensor
    old: Tensor
    sampling: Tensor
    reference: Tensor


def recorded() -> Recorded:
    generator = torch.Generator().manual_seed(11)
    ids = torch.randint(V, (B, T), generator=generator)
    mask = (torch.arange(T) < torch.tensor(LENGTHS)[:, None]).long()
    now = Table()(ids).detach()
    noise = torch.randn(3, B, T, generator=generator)
    old = now + 0.3 * noise[0]
    advantages = torch.tensor([1.1, -0.7, 0.4, -1.3, 0.0, 0.9])
    return Recorded(ids, mask, advantages, old, old + 0.4 * noise[1], now + 0.5 * noise[2])


@dataclass(frozen=True)
class Case:
    """The same objective in TRL's words and in ours."""

    name: str
    trl: dict[str, Any]
    ours: Objective
    aggregation: str
    beta: float = 0.0
    estimator: str = "k3"
    args: dict[str, Any] = field(default_factory=dict)


PPO = {"epsilon_low": 0.2, "epsilon_high": 0.28}
GSPO = {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon_low": 0.03, "epsilon_high": 0.04}
OURS_GSPO = Objective(ratio="sequence", bounds=Bounds(low=0.03, high=0.04))
CASES = [
    Case("grpo", {"loss_type": "grpo", **PPO}, Objective(), "sequence_mean"),
    Case("bnpo", {"loss_type": "bnpo", **PPO}, Objective(), "token_mean"),
    Case("dapo", {"loss_type": "dapo", **PPO}, Objective(), "token_mean"),
    Case("dr_grpo", {"loss_type": "dr_grpo", **PPO}, Objective(), "constant"),
    Case(
        "cispo",
        {"loss_type": "cispo", "epsilon_high": 1.2},
        Objective(clip="cispo", bounds=Bounds(low=1, high=0.2)),
        "token_mean",
    ),
    Case("sapo", {"loss_type": "sapo"}, Objective(clip="sapo"), "sequence_mean"),
    Case("gspo", GSPO, OURS_GSPO, "sequence_mean"),
    Case("luspo", {**GSPO, "loss_type": "luspo"}, OURS_GSPO, "sequence_sum"),
    Case("delta", {"loss_type": "dapo", **PPO}, Objective(bounds=Bounds(dual=1.4)), "token_mean", args={"delta": 1.4}),
    Case("grpo+kl", {"loss_type": "grpo", **PPO}, Objective(), "sequence_mean", beta=0.3),
    Case("gspo+kl", GSPO, OURS_GSPO, "sequence_mean", beta=0.3),
    Case(
        "dapo+corrected kl",
        {"loss_type": "dapo", **PPO},
        Objective(),
        "token_mean",
        0.3,
        "k3*",
        {"use_bias_correction_kl": True},
    ),
    *(
        Case(
            f"dapo, {mode}",
            {"loss_type": "dapo", "mode": mode, **PPO},
            Objective(correction=mode, weight_high=high),
            "token_mean",
            0.1,
        )
        for mode, high in (
            ("token_truncate", 1.2),
            ("token_mask", 1.2),
            ("sequence_truncate", 1.5),
            ("sequence_mask", 1.5),
        )
    ),
]


class Single:
    """What `_compute_loss` asks of accelerate, for one process."""

    num_processes = 1

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor

    def reduce(self, tensor: Tensor, reduction: str = "sum") -> Tensor:
        return tensor


@cache
def trainer_class() -> type[Any]:
    """TRL's trainer. Importing it imports vLLM where that is installed, and the warnings that come then are theirs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.trainer.grpo_trainer import GRPOTrainer
    return GRPOTrainer


def theirs(case: Case, table: Table, batch: Recorded) -> Tensor:
    """TRL's loss of this batch."""

    class FromTable(trainer_class()):  # type: ignore[misc]
        def __init__(self) -> None:
            pass

        def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> Any:
            return model(batch.ids), torch.zeros(B, T), None

    weighted = case.ours.correction != "none"
    given = {
        "importance_sampling_level": "token",
        "epsilon_low": None,
        "epsilon_high": None,
        "beta": case.beta,
        "model": table,
        "accelerator": Single(),
        "max_completion_length": LONGEST,
        "current_gradient_accumulation_steps": 1,
        "aux_loss_enabled": False,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "use_vllm": weighted,
        "vllm_importance_sampling_correction": weighted,
        "_entropy_bonus_enabled": False,
        "_metrics": {"train": _Anything()},
        "args": SimpleNamespace(
            **{
                "delta": None,
                "use_bias_correction_kl": False,
                "sapo_temperature_pos": 1.0,
                "sapo_temperature_neg": 1.05,
                "steps_per_generation": 1,
                **case.args,
            }
        ),
        **case.trl,
    }
    trainer: Any = FromTable()
    for name, value in given.items():
        setattr(trainer, name, value)
    inputs = {
        "prompt_ids": batch.ids[:, :1],
        "prompt_mask": torch.ones(B, 1, dtype=torch.long),
        "completion_ids": batch.ids,
        "completion_mask": batch.mask,
        "advantages": batch.advantages,
        "old_per_token_logps": batch.old,
        "ref_per_token_logps": batch.reference,
        "num_items_in_batch": batch.mask.sum(),
    }
    if weighted:
        inputs["importance_sampling_ratio"] = weights_of(case, batch)
    loss: Tensor = trainer._compute_loss(table, inputs)
    return loss


class _Anything(dict[str, list[float]]):
    def __missing__(self, key: str) -> list[float]:
        return self.setdefault(key, [])


def weights_of(case: Case, batch: Recorded) -> Tensor:
    """TRL computes these inside its sampling, which cannot be called: by its documentation, not by our functions."""
    level, cut = case.ours.correction.split("_")
    gap = (batch.old - batch.sampling) * batch.mask
    ratio = (gap.sum(-1, keepdim=True) if level == "sequence" else gap).exp()
    high = case.ours.weight_high
    return ratio.clamp(max=high) if cut == "truncate" else ratio * (ratio <= high)


def ours(case: Case, table: Table, batch: Recorded) -> Tensor:
    """The same with our functions, the answers side by side in one row."""
    counts = StepCounts(sequences=B, tokens=sum(LENGTHS), max_new_tokens=LONGEST)
    real = batch.mask.bool()
    weights = torch.tensor([AGGREGATIONS[case.aggregation](length, counts) for length in LENGTHS])
    tokens = Tokens(
        logprob=table(batch.ids)[real],
        old=batch.old[real],
        advantage=batch.advantages[:, None].expand(B, T)[real],
        weight=weights[:, None].expand(B, T)[real],
        answer=torch.arange(1, B + 1)[:, None].expand(B, T)[real],
        group=torch.ones(sum(LENGTHS), dtype=torch.long),
    )
    out = policy_loss(tokens, case.ours, batch.sampling[real])
    if case.beta:
        out = add(out, kl_loss(tokens, batch.reference[real], coefficient=case.beta, estimator=case.estimator))
    return out.loss


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_loss_and_gradients_are_those_of_trl(case: Case) -> None:
    batch, found = recorded(), []
    for loss_of in (theirs, ours):
        table = Table()
        loss = loss_of(case, table, batch)
        torch.autograd.backward(loss)
        found.append((loss.detach(), table.logits.grad, table.bias.grad))
    assert found[0][1] is not None
    assert found[0][1].abs().max() > 1e-3
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_weights_after_20_adamw_steps_are_those_of_trl(case: Case) -> None:
    batch, found = recorded(), []
    for loss_of in (theirs, ours):
        table = Table()
        # eps: with the default 1e-8 Adam divides gradients of rounding size by themselves.
        optimizer = torch.optim.AdamW(table.parameters(), lr=1e-2, eps=1e-4)
        for _ in range(20):
            optimizer.zero_grad()
            torch.autograd.backward(loss_of(case, table, batch))
            optimizer.step()
        found.append(torch.cat([parameter.detach().flatten() for parameter in table.parameters()]))
    moved = (found[0] - torch.cat([parameter.detach().flatten() for parameter in Table().parameters()])).abs()
    assert moved.max() > 0.05
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=0)


def test_the_recorded_batch_reaches_every_bound() -> None:
    batch = recorded()
    ratio = (Table()(batch.ids) - batch.old).exp()
    real, positive = batch.mask.bool(), batch.advantages[:, None] > 0
    negative = batch.advantages[:, None] < 0
    assert (real & positive & (ratio > 1.28)).any()
    assert (real & negative & (ratio < 0.8)).any()
    assert (real & negative & (ratio > 1.4)).any()
    sequence = ((ratio.log() * real).sum(-1) / real.sum(-1)).exp()
    assert ((sequence > 1.04) & (batch.advantages > 0)).any() or ((sequence < 0.97) & (batch.advantages < 0)).any()
    gaps = ((batch.old - batch.sampling) * real).sum(-1)
    assert 0 < (gaps > math.log(1.5)).sum() < B
