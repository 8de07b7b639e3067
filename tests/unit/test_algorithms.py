"""Hand-computed values (algorithms.md section 7.5 of the research notes) and properties of the pure functions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmreason.algorithms.advantages import ADVANTAGES, has_signal
from mmreason.algorithms.aggregation import AGGREGATIONS, StepCounts
from mmreason.algorithms.kl import KL_ESTIMATORS
from mmreason.algorithms.losses import kl_loss, policy_loss

NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "rewards", "expected"),
    [
        ("group", [[1, 0, 0, 1]], [[0.865875, -0.865875, -0.865875, 0.865875]]),
        ("group", [[1, 0, 0, 0, 0, 0, 0, 0]], [[2.4742] + [-0.3535] * 7]),
        ("group", [[2, 2, 2, 2, 1, 1, 1, 1]], [[0.9352] * 4 + [-0.9352] * 4]),
        ("group", [[0.7, 0.7, 0.7]], [[0, 0, 0]]),
        ("group", [[1, 0, NAN, NAN]], [[0.707007, -0.707007, 0, 0]]),
        ("group_mean", [[1, 0, 0, 1]], [[0.5, -0.5, -0.5, 0.5]]),
        ("rloo", [[1, 0, 0, 1]], [[0.666667, -0.666667, -0.666667, 0.666667]]),
        ("rloo", [[1, NAN]], [[0, 0]]),
        (
            "batch",
            [[1, 0, 0, 1], [1, 1, 1, 0]],
            [[0.9659, -0.9659, -0.9659, 0.9659], [0.4830, 0.4830, 0.4830, -1.4489]],
        ),
    ],
)
def test_advantages_golden(name: str, rewards: list[list[float]], expected: list[list[float]]) -> None:
    result = ADVANTAGES[name](torch.tensor(rewards, dtype=torch.float64))
    torch.testing.assert_close(result, torch.tensor(expected, dtype=torch.float64), atol=1e-4, rtol=0)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=9), st.floats(-3, 3))
def test_advantages_ignore_a_shift_of_all_rewards(rewards: list[float], shift: float) -> None:
    row = torch.tensor([rewards], dtype=torch.float64)
    for advantage in ADVANTAGES.values():
        torch.testing.assert_close(advantage(row), advantage(row + shift), atol=1e-6, rtol=1e-6)


def test_signal_is_a_matter_of_range() -> None:
    rewards = torch.tensor([[0.1, 0.1, 0.1], [0.1, 0.1, 0.2], [NAN, 1, 1], [NAN, NAN, NAN]])
    assert has_signal(rewards).tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    ("x", "k1", "k2", "k3"),
    [(0.1, -0.1, 0.005, 0.005171), (-0.1, 0.1, 0.005, 0.004837), (1, -1, 0.5, 0.718282), (-1, 1, 0.5, 0.367879)],
)
def test_kl_golden(x: float, k1: float, k2: float, k3: float) -> None:
    policy, reference = torch.tensor([0.0], dtype=torch.float64), torch.tensor([x], dtype=torch.float64)
    found = [KL_ESTIMATORS[name](policy, reference).item() for name in ("k1", "k2", "k3")]
    assert found == pytest.approx([k1, k2, k3], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"), [("token_mean", 0.625), ("sequence_mean", 0.75), ("constant", 0.3125), ("sequence_sum", 2.5)]
)
def test_aggregation_golden(name: str, expected: float) -> None:
    counts = StepCounts(sequences=2, tokens=8, max_new_tokens=8)
    losses = [[1.0, 1.0], [0.5] * 6]
    assert sum(AGGREGATIONS[name](len(row), counts) * sum(row) for row in losses) == pytest.approx(expected)


def _loss(ratio: float, advantage: float, **clips: float) -> tuple[float, float]:
    logprob = torch.tensor([0.0, ratio], dtype=torch.float64).log().nan_to_num(neginf=-1.0).requires_grad_()
    ones = torch.tensor([0.0, 1.0], dtype=torch.float64)
    out = policy_loss(logprob, torch.zeros(2, dtype=torch.float64), advantage * torch.ones(2), ones, **clips)
    (gradient,) = torch.autograd.grad(out.loss, logprob)
    return out.loss.item(), gradient[1].item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.5, 1.0, -1.28, 0.0),  # clipped above: no gradient
        (1.5, -1.0, 1.5, 1.5),  # the pessimistic side is not clipped
        (0.5, -1.0, 0.8, 0.0),
        (0.5, 1.0, -0.5, -0.5),
    ],
)
def test_policy_loss_golden(ratio: float, advantage: float, loss: float, gradient: float) -> None:
    assert _loss(ratio, advantage, clip_low=0.2, clip_high=0.28) == pytest.approx((loss, gradient))


def test_policy_loss_metrics_count_clipped_tokens() -> None:
    logprob = torch.tensor([1.5, 1.0, 0.5]).log()
    weight = torch.tensor([0.25, 0.5, 0.25])
    out = policy_loss(logprob, torch.zeros(3), torch.tensor([1.0, 1.0, -1.0]), weight, clip_low=0.2, clip_high=0.28)
    assert out.metrics["clip_fraction"] == pytest.approx(0.5)
    assert (out.metrics["clip_fraction/low"], out.metrics["clip_fraction/high"]) == pytest.approx((0.25, 0.25))
    assert out.metrics["ratio"] == pytest.approx(1.0)


def test_a_huge_gap_gives_finite_gradients() -> None:
    logprob = torch.tensor([0.0]).requires_grad_()
    out = policy_loss(logprob, torch.tensor([-500.0]), -torch.ones(1), torch.ones(1), clip_low=0.2, clip_high=0.28)
    assert torch.isfinite(torch.autograd.grad(out.loss, logprob)[0]).all()


def test_kl_loss_metric_is_without_the_coefficient() -> None:
    out = kl_loss(torch.zeros(2), torch.tensor([1.0, 1.0]), torch.tensor([0.5, 0.5]), coefficient=0.1, estimator="k3")
    assert (out.loss.item(), out.metrics["kl"]) == pytest.approx((0.0718282, 0.718282))
