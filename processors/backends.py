"""Three video decoders behind one function: upright RGB frames at given times.

A reader is `read(source, facts, wanted) -> iterator of (seconds, uint8 [H, W, 3])`, one frame per wanted time, in
order; `wanted` are times of `facts.times`, ascending. Times count from the first frame.
"""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache
from importlib import import_module
from typing import Any

import av
import numpy as np

from mmreason.errors import ConfigError
from mmreason.processors.base import CORRUPT, NO_FRAMES, TRUNCATED, UNKNOWN_TO_DECODER, Facts, Refusal
from mmreason.processors.containers import open_container, reading
from mmreason.processors.source import Source

Array = np.ndarray[Any, Any]
Reader = Callable[[Source, Facts, Array], Iterator[tuple[float, Array]]]

_SAME = 1e-6
"""Seconds within which two times are the same frame's."""
_ROUNDING = 2e-3
"""Seconds by which the times of two decoders may differ: containers round to milliseconds."""
_SEEK_FRAMES = 24
"""Decoding this many frames in passing is cheaper than a seek."""


class _SeekMissed(Exception):
    """A seek ended behind the frame that was wanted: the container's index is wrong."""


def read_pyav(source: Source, facts: Facts, wanted: Array) -> Iterator[tuple[float, Array]]:
    """PyAV. Seeks to the keyframe before each wanted frame when that skips enough."""
    done = 0
    try:
        for item in _walk(source, facts, wanted, seek=True):
            yield item
            done += 1
    except _SeekMissed:
        yield from _walk(source, facts, wanted[done:], seek=False)


def _walk(source: Source, facts: Facts, wanted: Array, seek: bool) -> Iterator[tuple[float, Array]]:
    assert facts.times is not None
    assert facts.keyframes is not None
    with open_container(source) as container, reading():
        stream = container.streams.best("video")
        stream.codec_context.thread_count = 2
        rate = facts.rate or 1.0
        frames = enumerate(container.decode(stream))
        before: tuple[float, Any] | None = None
        here: tuple[float, Any] | None = None
        for target in wanted.tolist():
            start = _keyframe_to_seek(facts, target, here[0] if here else 0.0) if seek else None
            if start is not None:
                container.seek(round((facts.first + start) / stream.time_base), stream=stream)
                frames, before, here = enumerate(container.decode(stream)), None, None
            while here is None or here[0] < target - _SAME:
                index, frame = next(frames, (0, None))
                if frame is None:
                    break
                before, here = here, (index / rate if frame.time is None else frame.time - facts.first, frame)
                if start is not None and before is None and here[0] > target + _SAME:
                    raise _SeekMissed
            yield _nearest(before, here, target, facts)


def _keyframe_to_seek(facts: Facts, target: float, position: float) -> float | None:
    """The last keyframe at or before the target, if it lies far enough ahead of where the decoder is."""
    assert facts.times is not None
    assert facts.keyframes is not None
    earlier = facts.keyframes[facts.keyframes <= target + _SAME]
    if not len(earlier):
        return None
    skipped = np.searchsorted(facts.times, earlier[-1]) - np.searchsorted(facts.times, position)
    return float(earlier[-1]) if skipped > _SEEK_FRAMES else None


def _nearest(before: Any, here: Any, target: float, facts: Facts) -> tuple[float, Array]:
    """Of the last two frames the one nearer to the target, as upright RGB."""
    assert facts.times is not None
    if here is None:
        raise Refusal(NO_FRAMES)
    nearer = min((item for item in (before, here) if item is not None), key=lambda item: abs(item[0] - target))
    spacing = facts.times[-1] / (len(facts.times) - 1)
    if target - nearer[0] > 2 * spacing + _SAME:
        raise Refusal(TRUNCATED, f"frames can be decoded up to {nearer[0]:.2f} s, {target:.2f} s was wanted")
    seconds, frame = nearer
    if frame.is_corrupt:
        raise Refusal(CORRUPT, f"the frame at {seconds:.2f} s is damaged")
    return seconds, np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)


def read_torchcodec(source: Source, facts: Facts, wanted: Array) -> Iterator[tuple[float, Array]]:
    """torchcodec (needs FFmpeg's shared libraries). It applies the rotation itself, and counts frames by itself."""
    assert facts.times is not None
    _refuse_formats("torchcodec", facts, {"MPEG video"})
    decoders = import_module("torchcodec.decoders")
    try:
        decoder = decoders.VideoDecoder(source, seek_mode="exact", dimension_order="NHWC", num_ffmpeg_threads=2)
        for target, index in zip(wanted.tolist(), np.searchsorted(facts.times, wanted - _SAME).tolist(), strict=True):
            frame = decoder.get_frame_at(index)
            seconds = frame.pts_seconds - facts.first
            check_found("torchcodec", seconds, target, facts)
            yield seconds, frame.data.numpy()
    except (RuntimeError, IndexError, ValueError) as error:
        raise Refusal(CORRUPT, f"torchcodec: {str(error).splitlines()[0]}") from None


