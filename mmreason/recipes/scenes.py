"""Small made-up media with everything that is true of them: what questions of any kind can be asked about.

Pictures of 56 pixels, clips of 4 frames, sounds of 0.4 s, written as real files by real encoders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from mmreason.demo.media import (
    CLIP_FPS,
    CLIP_FRAMES,
    COLOURS,
    DIRECTIONS,
    PITCHES,
    SIDE,
    Frame,
    background_frame,
    tone,
    with_square,
    write_clip,
    write_sound,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What was drawn. Example: media ({"type": "image", "image": "media/a.png"},), word "red", box (10, 12, 30, 32)."""

    media: tuple[Mapping[str, str], ...]
    """Parts of a message."""
    word: str
    """What there is to see or hear: a colour, a direction, a pitch."""
    words: tuple[str, ...]
    """What it could have been."""
    boxes: tuple[tuple[int, int, int, int], ...]
    """Of the square in every picture or frame, in its pixels; (10, 10, 30, 30) where there is no picture."""
    seconds: float
    """Length of the clip or sound; 2 for the others."""
    number: int
    """A small number that a question can be about."""


def _image(rng: np.random.Generator, folder: Path, stem: str, count: int = 1) -> Scene:
    colour = str(rng.choice(list(COLOURS)))
    boxes: list[tuple[int, int, int, int]] = []
    media: list[Mapping[str, str]] = []
    for index in range(count):
        frame, box = _square(rng, colour)
        path = folder / f"{stem}-{index}.png"
        Image.fromarray(frame).save(path)
        media.append({"type": "image", "image": _relative(path)})
        boxes.append(box)
    number = int(rng.integers(1, 9))
    return Scene(
        media=tuple(media), word=colour, words=tuple(COLOURS), boxes=tuple(boxes), seconds=2.0, number=number
    )


def _square(rng: np.random.Generator, colour: str) -> tuple[Frame, tuple[int, int, int, int]]:
    x, y = (int(at) for at in rng.integers(12, SIDE - 12, size=2))
    half = int(rng.integers(7, 11))
    frame = with_square(background_frame(rng), x, y, COLOURS[colour], half=half)
    return frame, (x - half, y - half, x + half, y + half)


def _video(rng: np.random.Generator, folder: Path, stem: str) -> Scene:
    direction, colour = str(rng.choice(DIRECTIONS)), COLOURS[str(rng.choice(list(COLOURS)))]
    along = np.linspace(12, SIDE - 12, CLIP_FRAMES).round().astype(int)
    along = along[::-1] if direction in ("left", "up") else along
    lane = int(rng.integers(22, SIDE - 22))
    places = [(int(at), lane) if direction in ("left", "right") else (lane, int(at)) for at in along]
    background = background_frame(rng)
    path = folder / f"{stem}.mp4"
    write_clip(path, [with_square(background, x, y, colour, half=10) for x, y in places])
    return Scene(
        media=({"type": "video", "video": _relative(path)},),
        word=direction,
        words=DIRECTIONS,
        boxes=tuple((x - 10, y - 10, x + 10, y + 10) for x, y in places),
        seconds=CLIP_FRAMES / CLIP_FPS,
        number=int(rng.integers(1, 9)),
    )


def _audio(rng: np.random.Generator, folder: Path, stem: str) -> Scene:
    pitch = str(rng.choice(list(PITCHES)))
    path = folder / f"{stem}.wav"
    write_sound(path, tone(rng, pitch))
    part = {"type": "audio", "audio": _relative(path)}
    return Scene(
        media=(part,),
        word=pitch,
        words=tuple(PITCHES),
        boxes=((10, 10, 30, 30),),
        seconds=0.4,
        number=int(rng.integers(1, 9)),
    )


def _text(rng: np.random.Generator, folder: Path, stem: str) -> Scene:
    number = int(rng.integers(1, 9))
    word = ("even", "odd")[number % 2]
    return Scene(media=(), word=word, words=("even", "odd"), boxes=((10, 10, 30, 30),), seconds=2.0, number=number)


def _image_and_audio(rng: np.random.Generator, folder: Path, stem: str) -> Scene:
    picture, sound = _image(rng, folder, stem), _audio(rng, folder, stem)
    return Scene(
        media=(*picture.media, *sound.media),
        word=picture.word,
        words=picture.words,
        boxes=picture.boxes,
        seconds=sound.seconds,
        number=picture.number,
    )


def _relative(path: Path) -> str:
    """Data files lie beside the folder of their media."""
    return f"{path.parent.name}/{path.name}"


MEDIA: Mapping[str, Callable[[np.random.Generator, Path, str], Scene]] = MappingProxyType(
    {
        "text": _text,
        "image": _image,
        "images": lambda rng, folder, stem: _image(rng, folder, stem, count=3),
        "video": _video,
        "audio": _audio,
        "image+audio": _image_and_audio,
    }
)
"""The first word of a row of `recipe.rows`."""
