"""DPO: by hand, and against TRL 1.16's own `_compute_loss` on one batch, loss, gradients and weights."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmreason.algorithms.dpo import dpo_loss, log_ratios, numbered_from_1

P, T, V = 4, 7, 11
LENGTHS = [7, 1, 4, 6, 3, 5, 2, 7]
"""Of four chosen answers, then of the four rejected ones."""
BETA = 0.3


class Table(nn.Module):
    """Logits for every place of every answer; the prompt is one token."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.logits = nn.Parameter(torch.randn(2 * P, T, V, generator=generator))
        self.bias = nn.Parameter(torch.randn(V, generator=generator) / 3)

    def logprob(self, ids_BT: Tensor) -> Tensor:
        return (self.logits + self.bias).log_softmax(-1).gather(-1, ids_BT[..., None])[..., 0]

    def forward(self, *, input_ids: Tensor, labels: Tensor, **_: Any) -> SimpleNamespace:
        """As TRL's fused head: log-probs of all tokens but the first, 0 where the label says nothing."""
        found = self.logprob(input_ids[:, 1:]).masked_fill(labels[:, 1:] == -100, 0.0)
        blank = torch.zeros_like(found)
        return SimpleNamespace(log_probs=found, entropy=blank, mean_logits=blank, is_top1=blank.bool())


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """ids [2P, T], mask [2P, T], reference log-probs [2P, T]."""
    generator = torch.Generator().manual_seed(11)
    ids = torch.randint(V, (2 * P, T), generator=generator)
    mask = (torch.arange(T) < torch.tensor(LENGTHS)[:, None]).long()
    reference = Table().logprob(ids).detach() + 0.5 * torch.randn(2 * P, T, generator=generator)
    return ids, mask, reference


def theirs(table: Table, loss_type: str) -> Tensor:
    from trl.trainer.dpo_trainer import DPOTrainer

    class FromTable(DPOTrainer):
        def __init__(self) -> None:
            pass

    ids, mask, reference = batch()
    summed = (reference * mask).sum(1)
    one = torch.ones(2 * P, 1, dtype=torch.long)
    trainer: Any = FromTable()
    given = {
        "model": table,
        "accelerator": SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x),
        "aux_loss_enabled": False,
        "ld_alpha": None,
        "precompute_ref_logps": True,
        "f_divergence_type": "reverse_kl",
        "loss_types": [loss_type],
        "loss_weights": [1.0],
        "beta": BETA,
        "use_weighting": False,
        "_metrics": {"train": _Anything()},
        "_total_train_tokens": 0,
        "_tp_size": 1,
    }
    for name, value in given.items():
        setattr(trainer, name, value)
    inputs = {
        "input_ids": torch.cat([one, ids], 1),
        "attention_mask": torch.cat([one, mask], 1),
        "completion_mask": torch.cat([0 * one, mask], 1),
        "ref_chosen_logps": summed[:P],
        "ref_rejected_logps": summed[P:],
    }
    loss: Tensor = trainer._compute_loss(table, inputs, False)
    return loss


class _Anything(dict[str, list[float]]):
    def __missing__(self, key: str) -> list[float]:
        return self.setdefault(key, [])


def ours(table: Table, loss_type: str) -> Tensor:
    """All answers side by side in one row, pairs numbered from 1; the numbers of a step may have gaps in a row."""
    ids, mask, reference = batch()
    real = mask.bool()
    lengths = torch.tensor(LENGTHS)[:, None].expand(2 * P, T)[real]
    chosen = (torch.arange(2 * P) < P)[:, None].expand(2 * P, T)[real]
    pair, count = numbered_from_1((3 * (torch.arange(2 * P) % P) + 2)[:, None].expand(2 * P, T)[real])
    share = 1 / lengths if loss_type == "sigmoid_norm" else torch.ones(len(lengths))
    logprob = table.logprob(ids)[real]
    sides = [log_ratios(logprob, reference[real], share * side, pair, count)[1:] for side in (chosen, ~chosen)]
    return dpo_loss(*sides, beta=BETA, weight=torch.full((count,), 1 / count)).loss


