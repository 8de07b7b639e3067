"""Weights for answers that another policy sampled."""

from __future__ import annotations

import pytest
import torch

from mmreason.algorithms.losses import Objective, policy_loss
from mmreason.algorithms.off_policy import CORRECTIONS, mask
from tests.unit.algorithms.rows import tokens_of

GAPS = [0.1, -0.2, 1.5]
"""log old - log sampling of one answer: ratios 1.105171, .818731, 4.481689; together 4.0552, mean 1.5947."""


@pytest.mark.parametrize(
    ("name", "low", "high", "expected"),
    [
        ("token_truncate", 0, 2, [1.105171, 0.818731, 2]),
        ("token_truncate", 1, 2, [1.105171, 1, 2]),
        ("token_mask", 0, 2, [1.105171, 0.818731, 0]),
        ("token_mask", 0.9, 5, [1.105171, 0, 4.481689]),
        ("sequence_mask", 0, 3, [0, 0, 0]),
        ("sequence_mask", 0, 5, [4.055200] * 3),
        ("sequence_truncate", 0, 3, [3, 3, 3]),
        ("geometric_mask", 0, 1.5, [0, 0, 0]),
        ("geometric_mask", 0, 2, [1.594670] * 3),
    ],
)
def test_golden(name: str, low: float, high: float, expected: list[float]) -> None:
    tokens, _ = tokens_of([[0.0] * 3, [0.0]], [1.0, 1.0])
    found = CORRECTIONS[name](torch.tensor([*GAPS, 0.0], dtype=torch.float64), tokens, low, high)
    torch.testing.assert_close(found, torch.tensor([*expected, 1.0], dtype=torch.float64), atol=2e-6, rtol=0)


def test_the_bounds_themselves_are_inside() -> None:
    weight = torch.tensor([0.4, 0.5, 2.0, 2.1])
    assert mask(weight, 0.5, 2.0).tolist() == pytest.approx([0, 0.5, 2, 0])


def test_by_default_no_weight_is_too_small() -> None:
    tokens, _ = tokens_of([[0.0]], [1.0])
    out = policy_loss(tokens, Objective(correction="token_mask"), tokens.old + 2.0)
    assert out.metrics["off_policy/weight"] == pytest.approx(0.135335, abs=1e-6)


@pytest.mark.parametrize("name", sorted(CORRECTIONS))
def test_nothing_changes_where_the_policies_agree(name: str) -> None:
    tokens, _ = tokens_of([[0.1, -0.3], [0.2]], [1.0, -1.0])
    plain = policy_loss(tokens, Objective())
    corrected = policy_loss(tokens, Objective(correction=name), tokens.old)
    torch.testing.assert_close(plain.loss, corrected.loss)
    assert (corrected.metrics["off_policy/weight"], corrected.metrics["off_policy/bounded"]) == pytest.approx((1, 0))


def test_a_weight_multiplies_the_push_and_has_no_gradient_of_its_own() -> None:
    tokens, leaf = tokens_of([[0.0, 0.0, 0.0]], [2.0], aggregation="sequence_sum")
    sampling = tokens.old - torch.tensor(GAPS, dtype=torch.float64)
    out = policy_loss(tokens, Objective(correction="token_truncate", weight_high=2.0), sampling)
    expected = 2 * torch.tensor([1.105171, 0.818731, 2.0], dtype=torch.float64)
    torch.testing.assert_close(torch.autograd.grad(-out.loss, leaf)[0], expected, atol=1e-5, rtol=0)
    assert out.metrics["off_policy/bounded"] == pytest.approx(1.0)  # one token of weight 1


def test_with_the_whole_support_sequence_weights_are_unbiased() -> None:
    """Two tokens over {0, 1}: E_sampling[w f] = E_old[f] when nothing is bounded, by enumeration; per token not."""
    old, sampling = torch.tensor([0.3, 0.7]).double().log(), torch.tensor([0.6, 0.4]).double().log()
    answers = torch.cartesian_prod(torch.arange(2), torch.arange(2))
    score = (answers[:, 0] * 2 + answers[:, 1] * answers[:, 0]).double()
    expected = (old[answers].sum(-1).exp() * score).sum()
    found = {}
    for name in ("sequence_truncate", "token_truncate"):
        mean = 0.0
        for answer, value in zip(answers, score, strict=True):
            tokens, _ = tokens_of([[0.0, 0.0]], [1.0])
            weight = CORRECTIONS[name]((old - sampling)[answer], tokens, 0.0, 1e9)
            mean += float(sampling[answer].sum().exp() * value * weight[1])
        found[name] = mean
    assert found["sequence_truncate"] == pytest.approx(expected.item())
    assert abs(found["token_truncate"] - expected.item()) > 0.1
