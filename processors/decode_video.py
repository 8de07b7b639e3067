"""Videos: when every frame is shown (from the packets, without decoding), and the sampled frames, resized.

Frames are found by time, not by counting, so that variable frame rates, edit lists and unknown durations need no
special case. The rotation flag is applied. Pixels are taken as they are: no correction of pixel aspect ratio, no tone
mapping of HDR.
"""

from __future__ import annotations

from typing import Any

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
        first, times, keyframes = _frame_times(container, _film(container, name), limits)
    with open_container(source) as container, reading():
        size, rotation = _shown_size(container, _film(container, name))
    return Facts(
        digest=digest,
        format=name,
        size=size,
        rotation=rotation,
        seconds=float(times[-1]),
        first=first,
        times=times,
        keyframes=keyframes,
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


def _frame_times(container: Any, stream: Any, limits: Limits) -> tuple[float, Array, Array]:
    """(container time of the first frame, times of all frames from it, those of the keyframes)."""
    base = float(stream.time_base)
    stamps: list[tuple[float, bool]] = []
    hidden, ends, untimed = 0, 0.0, 0
    with reading():
        for packet in container.demux():
            if not packet.size:
                continue
            if packet.pts is not None:
                ends = max(ends, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream is not stream:
                continue
            hidden += packet.is_discard
            untimed += packet.pts is None
            if packet.is_corrupt:
                raise Refusal(TRUNCATED, f"packet {len(stamps)} is cut short")
            stamps.append((0.0 if packet.pts is None else packet.pts * base, packet.is_keyframe))
            if abs(stamps[-1][0] - stamps[0][0]) > limits.video_seconds:  # whatever the header said: read no further
                raise Refusal(TOO_LONG, f"at most {limits.video_seconds:g} s are allowed")
    if untimed:  # a raw stream: nothing but its nominal rate says when a frame is shown
        rate = float(stream.average_rate or 0)
        stamps = [(index / rate if rate else 0.0, False) for index in range(len(stamps))]  # nor can it be sought in
    shown = np.sort(np.array([seconds for seconds, _ in stamps]))
    keys = np.sort(np.array([seconds for seconds, key in stamps if key]))
    _check_times(shown, stream, ends, _header_seconds(container, stream))
    if shown[-1] - shown[0] > limits.video_seconds:
        raise Refusal(TOO_LONG, f"{shown[-1] - shown[0]:.0f} s, at most {limits.video_seconds:g} s are allowed")
    return float(shown[0]), shown - shown[0], keys - shown[0]


def _check_times(shown: Array, stream: Any, ends: float, promised: float) -> None:
    """Refuse what is no video, and what ends clearly before its header says. `ends`: of the last packet of any kind."""
    span = float(shown[-1] - shown[0]) if len(shown) else 0.0
    if len(shown) > 1 and span <= 0:
        raise Refusal(ZERO_FPS, "all frames carry the same time")
    if stream.frames and len(shown) < 0.95 * stream.frames - 1:
        raise Refusal(TRUNCATED, f"{len(shown)} frames, the header says {stream.frames}")
    spacing = span / (len(shown) - 1) if len(shown) > 1 else 0.0
    reached = max(ends - shown[0], span + spacing) if len(shown) else ends
    if promised - reached > max(2 * spacing, 0.25, 0.05 * promised):
        raise Refusal(TRUNCATED, f"{reached:.2f} s are there, the header says {promised:.2f} s")
    if len(shown) < 2:
        raise Refusal(ONE_FRAME if len(shown) else NO_FRAMES)


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
