"""The gap between an engine's log-probs and the trainer's, as metrics."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from mmreason.config import RolloutConfig, TrainConfig
from mmreason.training.engine import Engine
from mmreason.training.gaps import logprob_gaps, moments, percentile_99, statistics
from mmreason.training.metrics import Progress
from mmreason.training.run import Run
from mmreason.types import Batch


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


def row(gaps: list[float]) -> Batch:
    """Tokens that the trainer gives log-probs of so much more than the engine."""
    count = len(gaps)
    sampling: Tensor = -torch.ones(count)
    return Batch(
        ids=torch.arange(count),
        positions=torch.zeros(3, count, dtype=torch.int64),
        spans=(),
        source=torch.arange(count) - 1,
        loss_mask=torch.ones(count, dtype=torch.bool),
        columns={"logprob.sampling": sampling, "logprob.old": sampling + torch.tensor(gaps)},
        media={},
        trees=(),
    )


def test_a_gap_over_the_limit_is_said_once_whatever_it_is() -> None:
    shown = io.StringIO()
    run = Run.__new__(Run)  # as much of a run as this needs
    rollout = RolloutConfig(engine="server", options={"logprob_gap": 0.1})
    run.config = SimpleNamespace(rollout=rollout)  # type: ignore[assignment]
    run.engine, run.step, run._announced = Engine(TrainConfig()), 4, set()
    run.progress = Progress(9, 0, active=True, label="grpo", stream=shown)
    assert logprob_gaps(run, [[row([0.05, 0.1])]], stale=False)["rollout/logprob_gap"] == pytest.approx(0.075)
    assert logprob_gaps(run, [[row([0.3, 0.4])]], stale=True)["rollout/logprob_gap"] == pytest.approx(0.35)
    assert "off the trainer's" not in shown.getvalue()
    for step, gap in ((5, 0.25), (6, 0.75)):
        run.step = step
        assert logprob_gaps(run, [[row([gap])]], stale=False)["rollout/logprob_gap"] == pytest.approx(gap)
    run.progress.close()
    assert shown.getvalue().count("off the trainer's in the mean (limit 0.1)") == 1
    assert "(step 6: 0.25; docs/rollout.md)" in shown.getvalue()
