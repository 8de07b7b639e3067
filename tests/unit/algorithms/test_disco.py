"""DisCO: worked numbers of algorithms.md section 6.3, and its gradient against the formula's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mmreason.algorithms.clips import Bounds
from mmreason.algorithms.disco import contrast, drift, hardness
from mmreason.algorithms.losses import Objective, policy_loss
from mmreason.algorithms.ratios import Tokens
from tests.unit.algorithms.rows import tokens_of

RIGHT, WRONG = [-0.5, -0.7], [-1.2, -0.4]
FREE = Bounds(drift_beta=1.0, drift_delta=1e9)


def formula(right: Tensor, wrong: Tensor, tau: float) -> Tensor:
    """-[mean_P s - tau log mean_W exp(s / tau)]"""
    return -(right.mean() - tau * ((wrong / tau).logsumexp(0) - torch.tensor(float(len(wrong))).log()))


def one_token_each(groups: list[list[list[float]]]) -> tuple[Tokens, Tensor]:
    """Per group the scores of its right and of its wrong answers, as log-probs of one-token answers."""
    flat = [score for right, wrong in groups for score in right + wrong]
    rewards = [torch.tensor([[1.0] * len(right) + [0.0] * len(wrong)]).double() for right, wrong in groups]
    advantages = torch.cat([contrast(row)[0] for row in rewards]).tolist()
    numbers = [1 + n for n, (right, wrong) in enumerate(groups) for _ in right + wrong]
    answers = [[score] for score in flat]
    tokens, leaf = tokens_of(answers, advantages, aggregation="sequence_mean", old=0.0, groups=numbers)
    return replace(tokens, old=leaf.detach()), leaf


@pytest.mark.parametrize(
    ("tau", "loss", "shares"),
    [(10.0, -0.192002, [0.48, 0.52]), (1.0, -0.122047, [0.31, 0.69]), (0.1, 0.130719, [0.0003, 0.9997])],
)
def test_golden(tau: float, loss: float, shares: list[float]) -> None:
    assert formula(torch.tensor(RIGHT), torch.tensor(WRONG), tau).item() == pytest.approx(loss, abs=1e-6)
    tokens, leaf = one_token_each([[RIGHT, WRONG]])
    found = hardness(leaf, tokens, tau)
    assert found.tolist() == pytest.approx([1, 1, 2 * shares[0], 2 * shares[1]], abs=0.011 if tau > 0.5 else 1e-3)


def test_disco_b_golden() -> None:
    tokens, _ = one_token_each([[RIGHT, WRONG]])
    assert policy_loss(tokens, Objective(clip="disco_b", bounds=FREE)).loss.item() == pytest.approx(-0.2)


@pytest.mark.parametrize("tau", [0.1, 1.0, 10.0])
def test_gradient_is_that_of_the_formula_over_questions(tau: float) -> None:
    groups = [[RIGHT, WRONG], [[-0.3], [-0.9, -0.1, -2.0]]]
    tokens, leaf = one_token_each(groups)
    loss = policy_loss(tokens, Objective(clip="disco", bounds=replace(FREE, tau=tau))).loss
    total = torch.zeros((), dtype=torch.float64)
    for start, (right, wrong) in zip((0, 4), groups, strict=True):
        middle, end = start + len(right), start + len(right) + len(wrong)
        total = total + formula(leaf[start:middle], leaf[middle:end], tau) / 2
    torch.testing.assert_close(torch.autograd.grad(loss, leaf)[0], torch.autograd.grad(total, leaf)[0])


@pytest.mark.parametrize("clip", ["disco", "disco_ratio"])
def test_scores_are_means_over_each_answer(clip: str) -> None:
    """Answers of several tokens: the score is the mean log-prob, or the mean ratio."""
    gaps = [[0.2, -0.1], [0.3], [-0.2, 0.1, 0.4], [-0.3, 0.2]]
    advantages = contrast(torch.tensor([[1.0, 1.0, 0.0, 0.0]]).double())[0].tolist()
    tokens, leaf = tokens_of(gaps, advantages, aggregation="sequence_mean")
    loss = policy_loss(tokens, Objective(clip=clip, bounds=replace(FREE, tau=0.5))).loss
    values = leaf if clip == "disco" else (leaf - tokens.old).exp()
    scores = torch.stack([part.mean() for part in torch.split(values, [2, 1, 3, 2])])
    expected = torch.autograd.grad(formula(scores[:2], scores[2:], 0.5), leaf)[0]
    torch.testing.assert_close(torch.autograd.grad(loss, leaf)[0], expected)


def test_each_wrong_answer_counts_once_and_only_wrong_ones_do() -> None:
    """Wrong answers of 1 and 3 tokens beside a right one: 2 x softmax(-1, -2) for theirs, 1 for all others."""
    tokens, _ = tokens_of([[0.0], [0.0] * 3, [0.0] * 2, [0.0], [0.0]], [-1.0, -1.0, 0.5, -1.0, 0.0])
    tokens = replace(tokens, weight=tokens.weight * torch.tensor([1, 1, 1, 1, 1, 1, 0, 1]))
    scores = torch.tensor([-1.0, -2.0, -2.0, -2.0, -9.0, -9.0, -1.0, -1.0], dtype=torch.float64)
    expected = [2 * 0.731059, *[2 * 0.268941] * 3, 1, 1, 1, 1]
    assert hardness(scores, tokens, 1.0).tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("kl", "coefficient"), [(5e-5, 0.0), (1e-4, 0.0), (3e-4, 0.2)])
def test_the_price_of_drift_golden(kl: float, coefficient: float) -> None:
    tokens, leaf = tokens_of([[-kl, -kl], [-kl]], [0.0, 0.0], aggregation="sequence_mean")
    assert drift(tokens, 1e3, 1e-4).item() == pytest.approx(coefficient, abs=1e-9)
    doubled = replace(tokens, weight=2 * tokens.weight)
    assert drift(doubled, 1e3, 1e-4).item() == pytest.approx(coefficient, abs=1e-9), "it is a mean"
    out = policy_loss(tokens, Objective(clip="disco_b"))
    assert out.loss.item() == pytest.approx(coefficient * kl, abs=1e-12)
    torch.testing.assert_close(torch.autograd.grad(out.loss, leaf)[0], -coefficient * tokens.weight)
    assert out.metrics["clip_fraction/high"] == pytest.approx(float(coefficient > 0))


def test_groups_with_one_kind_of_answers_push_nothing() -> None:
    tokens, leaf = one_token_each([[RIGHT, []], [[], WRONG], [RIGHT, WRONG]])
    for clip in ("disco_b", "disco", "disco_ratio"):
        (gradient,) = torch.autograd.grad(policy_loss(tokens, Objective(clip=clip, bounds=FREE)).loss, leaf)
        assert gradient.isfinite().all()
        assert not gradient[:4].any()
        assert gradient[4:].all()
