"""The gap between an engine's log-probs and the trainer's, as metrics."""

from __future__ import annotations

import pytest
import torch

from mmreason.training.gaps import moments, percentile_99, statistics


def test_sums_of_processes_give_the_statistics_of_all_tokens() -> None:
    random = torch.Generator().manual_seed(0)
    engine = -torch.rand(50, generator=random, dtype=torch.float64)
    trainer = engine + 0.01 * torch.randn(50, generator=random, dtype=torch.float64)
    parts = [moments(engine[:20], trainer[:20]), moments(engine[20:], trainer[20:])]
    found = statistics({name: parts[0][name] + parts[1][name] for name in parts[0]})
    assert found["rollout/logprob_gap"] == pytest.approx(float((engine - trainer).abs().mean()))
    expected = float(torch.corrcoef(torch.stack([engine, trainer]))[0, 1])
    assert found["rollout/logprob_correlation"] == pytest.approx(expected)


def test_percentile() -> None:
    values = torch.arange(200, 0, -1, dtype=torch.float64)
    assert percentile_99(values) == 198
    assert (percentile_99(values[:1]), percentile_99(values[:0])) == (200, 0)


def test_equal_log_probs() -> None:
    same = torch.tensor([-0.5, -1.0, -3.0], dtype=torch.float64)
    assert statistics(moments(same, same)) == {"rollout/logprob_gap": 0.0, "rollout/logprob_correlation": 1.0}
    flat = torch.tensor([-0.5, -0.5], dtype=torch.float64)
    assert statistics(moments(flat, flat))["rollout/logprob_correlation"] == 1.0
