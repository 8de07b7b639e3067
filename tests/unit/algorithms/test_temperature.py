"""The temperature that follows an entropy target."""

from __future__ import annotations

import pytest
import torch

from mmreason.algorithms.temperature import follow


def entropy_of(logits: torch.Tensor) -> float:
    logp = torch.log_softmax(logits, -1)
    return -float((logp.exp() * logp).sum())


SETTINGS = {"gain": 0.1, "low": 0.5, "high": 1.25}


@pytest.mark.parametrize(
    ("temperature", "entropy", "expected"),
    [(1.0, 0.3, 1.0), (1.0, 0.15, 1.05), (1.0, 0.0, 1.1), (1.0, 0.9, 0.9), (0.8, 0.6, 0.72), (1.2, 0.0, 1.25),
     (0.5, 9, 0.5)],
)  # fmt: skip
def test_by_hand(temperature: float, entropy: float, expected: float) -> None:
    assert follow(temperature, entropy, target=0.3, **SETTINGS) == pytest.approx(expected)


@pytest.mark.parametrize("start", [0.5, 1.25])
def test_it_finds_the_temperature_that_has_the_target(start: float) -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2
    temperature, target = start, entropy_of(logits / 0.9)
    for _ in range(200):
        entropy = entropy_of(logits / temperature)
        temperature = follow(temperature, entropy, target=target, **SETTINGS)
    assert temperature == pytest.approx(0.9, abs=1e-3)
