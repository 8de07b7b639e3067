"""Models that score: an encoder of texts and pictures, a reward model with one output. And what a scorer must have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mmreason.errors import ModelError
from mmreason.processors.base import Decoded


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What one request wants scored: the answers to one question, its media once.

    Example: `Item(texts=("a red car", "an owl"), media=(frames,))`
    """

    texts: tuple[str, ...]
    question: str = ""
    """What the user asked, in words."""
    media: tuple[Decoded, ...] = ()
    """Those of the scorer's kinds; pixels are uint8."""
    sample: Mapping[str, Any] = field(default_factory=dict)
    """id, task, answer, golds and options of the sample, as JSON has them."""


class Scorer(Protocol):
    """What is loaded once and asked often, by one thread."""

    kinds: frozenset[str]
    """Kinds of media that it looks at; others are not decoded for it."""

    def facts(self) -> dict[str, str]:
        """What it is, for /health and the logs of those who ask."""

    def score(self, items: Sequence[Item]) -> list[list[Any]]:
        """For each item a value per text: a number, None, a Score as JSON has it, or what its own reward reads."""


class SiglipScorer:
    """Cosines between texts and pictures, by SigLIP or a model like it (image and text tower, one space).

    A value per text: {"frames": [cosine with each picture or frame], "mean": cosine with the mean of the pictures'
    unit vectors}. Pixels reach the image processor as uint8. (VideoRFT's own frames are float 0..255, which
    torchvision's ToPILImage multiplies by 255 and wraps around: its encoder sees colour negatives. Not copied.)
    """

    kinds = frozenset({"image", "video"})

    def __init__(self, *, device: str, path: str, dtype: str = "float32", batch: int = 64) -> None:
        from transformers import AutoModel, AutoProcessor

        self._path, self._dtype, self._batch = path, dtype, batch
        self._processor: Any = _loaded(AutoProcessor.from_pretrained, path)
        model: Any = _loaded(AutoModel.from_pretrained, path, dtype=dtype_of(dtype))
        if not hasattr(model, "get_text_features") or not hasattr(model, "get_image_features"):
            raise ModelError(f"{path}: {type(model).__name__} has no text and image features; expected SigLIP or CLIP")
        self._model = model.eval().to(device)

    def facts(self) -> dict[str, str]:
        return {"model": self._path, "dtype": self._dtype}

    def score(self, items: Sequence[Item]) -> list[list[Any]]:
        """Every picture and every text is encoded once, in as few forwards as `batch` allows."""
        pictures = {media.key: frames_of(media) for item in items for media in item.media}
        texts = list(dict.fromkeys(text for item in items for text in item.texts))
        pixels = self._encode([frame for frames in pictures.values() for frame in frames], self._pictures)
        vectors = dict(zip(pictures, torch.split(pixels, [len(frames) for frames in pictures.values()]), strict=True))
        words = dict(zip(texts, self._encode(texts, self._texts), strict=True))
        return [[self._value(item, words[text], vectors) for text in item.texts] for item in items]

    def _value(self, item: Item, text_D: Tensor, vectors: Mapping[str, Tensor]) -> dict[str, Any]:
        if not item.media:
            return {"frames": [], "mean": None}
        frames_FD = torch.cat([vectors[media.key] for media in item.media])
        mean_D = normalize(frames_FD.mean(dim=0), dim=-1)
        return {"frames": (frames_FD @ text_D).tolist(), "mean": float(mean_D @ text_D)}

    def _encode(self, things: Sequence[Any], encode: Callable[[Sequence[Any]], Any]) -> Tensor:
        """float32 [n, D] on the CPU, unit vectors."""
        parts = [torch.zeros(0, 1)]
        for start in range(0, len(things), self._batch):
            with torch.inference_mode():
                found = encode(things[start : start + self._batch])
            parts.append(normalize(getattr(found, "pooler_output", found).float(), dim=-1).cpu())
        return torch.cat(parts[1:] or parts)

    def _pictures(self, frames: Sequence[Any]) -> Any:
        inputs = self._processor(images=list(frames), return_tensors="pt")
        return self._model.get_image_features(
            pixel_values=inputs["pixel_values"].to(self._model.device, self._model.dtype)
        )

    def _texts(self, texts: Sequence[str]) -> Any:
        """Padded to full length, as SigLIP was trained, and cut there."""
        length = self._model.config.text_config.max_position_embeddings
        inputs = self._processor(
            text=list(texts), return_tensors="pt", padding="max_length", truncation=True, max_length=length
        )
        return self._model.get_text_features(**inputs.to(self._model.device))


