"""The model families that mmreason knows: one frozen row each.

To add a family: add a row to FAMILIES (its class, tokens, parts, how its config is read) and run tests/parity for it.
A family qualifies for the packed tree row only if every layer is full causal attention: bidirectional image attention
or linear attention under a causal tree mask gives wrong numbers without an error. docs/families.md has the steps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PreTrainedConfig

from mmreason.errors import ConfigError, ModelError
from mmreason.policy import engine_fields
from mmreason.policy.engine_fields import EngineFields
from mmreason.policy.positions import MediaRules
from mmreason.processors.base import MediaTraits
from mmreason.types import CoordinateFrame

Part = Literal["vision", "audio", "projector", "language"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What differs between model families. Example: `FAMILIES["qwen2_5_vl"]`."""

    name: str
    model_types: tuple[str, ...]
    """`model_type` values of config.json that belong to it."""
    model_class: str
    """Class of transformers that is trained."""
    config_class: str
    """Config class of that model; opens a wrapper config as well."""
    wrapper_class: str | None = None
    """Config class of the layout that is saved, where that is not the model's own: weights get `wrapper_prefix`."""
    wrapper_key: str = ""
    """Key of the wrapper config under which the model's own config lies."""
    wrapper_prefix: str = ""
    wrapper_architecture: str = ""
    """What engines call the wrapper."""
    published_names: tuple[tuple[str, str], ...] = ()
    """(beginning of a parameter's name, what published checkpoints have there), where transformers saves another."""
    placeholders: Mapping[str, str]
    """Kind -> placeholder token as the chat template writes it."""
    wrappers: Mapping[str, tuple[str, str]]
    """Kind -> (start, end) tokens around it."""
    more_banned: tuple[str, ...] = ()
    """Further tokens that may never be sampled, where the tokenizer has them."""
    parts: tuple[tuple[str, Part], ...]
    """(prefix of a parameter's name, part), first match wins."""
    language_layers: str
    """Regular expression for the prefix of the language model's layers, where LoRA adapters go."""
    towers: tuple[tuple[str, tuple[str, ...]], ...]
    """(prefix of the names of parameters, kinds of media that use them); text uses all the others."""
    never_trained: tuple[str, ...] = ()
    """Parameters that no forward uses (without a gradient they stop DDP), or that the model itself keeps fixed."""
    position_axes: Literal[1, 3] = 3
    """Axes of the positions that the forward takes: time, height and width, or one."""
    text_types: tuple[str, ...]
    """`model_type` values of the text config: some configs may hold any language model, checked here or not."""
    rules: Callable[[Any], MediaRules]
    """Model config -> placeholder ids and position constants."""
    traits: Callable[[Any], MediaTraits]
    """Model config -> what processors need to know."""
    engine_fields: EngineFields
    """What vLLM calls the tensors of each kind of media."""
    shrink: Callable[[Any, int], None]
    """(model config, width of the language model): make the towers tiny, for the check at start-up."""

    def part_of(self, name: str) -> Part:
        """Which part a parameter belongs to; adapters belong to the part they adapt."""
        name = name.removeprefix("base_model.model.")
        for prefix, part in self.parts:
            if name.startswith(prefix):
                return part
        raise ModelError(f"parameter {name} belongs to no part of family {self.name}; its row of the table is outdated")

    @property
    def language_model(self) -> str:
        """Name of the module that holds the language model's layers."""
        return self.language_layers.partition(r"\.layers")[0].replace("\\", "")

    def saved_name(self, name: str) -> str:
        """What a parameter is called in a checkpoint, where transformers' own conversion is not used."""
        for ours, published in self.published_names:
            if name.startswith(ours):
                return published + name.removeprefix(ours)
        return self.wrapper_prefix + name

    def load_config(self, path: str, revision: str | None = None) -> PreTrainedConfig:
        """The config of the model that is trained, also from a wrapper checkpoint. Raises ModelError."""
        kind = getattr(transformers, self.config_class)
        with opening(f"model.path: {path}: its config.json cannot be used"):
            config: PreTrainedConfig = kind.from_pretrained(path, revision=revision)
        return config


