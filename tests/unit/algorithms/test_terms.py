"""Further terms of the loss: worked numbers of SRFT, exact gradients, and no gradient where the method has none."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mmreason.algorithms.advantages import ADVANTAGES, Outcomes
from mmreason.algorithms.terms import LOSSES, TermRow
from mmreason.config import GrpoConfig, TermConfig, build_config
from mmreason.config.grpo_terms import TERMS
from mmreason.errors import ConfigError
from mmreason.training.terms import factor_of, terms_of
from tests.unit.algorithms import toy
from tests.unit.algorithms.toy import EVERY, MASK, Policy


def options(term: str, **given: Any) -> dict[str, Any]:
    return {name: given.get(name, option.default) for name, option in TERMS[term].items()}


def row(logprob: list[float], *, entropy: float = 0.0, demo: bool = False, **columns: list[float]) -> TermRow:
    """One token per answer, each with the same weight, in float64."""
    count = len(logprob)
    weight, nothing = torch.full((count,), 1 / count).double(), torch.zeros(count).double()
    return TermRow(
        logprob=torch.tensor(logprob).double().requires_grad_(),
        entropy=torch.full((count,), entropy).double().requires_grad_(),
        weight=nothing if demo else weight,
        demo_weight=weight if demo else nothing,
        answer=torch.arange(1, count + 1),
        columns={name: torch.tensor(values).double() for name, values in columns.items()},
    )


def gradient(term: str, given: TermRow, **chosen: Any) -> Tensor:
    return torch.autograd.grad(LOSSES[term](given, options(term, **chosen)).loss, given.logprob)[0]


@pytest.mark.parametrize(
    ("entropy", "sft", "rl"),
    [(0, 0.5, 0.1), (0.5, 0.303265, 0.164872), (1, 0.18394, 0.271828), (2, 0.067668, 0.738906)],
)
def test_weights_of_srft_follow_the_entropy(entropy: float, sft: float, rl: float) -> None:
    demo = row([-1.0], entropy=entropy, demo=True)
    assert 0.5 * gradient("imitation", demo, by_entropy=True).item() == pytest.approx(-sft, abs=1e-6)
    right = row([-1.0], entropy=entropy, reward=[1.0])
    found = gradient("likelihood", right, by_entropy=True, positive=0.1)
    assert found.item() == pytest.approx(-rl, abs=1e-6)
    wrong = row([-1.0], entropy=entropy, reward=[-1.0])
    assert gradient("likelihood", wrong, by_entropy=True, positive=0.1).item() == 1, "wrong ones have no such factor"
    for given, term in ((demo, "imitation"), (right, "likelihood")):
        loss = LOSSES[term](given, options(term, by_entropy=True)).loss
        (by_entropy,) = torch.autograd.grad(loss, given.entropy, allow_unused=True)
        assert by_entropy is None, "the factor is a constant"


def test_the_factor_is_of_each_answer() -> None:
    given = row([-1.0, -2.0, -3.0], demo=True)
    given = replace(given, entropy=torch.tensor([0.5, 1.5, 2.0]).double(), answer=torch.tensor([7, 7, 9]))
    expected = [-math.exp(-1.0) / 3, -math.exp(-1.0) / 3, -math.exp(-2.0) / 3]
    assert gradient("imitation", given, by_entropy=True).tolist() == pytest.approx(expected)


def test_what_has_no_weight_is_not_in_the_entropy_of_its_answer() -> None:
    given = row([-1.0, -1.0, -1.0])
    given = replace(
        given,
        entropy=torch.tensor([0.5, 1.5, 9.0]).double(),
        weight=torch.tensor([0.25, 0.75, 0.0]).double(),
        answer=torch.ones(3, dtype=torch.int64),
    )
    assert given.answer_entropy().tolist() == [1, 1, 1], "the mean, whatever the weights are"


def test_demonstrations_join_the_statistics_of_srft() -> None:
    def advantages(rewards: list[float]) -> list[float]:
        total_NG = torch.tensor([rewards]).double()
        outcomes = Outcomes(
            total_NG=total_NG,
            parts_NGK=total_NG[..., None],
            weights_K=torch.ones(1).double(),
            tokens_NG=torch.ones_like(total_NG),
            greedy_N=total_NG[:, 0],
        )
        return ADVANTAGES["group"](outcomes, 1e-9)[0].tolist()

    assert advantages([1, -1, -1, -1]) == pytest.approx([1.5, -0.5, -0.5, -0.5])
    assert advantages([1, -1, -1, -1, 1]) == pytest.approx([1.0954, -0.7303, -0.7303, -0.7303, 1.0954], abs=5e-5)
    nothing = math.nan  # a group without a demonstration beside one that has one
    assert advantages([1, -1, -1, -1, nothing]) == pytest.approx([1.5, -0.5, -0.5, -0.5, 0])


def test_the_policy_of_the_demonstrations_counts_as_1_and_nothing_is_clipped() -> None:
    given = row([-0.1, -5.0], demo=True, advantage=[1.0954, -0.5])
    expected = [-math.exp(-0.1) * 1.0954 / 2, math.exp(-5.0) * 0.5 / 2]
    assert gradient("demo_policy", given).tolist() == pytest.approx(expected)
    out = LOSSES["demo_policy"](given, options("demo_policy"))
    assert out.loss.item() == pytest.approx(sum(expected))
    ratio, advantage = (math.exp(-0.1) + math.exp(-5.0)) / 2, (1.0954 - 0.5) / 2
    assert (out.metrics["ratio"], out.metrics["advantage"]) == pytest.approx((ratio, advantage))


def test_each_looks_at_its_own_tokens_only() -> None:
    rollouts, demos = row([-1.0, -2.0], reward=[1.0, 0.0], advantage=[1.0, 1.0]), row([-1.0, -2.0], demo=True)
    for term in ("imitation", "demo_policy"):
        assert gradient(term, rollouts).tolist() == [0, 0]
    assert gradient("likelihood", demos).tolist() == [0, 0]
    assert gradient("demo_policy", demos).tolist() == [0, 0], "advantage 0"


def test_right_is_over_the_threshold() -> None:
    out = LOSSES["likelihood"](row([-1.0] * 4, reward=[0.0, 0.5, 0.6, 1.0]), options("likelihood", threshold=0.5))
    assert (out.metrics["right"], out.metrics["factor"]) == pytest.approx((0.5, 1.0))
    assert out.loss.item() == pytest.approx(0.0)


def test_likelihood_with_rewards_of_1_and_minus_1_is_the_policy_gradient() -> None:
    """By enumeration of every answer: the mean over answers of its gradient is that of the expected reward."""
    now = toy.policy(1)
    rewards = 2 * toy.reward(EVERY) - 1
    logits = now.logits.clone().requires_grad_()
    logprob = Policy(logits).of(EVERY).flatten()
    chance = (now.of(EVERY) * MASK).sum(-1).exp()
    every = TermRow(
        logprob=logprob,
        entropy=torch.zeros_like(logprob),
        weight=(chance[:, None] * MASK).flatten(),
        demo_weight=torch.zeros_like(logprob),
        answer=torch.arange(1, len(EVERY) + 1).repeat_interleave(toy.L),
        columns={"reward": rewards[:, None].expand_as(MASK).flatten()},
    )
    (found,) = torch.autograd.grad(LOSSES["likelihood"](every, options("likelihood")).loss, logits)
    torch.testing.assert_close(-found.flatten(), toy.exact(now, rewards[:, None] * torch.ones_like(MASK)))


# ---- a teacher, masked pictures, entropy


def toy_row(now: Policy, logits: Tensor, **more: Tensor) -> TermRow:
    """Every answer of the toy policy, weighted by its chance: sums are expectations. `logits`: what gets gradients."""
    logprob = Policy(logits).of(EVERY).flatten()
    chance = (now.of(EVERY) * MASK).sum(-1).exp()
    table = Policy(logits).log
    return TermRow(
        logprob=logprob,
        entropy=-(table.exp() * table).sum(-1)[toy.cells(EVERY)].flatten(),
        weight=(chance[:, None] * MASK).flatten(),
        demo_weight=torch.zeros_like(logprob),
        answer=torch.arange(1, len(EVERY) + 1).repeat_interleave(toy.L),
        columns={"logprob.old": now.of(EVERY).flatten(), **{name: column.flatten() for name, column in more.items()}},
    )


def by_cell(now: Policy, value: Tensor, logits: Tensor) -> Tensor:
    """Gradient of sum_prefixes chance(prefix) x value of the cell that follows; prefixes count as given."""
    visits = torch.zeros(toy.C, dtype=torch.float64)
    chance = (now.of(EVERY) * MASK).sum(-1).exp()
    visits.index_add_(0, toy.cells(EVERY).flatten(), (chance[:, None] * MASK).flatten())
    return torch.autograd.grad((visits * value).sum(), logits)[0]


def kl_to(other: Policy, logits: Tensor) -> Tensor:
    table = Policy(logits).log
    return (table.exp() * (table - other.log)).sum(-1)


@pytest.mark.parametrize("estimator", ["exact", "k2", "k1+", "k3+", "k3*"])
def test_distillation_has_the_gradient_of_the_kl_to_the_teacher(estimator: str) -> None:
    now, teacher = toy.policy(1), toy.policy(4)
    logits = now.logits.clone().requires_grad_()
    ones = torch.ones_like(MASK)
    row = toy_row(now, logits, **{"logprob.teacher": teacher.of(EVERY), "taught": ones})
    row = replace(row, divergence=kl_to(teacher, logits)[toy.cells(EVERY)].flatten())
    loss = LOSSES["distill"](row, options("distill", estimator=estimator)).loss
    expected = by_cell(now, kl_to(teacher, logits), logits)
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], expected)


def test_nothing_is_distilled_where_the_teacher_is_not_asked() -> None:
    now = toy.policy(1)
    logits = now.logits.clone().requires_grad_()
    row = toy_row(now, logits, **{"logprob.teacher": toy.policy(4).of(EVERY), "taught": torch.zeros_like(MASK)})
    out = LOSSES["distill"](row, options("distill", estimator="k2"))
    assert out.loss == 0
    assert torch.autograd.grad(out.loss, logits)[0].abs().max() == 0
    assert out.metrics["taught"] == 0


def test_tokens_without_a_row_of_the_teacher_are_counted() -> None:
    given = row([-1.0] * 4, unreadable=[1.0, 1.0, 1.0, 0.0], taught=[1.0] * 4)
    metrics = LOSSES["distill"](given, options("distill", estimator="k1")).metrics
    assert (metrics["unreadable"], metrics["taught"]) == pytest.approx((0.75, 1.0))


def test_perception_maximises_the_kl_to_the_policy_that_does_not_see() -> None:
    now, blind = toy.policy(1), toy.policy(5)
    logits = now.logits.clone().requires_grad_()
    row = toy_row(now, logits, **{"logprob.masked": blind.of(EVERY), "masked": torch.ones_like(MASK)})
    out = LOSSES["perception"](row, options("perception", estimator="k3+"))
    expected = -by_cell(now, kl_to(blind, logits), logits)
    torch.testing.assert_close(torch.autograd.grad(out.loss, logits)[0], expected)
    exact = (kl_to(blind, now.logits)[toy.cells(EVERY)].flatten() * row.weight).sum().item()
    assert out.metrics["kl"] == pytest.approx(exact)
    assert out.loss.item() == pytest.approx(-exact), "k3 is unbiased: its mean is the KL"


def test_perception_with_k3_a_limit_and_prompts_without_pictures() -> None:
    """x = log masked - log pi of .1, -1 and 1: k3 .004837, .367879, .718282; by hand from algorithms.md 7.5."""
    given = row([-1.0, -1.0, -1.0, -1.0])
    columns = {"logprob.masked": torch.tensor([-1.1, -2.0, 0.0, 0.0]).double(), "masked": torch.tensor([1.0, 1, 1, 0])}
    given = replace(given, columns=columns)
    out = LOSSES["perception"](given, options("perception"))
    assert out.loss.item() == pytest.approx(-(0.004837 + 0.367879 + 0.718282) / 4, abs=1e-6)
    found = gradient("perception", given).tolist()  # -(1 - e^x) / 4
    assert found == pytest.approx([-(1 - math.exp(x)) / 4 for x in (-0.1, -1.0, 1.0)] + [0])
    cut = LOSSES["perception"](given, options("perception", limit=0.2))
    assert cut.loss.item() == pytest.approx(-(0.004837 + 0.2 + 0.2) / 4, abs=1e-6)
    assert gradient("perception", given, limit=0.2).tolist() == pytest.approx([found[0], 0, 0, 0])
    assert (cut.metrics["cut"], cut.metrics["masked"]) == (0.5, 0.75)


def test_entropy_is_exact_and_the_sampled_form_says_nothing_on_policy() -> None:
    now = toy.policy(1)
    logits = now.logits.clone().requires_grad_()
    table = Policy(logits).log
    expected = by_cell(now, -(table.exp() * table).sum(-1), logits)
    loss = LOSSES["entropy"](toy_row(now, logits), options("entropy")).loss
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], expected)
    sampled = LOSSES["entropy"](toy_row(now, logits), options("entropy", sampled=True)).loss
    assert sampled.item() == pytest.approx(loss.item()), "the same value"
    assert torch.autograd.grad(sampled, logits)[0].abs().max() < 1e-12, "and no gradient"


# ---- weights and options


def test_a_weight_moves_over_the_run() -> None:
    term = TermConfig(name="imitation", weight=0.5, options={"schedule": "linear", "end": 0.2})
    assert [factor_of(term, done) for done in (0, 0.5, 1)] == pytest.approx([0.5, 0.3, 0.1])
    cosine = TermConfig(name="imitation", weight=0.5, options={"schedule": "cosine"})
    assert [factor_of(cosine, done) for done in (0, 0.5, 1)] == pytest.approx([0.5, 0.25, 0])
    assert factor_of(TermConfig(name="imitation", weight=2.0), 0.7) == 2


def test_terms_are_added_with_their_weights_and_named_apart() -> None:
    terms = [{"name": "imitation", "weight": 0.5}, {"name": "imitation", "weight": 2.0}]
    values = {"run_dir": "r", "model": {"path": "m"}, "rewards": [{"name": "accuracy"}], "grpo": {"terms": terms}}
    first, second = terms_of(build_config(values, "test"), 0)
    demo = row([-3.0, -1.0], demo=True)
    assert (first(demo).loss.item(), second(demo).loss.item()) == (1, 4)
    assert first(demo).metrics == {"imitation/nll": 2, "imitation/factor": 1, "imitation/loss": 2}
    assert set(second(demo).metrics) == {"imitation#2/nll", "imitation#2/factor", "imitation#2/loss"}


@pytest.mark.parametrize(
    ("grpo", "message"),
    [
        (
            {"terms": [{"name": "imitation", "options": {"ends": 1}}]},
            "grpo.terms.0.options.ends: imitation has no such",
        ),
        (
            {"terms": [{"name": "imitation", "options": {"end": "no"}}]},
            "options.end: 'no', expected a number at least 0",
        ),
        ({"terms": [{"name": "imitation", "options": {"end": -1}}]}, "options.end: -1, expected a number at least 0"),
        ({"terms": [{"name": "imitation", "options": {"schedule": 1}}]}, "1, expected one of constant, linear, cosine"),
        ({"terms": [{"name": "imitation", "options": {"by_entropy": 1}}]}, "by_entropy: 1, expected true or false"),
        (
            {"terms": [{"name": "distill"}], "drop_constant_groups": False},
            "options.teacher: missing; distill needs it (folder of a checkpoint",
        ),
        ({"terms": [{"name": "perception"}] * 2}, "grpo.terms: perception is given twice, expected once"),
        ({"terms": [{"name": "perception", "options": {"mask_ratio": 1.5}}]}, "a number at least 0 and at most 1"),
        ({"terms": [{"name": "imitate"}]}, "grpo.terms.0.name: got 'imitate'"),
        ({"options": {"policy_weight": 0.0}}, "grpo.options.policy_weight: 0, and there are no grpo.terms"),
    ],
)
def test_wrong_terms_are_one_line(grpo: dict[str, Any], message: str) -> None:
    values = {"run_dir": "r", "model": {"path": "m"}, "rewards": [{"name": "accuracy"}], "grpo": grpo}
    with pytest.raises(ConfigError) as caught:
        build_config(values, "test")
    (line,) = str(caught.value).splitlines()
    assert message in line


def test_every_term_has_a_loss_and_a_name() -> None:
    names = TermConfig.model_fields["name"].annotation
    assert set(LOSSES) == set(TERMS) == set(getattr(names, "__args__", ()))
    assert GrpoConfig().terms == ()
