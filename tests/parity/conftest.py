"""Policies from tiny checkpoints, plain transformers models as the oracle, and the worst differences at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from mmreason.config import ModelConfig
from mmreason.policy.families import FAMILIES
from mmreason.policy.policy import Policy, load_policy
from tests.parity.trees import GAPS


@pytest.fixture
def make_policy(tiny: Callable[[str], Path]) -> Callable[..., Policy]:
    """make_policy(family, **model settings); every part is trained and heads work in small chunks."""

    def make(family: str, **settings: Any) -> Policy:
        return load_policy(ModelConfig(path=str(tiny(family)), **{"freeze": (), "head_chunk": 7, **settings}))

    return make


@pytest.fixture
def make_oracle(tiny: Callable[[str], Path]) -> Callable[[str], PreTrainedModel]:
    """Unmodified transformers, float32, SDPA."""

    def make(family: str) -> PreTrainedModel:
        model: PreTrainedModel = getattr(transformers, FAMILIES[family].model_class).from_pretrained(
            tiny(family), dtype=torch.float32, attn_implementation="sdpa"
        )
        return model

    return make


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for family, gaps in sorted(GAPS.items()):
        logprob, gradient = (max(column) for column in zip(*gaps, strict=True))
        worst = f"log-probs within {logprob:.1e}, gradients within {gradient:.1e}"
        terminalreporter.write_line(f"parity of {family}: {len(gaps)} comparisons, {worst}")
