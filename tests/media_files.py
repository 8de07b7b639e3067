"""Real media files for tests, written by real encoders: Pillow, PyAV and soundfile. All small."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from PIL import Image

from mmreason.processors import base

Array = np.ndarray[Any, Any]
VIDEO_CODECS = {".mp4": "libx264", ".mov": "libx264", ".mkv": "libx264", ".webm": "libvpx-vp9", ".avi": "mpeg4"}
SOUND_CODECS = {".mp4": "aac", ".mov": "aac", ".mkv": "flac", ".webm": "libopus", ".avi": "mp3", ".m4a": "aac"}


def picture(width: int = 64, height: int = 48, seed: int = 0) -> Array:
    """uint8 [height, width, 3]: a smooth coloured pattern, different for every seed."""
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    phases = np.random.default_rng(seed).uniform(0, 6, (3, 3))
    waves = [np.sin(6 * (x * a + y * b) + c) for a, b, c in phases]
    return (np.stack(waves, axis=-1) * 100 + 128).astype(np.uint8)


def clip(frames: int = 16, width: int = 64, height: int = 48) -> Array:
    """uint8 [frames, height, width, 3]: frame i is uniformly grey, 16 + i * 224 / frames, so it can be told apart."""
    levels = 16 + np.arange(frames) * 224 // frames
    return np.broadcast_to(levels[:, None, None, None], (frames, height, width, 3)).astype(np.uint8)


def tone(seconds: float = 0.5, rate: int = 16000, hertz: float = 440.0, channels: int = 1) -> Array:
    """float32 [N] or [N, channels]: a sine at half volume."""
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32)
    return wave if channels == 1 else np.repeat(wave[:, None], channels, axis=1)


def write_image(path: Path, pixels: Array | None = None, mode: str = "RGB", **save: Any) -> Path:
    """An image in Pillow's `mode`; `orientation=6` sets EXIF, other keywords go to Pillow (format, quality, ...)."""
    image = Image.fromarray(picture() if pixels is None else pixels)
    image = image if mode in ("as is", image.mode) else image.convert(mode)
    if orientation := save.pop("orientation", None):
        exif = Image.Exif()
        exif[0x0112] = orientation
        save["exif"] = exif
    image.save(path, **save)
    return path


def write_video(
    path: Path,
    frames: Array | None = None,
    fps: float = 8,
    *,
    times: Sequence[float] | None = None,
    rotation: int = 0,
    codec: str | None = None,
    pixels: str = "yuv420p",
    keyframe_every: int = 12,
    sound: Array | Sequence[Array] | None = None,
    sound_rate: int = 16000,
    options: dict[str, str] | None = None,
) -> Path:
    """A video by PyAV. frames: uint8 [F, H, W, 3].

    times: seconds at which each frame is shown (variable frame rate). rotation: degrees counter-clockwise in the
    display matrix. sound: float32 [N] or [N, C], or several, one per audio track. options: for the container.
    """
    frames = clip() if frames is None else frames
    shown = [index / fps for index in range(len(frames))] if times is None else list(times)
    tracks = [] if sound is None else [sound] if isinstance(sound, np.ndarray) else list(sound)
    rate = Fraction(fps).limit_denominator(1000)
    with av.open(str(path), "w", options=options or {}) as container:
        video: Any = container.add_stream(codec or VIDEO_CODECS[path.suffix], rate=rate)
        video.height, video.width, video.pix_fmt = frames.shape[1], frames.shape[2], pixels
        video.gop_size, video.codec_context.thread_count = keyframe_every, 1
        if times is not None:
            video.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            video.set_display_rotation(rotation)
        streams = [_sound_stream(container, path.suffix, track, sound_rate) for track in tracks]
        for pixels_HWC, seconds in zip(frames, shown, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels_HWC), format="rgb24")
            frame.time_base = Fraction(1, 1000) if times is not None else 1 / rate
            frame.pts = round(seconds / frame.time_base)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        for stream, track in zip(streams, tracks, strict=True):
            _encode_sound(container, stream, track, sound_rate)
    return path


def write_audio(path: Path, samples: Array | None = None, rate: int = 16000, **save: Any) -> Path:
    """A sound: .wav .flac .ogg .mp3 by soundfile (keywords such as subtype go to it), others by PyAV."""
    samples = tone(rate=rate) if samples is None else samples
    if path.suffix in (".wav", ".flac", ".ogg", ".mp3"):
        soundfile.write(path, samples, rate, **save)
        return path
    with av.open(str(path), "w") as container:
        stream = _sound_stream(container, path.suffix, samples, rate)
        _encode_sound(container, stream, samples, rate)
    return path


