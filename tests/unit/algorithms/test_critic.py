"""PPO's critic: GAE by hand and written out, the value loss and its gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmreason.algorithms.advantages import gae
from mmreason.algorithms.critic import judged, value_loss


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_reward_1_at_the_last_of_three_tokens() -> None:
    rewards, values, mask = doubles(0, 0, 1)[None], doubles(0.5, 0.5, 0.5)[None], torch.ones(1, 3)
    assert gae(rewards, values, mask, gamma=1, lam=1)[0].tolist() == pytest.approx([0.5, 0.5, 0.5])
    assert gae(rewards, values, mask, gamma=1, lam=0)[0].tolist() == pytest.approx([0, 0, 0.5])
    # .95^k x 1 - .5
    assert gae(rewards, values, mask, gamma=0.95, lam=1)[0].tolist() == pytest.approx([0.4025, 0.45, 0.5])


def test_answers_of_one_token() -> None:
    one = torch.ones(2, 1)
    assert gae(doubles(1, 0)[:, None], doubles(0.25, 0.5)[:, None], one, gamma=1, lam=1).tolist() == [[0.75], [-0.5]]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.95, 1.0), (0.9, 0.7), (1.0, 0.0)])
def test_gae_is_its_sum(gamma: float, lam: float) -> None:
    """Equation 16 of Schulman et al. 2016 as written, for answers of several lengths side by side."""
    generator = torch.Generator().manual_seed(0)
    lengths, scores = [5, 1, 3], [1.0, -0.5, 0.25]
    values = [torch.randn(length, dtype=torch.float64, generator=generator) for length in lengths]
    costs = [0.1 * torch.rand(length, dtype=torch.float64, generator=generator) for length in lengths]
    found = judged(scores, values, costs, gamma=gamma, lam=lam)
    for one, value, cost, score, length in zip(found, values, costs, scores, lengths, strict=True):
        received = [-float(cost[t]) + (score if t == length - 1 else 0.0) for t in range(length)]
        following = [*value[1:].tolist(), 0.0]
        deltas = [received[t] + gamma * following[t] - float(value[t]) for t in range(length)]
        for t in range(length):
            expected = sum((gamma * lam) ** k * deltas[t + k] for k in range(length - t))
            assert float(one.advantage[t]) == pytest.approx(expected)
            assert float(one.target[t]) == pytest.approx(expected + float(value[t]))
        if gamma == lam == 1:
            still = [sum(received[t:]) for t in range(length)]
            assert one.target.tolist() == pytest.approx(still), "what is still to come, whatever the values are"
    assert judged([], [], [], gamma=1, lam=1) == []


@pytest.mark.parametrize(
    ("value", "target", "loss", "slope"),
    [(1.0, 2.0, 1.62, 0.0), (1.0, -1.0, 2.0, 2.0), (0.1, 1.0, 0.405, -0.9), (0.1, -1.0, 0.605, 1.1),
     (0.5, 0.6, 0.08, 0.0), (0.5, 0.3, 0.02, 0.2)],
)  # fmt: skip
def test_value_loss_by_hand(value: float, target: float, loss: float, slope: float) -> None:
    """Old value 0, clip 0.2; and the same 3 higher, with a quarter of the weight."""
    for up, weight in ((0.0, 1.0), (3.0, 0.25)):
        leaf = doubles(up + value).requires_grad_()
        out = value_loss(leaf, doubles(up), doubles(up + target), doubles(weight), clip=0.2)
        torch.autograd.backward(out.loss)
        assert out.loss.item() == pytest.approx(weight * loss)
        assert leaf.grad is not None
        assert leaf.grad.item() == pytest.approx(weight * slope)
        assert out.metrics["value/clip_fraction"] == (weight if slope == 0 else 0)
        assert out.metrics["value/mean"] == pytest.approx(weight * (up + value))


@pytest.mark.parametrize("clip", [0.0, 0.3])
def test_value_loss_gradient_by_finite_differences(clip: float) -> None:
    generator = torch.Generator().manual_seed(1)
    value, old, target = (torch.randn(40, dtype=torch.float64, generator=generator) for _ in range(3))
    weight = torch.rand(40, dtype=torch.float64, generator=generator)
    leaf = value.clone().requires_grad_()
    torch.autograd.backward(value_loss(leaf, old, target, weight, clip=clip).loss)
    for place in range(40):
        step = torch.zeros(40, dtype=torch.float64)
        step[place] = 1e-6
        high, low = (value_loss(value + sign * step, old, target, weight, clip=clip).loss for sign in (1, -1))
        assert leaf.grad is not None
        assert float(leaf.grad[place]) == pytest.approx(float(high - low) / 2e-6, abs=1e-6)


def test_without_a_clip_it_is_half_the_squared_error() -> None:
    out = value_loss(doubles(1, 2), doubles(9, 9), doubles(0, 4), doubles(0.25, 0.5), clip=0)
    assert float(out.loss) == pytest.approx(0.5 * (0.25 * 1 + 0.5 * 4))
    assert out.metrics["value/clip_fraction"] == 0
