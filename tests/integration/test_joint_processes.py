"""Two processes, DDP and DeepSpeed, train DPO, and terms with a teacher and demonstrations, as one process does."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.integration.pairs import PROMPTS, STEPS
from tests.integration.runs import metrics

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes"), pytest.mark.timeout(1800)]


def test_dpo_on_two_processes(pair: tuple[str, Path], alone: Path) -> None:
    both = list(zip(metrics(pair[1] / "dpo"), metrics(alone / "dpo"), strict=True))
    assert len(both) == STEPS
    for mine, theirs in both:
        assert mine["pairs"] == theirs["pairs"] == PROMPTS
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)


def test_terms_on_two_processes(pair: tuple[str, Path], alone: Path) -> None:
    """Demonstrations are the same; answers are sampled, and a teacher that is the student agrees with all of them."""
    first, other = metrics(pair[1] / "terms")[0], metrics(alone / "terms")[0]
    assert first["imitation/nll"] == pytest.approx(other["imitation/nll"], rel=1e-4)
    assert first["distill/taught"] == pytest.approx(1, abs=1e-5)
    assert all(math.isfinite(line["distill/loss"]) for line in metrics(pair[1] / "terms"))
