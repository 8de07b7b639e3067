"""The demo's data: small real media files with questions whose answers follow from how each file was drawn.

Every task has its own generator. A clip's answer lies in the ORDER of its frames: a clip that moves left shows the
same frames as one that moves right, the other way round, so a model that ignores time cannot answer. Everything is
tiny (56-pixel pictures, 4 frames, 0.4 s of sound) because the demo has to learn it in minutes on two cores.

Left out, because a model of this size stays at chance on them for minutes: shapes, and texts inside pictures.
"""

from __future__ import annotations

import json
import wave
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 56
"""Width and height of every picture, in pixels: a multiple of 28, so that no model resizes it."""
CLIP_FPS = 2
CLIP_FRAMES = 4
SOUND_RATE = 16_000
SOUND_SECONDS = 0.4

COLOURS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {"red": (230, 30, 30), "green": (30, 200, 30), "blue": (40, 60, 240), "yellow": (235, 225, 30)}
)
DIRECTIONS = ("left", "right", "up", "down")
PITCHES: Mapping[str, float] = MappingProxyType({"rising": 1.6, "falling": 1 / 1.6, "flat": 1.0})
"""Last frequency over first."""

Frame = NDArray[np.uint8]  # [SIDE, SIDE, 3]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoFiles:
    """What `write_demo_data` wrote."""

    sft: Path
    """JSONL with demonstrations, for the cold start."""
    train: Path
    """JSONL without demonstrations, for GRPO."""
    eval: Path
    """JSONL of held-out questions, on media files of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """One question before its media file has a name."""

    source: str
    text: str
    answer: str
    thought: str
    options: tuple[str, ...] = ()
    task: str = "exact"
    kind: str = "text"
    suffix: str = ""
    write: Callable[[Path], None] | None = None


def write_demo_data(folder: Path, *, seed: int, train: int, eval: int, sft: int = 256, choices: int = 32) -> DemoFiles:
    """Write media files and three JSONL files under `folder`; the same arguments give the same questions.

    `train`, `eval` and `sft` are numbers of questions; the tasks take turns, so each has an equal share. In train and
    eval every second question is multiple choice; of the demonstrations only `choices` are. The three sets share no
    media file. Paths in the JSONL files are relative to `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    files = DemoFiles(sft=folder / "sft.jsonl", train=folder / "train.jsonl", eval=folder / "eval.jsonl")
    _write_split(files.sft, rng, words=sft - choices, choices=choices, demos=True)
    for file, count in ((files.train, train), (files.eval, eval)):
        _write_split(file, rng, words=count - count // 2, choices=count // 2, demos=False)
    return files


def _write_split(file: Path, rng: np.random.Generator, *, words: int, choices: int, demos: bool) -> None:
    """One JSONL file with its media, the two forms of question spread evenly."""
    rows = [_row(_make(rng, index, choice=False), file, index, demos=demos) for index in range(words)]
    rows += [_row(_make(rng, index, choice=True), file, words + index, demos=demos) for index in range(choices)]
    order = rng.permutation(len(rows))
    file.write_text("".join(json.dumps(rows[index]) + "\n" for index in order), encoding="utf-8")


def _make(rng: np.random.Generator, index: int, *, choice: bool) -> _Question:
    """The next question of the task whose turn it is."""
    names = [name for name in TASKS if name != "compare"] if choice else list(TASKS)
    question = TASKS[names[index % len(names)]](rng)
    if not choice:
        return replace(question, options=())
    letter = "ABCD"[question.options.index(question.answer)]
    return replace(question, answer=letter, task="mcq", source=f"{question.source}-choice")


def _row(question: _Question, file: Path, index: int, *, demos: bool) -> dict[str, Any]:
    """The question in the native schema; writes its media file on the way."""
    content: list[dict[str, str]] = []
    if question.write is not None:
        path = file.parent / "media" / file.stem / f"{question.source}-{index:05d}{question.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        question.write(path)
        content.append({"type": question.kind, question.kind: path.relative_to(file.parent).as_posix()})
    content.append({"type": "text", "text": question.text})
    row: dict[str, Any] = {
        "id": f"{file.stem}-{question.source}-{index:05d}",
        "messages": [{"role": "user", "content": content}],
        "answer": question.answer,
        "task": question.task,
        "source": question.source,
    }
    if question.options:
        row["options"] = list(question.options)
    if demos:
        row["demos"] = [f"<think>{question.thought}</think><answer>{question.answer}</answer>"]
    return row


# ---- tasks -----------------------------------------------------------------------------------------------------


def _colour(rng: np.random.Generator) -> _Question:
    """A picture of one square: which colour is it?"""
    answer = str(rng.choice(list(COLOURS)))
    x, y = rng.integers(10, SIDE - 10, size=2)
    frame = with_square(background_frame(rng), int(x), int(y), COLOURS[answer], half=int(rng.integers(7, 11)))
    return _Question(
        source="colour",
        text="What colour is the square?",
        answer=answer,
        thought="look at the square",
        options=tuple(COLOURS),
        kind="image",
        suffix=".png",
        write=lambda path: Image.fromarray(frame).save(path),
    )


def _motion(rng: np.random.Generator) -> _Question:
    """A clip of a moving square: which way does it go?"""
    direction = str(rng.choice(DIRECTIONS))
    background, colour = background_frame(rng), COLOURS[str(rng.choice(list(COLOURS)))]
    lane = int(rng.integers(22, SIDE - 22))
    along = np.linspace(11, SIDE - 11, CLIP_FRAMES).round().astype(int)
    if direction in ("left", "up"):
        along = along[::-1]
    places = [(int(at), lane) if direction in ("left", "right") else (lane, int(at)) for at in along]
    frames = [with_square(background, x, y, colour, half=10) for x, y in places]
    return _Question(
        source="motion",
        text="Which way does the square move?",
        answer=direction,
        thought="watch the square",
        options=DIRECTIONS,
        kind="video",
        suffix=".mp4",
        write=lambda path: write_clip(path, frames),
    )


def _pitch(rng: np.random.Generator) -> _Question:
    """A tone: does its pitch rise, fall or stay?"""
    answer = str(rng.choice(list(PITCHES)))
    wave_ = tone(rng, answer)
    return _Question(
        source="pitch",
        text="How does the pitch change?",
        answer=answer,
        thought="listen to the tone",
        options=tuple(PITCHES),
        kind="audio",
        suffix=".wav",
        write=lambda path: write_sound(path, wave_),
    )


def _compare(rng: np.random.Generator) -> _Question:
    """Text only: which of two digits is bigger?"""
    x, y = (int(digit) for digit in rng.choice(10, size=2, replace=False))
    return _Question(
        source="compare",
        text=f"Which is bigger: {x} or {y}?",
        answer=str(max(x, y)),
        thought="compare the digits",
        task="numeric",
    )


def _parity(rng: np.random.Generator) -> _Question:
    """Text only: is a digit odd or even?"""
    digit = int(rng.integers(10))
    return _Question(
        source="parity",
        text=f"Is {digit} odd or even?",
        answer=("even", "odd")[digit % 2],
        thought="look at the digit",
        options=("odd", "even"),
    )


TASKS: Mapping[str, Callable[[np.random.Generator], _Question]] = MappingProxyType(
    {"colour": _colour, "motion": _motion, "pitch": _pitch, "compare": _compare, "parity": _parity}
)


# ---- drawing and encoding --------------------------------------------------------------------------------------


def background_frame(rng: np.random.Generator) -> Frame:
    """Dark grey with a little noise, so that no two pictures are equal."""
    noise = rng.integers(0, 12, size=(SIDE, SIDE, 1)) + int(rng.integers(0, 30))
    return np.repeat(noise, 3, axis=2).astype(np.uint8)


def tone(rng: np.random.Generator, pitch: str) -> NDArray[np.float64]:
    """A sound whose pitch does what `pitch` says, [SOUND_RATE * SOUND_SECONDS] in -1..1."""
    count = int(SOUND_RATE * SOUND_SECONDS)
    hertz = float(rng.uniform(300, 900)) * np.linspace(1, PITCHES[pitch], count)
    return 0.5 * np.sin(2 * np.pi * np.cumsum(hertz) / SOUND_RATE) + 0.01 * rng.standard_normal(count)


def with_square(background: Frame, x: int, y: int, colour: tuple[int, int, int], *, half: int) -> Frame:
    """A copy of the background with a square around (x, y)."""
    frame = background.copy()
    frame[max(0, y - half) : y + half, max(0, x - half) : x + half] = colour
    return frame


def write_clip(path: Path, frames: list[Frame]) -> None:
    """MP4 with H.264, yuv420p, CLIP_FPS frames a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(CLIP_FPS))
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        stream.options = {"crf": "12", "preset": "veryfast", "threads": "1"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_sound(path: Path, samples: NDArray[np.float64]) -> None:
    """Mono WAV, 16 bit."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SOUND_RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