@contextmanager
def opening(what: str) -> Iterator[None]:
    """Whatever libraries raise over a broken file of a checkpoint, as a ModelError: `what`, and why in a line."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, StrictDataclassError) as error:
        telling = isinstance(error, OSError | ValueError | StrictDataclassError)
        why = str(error).strip() if telling else f"{type(error).__name__}: {error}"
        raise ModelError(f"{what} ({' '.join(why.split())[:300]})") from error


def family_of(path: str, revision: str | None = None) -> Family:
    """The family of a checkpoint (folder or hub name), by `model_type` in its config.json.

    Raises ModelError for a checkpoint that cannot be read or whose type no row of the table names.
    """
    if not Path(path).is_dir() and (path.startswith(("/", ".", "~")) or path.count("/") > 1):  # no name of the hub
        raise ModelError(f"model.path: {path}: there is no such folder; give a checkpoint's folder or a hub name")
    with opening(f"model.path: {path}: no checkpoint there"):
        found, _ = PreTrainedConfig.get_config_dict(path, revision=revision)
        model_type = found.get("model_type")
    for family in FAMILIES.values():
        if model_type in family.model_types:
            return family
    known = ", ".join(f"{family.name} ({' or '.join(family.model_types)})" for family in FAMILIES.values())
    raise ModelError(
        f"model.path: {path}: model_type {model_type!r} is not in the family table; known: {known}; "
        "docs/families.md says how to add a family"
    )


def _token_id(config: Any, name: str) -> int:
    value = getattr(config, name, None)
    if not isinstance(value, int):
        raise ModelError(f"the checkpoint's config has no {name} (found {value!r}); it needs one to place media")
    return value


def _vision_wrapper(config: Any) -> tuple[int, int]:
    return _token_id(config, "vision_start_token_id"), _token_id(config, "vision_end_token_id")


def _vision_rules(config: Any) -> MediaRules:
    wrapper = _vision_wrapper(config)
    return MediaRules(
        placeholder={kind: _token_id(config, f"{kind}_token_id") for kind in ("image", "video")},
        wrapper={"image": wrapper, "video": wrapper},
        merge_size=config.vision_config.spatial_merge_size,
    )


def _qwen2_5_vl_rules(config: Any) -> MediaRules:
    return replace(_vision_rules(config), positions_per_second=float(config.vision_config.tokens_per_second))


def _qwen3_vl_rules(config: Any) -> MediaRules:
    return replace(_vision_rules(config), steps_apart=True)


def _qwen2_audio_rules(config: Any) -> MediaRules:
    """Its config names the placeholder only; `wrappers` of the row has the tokens around it."""
    return MediaRules(placeholder={"audio": _token_id(config, "audio_token_id")}, wrapper={})


def _omni_rules(config: Any) -> MediaRules:
    vision = _vision_rules(config)
    audio = (_token_id(config, "audio_start_token_id"), _token_id(config, "audio_end_token_id"))
    return replace(
        vision,
        placeholder={**vision.placeholder, "audio": _token_id(config, "audio_token_id")},
        wrapper={**vision.wrapper, "audio": audio},
        positions_per_second=float(config.position_id_per_seconds),
        seconds_per_chunk=float(config.seconds_per_chunk),
    )


def _vision_traits(config: Any, frame: CoordinateFrame) -> MediaTraits:
    vision = config.vision_config
    return MediaTraits(
        frame=frame,
        pixel_factor=vision.patch_size * vision.spatial_merge_size,
        temporal_patch_size=vision.temporal_patch_size,
        merge_size=vision.spatial_merge_size,
    )


def _qwen2_vl_traits(config: Any) -> MediaTraits:
    return _vision_traits(config, "per_thousand")


def _qwen2_5_vl_traits(config: Any) -> MediaTraits:
    return replace(_vision_traits(config, "resized_pixels"), seconds_name="second_per_grid_ts")


def _qwen3_vl_traits(config: Any) -> MediaTraits:
    return replace(_vision_traits(config, "per_thousand"), time_words="<{:.1f} seconds>")


def _qwen2_audio_traits(config: Any) -> MediaTraits:
    return MediaTraits(
        frame="unit",  # nothing to see, nothing to point at
        vision=False,
        audio_rate=16000,
        audio_min_tokens=2,  # transformers takes a lone placeholder for a prompt that was not expanded
        mel_frames=2 * config.audio_config.max_source_positions,
    )


def _omni_traits(config: Any) -> MediaTraits:
    return replace(_vision_traits(config, "resized_pixels"), seconds_name="video_second_per_grid", audio_rate=16000)


def _set(config: Any, **values: Any) -> None:
    for name, value in values.items():
        setattr(config, name, value)


_SMALL_VISION = {"depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2}
_SMALL_AUDIO = {"encoder_layers": 1, "d_model": 32, "encoder_ffn_dim": 32, "encoder_attention_heads": 2}


def _shrink_qwen2_vl(config: Any, width: int) -> None:
    _set(config.vision_config, depth=2, embed_dim=32, num_heads=2, mlp_ratio=1, hidden_size=width)


def _shrink_qwen2_5_vl(config: Any, width: int) -> None:
    _set(config.vision_config, **_SMALL_VISION, fullatt_block_indexes=[1], out_hidden_size=width)


def _shrink_qwen3_vl(config: Any, width: int) -> None:
    levels = {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
    _set(config.vision_config, **_SMALL_VISION, **levels, out_hidden_size=width)


def _shrink_qwen2_audio(config: Any, width: int) -> None:
    _set(config.audio_config, **_SMALL_AUDIO, max_source_positions=20)


def _shrink_omni(config: Any, width: int) -> None:
    _shrink_qwen2_5_vl(config, width)
    _set(config.audio_config, **_SMALL_AUDIO, output_dim=width)


_QWEN2_5_VL = Family(
    name="qwen2_5_vl",
    model_types=("qwen2_5_vl",),
    model_class="Qwen2_5_VLForConditionalGeneration",
    config_class="Qwen2_5_VLConfig",
    placeholders={"image": "<|image_pad|>", "video": "<|video_pad|>"},
    wrappers={kind: ("<|vision_start|>", "<|vision_end|>") for kind in ("image", "video")},
    more_banned=("<|vision_pad|>",),
    parts=(
        ("model.visual.merger.", "projector"),
        ("model.visual.", "vision"),
        ("model.language_model.", "language"),
        ("lm_head.", "language"),
    ),
    language_layers=r"model\.language_model\.layers\.\d+\.",
    towers=(("model.visual.", ("image", "video")),),
    text_types=("qwen2_5_vl_text",),
    rules=_qwen2_5_vl_rules,
    traits=_qwen2_5_vl_traits,
    engine_fields=engine_fields.QWEN2_5_VL,
    shrink=_shrink_qwen2_5_vl,
)

FAMILIES: dict[str, Family] = {
    "qwen2_vl": replace(
        _QWEN2_5_VL,
        name="qwen2_vl",
        model_types=("qwen2_vl",),
        model_class="Qwen2VLForConditionalGeneration",
        config_class="Qwen2VLConfig",
        text_types=("qwen2_vl_text",),
        rules=_vision_rules,
        traits=_qwen2_vl_traits,
        engine_fields=engine_fields.QWEN2_VL,
        shrink=_shrink_qwen2_vl,
    ),
    "qwen2_5_vl": _QWEN2_5_VL,
    "qwen3_vl": replace(
        _QWEN2_5_VL,
        name="qwen3_vl",
        model_types=("qwen3_vl",),
        model_class="Qwen3VLForConditionalGeneration",
        config_class="Qwen3VLConfig",
        parts=(("model.visual.deepstack_merger_list.", "projector"), *_QWEN2_5_VL.parts),
        text_types=("qwen3_vl_text",),
        rules=_qwen3_vl_rules,
        traits=_qwen3_vl_traits,
        engine_fields=engine_fields.QWEN3_VL,
        shrink=_shrink_qwen3_vl,
    ),
    "qwen2_audio": Family(
        name="qwen2_audio",
        model_types=("qwen2_audio",),
        model_class="Qwen2AudioForConditionalGeneration",
        config_class="Qwen2AudioConfig",
        published_names=(
            ("model.language_model.", "language_model.model."),
            ("lm_head.", "language_model.lm_head."),
            ("model.", ""),
        ),
        placeholders={"audio": "<|AUDIO|>"},
        wrappers={"audio": ("<|audio_bos|>", "<|audio_eos|>")},
        parts=(
            ("model.multi_modal_projector.", "projector"),
            ("model.audio_tower.", "audio"),
            ("model.language_model.", "language"),
            ("lm_head.", "language"),
        ),
        language_layers=r"model\.language_model\.layers\.\d+\.",
        towers=(("model.audio_tower.", ("audio",)), ("model.multi_modal_projector.", ("audio",))),
        never_trained=("model.audio_tower.embed_positions.weight",),
        position_axes=1,
        text_types=("qwen2",),
        rules=_qwen2_audio_rules,
        traits=_qwen2_audio_traits,
        engine_fields=engine_fields.QWEN2_AUDIO,
        shrink=_shrink_qwen2_audio,
    ),
    "qwen2_5_omni": Family(
        name="qwen2_5_omni",
        model_types=("qwen2_5_omni", "qwen2_5_omni_thinker"),
        model_class="Qwen2_5OmniThinkerForConditionalGeneration",
        config_class="Qwen2_5OmniThinkerConfig",
        wrapper_class="Qwen2_5OmniConfig",
        wrapper_key="thinker_config",
        wrapper_prefix="thinker.",
        wrapper_architecture="Qwen2_5OmniModel",
        placeholders={"image": "<|IMAGE|>", "video": "<|VIDEO|>", "audio": "<|AUDIO|>"},
        wrappers={
            "image": ("<|vision_bos|>", "<|vision_eos|>"),
            "video": ("<|vision_bos|>", "<|vision_eos|>"),
            "audio": ("<|audio_bos|>", "<|audio_eos|>"),
        },
        more_banned=("<|vision_pad|>",),
        parts=(
            ("visual.merger.", "projector"),
            ("audio_tower.proj.", "projector"),
            ("visual.", "vision"),
            ("audio_tower.", "audio"),
            ("model.", "language"),
            ("lm_head.", "language"),
        ),
        language_layers=r"model\.layers\.\d+\.",
        towers=(("visual.", ("image", "video")), ("audio_tower.", ("audio",))),
        never_trained=("audio_tower.audio_bos_eos_token.weight",),
        text_types=("qwen2_5_omni_text",),
        rules=_omni_rules,
        traits=_omni_traits,
        engine_fields=engine_fields.QWEN2_5_OMNI,
        shrink=_shrink_omni,
    ),
}


def adapter_pattern(family: Family, targets: tuple[str, ...]) -> str:
    """Regular expression for the names of the linear layers of the language model that get LoRA adapters.

    Towers have layers of the same names; a plain list of names would adapt those too.
    """
    return rf"{family.language_layers}.*({'|'.join(re.escape(name) for name in targets)})"


def require_targets(model: nn.Module, family: Family, targets: tuple[str, ...]) -> None:
    """Raises ConfigError for a target that names no linear layer of the language model."""
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for target in targets:
        pattern = re.compile(adapter_pattern(family, (target,)))
        if not any(map(pattern.fullmatch, layers)):
            everyone = re.compile(f"{family.language_layers}.*")
            known = sorted({name.rpartition(".")[2] for name in layers if everyone.fullmatch(name)})
            raise ConfigError(f"model.lora.targets: {target!r} names no linear layer; there are {', '.join(known)}")
