"""KL estimators, straight-through forms and the coefficient's schedules."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmreason.algorithms.kl import KL_ESTIMATORS, KL_SCHEDULES, KLState
from mmreason.algorithms.losses import kl_loss
from tests.unit.algorithms.rows import tokens_of

GOLDEN = {
    0.1: {"k1": -0.1, "k2": 0.005, "k3": 0.005171},
    -0.1: {"k1": 0.1, "k2": 0.005, "k3": 0.004837},
    1.0: {"k1": -1.0, "k2": 0.5, "k3": 0.718282},
    -1.0: {"k1": 1.0, "k2": 0.5, "k3": 0.367879},
}


def estimate(name: str, x: float, old_gap: float = 0.0) -> tuple[float, float]:
    """(value, derivative by log policy) at log ref - log policy = x and log policy - log old = old_gap."""
    logprob = torch.tensor([-2.0], dtype=torch.float64, requires_grad=True)
    fixed = logprob.detach()
    value = KL_ESTIMATORS[name](logprob, fixed + x, fixed - old_gap)
    return value.item(), torch.autograd.grad(value.sum(), logprob)[0].item()


@pytest.mark.parametrize("x", sorted(GOLDEN))
def test_golden(x: float) -> None:
    for name, expected in GOLDEN[x].items():
        assert estimate(name, x)[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("x", sorted(GOLDEN))
def test_straight_through_has_the_value_of_one_and_the_gradient_of_k2(x: float) -> None:
    for name in ("k1", "k3"):
        value, gradient = estimate(name + "+", x)
        assert (value, gradient) == pytest.approx((estimate(name, x)[0], estimate("k2", x)[1]))
    assert estimate("k2", x)[1] == pytest.approx(-x)


@pytest.mark.parametrize("x", sorted(GOLDEN))
def test_weighted_by_the_ratio(x: float) -> None:
    """On-policy k3* has k2's gradient; off-policy it is the ratio times k3, with the ratio's gradient."""
    assert estimate("k3*", x) == pytest.approx((estimate("k3", x)[0], -x))
    value, slope = estimate("k3", x)
    ratio = torch.tensor(0.3).exp().item()
    assert estimate("k3*", x, old_gap=0.3) == pytest.approx((ratio * value, ratio * (value + slope)), rel=1e-6)


@pytest.mark.parametrize("name", ["k1", "k2", "k3", "k3*"])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    old, reference = torch.tensor([-1.9], dtype=torch.float64), torch.tensor([-2.4], dtype=torch.float64)

    def value(at: float) -> Tensor:
        return KL_ESTIMATORS[name](torch.tensor([at], dtype=torch.float64), reference, old)

    slope = (value(-2 + 1e-6) - value(-2 - 1e-6)).item() / 2e-6
    assert estimate(name, -0.4, old_gap=-0.1)[1] == pytest.approx(slope, abs=1e-7)


@pytest.mark.parametrize("name", sorted(KL_ESTIMATORS))
@pytest.mark.parametrize("x", [-1e4, 1e4])
def test_huge_gaps_are_finite(name: str, x: float) -> None:
    assert all(abs(number) < float("inf") for number in estimate(name, x, old_gap=x))


def test_a_loss_and_its_metric_without_the_coefficient() -> None:
    tokens, _ = tokens_of([[0.0, 0.0]], [0.0])
    out = kl_loss(tokens, tokens.old + 1.0, coefficient=0.1, estimator="k3")
    assert (out.loss.item(), out.metrics["kl"]) == pytest.approx((0.0718282, 0.718282))


@pytest.mark.parametrize(
    ("name", "state", "expected"),
    [
        ("constant", KLState(start=0.04, end=1, done=0.5), 0.04),
        ("linear", KLState(start=0.1, end=0.3, done=0.25), 0.15),
        ("cosine", KLState(start=0.1, end=0.3, done=0.25), 0.129289),
        ("cosine", KLState(start=0.1, end=0.3, done=0.5), 0.2),
        ("accuracy", KLState(start=0.001, end=0.041, done=0.9, accuracy=0.75), 0.031),
        ("accuracy", KLState(start=0.001, end=0.041, done=0.9), 0.001),
        ("adaptive", KLState(start=0.1, target=0.01), 0.1),  # the first step
        ("adaptive", KLState(start=0.1, last=0.2, target=0.01), 0.1),  # nothing was measured
        ("adaptive", KLState(start=0.5, last=0.1, last_kl=0.02, target=0.01), 0.102),
        ("adaptive", KLState(start=0.5, last=0.1, last_kl=0.0101, target=0.01), 0.1001),
        ("adaptive", KLState(start=0.5, last=0.1, last_kl=0.0, target=0.01, gain=0.5), 0.09),
    ],
)
def test_schedules_golden(name: str, state: KLState, expected: float) -> None:
    assert KL_SCHEDULES[name](state) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_schedules_begin_and_end_where_they_should(name: str) -> None:
    ends = [KL_SCHEDULES[name](KLState(start=0.1, end=0.3, done=done)) for done in (0.0, 1.0)]
    assert ends == pytest.approx([0.1, 0.3])
