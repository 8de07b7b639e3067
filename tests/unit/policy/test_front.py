"""A checkpoint with a broken or missing file is one line, before its weights are read."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mmreason.config import ModelConfig
from mmreason.errors import ConfigError, ModelError
from mmreason.policy.front import load_front
from mmreason.policy.policy import load_policy

Damage = Callable[[Path], object]


def text_config(**keys: object) -> Damage:
    def change(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        values["text_config"] |= keys
        (folder / "config.json").write_text(json.dumps(values))

    return change


def written(name: str, text: str) -> Damage:
    return lambda folder: (folder / name).write_text(text)


def cut_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def broken_index(folder: Path) -> None:
    no_weights(folder)
    (folder / "model.safetensors.index.json").write_text("[]")


def index_of_a_lost_shard(folder: Path) -> None:
    no_weights(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')


BROKEN: dict[str, tuple[Damage, str]] = {
    "torn config": (written("config.json", "{"), "no checkpoint there"),
    "a list": (written("config.json", "[1]"), "no checkpoint there"),
    "a section that is none": (written("config.json", '{"model_type": "qwen2_5_vl", "vision_config": 3}'), "cannot be"),
    "a number as text": (text_config(num_hidden_layers="two"), "its config.json cannot be used"),
    "sliding windows": (text_config(layer_types=["sliding_attention"] * 2), "with sliding_attention layers"),
    "tokenizer of something else": (written("tokenizer.json", '{"a": 1}'), "its processor cannot be loaded"),
    "no tokenizer": (no_tokenizer, "<|image_pad|> is token"),
    "no weights": (no_weights, "model.safetensors cannot be read (no such"),
    "torn weights": (cut_weights, "the weights in model.safetensors cannot be read"),
    "lost shard": (index_of_a_lost_shard, "the weights in model-1.safetensors cannot be read (no such file)"),
    "index of something else": (broken_index, "model.safetensors.index.json cannot be used"),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_a_broken_checkpoint_is_one_line(damage: str, tiny_vl: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_vl, tmp_path / "model")
    change, expected = BROKEN[damage]
    change(folder)
    with pytest.raises(ModelError) as caught:
        load_front(ModelConfig(path=str(folder)))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sizes_that_fit_no_model(tiny_vl: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_vl, tmp_path / "model")
    text_config(hidden_size=7)(folder)
    with pytest.raises(ModelError, match=r"cannot be loaded .hidden_size must be divisible"):
        load_policy(ModelConfig(path=str(folder)))


def test_adapters_for_layers_that_are_not_there(tiny_vl: Path) -> None:
    model = ModelConfig.model_validate({"path": str(tiny_vl), "lora": {"targets": ("q_proj", "c_attn")}})
    with pytest.raises(ConfigError, match="'c_attn' names no linear layer; there are down_proj, "):
        load_policy(model)
