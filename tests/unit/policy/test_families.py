from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mmreason.config import ModelConfig
from mmreason.demo.tiny import build_tiny
from mmreason.errors import ModelError
from mmreason.policy.families import FAMILIES, adapter_pattern, family_of
from mmreason.policy.policy import load_policy


@pytest.fixture(scope="module")
def omni(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny("qwen2_5_omni", tmp_path_factory.mktemp("omni"))


def write_config(folder: Path, **values: object) -> str:
    (folder / "config.json").write_text(json.dumps(values))
    return str(folder)


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        ("qwen2_5_vl", "qwen2_5_vl"),
        ("qwen2_5_omni", "qwen2_5_omni"),
        ("qwen2_5_omni_thinker", "qwen2_5_omni"),
    ],
)
def test_recognised_by_model_type(tmp_path: Path, model_type: str, name: str) -> None:
    assert family_of(write_config(tmp_path, model_type=model_type)) is FAMILIES[name]


def test_any_other_model_is_refused_with_the_table(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'gemma3'.*qwen2_5_vl.*qwen2_5_omni.*docs/families.md"):
        family_of(write_config(tmp_path, model_type="gemma3"))


def test_config_without_a_type(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="model_type None"):
        family_of(write_config(tmp_path, hidden_size=8))


def test_no_checkpoint_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no checkpoint there"):
        family_of(str(tmp_path / "nothing"))


def test_rules_come_from_the_checkpoint(omni: Path) -> None:
    family = FAMILIES["qwen2_5_omni"]
    config = family.load_config(str(omni))
    rules = family.rules(config)
    assert rules.placeholder["audio"] == config.audio_token_id
    assert rules.positions_per_second == 25.0
    assert rules.seconds_per_chunk == 2.0
    assert family.traits(config).audio_rate == 16000
    assert family.traits(config).pixel_factor == 28


def test_a_config_without_its_tokens_is_refused(omni: Path) -> None:
    config = FAMILIES["qwen2_5_omni"].load_config(str(omni))
    del config.vision_start_token_id
    with pytest.raises(ModelError, match="vision_start_token_id"):
        FAMILIES["qwen2_5_omni"].rules(config)


def test_every_parameter_has_a_part_and_adapters_only_hit_the_language_model(omni: Path) -> None:
    policy = load_policy(ModelConfig(path=str(omni)))
    parts = {name: policy.family.part_of(name) for name, _ in policy.base.named_parameters()}
    assert set(parts.values()) == {"vision", "audio", "projector", "language"}
    assert parts["audio_tower.proj.weight"] == parts["visual.merger.mlp.0.weight"] == "projector"
    pattern = adapter_pattern(policy.family, ("q_proj", "gate_proj"))
    hit = {name for name, _ in policy.base.named_modules() if re.fullmatch(pattern, name)}
    layers = range(policy.base.config.text_config.num_hidden_layers)
    assert hit == {f"model.layers.{i}.{name}" for i in layers for name in ("self_attn.q_proj", "mlp.gate_proj")}


def test_a_parameter_of_no_part_is_an_error() -> None:
    with pytest.raises(ModelError, match="belongs to no part"):
        FAMILIES["qwen2_5_vl"].part_of("talker.model.weight")
