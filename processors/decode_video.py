"""Videos: when every frame is shown (from the packets, without decoding), and the sampled frames, resized.

Frames are found by time, not by counting, so that variable frame rates and unknown durations need no special case. The
rotation flag is applied. Pixels are taken as they are: no correction of pixel aspect ratio, no tone mapping of HDR.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mmreason.processors.backends import READERS
from mmreason.processors.base import (
    CORRUPT,
    NO_FRAMES,
    NO_SOUND,
    ONE_FRAME,
    TOO_LARGE,
    TOO_LONG,
    TRUNCATED,
    WRONG_TYPE,
    ZERO_FPS,
    Facts,
    Limits,
    Plan,
    Refusal,
)
from mmreason.processors.containers import open_container, reading
from mmreason.processors.decode_audio import track_seconds
from mmreason.processors.sniff import expect
from mmreason.processors.source import Source, open_source

Array = np.ndarray[Any, Any]


def video_facts(source: Source, digest: str, limits: Limits, sound: bool) -> Facts:
    """Shown size, frame times, keyframes, length of the sound track; decodes only the first frame.

    Raises Refusal: wrong type, corrupt, truncated, too large, too long, no frames, one frame, zero fps, no sound track.
    """
    with open_source(source) as file:
        name = expect("video", file)
    with open_container(source) as container:
        stream = _film(container, name)
        _check_header(container, stream, limits)
        sound_seconds = track_seconds(container) if sound else None
        if sound and sound_seconds is None:
            raise Refusal(NO_SOUND)
    with open_container(source) as container:
        shown = _frame_times(container, _film(container, name), name, limits)
    with open_container(source) as container, reading():
        size, rotation = _shown_size(container, _film(container, name))
    return Facts(
        digest=digest,
        format=name,
        size=size,
        rotation=rotation,
        seconds=float(shown.times[-1]),
        first=shown.first,
        times=shown.times,
        keyframes=shown.keyframes,
        rate=shown.rate,
        hidden=shown.hidden,
        sound_seconds=sound_seconds,
    )


def decode_video(source: Source, facts: Facts, plan: Plan) -> tuple[Array, tuple[float, ...]]:
    """uint8 [F, H, W, 3] of the planned frames, and the times of the frames that were found there."""
    assert facts.times is not None
    frames, times = [], []
    for seconds, pixels_HWC in READERS[plan.decoder](source, facts, facts.times[list(plan.indices)]):
        resized = Image.fromarray(pixels_HWC).resize(plan.size, Image.Resampling.BICUBIC)
        frames.append(np.asarray(resized))
        times.append(seconds)
    assert len(frames) == len(plan.indices)
    return np.stack(frames), tuple(times)


def _film(container: Any, name: str) -> Any:
    """The video stream, and only if it is one: cover art in a music file is not."""
    stream = container.streams.best("video")
    if stream is None or stream.disposition & stream.disposition.attached_pic:
        held = "sound only" if container.streams.audio else "no video stream"
        raise Refusal(WRONG_TYPE, f"expected video, this {name} file holds {held}")
    return stream


def _check_header(container: Any, stream: Any, limits: Limits) -> None:
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > limits.pixels:
        raise Refusal(TOO_LARGE, f"frames of {width} x {height} pixels, at most {limits.pixels} are allowed")
    if (seconds := _header_seconds(container, stream)) > limits.video_seconds:
        raise Refusal(TOO_LONG, f"{seconds:.0f} s by its header, at most {limits.video_seconds:g} s are allowed")


def _header_seconds(container: Any, stream: Any) -> float:
    """Length by the header; 0 when it does not say."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """Fields of `Facts` that are read from the packets."""

    first: float
    times: Array
    keyframes: Array
    rate: float
    hidden: int


def _frame_times(container: Any, stream: Any, name: str, limits: Limits) -> _Shown:
    """When every frame is shown. A frame that the edit list hides is not, but decoding may start at it."""
    stamps, ends = _packets(container, stream, limits)
    rate = _rate(stream, name)
    if any(stamp.seconds is None for stamp in stamps):  # a raw stream: nothing but its rate says when a frame is shown
        times = np.arange(len(stamps)) / (rate or np.inf)
        keys, hidden = times[:0], 0  # nor can it be sought in
    else:
        _require_time(np.array([stamp.seconds for stamp in stamps]))  # before an edit list of no length hides them all
        times = np.sort(np.array([stamp.seconds for stamp in stamps if not stamp.hidden], dtype=np.float64))
        keys = np.sort(np.array([stamp.seconds for stamp in stamps if stamp.key], dtype=np.float64))
        hidden = len(stamps) - len(times)
    _check_times(times, _promised_frames(stream, name, hidden), ends, _header_seconds(container, stream))
    if times[-1] - times[0] > limits.video_seconds:
        raise Refusal(TOO_LONG, f"{times[-1] - times[0]:.0f} s, at most {limits.video_seconds:g} s are allowed")
    return _Shown(first=float(times[0]), times=times - times[0], keyframes=keys - times[0], rate=rate, hidden=hidden)


class _Stamp(NamedTuple):
    """What a packet of the film says of its frame."""

    seconds: float | None
    key: bool
    hidden: bool


def _packets(container: Any, stream: Any, limits: Limits) -> tuple[list[_Stamp], float]:
    """The film's packets, and the container time at which the last packet of any stream ends."""
    stamps: list[_Stamp] = []
    ends, begun = 0.0, None
    with reading():
        for packet in container.demux():
            if not packet.size:
                continue
            if packet.pts is not None:
                ends = max(ends, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream is not stream:
                continue
            if packet.is_corrupt:
                raise Refusal(TRUNCATED, f"packet {len(stamps)} is cut short")
            seconds = None if packet.pts is None else float(packet.pts * stream.time_base)
            stamps.append(_Stamp(seconds, packet.is_keyframe, packet.is_discard))
            begun = seconds if begun is None else begun
            if abs((seconds or 0.0) - (begun or 0.0)) > limits.video_seconds:  # whatever the header said: stop reading
                raise Refusal(TOO_LONG, f"at most {limits.video_seconds:g} s are allowed")
    return stamps, ends


def _rate(stream: Any, name: str) -> float:
    """Frames per second by the container; of a raw stream, for which FFmpeg makes up 25, by the stream itself."""
    coded = stream.codec_context.framerate
    return float((coded or stream.average_rate if name == "MPEG video" else stream.average_rate or coded) or 0)


def _promised_frames(stream: Any, name: str, hidden: int) -> int:
    """How many frames the header says; 0 where that is no promise: an edit list takes away whole stretches of an mp4
    before packets are seen (and whether an mp4 is whole, its boxes have said)."""
    return 0 if hidden or name == "MP4" else int(stream.frames)


def _check_times(shown: Array, frames: int, ends: float, promised: float) -> None:
    """Refuse what is no video, and what ends clearly before its header says. `ends`: of the last packet of any kind."""
    span = float(shown[-1] - shown[0]) if len(shown) else 0.0
    _require_time(shown)
    if frames and len(shown) < 0.95 * frames - 1:
        raise Refusal(TRUNCATED, f"{len(shown)} frames, the header says {frames}")
    spacing = span / (len(shown) - 1) if len(shown) > 1 else 0.0
    reached = max(ends - shown[0], span + spacing) if len(shown) else ends
    if promised - reached > max(2 * spacing, 0.25, 0.05 * promised):
        raise Refusal(TRUNCATED, f"{reached:.2f} s are there, the header says {promised:.2f} s")
    if len(shown) < 2:
        raise Refusal(ONE_FRAME if len(shown) else NO_FRAMES)


def _require_time(times: Array) -> None:
    if len(times) > 1 and np.ptp(times) <= 0:
        raise Refusal(ZERO_FPS, "all frames carry the same time")


def _shown_size(container: Any, stream: Any) -> tuple[tuple[int, int], int]:
    """(width, height) of the first frame, rotation applied, and that rotation."""
    stream.codec_context.thread_count = 1
    frame = next(container.decode(stream), None)
    if frame is None:
        raise Refusal(NO_FRAMES)
    if frame.rotation % 90:
        raise Refusal(CORRUPT, f"rotation by {frame.rotation} degrees")
    stored = frame.width, frame.height
    return (stored[::-1] if frame.rotation % 180 else stored), frame.rotation