@pytest.mark.parametrize("loss_type", ["sigmoid", "sigmoid_norm"])
def test_loss_and_gradients_are_those_of_trl(loss_type: str) -> None:
    found = []
    for loss_of in (theirs, ours):
        table = Table()
        loss = loss_of(table, loss_type)
        torch.autograd.backward(loss)
        found.append((loss.detach(), table.logits.grad, table.bias.grad))
    assert found[0][1] is not None
    assert found[0][1].abs().max() > 1e-3
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("loss_type", ["sigmoid", "sigmoid_norm"])
def test_weights_after_20_adamw_steps_are_those_of_trl(loss_type: str) -> None:
    found = []
    for loss_of in (theirs, ours):
        table = Table()
        optimizer = torch.optim.AdamW(table.parameters(), lr=1e-2, eps=1e-4)
        for _ in range(20):
            optimizer.zero_grad()
            torch.autograd.backward(loss_of(table, loss_type))
            optimizer.step()
        found.append(torch.cat([parameter.detach().flatten() for parameter in table.parameters()]))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=0)


def test_by_hand() -> None:
    """Log-ratios 1 and -1, beta .5: margin 1, -log sigmoid(1) = .313262. Equal answers: log 2."""
    chosen, rejected = torch.tensor([1.0, 0.3]), torch.tensor([-1.0, 0.3])
    weight = torch.tensor([0.5, 0.5])
    out = dpo_loss(chosen, rejected, beta=0.5, weight=weight)
    assert out.loss.item() == pytest.approx((0.313262 + math.log(2)) / 2, abs=1e-6)
    assert out.metrics == pytest.approx(
        {"reward/chosen": 0.325, "reward/rejected": -0.175, "margin": 0.5, "accuracy": 0.5}
    )


def test_the_gradient_is_beta_times_how_wrong_the_order_is() -> None:
    """By the chosen log-ratio: -beta sigmoid(-margin); by the rejected one its opposite. Equation 7's gradient."""
    chosen, rejected = torch.tensor([0.4]).requires_grad_(), torch.tensor([1.0]).requires_grad_()
    out = dpo_loss(chosen, rejected, beta=0.5, weight=torch.ones(1))
    slopes = torch.autograd.grad(out.loss, (chosen, rejected))
    expected = 0.5 / (1 + math.exp(-0.3))
    assert [slope.item() for slope in slopes] == pytest.approx([-expected, expected])


def test_log_ratios_are_summed_by_pair() -> None:
    """Two pairs, and tokens of none, which go to the first place."""
    logprob, reference = torch.tensor([-1.0, -2.0, -3.0, -4.0]), torch.tensor([-1.5, -1.0, -1.0, -1.0])
    found = log_ratios(logprob, reference, torch.tensor([1.0, 0.5, 1.0, 0.0]), torch.tensor([1, 1, 2, 0]), 2)
    assert found.tolist() == [0.0, 0.0, -2.0]


def test_a_row_without_pairs_gives_nothing() -> None:
    pair, count = numbered_from_1(torch.tensor([0, 1, 3, 1]))
    assert (pair.tolist(), count) == ([0, 1, 2, 1], 2)
    pair, count = numbered_from_1(torch.zeros(3, dtype=torch.int64))
    logprob = torch.zeros(3, requires_grad=True)
    sides = log_ratios(logprob, torch.zeros(3), torch.zeros(3), pair, count)[1:]
    out = dpo_loss(sides, sides, beta=0.1, weight=torch.zeros(0))
    assert (count, out.loss.item()) == (0, 0)
    assert torch.autograd.grad(out.loss, logprob)[0].tolist() == [0, 0, 0]
