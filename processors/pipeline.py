"""MediaPipeline: references to media in, tensors for the model's forward out."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

from mmreason.config import MediaConfig
from mmreason.errors import MediaError, ModelError
from mmreason.processors.audio import audio_tensors, audio_tokens
from mmreason.processors.base import TOO_SHORT, Decoded, MediaTraits, Refusal
from mmreason.processors.cache import MemoryCache
from mmreason.processors.image import image_tensors, image_tokens
from mmreason.processors.media import MediaLoader, Prepared
from mmreason.processors.video import stamp_ids, video_tensors, video_tokens
from mmreason.processors.views import SEEDED, changes, seen
from mmreason.types import MediaRef, MediaTensors, View

Tensors = tuple[MediaTensors, ...]
"""One item, or a video followed by its sound."""


class MediaPipeline:
    """Media of one model family, decoded and processed once per (file, sampling, view) while memory lasts.

    Example: `MediaPipeline(config.media, traits, AutoProcessor.from_pretrained(path), root).tensors(sample.media)`
    """

    def __init__(self, config: MediaConfig, traits: MediaTraits, processor: Any, root: str | None = None) -> None:
        """processor: the checkpoint's AutoProcessor. Raises ConfigError (decoder, cache folder), ModelError (a
        processor that does not fit the family)."""
        _check(processor, traits)
        if traits.audio_rate is not None:  # what the model's window cannot hold is refused by the header already
            window = processor.feature_extractor.n_samples / traits.audio_rate
            config = config.model_copy(update={"audio_max_seconds": min(config.audio_max_seconds, window)})
        self._traits, self._processor = traits, processor
        self._tokenizer = getattr(processor, "tokenizer", None)
        self.loader = MediaLoader(config, traits, root)
        self._memory: MemoryCache[tuple[str, View, int], Tensors] = MemoryCache(config.memory_gb * 1e9)

    def tensors(
        self, refs: Sequence[MediaRef], view: View = "ordered", seed: int = 0
    ) -> list[tuple[MediaTensors, ...] | MediaError]:
        """One entry per reference, in order; a video with sound gives (video, audio with joined=True).

        view: how the media are shown (views.py); what it does not change is as in "ordered".
        """
        items = self.loader.prepare(refs)
        found: dict[tuple[str, View, int], Tensors | MediaError] = {}
        missing: dict[tuple[str, View, int], Prepared] = {}
        for item in items:
            if isinstance(item, Prepared):
                name = _name(item, view, seed)
                if (kept := self._memory.get(name)) is not None:
                    found[name] = kept
                else:
                    missing[name] = item
        for (name, item), decoded in zip(missing.items(), self.loader.decode(list(missing.values())), strict=True):
            found[name] = decoded if isinstance(decoded, MediaError) else self._process(item.ref, decoded, name)
        return [item if isinstance(item, MediaError) else found[_name(item, view, seed)] for item in items]

    def token_counts(self, refs: Sequence[MediaRef]) -> list[int | MediaError]:
        """How many tokens of the prompt each item becomes in place of its one placeholder, without decoding it.

        From headers alone: exact for images and videos; for sounds as exact as the header's length is (exact for WAV
        and FLAC). A video with its sound counts both, and the two tokens around the sound; a video with its times in
        words counts those, and the two tokens around each step.
        """
        return [item if isinstance(item, MediaError) else self._tokens(item) for item in self.loader.prepare(refs)]

    def close(self) -> None:
        """End the decoding processes."""
        self.loader.close()

    def __enter__(self) -> MediaPipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _process(self, ref: MediaRef, decoded: Decoded, name: tuple[str, View, int]) -> Tensors | MediaError:
        try:
            made = self._made(seen(decoded, *name[1:]))
        except Refusal as refusal:
            return MediaError(ref.name, refusal.reason, refusal.detail)
        size = sum(tensor.nbytes for item in made for tensor in item.kwargs.values())
        if name[1] not in SEEDED:  # every step has another seed: it would push out what is asked for again
            self._memory.put(name, made, size)
        return made

    def _made(self, decoded: Decoded) -> Tensors:
        if decoded.kind == "image":
            return (image_tensors(decoded, self._processor.image_processor, self._traits),)
        if decoded.kind == "audio":
            return (audio_tensors(decoded, self._processor.feature_extractor, self._traits),)
        video = video_tensors(decoded, self._processor, self._traits)
        if decoded.sound is None:
            return (video,)
        return video, audio_tensors(decoded.sound, self._processor.feature_extractor, self._traits, joined=True)

    def _tokens(self, item: Prepared) -> int | MediaError:
        plan, facts = item.plan, item.facts
        visual = 0
        if item.ref.kind == "image":
            return image_tokens(plan.size, self._traits)
        if item.ref.kind == "video":
            assert facts.times is not None
            stamps = stamp_ids(facts.times[list(plan.indices)].tolist(), self._traits, self._tokenizer)
            visual = video_tokens(len(plan.indices), plan.size, self._traits) + sum(2 + len(stamp) for stamp in stamps)
            if not plan.sound:
                return visual
        seconds = facts.seconds if item.ref.kind == "audio" else (facts.sound_seconds or 0.0)
        assert plan.rate is not None
        samples = ceil((min(seconds, plan.end or seconds) - plan.start) * plan.rate)
        tokens = audio_tokens(samples, self._processor.feature_extractor.hop_length)
        if tokens < self._traits.audio_min_tokens:
            return MediaError(item.ref.name, TOO_SHORT, f"{samples / plan.rate:.3f} s of sound")
        return tokens if item.ref.kind == "audio" else visual + tokens + 2


def _name(item: Prepared, view: View, seed: int) -> tuple[str, View, int]:
    if not changes(view, item.ref):
        return item.key, "ordered", 0
    return item.key, view, seed if view in SEEDED else 0


def _check(processor: Any, traits: MediaTraits) -> None:
    """The checkpoint's processor and the family's row must speak of the same patches and rates."""
    for part in ("image_processor", "video_processor") if traits.vision else ():
        component = getattr(processor, part)
        has = component.patch_size * component.merge_size, component.merge_size, component.temporal_patch_size
        wants = traits.pixel_factor, traits.merge_size, traits.temporal_patch_size
        if has != wants:
            raise ModelError(
                f"{part}: pixel factor, merge size, temporal patch size are {has}, this family has {wants}; "
                f"take the processor of a checkpoint of this family"
            )
    if traits.audio_rate is None:
        return
    extractor: Any = getattr(processor, "feature_extractor", None)
    rate = getattr(extractor, "sampling_rate", None)
    if rate != traits.audio_rate:
        raise ModelError(f"feature_extractor: rate {rate}, this family has {traits.audio_rate} Hz")
    if traits.mel_frames and extractor.nb_max_frames != traits.mel_frames:
        raise ModelError(
            f"feature_extractor: {extractor.nb_max_frames} mel frames, this checkpoint's audio tower takes "
            f"{traits.mel_frames}; take the processor of the same checkpoint"
        )
