"""Sounds of every format, rate and channel count come out as mono float32 at the model's rate."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchaudio

from mmreason.processors.audio import audio_tensors, audio_tokens, resample
from mmreason.processors.base import Decoded, Refusal
from tests.media_files import cut, tone, write_audio, write_video
from tests.unit.processors.helpers import TRAITS, components, load, reason, ref


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".m4a"])
@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (44100, 2), (8000, 1), (96000, 2)])
def test_formats_rates_channels(tmp_path: Path, suffix: str, rate: int, channels: int) -> None:
    if suffix == ".mp3" and rate == 96000:
        pytest.skip("MP3 has no such rate")
    decoded = load(ref(write_audio(tmp_path / f"a{suffix}", tone(1.0, rate, 440, channels), rate)))
    assert decoded.data.dtype == np.float32
    assert decoded.rate == 16000
    assert len(decoded.data) == pytest.approx(16000, abs=1200 if suffix == ".mp3" else 10)  # MP3 pads by whole frames
    middle = decoded.data[4000:12000]
    assert np.abs(np.fft.rfft(middle)).argmax() * 2 == pytest.approx(440, abs=4)
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.05)


def test_wav_is_exact(tmp_path: Path) -> None:
    wave = tone(0.3)
    decoded = load(ref(write_audio(tmp_path / "a.wav", wave, subtype="FLOAT")))
    np.testing.assert_array_equal(decoded.data, wave)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM"])
def test_sample_formats(tmp_path: Path, subtype: str) -> None:
    decoded = load(ref(write_audio(tmp_path / "a.wav", tone(0.3), subtype=subtype)))
    np.testing.assert_allclose(decoded.data[100:4800], tone(0.3)[100:], atol=0.03)  # ADPCM needs a run-up


def test_channels_are_averaged(tmp_path: Path) -> None:
    six = np.stack([tone(0.3) * scale for scale in (0.6, 0, 0, 0, 0, 0)], axis=1)
    decoded = load(ref(write_audio(tmp_path / "a.wav", six, subtype="FLOAT")))
    np.testing.assert_allclose(decoded.data, tone(0.3) * 0.1, atol=1e-6)


def test_resampling_is_torchaudio(tmp_path: Path) -> None:
    stereo = np.stack([tone(1, 44100, 300), tone(1, 44100, 700)], axis=1)
    decoded = load(ref(write_audio(tmp_path / "a.wav", stereo, 44100, subtype="FLOAT")))
    expected = torchaudio.functional.resample(torch.from_numpy(stereo.mean(axis=1)), 44100, 16000)
    np.testing.assert_allclose(decoded.data, expected, atol=1e-6)


@pytest.mark.parametrize("rate", [44101, 47999, 16001, 22051])
def test_rates_that_hardly_reduce_need_no_gigabytes(rate: int) -> None:
    wave = resample(torch.from_numpy(tone(1.0, rate, 440)), rate, 16000)
    assert len(wave) == pytest.approx(16000, abs=3)
    assert np.abs(np.fft.rfft(wave[:16000].numpy())).argmax() == 440


def test_silence_is_fine(tmp_path: Path) -> None:
    decoded = load(ref(write_audio(tmp_path / "a.wav", np.zeros(16000, np.float32))))
    assert not decoded.data.any()
    made = audio_tensors(decoded, components().feature_extractor, TRAITS)
    assert made.tokens == 25
    assert torch.isfinite(made.kwargs["input_features"]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    wave = tone(0.5)
    wave[100] = value
    assert reason(ref(write_audio(tmp_path / "a.wav", wave, subtype="FLOAT"))) == "NaN samples"


def test_start_and_end(tmp_path: Path) -> None:
    for suffix in (".wav", ".m4a"):
        path = write_audio(tmp_path / f"a{suffix}", np.concatenate([tone(1, hertz=300), tone(1, hertz=900)]))
        decoded = load(ref(path, start=1, end=1.5))
        assert len(decoded.data) == 8000
        assert np.abs(np.fft.rfft(decoded.data)).argmax() * 2 == pytest.approx(900, abs=4)
        assert reason(ref(path, start=3)) == "too short"


def test_too_long(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav", tone(3))
    assert reason(ref(path), audio_max_seconds=2) == "too long"
    assert len(load(ref(path, end=1.5), audio_max_seconds=2).data) == 24000
    longer = write_audio(tmp_path / "b.wav", tone(31))  # this feature extractor's window is 30 s: others would cut it
    assert reason(ref(longer)) == "too long"


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".m4a"])
@pytest.mark.parametrize("keep", [0.3, 0.6])
def test_truncated(tmp_path: Path, suffix: str, keep: float) -> None:
    noise = np.random.default_rng(0).normal(size=48000).astype(np.float32) / 10
    found = reason(ref(cut(write_audio(tmp_path / f"a{suffix}", noise), keep)))
    assert found in (("truncated", "corrupt") if suffix == ".flac" else ("truncated",))


@pytest.mark.parametrize("riff", [0, 8, 0xFFFFFFFF])
@pytest.mark.parametrize("data", [0, 0xFFFFFFFF])
def test_wav_of_a_streaming_writer_is_fine(tmp_path: Path, riff: int, data: int) -> None:
    path = write_audio(tmp_path / "a.wav", tone(0.5))
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, 4, riff)
    struct.pack_into("<I", content, content.index(b"data") + 4, data)
    path.write_bytes(content)
    decoded = load(ref(path)).data
    assert len(decoded) == 8000
    np.testing.assert_allclose(decoded, tone(0.5), atol=1e-4)


def test_wav_without_samples(tmp_path: Path) -> None:
    assert reason(ref(write_audio(tmp_path / "a.wav", np.zeros(0, np.float32)))) == "too short"


def test_w64(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav", tone(0.5), format="W64", subtype="FLOAT")
    assert path.read_bytes().startswith(b"riff\x2e\x91")
    np.testing.assert_array_equal(load(ref(path)).data, tone(0.5))
    assert reason(ref(cut(path, 0.6))) == "truncated"


def test_a_flac_named_wav_is_a_sound(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.flac", tone(0.5)).rename(tmp_path / "a.wav")
    assert len(load(ref(path)).data) == 8000


@pytest.mark.parametrize("seconds", [0.021, 0.3, 0.4, 1.0, 7.77, 29.98, 30.0])
def test_features_equal_the_checkpoints_processor(seconds: float) -> None:
    """Ours pad to the sound's length, the checkpoint's to 30 s: the frames that count are the same."""
    extractor = components().feature_extractor
    wave = tone(seconds) + np.random.default_rng(0).normal(size=round(seconds * 16000)).astype(np.float32) / 50
    made = audio_tensors(Decoded(kind="audio", data=wave, rate=16000), extractor, TRAITS)
    full = extractor(wave, sampling_rate=16000, padding="max_length", return_attention_mask=True, return_tensors="pt")
    frames = int(full["attention_mask"].sum())
    assert made.kwargs["feature_attention_mask"].tolist() == [[1] * frames]
    assert made.kwargs["input_features"].shape == (1, 128, frames)
    torch.testing.assert_close(made.kwargs["input_features"], full["input_features"][..., :frames], atol=1e-6, rtol=0)


def test_loud_end_sets_the_same_floor() -> None:
    """The loudest mel frame may be one that does not count, just behind the end: it still sets the floor."""
    wave = np.zeros(16000 + 1, np.float32)
    wave[-40:] = 0.9
    extractor: Any = components().feature_extractor
    made = audio_tensors(Decoded(kind="audio", data=wave, rate=16000), extractor, TRAITS)
    full = extractor(wave, sampling_rate=16000, return_tensors="pt")["input_features"][..., :101]
    torch.testing.assert_close(made.kwargs["input_features"], full, atol=1e-6, rtol=0)


def test_tokens() -> None:
    assert [audio_tokens(seconds * 16000) for seconds in (1, 5, 10, 30)] == [25, 125, 250, 750]
    assert [audio_tokens(frames * 160) for frames in (2, 3, 6, 7)] == [0, 1, 1, 2]


def test_too_short(tmp_path: Path) -> None:
    assert reason(ref(write_audio(tmp_path / "a.wav", tone(0.02)))) == "too short"
    assert len(load(ref(write_audio(tmp_path / "b.wav", tone(0.021)))).data) == 336
    extractor = components().feature_extractor
    with pytest.raises(Refusal, match="too short"):
        audio_tensors(Decoded(kind="audio", data=tone(0.01), rate=16000), extractor, TRAITS)


def test_video_without_sound_is_no_sound(tmp_path: Path) -> None:
    assert reason(ref(write_video(tmp_path / "a.webm"), kind="audio")) == "no sound track"
