"""Tiny checkpoints of the real architectures, with random weights, made on the spot.

For the demo and the tests: transformers' own model classes with small sizes, a byte-level BPE tokenizer trained
here, and the processors of the real checkpoints. What is written is an ordinary checkpoint folder. Qwen2.5-Omni is
written in the wrapper layout (`thinker_config`, weights `thinker.*`), as the published checkpoints are; transformers'
thinker class opens it, vLLM too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2_5OmniConfig,
    Qwen2_5OmniForConditionalGeneration,
    Qwen2_5OmniProcessor,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    WhisperFeatureExtractor,
)

from mmreason.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class TinySizes:
    """Sizes of a tiny model; the defaults give 0.5 M to 0.8 M parameters."""

    vocab_size: int = 600
    """Tokens of the trained tokenizer, special tokens not counted; at least 256 (the bytes)."""
    hidden_size: int = 128
    """Width of the language model. hidden_size / heads must be at least 32, vLLM refuses less."""
    intermediate_size: int = 256
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    vision_depth: int = 2
    """Blocks of the vision tower; the last one attends to the whole image, the others to windows."""
    vision_hidden_size: int = 64
    audio_layers: int = 2
    audio_hidden_size: int = 64

    def __post_init__(self) -> None:
        head_dim, rest = divmod(self.hidden_size, self.heads)
        if rest or head_dim < 32 or head_dim % 16:
            raise ConfigError(
                f"hidden_size {self.hidden_size} with {self.heads} heads: expected a head size of at least 32 that is "
                "a multiple of 16"
            )

    @property
    def text(self) -> dict[str, Any]:
        """What all text configs have in common."""
        return {
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        }

    @property
    def three_axes(self) -> dict[str, Any]:
        """`text` with the published split of the rotary pairs over time, height, width: 1/4, 3/8, 3/8."""
        half = self.hidden_size // self.heads // 2
        sections = {"mrope_section": [half // 4, 3 * half // 8, 3 * half // 8]}
        return {**self.text, "rope_parameters": {**self.text["rope_parameters"], **sections}}

    @property
    def vision(self) -> dict[str, Any]:
        """What the vision configs of Qwen2.5-VL and later have in common."""
        return {
            "depth": self.vision_depth,
            "hidden_size": self.vision_hidden_size,
            "intermediate_size": 2 * self.vision_hidden_size,
            "num_heads": 4,
            "out_hidden_size": self.hidden_size,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        }

    @property
    def windowed_vision(self) -> dict[str, Any]:
        """The vision config of the Qwen2.5 families."""
        return {
            **self.vision,
            "fullatt_block_indexes": [self.vision_depth - 1],
            "window_size": 112,
            "patch_size": 14,
        }

    @property
    def audio(self) -> dict[str, Any]:
        """What the audio configs have in common."""
        return {
            "num_mel_bins": 128,
            "encoder_layers": self.audio_layers,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 2 * self.audio_hidden_size,
            "d_model": self.audio_hidden_size,
        }


# name in the tokenizer config -> token. Engines look media tokens up by these names.
VL_TOKENS = {
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
}
AUDIO_TOKENS = {
    "audio_token": "<|AUDIO|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
OMNI_TOKENS = {
    **AUDIO_TOKENS,
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "image_token": "<|IMAGE|>",
    "video_token": "<|VIDEO|>",
}
PLAIN_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

_AUDIO_WINDOW_S = 4
"""Seconds that Qwen2-Audio's tower takes, always all of them; 30 in the published checkpoints."""

# Words that prompts and answers are made of, so that common ones become single tokens.
BASE_CORPUS = (
    "system\nuser\nassistant\nYou are a helpful assistant.",
    "<think>\n</think>\n<answer> </answer>",
    "What is the colour of the square? Which way does it move? How does the pitch change? Which number is larger?",
    "A. red\nB. green\nC. blue\nD. yellow\nleft right up down rising falling flat",
)

