"""Tiny checkpoints: complete, deterministic, in the published layouts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open
from transformers import AutoConfig, AutoProcessor, AutoTokenizer

from mmreason.demo.tiny import build_tiny
from mmreason.errors import ConfigError
from mmreason.policy.families import FAMILIES


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def folder(family: str, tiny: Callable[[str], Path]) -> Path:
    return tiny(family)


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def test_same_arguments_same_bytes(family: str, folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again = build_tiny(family, tmp_path / "again")
    assert digests(again) == digests(folder)
    assert torch.equal(torch.get_rng_state(), before)
    other = build_tiny(family, tmp_path / "other", seed=1)
    changed = {name for name, digest in digests(other).items() if digest != digests(folder)[name]}
    assert changed == {"model.safetensors"}


def test_transformers_opens_it(family: str, folder: Path) -> None:
    model, loading = getattr(transformers, FAMILIES[family].model_class).from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(loading.values()), loading
    assert 0.5e6 < sum(parameter.numel() for parameter in model.parameters()) < 0.85e6
    tied = model.lm_head.weight is model.get_input_embeddings().weight
    assert tied == family.endswith("_vl")
    assert AutoConfig.from_pretrained(folder).model_type == family
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert model.generation_config.eos_token_id == ends
    assert model.config.text_config.vocab_size == len(tokenizer)


def test_text_survives_the_tokenizer(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "<think>\n12 + 3 = 15, \u00e9\u4e2d\U0001f600</think><answer>red</answer><|im_end|>"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert ids[-1] == tokenizer.eos_token_id
    assert {"1", "2"} <= set(tokenizer.convert_ids_to_tokens(ids))  # digits stay single, as in the published ones


def test_template_has_one_placeholder_per_item(family: str, folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    kinds = list(FAMILIES[family].placeholders)
    content = [*({"type": kind} for kind in kinds), {"type": "text", "text": "What?"}]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]
    rendered = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    around = FAMILIES[family].wrappers
    media = "".join(around[kind][0] + getattr(processor, f"{kind}_token") + around[kind][1] for kind in kinds)
    if kinds == ["audio"]:  # the published template of Qwen2-Audio, which counts
        media = f"Audio 1: {media}\n"
    assert rendered == (
        f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{media}What?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_omni_is_in_the_wrapper_layout(tiny_omni: Path) -> None:
    config = json.loads((tiny_omni / "config.json").read_text())
    assert config["model_type"] == "qwen2_5_omni"
    thinker = config["thinker_config"]
    assert (config["tie_word_embeddings"], thinker["tie_word_embeddings"]) == (False, False)
    assert thinker["text_config"]["tie_word_embeddings"] is False
    with safe_open(tiny_omni / "model.safetensors", "pt") as weights:
        assert all(name.startswith("thinker.") for name in weights.keys())
    named = json.loads((tiny_omni / "tokenizer_config.json").read_text())
    assert named["audio_token"] == "<|AUDIO|>"
    assert named["vision_bos_token"] == "<|vision_bos|>"


def test_corpus_and_sizes(tmp_path: Path) -> None:
    word = "chrysanthemum"
    folder = build_tiny("qwen2_5_vl", tmp_path / "m", corpus=[word] * 20, hidden_size=64, heads=2, kv_heads=1, layers=1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer(word)["input_ids"]) == 1
    config = AutoConfig.from_pretrained(folder).text_config
    assert (config.hidden_size, config.num_hidden_layers) == (64, 1)


def test_what_no_engine_takes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="known: qwen2_5_omni, qwen2_5_vl, qwen2_audio, qwen2_vl, qwen3_vl"):
        build_tiny("qwen9", tmp_path / "m")
    with pytest.raises(ConfigError, match="head size of at least 32"):
        build_tiny("qwen2_5_vl", tmp_path / "m", hidden_size=64, heads=4)