def read_decord(source: Source, facts: Facts, wanted: Array) -> Iterator[tuple[float, Array]]:
    """decord (unmaintained; its own FFmpeg 4). It garbles rotated videos and shows wrong frames of MPEG streams."""
    _refuse_formats("decord", facts, {"GIF", "MPEG video", "MPEG-TS", "MPEG-PS"})
    if facts.rotation:
        raise Refusal(UNKNOWN_TO_DECODER, "decord cannot turn rotated videos")
    if facts.hidden:
        raise Refusal(UNKNOWN_TO_DECODER, f"decord shows the {facts.hidden} frames that the edit list hides")
    decord = import_module("decord")
    try:
        reader = decord.VideoReader(io.BytesIO(source) if isinstance(source, bytes) else source, num_threads=1)
        starts = reader.get_frame_timestamp(range(len(reader)))[:, 0].astype(np.float64)
        starts -= starts[0]
        for target in wanted.tolist():
            index = int(np.abs(starts - target).argmin())
            check_found("decord", float(starts[index]), target, facts)
            yield float(starts[index]), reader[index].asnumpy()
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise Refusal(CORRUPT, f"decord: {str(error).splitlines()[0]}") from None


def check_found(decoder: str, seconds: float, wanted: float, facts: Facts) -> None:
    """Refuse the frame of a decoder that counts frames otherwise: it would be another one than was asked for."""
    assert facts.times is not None
    near = facts.times[max(0, int(np.searchsorted(facts.times, wanted - _SAME)) - 1) :][:3]
    spacing = float(np.diff(near).min()) if len(near) > 1 else 0.0
    if abs(seconds - wanted) > max(spacing / 2, _ROUNDING):
        raise Refusal(UNKNOWN_TO_DECODER, f"{decoder} gives the frame at {seconds:.3f} s for that at {wanted:.3f} s")


def _refuse_formats(decoder: str, facts: Facts, unable: set[str]) -> None:
    if facts.format in unable:
        raise Refusal(UNKNOWN_TO_DECODER, f"{decoder} cannot read {facts.format}")


READERS: dict[str, Reader] = {"pyav": read_pyav, "torchcodec": read_torchcodec, "decord": read_decord}
"""In the order in which `auto` tries them: PyAV reads files that the others give wrong frames of (raw streams, .ts)."""

MEND = {
    "torchcodec": "pip install torchcodec, and install FFmpeg's libraries (Debian, Ubuntu: apt-get install ffmpeg)",
    "pyav": "pip install av",
    "decord": "pip install decord (it has wheels for x86_64 only)",
}


def choose_decoder(name: str) -> str:
    """The decoder that `media.decoder` means here. Raises ConfigError when it does not work on this machine."""
    if name != "auto":
        if trouble := problem(name):
            raise ConfigError(f"media.decoder: {name} does not work here ({trouble}); {MEND[name]}, or set auto")
        return name
    for candidate in READERS:
        if problem(candidate) is None:
            return candidate
    raise ConfigError(f"media.decoder: no video decoder works here; {MEND['pyav']}")


@cache
def problem(name: str) -> str | None:
    """Why a decoder does not work here, in one line, or None: it must decode a tiny clip, twice the same."""
    if name == "decord":  # a foreign FFmpeg in the process: it is tried in a process of its own
        return _problem_elsewhere(name)
    return try_decoder(name)


def try_decoder(name: str) -> str | None:
    """Decode a generated clip in this process; None, or what went wrong."""
    levels = [40, 90, 140, 190]
    facts = Facts(digest="", format="AVI", times=np.arange(4) / 4, keyframes=np.arange(4) / 4, rate=4.0)
    try:
        frames = [pixels for _, pixels in READERS[name](_tiny_clip(levels), facts, facts.times)]  # type: ignore[arg-type]
    except Exception as error:  # a broken installation may raise anything; the line goes to the user
        said = error.detail if isinstance(error, Refusal) else str(error)
        first = (said.strip().splitlines() or [type(error).__name__])[0]
        return first.removeprefix(f"{name}: ").removesuffix(" Likely causes:")[:200]
    found = [float(pixels.mean()) for pixels in frames]
    return None if np.allclose(found, levels, atol=6) else f"it decodes wrong frames: {found} for {levels}"


def _problem_elsewhere(name: str) -> str | None:
    code = f"from mmreason.processors.backends import try_decoder; print(try_decoder({name!r}) or 'works')"
    command = [sys.executable, "-P", "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return "it hangs"
    said = done.stdout.strip().splitlines()[-1:] or [f"its process ended with status {done.returncode}"]
    return None if said == ["works"] else said[0]


def _tiny_clip(levels: list[int]) -> bytes:
    """Four grey frames, a quarter of a second each, as an AVI."""
    file = io.BytesIO()
    with av.open(file, "w", format="avi") as container:
        stream: Any = container.add_stream("mpeg4", rate=Fraction(4), width=32, height=32, pix_fmt="yuv420p")
        stream.codec_context.max_b_frames = 0
        for index, level in enumerate(levels):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 4)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()