# Qwen2's split of text before byte-pair merges: single digits, words with their space, punctuation, blanks.
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def build_tiny(
    family: str, folder: Path, *, seed: int = 0, corpus: Iterable[str] = (), fan_in_init: bool = False, **sizes: int
) -> Path:
    """Write a complete checkpoint of `family` (a name of `policy.families`) to `folder` and return `folder`.

    Same arguments, same bytes of weights and tokenizer. `corpus`: more text for the tokenizer. `fan_in_init`: initial
    weights that suit training from scratch at this width. `sizes`: fields of `TinySizes`. Raises ConfigError for an
    unknown family or sizes that no engine takes.
    """
    if family not in _BUILDERS:
        raise ConfigError(f"family {family!r}: no tiny model of it; known: {', '.join(sorted(_BUILDERS))}")
    build_model, build_processor, named_tokens = _BUILDERS[family]
    size = TinySizes(**sizes)
    tokenizer = _train_tokenizer([*BASE_CORPUS, *corpus], size.vocab_size, named_tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(size, tokenizer)
        if fan_in_init:
            _draw_by_fan_in(model)
    generation = model.generation_config
    assert generation is not None
    generation.eos_token_id = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    generation.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
    return folder


def _draw_by_fan_in(model: PreTrainedModel) -> None:
    """Matrices of deviation 1/sqrt(inputs). The usual 0.02 suits widths of thousands; at 64 signals all but vanish."""
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2:
            deviation = 0.1 if "embed_tokens" in name else parameter[0].numel() ** -0.5
            torch.nn.init.normal_(parameter, std=deviation)


def _train_tokenizer(corpus: list[str], vocab_size: int, named_tokens: dict[str, str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=[*PLAIN_TOKENS, *named_tokens.values()],
        model_specific_special_tokens=named_tokens,
        chat_template=chat_template(named_tokens) if "image_token" in named_tokens else None,
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
    )


def chat_template(named_tokens: dict[str, str]) -> str:
    """ChatML with one placeholder per media item, as the published checkpoints' templates render it."""
    start, end = named_tokens["vision_bos_token"], named_tokens["vision_eos_token"]
    media = {kind: start + named_tokens[f"{kind}_token"] + end for kind in ("image", "video")}
    if "audio_token" in named_tokens:
        tokens = (named_tokens[name] for name in ("audio_bos_token", "audio_token", "audio_eos_token"))
        media["audio"] = "".join(tokens)
    parts = "".join(f"{{% elif part.type == '{kind}' %}}{text}" for kind, text in media.items())
    return (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n"
        "{% if message.content is string %}{{ message.content }}"
        "{% else %}{% for part in message.content %}"
        "{% if part.type == 'text' %}{{ part.text }}" + parts + "{% endif %}{% endfor %}{% endif %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def _build_qwen2_vl(size: TinySizes, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    vision = {
        "depth": size.vision_depth,
        "embed_dim": size.vision_hidden_size,
        "hidden_size": size.hidden_size,  # of what the tower hands over
        "num_heads": 4,
        "mlp_ratio": 2,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(**_vl(tokenizer, size.three_axes, vision)))


def _build_qwen2_5_vl(size: TinySizes, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    vision = {**size.windowed_vision, "tokens_per_second": 2}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**_vl(tokenizer, size.three_axes, vision)))


def _build_qwen3_vl(size: TinySizes, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Its sections of rotary pairs are interleaved, and each block of the tower feeds a layer of the language model."""
    half = size.hidden_size // size.heads // 2
    sections = [half - 2 * (half * 5 // 16), half * 5 // 16, half * 5 // 16]  # published: 24, 20, 20
    text = {
        **size.text,
        "head_dim": 2 * half,
        "rope_parameters": {**size.text["rope_parameters"], "mrope_section": sections, "mrope_interleaved": True},
    }
    vision = {
        **size.vision,
        "patch_size": 16,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": list(range(min(size.vision_depth, size.layers))),
    }
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(**_vl(tokenizer, text, vision)))


def _vl(tokenizer: PreTrainedTokenizerFast, text: dict[str, Any], vision: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a Qwen-VL config."""
    token_id = tokenizer.get_vocab().__getitem__
    return {
        "text_config": {**text, **_vocabulary(tokenizer), "tie_word_embeddings": True},
        "vision_config": vision,
        "image_token_id": token_id("<|image_pad|>"),
        "video_token_id": token_id("<|video_pad|>"),
        "vision_start_token_id": token_id("<|vision_start|>"),
        "vision_end_token_id": token_id("<|vision_end|>"),
        "tie_word_embeddings": True,
    }


def _build_qwen2_audio(size: TinySizes, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    text = {**size.text, **_vocabulary(tokenizer), "model_type": "qwen2", "tie_word_embeddings": False}
    config = Qwen2AudioConfig(
        text_config=text,
        audio_config={**size.audio, "max_source_positions": 50 * _AUDIO_WINDOW_S},
        audio_token_index=tokenizer.get_vocab()["<|AUDIO|>"],
    )
    return Qwen2AudioForConditionalGeneration(config)


def _build_omni(size: TinySizes, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    token_id = tokenizer.get_vocab().__getitem__
    thinker = {
        # Written out on both levels: a missing key means tied embeddings to one loader and untied to another.
        "tie_word_embeddings": False,
        "text_config": {**size.three_axes, **_vocabulary(tokenizer), "tie_word_embeddings": False},
        "vision_config": size.windowed_vision,
        "audio_config": {**size.audio, "output_dim": size.hidden_size, "n_window": 100},
        "audio_token_index": token_id("<|AUDIO|>"),
        "image_token_index": token_id("<|IMAGE|>"),
        "video_token_index": token_id("<|VIDEO|>"),
        "audio_start_token_id": token_id("<|audio_bos|>"),
        "audio_end_token_id": token_id("<|audio_eos|>"),
        "vision_start_token_id": token_id("<|vision_bos|>"),
        "vision_end_token_id": token_id("<|vision_eos|>"),
        "user_token_id": token_id("user"),
        "position_id_per_seconds": 25,
        "seconds_per_chunk": 2,
    }
    config = Qwen2_5OmniConfig(
        thinker_config=thinker,
        enable_audio_output=False,
        tie_word_embeddings=False,  # type: ignore[call-arg]  # taken by the base class
    )
    return Qwen2_5OmniForConditionalGeneration(config)


def _vocabulary(tokenizer: PreTrainedTokenizerFast) -> dict[str, int | None]:
    return {
        "vocab_size": len(tokenizer),
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _qwen2_vl_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen2VLProcessor:
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(),
        video_processor=Qwen2VLVideoProcessor(),
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
    )


def _qwen2_5_vl_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLProcessor:
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(),
        video_processor=Qwen2VLVideoProcessor(),
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
    )


def _qwen3_vl_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLProcessor:
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=16),
        video_processor=Qwen3VLVideoProcessor(),
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
    )


def _qwen2_audio_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen2AudioProcessor:
    """With its own chat template, which numbers the sounds ("Audio 1: ...") and writes a system message."""
    extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=_AUDIO_WINDOW_S)
    return Qwen2AudioProcessor(feature_extractor=extractor, tokenizer=tokenizer)


def _omni_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5OmniProcessor:
    return Qwen2_5OmniProcessor(
        image_processor=Qwen2VLImageProcessor(),
        video_processor=Qwen2VLVideoProcessor(),
        # The published checkpoints say chunk_length=300; whoever pads to it computes 300 s of silence per sound.
        feature_extractor=WhisperFeatureExtractor(feature_size=128, chunk_length=30),
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
    )


_BUILDERS: dict[str, Any] = {
    "qwen2_vl": (_build_qwen2_vl, _qwen2_vl_processor, VL_TOKENS),
    "qwen2_5_vl": (_build_qwen2_5_vl, _qwen2_5_vl_processor, VL_TOKENS),
    "qwen3_vl": (_build_qwen3_vl, _qwen3_vl_processor, VL_TOKENS),
    "qwen2_audio": (_build_qwen2_audio, _qwen2_audio_processor, AUDIO_TOKENS),
    "qwen2_5_omni": (_build_omni, _omni_processor, OMNI_TOKENS),
}
