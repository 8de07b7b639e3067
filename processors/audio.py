"""Decoded sound -> what the model's forward takes, through the checkpoint's own feature extractor."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, isqrt
from typing import Any

import torchaudio.functional as F
from torch import Tensor

from mmreason.processors.base import TOO_LONG, TOO_SHORT, Decoded, MediaTraits, Refusal
from mmreason.types import MediaTensors

_FILTER_BANK = 1 << 24
"""Most coefficients of a resampling filter: torchaudio's bank grows with the product of the reduced rates."""


def resample(samples_N: Tensor, rate: int, new_rate: int) -> Tensor:
    """Resample with torchaudio's windowed sinc.

    Rates that hardly reduce (44101 to 16000 Hz would need gigabytes of filters) are replaced by the nearest ratio of
    smaller numbers, at most 1e-4 off.
    """
    if rate == new_rate:
        return samples_N
    ratio = Fraction(rate, new_rate)
    if ratio.numerator * ratio.denominator > _FILTER_BANK:
        ratio = ratio.limit_denominator(max(1, isqrt(int(_FILTER_BANK / ratio))))
    resampled: Tensor = F.resample(samples_N, ratio.numerator, ratio.denominator)
    return resampled


def audio_tensors(decoded: Decoded, feature_extractor: Any, traits: MediaTraits, joined: bool = False) -> MediaTensors:
    """input_features [1, mel, L] and feature_attention_mask [1, L] for a sound of L mel frames (or padded to L).

    The checkpoint's processor pads every sound to its whole window (30 s or more) and masks the rest. Here the sound
    is padded only until no frame that counts can see the end: the same features at a fraction of the work. Only where
    the tower takes nothing but its whole window (`traits.mel_frames`) the result is that long, too.
    joined: the sound belongs to the video before it. Raises Refusal: too short, too long.
    """
    samples, rate = len(decoded.data), feature_extractor.sampling_rate
    assert decoded.rate == rate, f"sound at {decoded.rate} Hz for a feature extractor of {rate} Hz"
    if samples > feature_extractor.n_samples:
        window = feature_extractor.n_samples / rate
        raise Refusal(TOO_LONG, f"{samples / rate:.1f} s of sound, the model's window is {window:g} s")
    tokens = audio_tokens(samples, feature_extractor.hop_length)
    if tokens < traits.audio_min_tokens:
        raise Refusal(TOO_SHORT, f"{samples / rate:.3f} s of sound give {max(0, tokens)} tokens")
    batch = feature_extractor(
        decoded.data,
        sampling_rate=rate,
        padding="max_length",
        max_length=feature_extractor.n_samples if traits.mel_frames else _padded_length(samples, feature_extractor),
        return_attention_mask=True,
        return_tensors="pt",
    )
    mask_1L = batch["attention_mask"]
    frames = int(mask_1L.sum())
    assert frames == mel_frames(samples, feature_extractor.hop_length)
    kept = traits.mel_frames or frames
    features = batch["input_features"][:, :, :kept].contiguous()
    return MediaTensors(
        kind="audio",
        kwargs={"input_features": features, "feature_attention_mask": mask_1L[:, :kept].contiguous()},
        tokens=tokens,
        joined=joined,
        key=decoded.key,
    )


def mel_frames(samples: int, hop_length: int) -> int:
    """Mel frames of a sound, as the feature extractor's attention mask counts them."""
    return ceil(samples / hop_length)


def audio_tokens(samples: int, hop_length: int = 160) -> int:
    """Tokens of a sound: a convolution of stride 2, then pooling by 2 (Qwen2-Audio, Qwen2.5-Omni)."""
    return ((mel_frames(samples, hop_length) - 1) // 2 + 1 - 2) // 2 + 1


def _padded_length(samples: int, feature_extractor: Any) -> int:
    """Samples after padding: one window of zeros, so that neither a frame that counts nor the loudest frame, which
    sets the floor of all others, reaches the reflected edge; whole hops; at most the checkpoint's own window."""
    hop, window = int(feature_extractor.hop_length), int(feature_extractor.n_samples)
    return min(ceil((samples + int(feature_extractor.n_fft)) / hop) * hop, window)
