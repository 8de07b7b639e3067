"""Media items inside a page: small pictures, key frames and waveforms, embedded. A file that cannot be shown is named.

Files are decoded by the processors, so in a process of their own with a deadline: a run's media may be hostile.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmreason.config import MediaConfig
from mmreason.errors import MediaError
from mmreason.processors.base import Decoded, MediaTraits
from mmreason.processors.media import MediaLoader
from mmreason.types import MediaRef

LARGEST_SIDE = 240
"""Pixels of a thumbnail; smaller pictures are enlarged by whole factors."""
KEY_FRAMES = 6
BARS = 160
"""Bars of a waveform."""
WINDOW = 640
"""Samples of one stretch of a spectrogram: 40 ms."""

_SIZES = MediaConfig(
    workers=1,
    deadline_s=20.0,
    image_max_pixels=LARGEST_SIDE * LARGEST_SIDE,
    image_min_pixels=1,
    video_min_pixels=1,
    video_max_pixels=LARGEST_SIDE * LARGEST_SIDE,
    video_min_frames=4,
    video_max_frames=KEY_FRAMES,
)
_TRAITS = MediaTraits(frame="resized_pixels", pixel_factor=4, audio_rate=16_000)


def show_media(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """HTML for the media of each gallery record, in order. Never fails because of a file."""
    items = [(index, item) for index, group in enumerate(groups) for item in group.get("media") or ()]
    shown = [""] * len(groups)
    if items:
        for (index, _), html in zip(items, _figures([item for _, item in items]), strict=True):
            shown[index] += html
    return shown


def _figures(items: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    refs = [MediaRef(kind=str(item["kind"]), path=item["path"]) for item in items if _is_path(item.get("path"))]
    with MediaLoader(_SIZES, _TRAITS) as loader:
        decoded = iter(loader.load(refs))
    for item in items:
        yield _figure(item, next(decoded) if _is_path(item.get("path")) else None)


def _is_path(path: object) -> bool:
    """Whether the file system could have a file of this name: no half surrogate pairs, no NUL."""
    try:
        return isinstance(path, str) and path != "" and b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


def _figure(item: Mapping[str, Any], decoded: Decoded | MediaError | None) -> str:
    kind = str(item["kind"])
    if decoded is None:
        where = f"no file can be called {item['path']!r}" if item.get("path") else "stored inside the data file"
        return _note(kind, f"{kind}: {where}, not shown")
    name = Path(str(item["path"])).name
    if isinstance(decoded, MediaError):
        return _note(kind, f"{name}: cannot be shown: {decoded.reason}")
    if kind == "audio":
        assert decoded.rate is not None
        content = waveform(decoded.data) + _picture(spectrogram(decoded.data), f"spectrogram of {name}")
        return _framed(content, f"{name}, {len(decoded.data) / decoded.rate:.2f} s: waveform, and pitch over time")
    if kind == "video":
        frames = "".join(_picture(frame, f"{name} at {at:.2f} s") for frame, at in _frames(decoded))
        return _framed(f"<div class='film'>{frames}</div>", f"{name}, {len(decoded.data)} frames in order")
    return _framed(_picture(decoded.data, name), name)


def _frames(decoded: Decoded) -> Iterator[tuple[NDArray[np.uint8], float]]:
    return zip(decoded.data, decoded.timestamps, strict=True)


def _framed(content: str, caption: str) -> str:
    return f"<div class='media'>{content}<small>{escape(caption)}</small></div>"


def _note(kind: str, text: str) -> str:
    return f"<div class='media missing'><small>{escape(text)}</small></div>"


def _picture(pixels: NDArray[np.uint8], name: str) -> str:
    """An `img` whose source is the picture itself."""
    image = Image.fromarray(pixels)
    factor = max(1, 112 // max(image.size))
    image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "PNG" if factor > 1 else "JPEG")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    kind = "png" if factor > 1 else "jpeg"
    size = f"width='{image.width}' height='{image.height}'"
    return f"<img src='data:image/{kind};base64,{data}' {size} alt=\"{escape(name, quote=True)}\">"


def spectrogram(samples_N: NDArray[np.float32]) -> NDArray[np.uint8]:
    """uint8 [80, 320, 3]: loudness by time and frequency, 0 Hz at the bottom, dark is quiet. Up to 4 kHz at 16 kHz."""
    starts = np.linspace(0, max(0, len(samples_N) - WINDOW), 2 * BARS).astype(int)
    padded_N = np.pad(samples_N, (0, max(0, WINDOW - len(samples_N))))
    windows_TW = np.stack([padded_N[start : start + WINDOW] for start in starts]) * np.hanning(WINDOW)
    power_FT = np.log10(np.abs(np.fft.rfft(windows_TW)[:, : WINDOW // 4]).T + 1e-3)
    power_FT = power_FT[:: -max(1, WINDOW // 4 // 80)]
    shares_FT = (power_FT - power_FT.min()) / max(float(np.ptp(power_FT)), 1e-6)
    colours_C = np.array([0.35, 0.6, 1.0])  # dark blue to white
    pixels: NDArray[np.uint8] = (255 * shares_FT[..., None] ** (1 / colours_C)).astype(np.uint8)
    return pixels


def waveform(samples_N: NDArray[np.float32]) -> str:
    """Lowest and highest value of each of BARS stretches, as SVG. Scaled to the loudest sample."""
    stretches = np.array_split(samples_N, min(BARS, len(samples_N)))
    loudest = max(float(np.abs(samples_N).max()), 1e-6)
    bars = []
    for index, stretch in enumerate(stretches):
        top, bottom = (40 - 36 * float(value) / loudest for value in (stretch.max(), stretch.min()))
        bars.append(f"M{2 * index + 1} {top - 0.5:.1f}V{bottom + 0.5:.1f}")
    box = f"viewBox='0 0 {2 * BARS} 80' preserveAspectRatio='none' role='img' aria-label='waveform'"
    return f"<svg class='wave' {box}><path d='{''.join(bars)}'/></svg>"
