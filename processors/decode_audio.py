"""Sounds: header facts, and samples as mono float32 at the file's own rate.

soundfile reads WAV, W64, FLAC, OGG, MP3, AIFF, AU and CAF; PyAV the rest (m4a, sound tracks of videos). Channels are
averaged. Resampling to the model's rate happens in the training process, with torchaudio.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import soundfile

from mmreason.processors.base import (
    CORRUPT,
    NAN_SAMPLES,
    NO_SOUND,
    TOO_LONG,
    TOO_SHORT,
    TRUNCATED,
    Facts,
    Limits,
    Plan,
    Refusal,
)
from mmreason.processors.containers import open_container, reading
from mmreason.processors.sniff import expect
from mmreason.processors.source import Source, open_source

Array = np.ndarray[Any, Any]

_SOUNDFILE_FORMATS = {"WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64"}
_RATES = range(1000, 768_001)
_BLOCK = 1 << 18
_PADDING_S = 0.1
"""Codecs fill up their last block: so much beyond the length in the header is not sound."""


def audio_facts(source: Source, digest: str, limits: Limits) -> Facts:
    """Format and length. Raises Refusal: wrong type, corrupt, truncated, no sound track, too long."""
    with open_source(source) as file:
        name = expect("audio", file)
    seconds = _soundfile_seconds(source) if name in _SOUNDFILE_FORMATS else None
    if seconds is None:
        with open_container(source) as container:
            seconds = track_seconds(container)
    if seconds is None:
        raise Refusal(NO_SOUND, f"this {name} file holds no audio stream")
    return Facts(digest=digest, format=name, seconds=seconds)


def decode_audio(source: Source, facts: Facts, plan: Plan, limits: Limits) -> tuple[Array, int]:
    """float32 [N] mono, from `plan.start` to `plan.end`, and its rate. Raises Refusal as above, and for NaN."""
    found = _read_soundfile(source, plan, limits) if facts.format in _SOUNDFILE_FORMATS else None
    samples, rate = found or read_track(source, 0.0, plan, limits)
    expected = min(plan.end or facts.seconds, facts.seconds) - plan.start
    return _checked(samples, rate, expected), rate


def decode_sound_of_video(source: Source, facts: Facts, plan: Plan, limits: Limits) -> tuple[Array, int]:
    """As `decode_audio`, for the sound track of a video; time 0 is its first frame."""
    samples, rate = read_track(source, facts.first, plan, limits)
    return _checked(samples, rate, 0.0), rate


def track_seconds(container: Any) -> float | None:
    """Length of the (best) sound track by the container's header, else by its packets; None without a track."""
    stream = container.streams.best("audio")
    if stream is None:
        return None
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    with reading():
        ends = [(p.pts + (p.duration or 0)) * p.time_base for p in container.demux(stream) if p.pts is not None]
    return float(max(ends) - (stream.start_time or 0) * stream.time_base) if ends else 0.0


def read_track(source: Source, origin: float, plan: Plan, limits: Limits) -> tuple[Array, int]:
    """Samples of the sound track that has sound, from `origin + plan.start` by the container's clock.

    Of several tracks the container's best comes first; where it is silent throughout, the next one with sound is
    taken. A track that begins later is padded with silence, so that sound and frames stay aligned.
    """
    with open_container(source) as container:
        best = container.streams.best("audio")
        tracks = sorted(container.streams.audio, key=lambda stream: stream is not best)
        order = [stream.index for stream in tracks]
    if not order:
        raise Refusal(NO_SOUND)
    silent = None
    for index in order:
        samples, rate = _decode_track(source, index, origin, plan, limits)
        if samples.any():
            return samples, rate
        silent = silent or (samples, rate)
    assert silent is not None
    return silent


def _decode_track(source: Source, index: int, origin: float, plan: Plan, limits: Limits) -> tuple[Array, int]:
    pieces: list[Array] = []
    with open_container(source) as container, reading():
        stream = container.streams[index]
        stream.codec_context.thread_count = 1
        rate = _sane_rate(stream.rate)
        skip: int | None = None
        stop = _stop(plan, limits) * rate
        got = 0
        for samples, seconds in _mono_pieces(container, stream):
            if skip is None:
                skip = round((origin + plan.start - seconds) * rate)
            pieces.append(samples)
            got += len(samples)
            if got - skip > stop:
                break
        promised = round(rate * float((stream.duration or 0) * stream.time_base))
    joined = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    if 0 < len(joined) - promised < _PADDING_S * rate:
        joined = joined[:promised]
    aligned = joined[skip:] if (skip or 0) >= 0 else np.concatenate([np.zeros(-(skip or 0), np.float32), joined])
    return _within(aligned, rate, plan, limits), rate


def _mono_pieces(container: Any, stream: Any) -> Iterator[tuple[Array, float]]:
    """float32 [n] per decoded frame, with the time of its first sample."""
    resampler = av.AudioResampler(format="fltp")
    for frame in container.decode(stream):
        seconds = frame.time or 0.0
        for planar in resampler.resample(frame):
            yield planar.to_ndarray().mean(axis=0, dtype=np.float32), seconds


def _soundfile_seconds(source: Source) -> float | None:
    """Length in seconds; None where soundfile does not know the codec inside, or takes a length that a streaming
    writer left at 0 for the length (FFmpeg reads on)."""
    try:
        with open_source(source) as file, soundfile.SoundFile(file) as sound:
            return float(sound.frames / _sane_rate(sound.samplerate)) or None
    except soundfile.LibsndfileError:
        return None


def _read_soundfile(source: Source, plan: Plan, limits: Limits) -> tuple[Array, int] | None:
    try:
        with open_source(source) as file, soundfile.SoundFile(file) as sound:
            rate = _sane_rate(sound.samplerate)
            if not sound.frames:
                return None
            sound.seek(min(round(plan.start * rate), sound.frames))
            stop, pieces = sound.tell() + _stop(plan, limits) * rate, [np.zeros(0, np.float32)]
            while sound.tell() <= stop and len(block := sound.read(_BLOCK, "float32", always_2d=True)):
                pieces.append(block.mean(axis=1, dtype=np.float32))
    except soundfile.LibsndfileError:
        return None
    return _within(np.concatenate(pieces), rate, plan, limits), rate


def _stop(plan: Plan, limits: Limits) -> float:
    """Seconds after which reading may stop: the end of the window, or just past what is allowed."""
    return limits.audio_seconds + 1 if plan.end is None else plan.end - plan.start


def _within(samples: Array, rate: int, plan: Plan, limits: Limits) -> Array:
    if plan.end is not None:
        samples = samples[: round((plan.end - plan.start) * rate)]
    if len(samples) > round(limits.audio_seconds * rate):
        raise Refusal(TOO_LONG, f"the sound is longer than {limits.audio_seconds:g} s")
    return samples


def _checked(samples: Array, rate: int, expected: float) -> Array:
    """Refuse samples that are no numbers, none at all, or clearly fewer than the header says."""
    if not np.isfinite(samples).all():
        raise Refusal(NAN_SAMPLES)
    seconds = len(samples) / rate
    if expected - seconds > max(0.25, 0.05 * expected):
        raise Refusal(TRUNCATED, f"{seconds:.2f} s can be decoded, the header says {expected:.2f} s")
    if not len(samples):
        raise Refusal(TOO_SHORT, "no samples")
    return np.ascontiguousarray(samples)


def _sane_rate(rate: int) -> int:
    if rate not in _RATES:
        raise Refusal(CORRUPT, f"sample rate {rate}")
    return rate
