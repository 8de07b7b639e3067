"""Small pictures of media, for the groups of a report and for the gallery of `mmreason infer`.

Those of a group are made once, when it is logged, and kept in gallery.jsonl beside its answers: so a report is made in
a moment however many groups there are, also where the media are not (any more). A file that cannot be decoded gives
its reason instead. Decoding happens as for training: in a process of its own, with a deadline.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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

BARS = 160
"""Bars of a waveform."""
WINDOW = 640
"""Samples of one stretch of a spectrogram: 40 ms."""
_DEADLINE_S = 20.0
_TRAITS = MediaTraits(frame="resized_pixels", pixel_factor=4, audio_rate=16_000)
_TIMES = ("start", "end")

Preview = dict[str, Any]
"""JSON: "kind", "name", and what there is of "pictures", "wave", "spectrogram", "seconds", "problem"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewSize:
    """How large previews are. The defaults are for a report, which shows a few dozen groups."""

    items: int = 6
    """Media items of one sample that get a preview; the others are counted."""
    image_side: int = 280
    """Pixels: about the side of a picture."""
    frame_side: int = 160
    """The same of one key frame of a video."""
    key_frames: int = 6
    picture_bytes: int = 12_000
    """At most, of one picture, encoded."""
    spectrogram: bool = True
    """Sounds: also a picture of pitch over time."""


REPORT = PreviewSize()


class Previews:
    """Makes previews; its decoding process starts with the first file. Close it, or use `with`.

    Example: `Previews(config.media).of([MediaRef(kind="image", path="/d/a.png")])` is
    `[{"kind": "image", "name": "a.png", "pictures": [{"type": "webp", "data": "...", "size": [280, 210]}]}]`
    """

    def __init__(self, media: MediaConfig, size: PreviewSize = REPORT) -> None:
        """media: the run's own settings, so that what it could train on can be shown."""
        small = {
            "cache_dir": None,
            "workers": 1,
            "deadline_s": min(_DEADLINE_S, media.deadline_s),
            "image_min_pixels": 1,
            "image_max_pixels": size.image_side**2,
            "video_min_pixels": 1,
            "video_max_pixels": size.frame_side**2,
            "video_min_frames": min(4, size.key_frames),
            "video_max_frames": size.key_frames,
        }
        self._size = size
        self._loader = MediaLoader(media.model_copy(update=small), _TRAITS)

    def of(self, refs: Sequence[MediaRef]) -> list[Preview]:
        """One per item, in order, for the first `size.items` of them. Never fails because of a file."""
        shown = [replace(ref, options=_cut(ref)) for ref in refs[: self._size.items]]
        return [_preview(ref, self._loader.load([ref])[0], self._size) for ref in shown]  # one at a time in memory

    def close(self) -> None:
        """End the decoding process."""
        self._loader.close()

    def __enter__(self) -> Previews:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _cut(ref: MediaRef) -> dict[str, Any]:
    """Which stretch of the file is the item; sizes and frame counts are ours."""
    return {name: value for name, value in ref.options.items() if name in _TIMES}


def _preview(ref: MediaRef, decoded: Decoded | MediaError, size: PreviewSize) -> Preview:
    name = ref.name if ref.path is None else Path(ref.path).name
    base: Preview = {"kind": ref.kind, "name": name}
    if isinstance(decoded, MediaError):
        return {**base, "problem": decoded.reason}
    if ref.kind == "audio":
        return {**base, **_sound(decoded, size)}
    if ref.kind == "video":
        pictures = [{**picture(frame, size), "at": round(at, 3)} for frame, at in _frames(decoded)]
        return {**base, "pictures": pictures, **(_sound(decoded.sound, size) if decoded.sound else {})}
    return {**base, "pictures": [picture(decoded.data, size)]}


def _frames(decoded: Decoded) -> Iterator[tuple[NDArray[np.uint8], float]]:
    return zip(decoded.data, decoded.timestamps, strict=True)


def _sound(decoded: Decoded, size: PreviewSize) -> Preview:
    assert decoded.rate is not None
    seconds = round(len(decoded.data) / decoded.rate, 3)
    pitch = {"spectrogram": picture(spectrogram(decoded.data), size)} if size.spectrogram else {}
    return {"seconds": seconds, "wave": waveform(decoded.data), **pitch}


def picture(pixels_HWC: NDArray[np.uint8], size: PreviewSize = REPORT) -> Preview:
    """An encoded picture of at most `size.picture_bytes`: PNG where that is small enough (few colours), else WebP."""
    image = Image.fromarray(pixels_HWC)
    content, kind = _encoded(image, "PNG"), "png"
    if len(content) > size.picture_bytes // 3:
        content, kind = _webp(image, size), "webp"
    return {"type": kind, "data": base64.b64encode(content).decode("ascii"), "size": [image.width, image.height]}


def _webp(image: Image.Image, size: PreviewSize) -> bytes:
    """The best quality that fits; a picture of mere noise is made smaller until it does."""
    while True:
        for quality in (80, 60, 35, 10):
            content = _encoded(image, "WEBP", quality=quality)
            if len(content) <= size.picture_bytes:
                return content
        image = image.resize((max(1, image.width // 2), max(1, image.height // 2)))


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


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


def waveform(samples_N: NDArray[np.float32]) -> list[list[int]]:
    """Highest and lowest value of each of BARS stretches, in % of the loudest sample."""
    stretches = np.array_split(samples_N, min(BARS, len(samples_N)))
    loudest = max(float(np.abs(samples_N).max()), 1e-6)
    return [[round(100 * float(end) / loudest) for end in (one.max(), one.min())] for one in stretches]
