"""Tiny checkpoints of both families, made once; policies from them, and plain transformers models as the oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from mmreason.config import ModelConfig
from mmreason.demo.tiny import build_tiny
from mmreason.policy.families import FAMILIES
from mmreason.policy.policy import Policy, load_policy


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: build_tiny(name, tmp_path_factory.mktemp(name)) for name in FAMILIES}


@pytest.fixture
def make_policy(checkpoints: dict[str, Path]) -> Callable[..., Policy]:
    """make_policy(family, **model settings); every part is trained and heads work in small chunks."""

    def make(family: str, **settings: Any) -> Policy:
        return load_policy(ModelConfig(path=str(checkpoints[family]), **{"freeze": (), "head_chunk": 7, **settings}))

    return make


@pytest.fixture
def make_oracle(checkpoints: dict[str, Path]) -> Callable[[str], PreTrainedModel]:
    """Unmodified transformers, float32, SDPA."""

    def make(family: str) -> PreTrainedModel:
        model: PreTrainedModel = getattr(transformers, FAMILIES[family].model_class).from_pretrained(
            checkpoints[family], dtype=torch.float32, attn_implementation="sdpa"
        )
        return model

    return make


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
