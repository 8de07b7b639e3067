"""The front of a checkpoint: all of it that can be looked at before its weights are read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import AutoProcessor, PreTrainedConfig

from mmreason.config import ModelConfig
from mmreason.errors import ModelError
from mmreason.policy.families import Family, family_of, opening

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFront:
    """Family, config and processor of a checkpoint that belong together."""

    family: Family
    config: PreTrainedConfig
    processor: Any


def load_front(model: ModelConfig) -> CheckpointFront:
    """Raises ModelError: unknown family or language model, sliding-window layers, a file that is broken or missing."""
    family = family_of(model.path, model.revision)
    config = family.load_config(model.path, model.revision)
    _check_language_model(config, family)
    with opening(f"model.path: {model.path}: its processor cannot be loaded"):
        processor = AutoProcessor.from_pretrained(
            model.path, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    _check_tokenizer(model.path, family, config, processor.tokenizer)
    _check_weights(model.path)
    return CheckpointFront(family=family, config=config, processor=processor)


def _check_language_model(config: PreTrainedConfig, family: Family) -> None:
    """Refuse, before the weights are read, a language model for which packed rows would be wrong without an error."""
    text: Any = config.get_text_config()
    if text.model_type not in family.text_types:
        raise ModelError(
            f"{family.model_class} around a {text.model_type!r} language model: family {family.name} is known with "
            f"{' or '.join(family.text_types)} only; docs/families.md says how to add a family"
        )
    layers = set(getattr(text, "layer_types", ["full_attention"]))
    if layers != {"full_attention"}:
        raise ModelError(
            f"{family.model_class} with {', '.join(sorted(layers))} layers: packed rows need full causal attention in "
            "every layer; set use_sliding_window to false in the checkpoint's config"
        )


def _check_tokenizer(path: str, family: Family, config: PreTrainedConfig, tokenizer: Any) -> None:
    """Without its files transformers makes a tokenizer that knows no token, and says nothing."""
    for kind, wanted in family.rules(config).placeholder.items():
        found = tokenizer.convert_tokens_to_ids(family.placeholders[kind])
        if found != wanted:
            raise ModelError(
                f"model.path: {path}: {family.placeholders[kind]} is token {found} of the tokenizer, {wanted} in "
                "config.json; files of the tokenizer are missing, or those of another checkpoint"
            )


def _check_weights(path: str) -> None:
    """Whether the files of weights are there and whole; those of a hub's model are looked at when they are loaded."""
    folder = Path(path)
    if not folder.is_dir():
        return
    names = {_WEIGHTS}
    if not (folder / _WEIGHTS).exists() and (folder / _INDEX).exists():
        with opening(f"model.path: {path}: {_INDEX} cannot be used"):
            names = set(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    for name in sorted(names):
        try:
            with safe_open(folder / name, "pt"):  # reads the header and compares it with the file's length
                pass
        except (OSError, SafetensorError) as error:
            why = "no such file" if isinstance(error, FileNotFoundError) else str(error)
            raise ModelError(f"model.path: {path}: the weights in {name} cannot be read ({why})") from error
