"""The promise of docs/families.md: a new family is a row of under 30 lines, proven by the tests that are there.

The page's example is taken literally: Qwen3-VL with experts, a `model_type` that the table does not have.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig, Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

from mmreason.collate import pack
from mmreason.config import ModelConfig
from mmreason.errors import ModelError
from mmreason.policy.families import FAMILIES
from mmreason.policy.policy import load_policy
from mmreason.policy.self_check import self_check
from tests.parity.test_tree_parity import ROWS, assert_parity, deep_tree
from tests.parity.trees import Maker

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "decoder_sparse_step": 1}


@pytest.fixture
def new_row(monkeypatch: pytest.MonkeyPatch) -> str:
    """The page's example, executed."""
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.setattr("mmreason.policy.families.FAMILIES", table := dict(FAMILIES))
    exec(block, {})
    assert len(block.splitlines()) < 30
    (name,) = table.keys() - FAMILIES.keys()
    return name


@pytest.fixture
def checkpoint(tiny: Callable[[str], Path], tmp_path: Path) -> Path:
    """The tiny Qwen3-VL with experts in its language model, and weights of its own."""
    folder = tmp_path / "moe"
    shutil.copytree(tiny("qwen3_vl"), folder)
    values: dict[str, Any] = AutoConfig.from_pretrained(folder).to_dict()
    values |= {"model_type": "qwen3_vl_moe", "architectures": ["Qwen3VLMoeForConditionalGeneration"]}
    values["text_config"] |= {"model_type": "qwen3_vl_moe_text", **EXPERTS}
    values["vision_config"] |= {"model_type": "qwen3_vl_moe_vision"}
    torch.manual_seed(0)
    model = Qwen3VLMoeForConditionalGeneration(Qwen3VLMoeConfig(**values))
    model.save_pretrained(folder)
    return folder


def test_without_a_row_it_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ModelError, match=r"'qwen3_vl_moe' is not in the family table.*docs/families\.md"):
        load_policy(ModelConfig(path=str(checkpoint)))


def test_the_row_of_the_page_is_all_it_takes(new_row: str, checkpoint: Path) -> None:
    policy = load_policy(ModelConfig(path=str(checkpoint), freeze=(), head_chunk=7))
    assert policy.family.name == new_row
    oracle = getattr(transformers, policy.family.model_class).from_pretrained(checkpoint, attn_implementation="sdpa")
    maker = Maker(policy)
    rows = [ROWS[name][1](maker, policy) for name in ("image and text", "several images and video")]
    trees = [*rows[0], *rows[1], deep_tree(maker, policy)]
    assert_parity(policy, oracle, trees, pack(trees, 4096, policy.positions))
    self_check(policy)
