"""The demo's data: what is on disk is what the answers say."""

from __future__ import annotations

import json
import re
import wave
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mmreason.config import DataSource
from mmreason.data import load_samples
from mmreason.demo.media import COLOURS, SIDE, SOUND_RATE, TASKS, DemoFiles, write_demo_data
from mmreason.types import Sample


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoFiles:
    return write_demo_data(tmp_path_factory.mktemp("demo"), seed=3, train=80, eval=60, sft=60, choices=12)


def samples(file: Path) -> list[Sample]:
    return list(load_samples(DataSource(path=str(file))))


def word(sample: Sample) -> str:
    """The answer in words, whatever the form of the question."""
    return sample.options["ABCD".index(sample.answer)] if sample.options else str(sample.answer)


def of_task(demo: DemoFiles, task: str) -> list[Sample]:
    everything = chain(samples(demo.sft), samples(demo.train), samples(demo.eval))
    return [sample for sample in everything if sample.source.split("-")[0] == task]


def path_of(sample: Sample) -> str:
    (ref,) = sample.media
    assert ref.path is not None
    return ref.path


def centre(frame: NDArray[np.uint8]) -> tuple[float, float]:
    """Where the bright square is, (x, y)."""
    ys, xs = np.nonzero(frame.max(axis=2) > 120)
    return float(xs.mean()), float(ys.mean())


def test_counts_tasks_and_forms(demo: DemoFiles) -> None:
    assert [len(samples(file)) for file in (demo.sft, demo.train, demo.eval)] == [60, 80, 60]
    sources = {sample.source for sample in samples(demo.eval)}
    assert sources == set(TASKS) | {"colour-choice", "motion-choice", "pitch-choice", "parity-choice"}
    assert sum(bool(sample.options) for sample in samples(demo.train)) == 40
    assert sum(bool(sample.options) for sample in samples(demo.sft)) == 12


def test_demonstrations_are_complete_and_correct(demo: DemoFiles) -> None:
    for sample in samples(demo.sft):
        (text,) = sample.demos
        match = re.fullmatch(r"<think>[^<>]+</think><answer>([^<>]+)</answer>", text)
        assert match is not None
        assert match.group(1) == sample.answer
    assert all(not sample.demos for sample in samples(demo.train) + samples(demo.eval))


def test_no_media_file_is_in_two_sets(demo: DemoFiles) -> None:
    contents = [
        {Path(ref.path).read_bytes() for sample in samples(file) for ref in sample.media if ref.path}
        for file in (demo.sft, demo.train, demo.eval)
    ]
    assert len(set.union(*contents)) == sum(len(one) for one in contents)


def test_colour_is_in_the_picture(demo: DemoFiles) -> None:
    found = of_task(demo, "colour")
    assert {word(sample) for sample in found} == set(COLOURS)
    for sample in found:
        with Image.open(path_of(sample)) as image:
            assert image.size == (SIDE, SIDE)
            pixels = np.asarray(image.convert("RGB"))
        assert tuple(pixels.reshape(-1, 3)[pixels.max(axis=2).argmax()]) == COLOURS[word(sample)]


def test_motion_is_in_the_order_of_the_frames(demo: DemoFiles) -> None:
    for sample in of_task(demo, "motion"):
        with av.open(path_of(sample)) as container:
            frames = [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(video=0)]
        assert 4 <= len(frames) <= 8
        (x0, y0), (x1, y1) = centre(frames[0]), centre(frames[-1])
        ways = {"left": x0 - x1, "right": x1 - x0, "up": y0 - y1, "down": y1 - y0}
        assert max(ways, key=lambda way: ways[way]) == word(sample)
        assert ways[word(sample)] > 20


def test_clips_of_opposite_directions_show_the_same_frames(tmp_path: Path) -> None:
    """Only the order tells left from right, so a model that ignores time cannot answer."""
    demo = write_demo_data(tmp_path, seed=0, train=0, eval=0, sft=100, choices=0)
    starts: dict[str, set[int]] = {}
    for sample in of_task(demo, "motion"):
        with av.open(path_of(sample)) as container:
            frames = [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(video=0)]
        axis = 0 if word(sample) in ("left", "right") else 1
        starts.setdefault(word(sample), set()).update(round(centre(frame)[axis] / 4) for frame in frames)
    assert starts["left"] == starts["right"]
    assert starts["up"] == starts["down"]


def test_pitch_is_in_the_sound(demo: DemoFiles) -> None:
    found = of_task(demo, "pitch")
    assert {word(sample) for sample in found} == {"rising", "falling", "flat"}
    for sample in found:
        with wave.open(path_of(sample)) as file:
            assert file.getframerate() == SOUND_RATE
            values = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(float)
        ends = [np.abs(np.fft.rfft(part)).argmax() for part in (values[:1600], values[-1600:])]
        ratio = ends[1] / ends[0]
        assert word(sample) == ("rising" if ratio > 1.15 else "falling" if ratio < 0.87 else "flat")


def test_texts_are_answered_rightly(demo: DemoFiles) -> None:
    for sample in of_task(demo, "compare") + of_task(demo, "parity"):
        (question,) = sample.messages[0].content
        digits = [int(digit) for digit in re.findall(r"\d", str(question))]
        expected = str(max(digits)) if len(digits) == 2 else ("even", "odd")[digits[0] % 2]
        assert word(sample) == expected


def test_same_seed_same_questions(tmp_path: Path) -> None:
    first, again, other = (
        write_demo_data(tmp_path / name, seed=seed, train=20, eval=10, sft=10, choices=2)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert _lines(first.train) == _lines(again.train)
    assert _lines(first.train) != _lines(other.train)
    assert all(not Path(path).is_absolute() for row in _lines(first.train) for path in _paths(row))


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _paths(row: dict[str, Any]) -> list[str]:
    return [part[part["type"]] for part in row["messages"][0]["content"] if part["type"] != "text"]