def _sound_stream(container: Any, suffix: str, samples: Array, rate: int) -> Any:
    codec = SOUND_CODECS[suffix]
    layout = "mono" if samples.ndim == 1 else {1: "mono", 2: "stereo", 6: "5.1"}[samples.shape[1]]
    return container.add_stream(codec, rate=48000 if codec == "libopus" else rate, layout=layout)


def _encode_sound(container: Any, stream: Any, samples: Array, rate: int) -> None:
    planes = np.ascontiguousarray(samples[None] if samples.ndim == 1 else samples.T).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=stream.layout.name)
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    resampler = av.AudioResampler(stream.format, stream.layout, stream.rate, frame_size=stream.codec_context.frame_size)
    for piece in [*resampler.resample(frame), *resampler.resample(None)]:
        container.mux(stream.encode(piece))
    container.mux(stream.encode())


def cut(path: Path, keep: float) -> Path:
    """Keep only the first part of a file, as a broken download does."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path


def huge_png(path: Path, width: int = 20000, height: int = 20000) -> Path:
    """A valid one-bit PNG of any size in a few kilobytes: a decompression bomb."""
    packer = zlib.compressobj(9)
    row = b"\0" * (1 + (width + 7) // 8)
    body = b"".join(packer.compress(row * 1000) for _ in range(height // 1000)) + packer.compress(row * (height % 1000))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)), (b"IDAT", body + packer.flush())]
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for name, data in [*chunks, (b"IEND", b"")]:
            file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
    return path


def zero_fps_video(path: Path) -> Path:
    """An mp4 whose time table says that each frame lasts 0: written by an encoder, then patched."""
    content = bytearray(write_video(path, clip(8), options={"movflags": "faststart"}).read_bytes())
    table = content.index(b"stts")  # version and flags, number of entries, then (count, duration) pairs
    (entries,) = struct.unpack_from(">I", content, table + 8)
    for entry in range(entries):
        struct.pack_into(">I", content, table + 16 + 8 * entry, 0)
    while (offsets := content.find(b"ctts")) >= 0:  # reordering offsets would give the frames different times again
        content[offsets : offsets + 4] = b"free"
    path.write_bytes(content)
    return path


def cut_video(path: Path, frames: Array, begin: int, keyframe: int | None = None, fps: float = 8) -> Path:
    """An mp4 that shows frames[begin:], as `ffmpeg -ss ... -c copy` cuts: packets from the keyframe before the cut
    (from `keyframe` on; None: all packets) are in the file, and its edit list hides those before the cut."""
    rate = Fraction(fps).limit_denominator(1000)
    with av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as container:
        stream: Any = container.add_stream("libx264", rate=rate, options={"bf": "0", "sc_threshold": "0"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.gop_size, stream.codec_context.max_b_frames = 12, 0
        packets = []
        for index, pixels_HWC in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels_HWC), format="rgb24")
            frame.pts, frame.time_base = index, 1 / rate
            packets += stream.encode(frame)
        for packet in [*packets, *stream.encode()][keyframe or 0 :]:
            shift = int(begin / rate / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            container.mux(packet)
    return path


def broken_files(folder: Path) -> dict[Path, str]:
    """Files broken in 15 ways, path -> expected reason; the ending says as which kind to load each (.wav: audio)."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, 4000, dtype=np.uint8).tobytes()
    broken = {
        cut(write_image(folder / "empty.png"), 0): base.EMPTY,
        cut(write_image(folder / "truncated.jpg", picture(320, 240)), 0.6): base.TRUNCATED,
        _flip(write_image(folder / "corrupt.png", picture(320, 240))): base.CORRUPT,
        _text(folder / "web_page.jpg"): base.WRONG_TYPE,
        huge_png(folder / "huge.png"): base.TOO_LARGE,
        write_image(folder / "sliver.png", picture(402, 2)): base.ASPECT_RATIO,
        cut(write_video(folder / "truncated.mp4"), 0.5): base.TRUNCATED,
        write_video(folder / "one_frame.mp4", clip(1)): base.ONE_FRAME,
        zero_fps_video(folder / "zero_fps.mp4"): base.ZERO_FPS,
        write_image(folder / "picture.mp4", format="PNG"): base.WRONG_TYPE,
        _bytes(folder / "noise.mp4", noise): base.CORRUPT,
        write_audio(folder / "nan.wav", np.full(8000, np.nan, np.float32), subtype="FLOAT"): base.NAN_SAMPLES,
        cut(write_audio(folder / "truncated.wav"), 0.5): base.TRUNCATED,
        write_audio(folder / "short.wav", tone(0.005)): base.TOO_SHORT,
        write_image(folder / "picture.wav", format="JPEG"): base.WRONG_TYPE,
    }
    return broken


def _flip(path: Path) -> Path:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(byte ^ 0xFF for byte in content[middle : middle + 64])
    path.write_bytes(content)
    return path


def _text(path: Path) -> Path:
    return _bytes(path, b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n")


def _bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