class RewardModelScorer:
    """A sequence-classification model with one output, as reward models are published. It reads text, no media.

    A value per text: the output for (question, text), written in the tokenizer's chat template where it has one, else
    as question, empty line, text. Longer inputs than `max_tokens` are refused, not cut.
    """

    kinds: frozenset[str] = frozenset()

    def __init__(
        self, *, device: str, path: str, dtype: str = "float32", batch: int = 16, max_tokens: int = 4096
    ) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self._path, self._dtype, self._batch, self._max_tokens = path, dtype, batch, max_tokens
        self._tokenizer: Any = _loaded(AutoTokenizer.from_pretrained, path)
        model: Any = _loaded(AutoModelForSequenceClassification.from_pretrained, path, dtype=dtype_of(dtype))
        if model.config.num_labels != 1:
            raise ModelError(f"{path}: has {model.config.num_labels} outputs, expected a reward model with one")
        if self._tokenizer.pad_token_id is None or model.config.pad_token_id is None:
            raise ModelError(f"{path}: names no pad token, which batches need; set it in config.json and tokenizer")
        self._model = model.eval().to(device)

    def facts(self) -> dict[str, str]:
        return {"model": self._path, "dtype": self._dtype}

    def score(self, items: Sequence[Item]) -> list[list[Any]]:
        """Texts of similar length share a batch."""
        written = {(item.question, text): self._written(item.question, text) for item in items for text in item.texts}
        lengths = {pair: len(ids) for pair, ids in written.items()}
        order = sorted((pair for pair in written if lengths[pair] <= self._max_tokens), key=lengths.__getitem__)
        values: dict[tuple[str, str], float] = {}
        for start in range(0, len(order), self._batch):
            part = order[start : start + self._batch]
            values |= dict(zip(part, self._forward([written[pair] for pair in part]), strict=True))
        return [[self._value((item.question, text), values, lengths) for text in item.texts] for item in items]

    def _value(self, pair: tuple[str, str], values: Mapping[Any, float], lengths: Mapping[Any, int]) -> Any:
        if pair in values:
            return values[pair]
        return {"total": None, "error": f"{lengths[pair]} tokens, more than max_tokens ({self._max_tokens})"}

    def _written(self, question: str, text: str) -> list[int]:
        if self._tokenizer.chat_template is None:
            return list(self._tokenizer(f"{question}\n\n{text}" if question else text)["input_ids"])
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": text}]
        return list(self._tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"])

    def _forward(self, ids: Sequence[list[int]]) -> list[float]:
        batch = self._tokenizer.pad({"input_ids": list(ids)}, return_tensors="pt").to(self._model.device)
        with torch.inference_mode():
            return [float(value) for value in self._model(**batch).logits[:, 0].float()]


SCORERS: dict[str, Callable[..., Scorer]] = {"siglip": SiglipScorer, "reward_model": RewardModelScorer}


def frames_of(media: Decoded) -> list[Any]:
    """The pictures of an image or video, uint8 [H, W, 3] each."""
    return [media.data] if media.kind == "image" else list(media.data)


def dtype_of(name: str) -> torch.dtype:
    """ "float32", "bfloat16" or "float16" as torch has it. Raises ModelError."""
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise ModelError(f"dtype {name!r}: expected one of {', '.join(known)}")
    return known[name]


def _loaded(load: Callable[..., Any], path: str, **options: Any) -> Any:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        return load(path, **options)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be loaded ({' '.join(str(error).split())[:300]})") from error
