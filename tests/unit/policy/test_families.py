from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers

from mmreason.config import ModelConfig
from mmreason.errors import ModelError
from mmreason.policy.families import FAMILIES, adapter_pattern, family_of
from mmreason.policy.policy import load_policy
from mmreason.processors.base import MediaTraits


@pytest.fixture
def omni(tiny_omni: Path) -> Path:
    return tiny_omni


def write_config(folder: Path, **values: object) -> str:
    (folder / "config.json").write_text(json.dumps(values))
    return str(folder)


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        ("qwen2_vl", "qwen2_vl"),
        ("qwen2_5_vl", "qwen2_5_vl"),
        ("qwen3_vl", "qwen3_vl"),
        ("qwen2_audio", "qwen2_audio"),
        ("qwen2_5_omni", "qwen2_5_omni"),
        ("qwen2_5_omni_thinker", "qwen2_5_omni"),
    ],
)
def test_recognised_by_model_type(tmp_path: Path, model_type: str, name: str) -> None:
    assert family_of(write_config(tmp_path, model_type=model_type)) is FAMILIES[name]


@pytest.mark.parametrize("model_type", ["gemma3", "qwen3_vl_moe", "qwen3_omni_moe", "qwen2"])
def test_any_other_model_is_refused_with_the_table(model_type: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"'{model_type}' is not in .*table.*docs/families.md") as caught:
        family_of(write_config(tmp_path, model_type=model_type))
    assert "\n" not in str(caught.value)
    assert all(name in str(caught.value) for name in FAMILIES)


def test_config_without_a_type(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="model_type None"):
        family_of(write_config(tmp_path, hidden_size=8))


def test_no_checkpoint_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no checkpoint there|there is no such folder"):
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


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("qwen2_vl", MediaTraits(frame="per_thousand")),
        ("qwen2_5_vl", MediaTraits(frame="resized_pixels", seconds_name="second_per_grid_ts")),
        ("qwen3_vl", MediaTraits(frame="per_thousand", pixel_factor=32, time_words="<{:.1f} seconds>")),
        (
            "qwen2_audio",
            MediaTraits(frame="unit", vision=False, audio_rate=16000, audio_min_tokens=2, mel_frames=3000),
        ),
        (
            "qwen2_5_omni",
            MediaTraits(frame="resized_pixels", audio_rate=16000, seconds_name="video_second_per_grid"),
        ),
    ],
)
def test_traits_of_published_sizes(family: str, expected: MediaTraits) -> None:
    """The default configs of transformers have the sizes of the published checkpoints."""
    config = getattr(transformers, FAMILIES[family].config_class)()
    assert FAMILIES[family].traits(config) == expected


def test_a_config_without_its_tokens_is_refused(omni: Path) -> None:
    config = FAMILIES["qwen2_5_omni"].load_config(str(omni))
    del config.vision_start_token_id
    with pytest.raises(ModelError, match="vision_start_token_id"):
        FAMILIES["qwen2_5_omni"].rules(config)


PROJECTORS = {
    "qwen2_vl": {"model.visual.merger"},
    "qwen2_5_vl": {"model.visual.merger"},
    "qwen3_vl": {"model.visual.merger", "model.visual.deepstack_merger_list"},
    "qwen2_audio": {"model.multi_modal_projector"},
    "qwen2_5_omni": {"visual.merger", "audio_tower.proj"},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_has_a_part_and_adapters_only_hit_the_language_model(
    family: str, tiny: Callable[[str], Path]
) -> None:
    policy = load_policy(ModelConfig(path=str(tiny(family))))
    parts = {name: policy.family.part_of(name) for name, _ in policy.base.named_parameters()}
    sees, hears = ("image" in policy.rules.placeholder), ("audio" in policy.rules.placeholder)
    assert set(parts.values()) == {"projector", "language", *["vision"] * sees, *["audio"] * hears}
    prefixes = tuple(f"{prefix}." for prefix in PROJECTORS[family])
    assert {name for name, part in parts.items() if part == "projector"} == {
        name for name in parts if name.startswith(prefixes)
    }
    pattern = adapter_pattern(policy.family, ("q_proj", "gate_proj"))
    hit = {name for name, _ in policy.base.named_modules() if re.fullmatch(pattern, name)}
    language = policy.base.get_decoder().layers
    wanted = {id(layer.self_attn.q_proj) for layer in language} | {id(layer.mlp.gate_proj) for layer in language}
    assert {id(policy.base.get_submodule(name)) for name in hit} == wanted


def test_a_parameter_of_no_part_is_an_error() -> None:
    with pytest.raises(ModelError, match="belongs to no part"):
        FAMILIES["qwen2_5_vl"].part_of("talker.model.weight")
