"""Made-up data of the kinds that recipes name in `recipe.rows`: real media files, golds that are true of them.

A kind is a row of `KINDS`: what is asked about a scene, and what the golds are called. What a user has to bring for a
recipe is described by the same words.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from mmreason.errors import ConfigError
from mmreason.plugins import nearest
from mmreason.recipes.scenes import MEDIA, Scene


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question about a scene. Example: `Asked(text="Which?", answer="A", task="mcq", options=("red", "blue"))`"""

    text: str
    answer: Any
    task: str = "exact"
    options: tuple[str, ...] = ()
    golds: Mapping[str, Any] = field(default_factory=dict)
    said: str = ""
    """The answer as a model says it; the answer itself where empty."""
    meta: Mapping[str, Any] = field(default_factory=dict)


def write_rows(file: Path, specs: Sequence[str], demo: str, *, count: int, seed: int = 0) -> Path:
    """Write `count` rows of the kinds `specs` in turn, with their media beside `file`; returns it.

    `specs`: "MEDIA KIND" each. `demo`: the demonstration of every row, with {thought} and {answer} in it. The same
    arguments give the same rows. Raises ConfigError for media or kinds that are not known.
    """
    makers = [_maker(spec) for spec in specs]
    media = file.parent / f"{file.stem}_media"
    media.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        draw, ask = makers[index % len(makers)]
        scene = draw(rng, media, f"{index:03d}")
        rows.append(_row(scene, ask(scene), demo, f"{file.stem}-{index:03d}"))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def _maker(spec: str) -> tuple[Callable[[np.random.Generator, Path, str], Scene], Callable[[Scene], Asked]]:
    media, _, kind = spec.partition(" ")
    if media not in MEDIA:
        raise ConfigError(f"recipe.rows: {spec!r}: no media {media!r}{nearest(media, MEDIA)}")
    if kind not in KINDS:
        raise ConfigError(f"recipe.rows: {spec!r}: no kind {kind!r}{nearest(kind, KINDS)}")
    return MEDIA[media], KINDS[kind]


def _row(scene: Scene, asked: Asked, demo: str, name: str) -> dict[str, Any]:
    """In the native schema (docs/data.md)."""
    said = asked.said or str(asked.answer)
    row: dict[str, Any] = {
        "id": name,
        "messages": [{"role": "user", "content": [*scene.media, {"type": "text", "text": asked.text}]}],
        "answer": asked.answer,
        "task": asked.task,
        "demos": [demo.replace("{thought}", f"I look for the {scene.word} one.").replace("{answer}", said)],
    }
    more = {"options": list(asked.options), "golds": dict(asked.golds), "meta": dict(asked.meta)}
    return row | {key: value for key, value in more.items() if value}


# ---- kinds -------------------------------------------------------------------------------------------------------


def _mcq(scene: Scene) -> Asked:
    letter = "ABCD"[scene.words.index(scene.word)]
    return Asked(text="What is it?", answer=letter, task="mcq", options=scene.words)


def _word(task: str) -> Callable[[Scene], Asked]:
    return lambda scene: Asked(text="What is it?", answer=scene.word, task=task)


def _number(task: str) -> Callable[[Scene], Asked]:
    return lambda scene: Asked(text=f"What is {scene.number} minus 1?", answer=scene.number - 1, task=task)


def _yes_no(scene: Scene) -> Asked:
    return Asked(text=f"Is it {scene.words[0]}?", answer="yes" if scene.word == scene.words[0] else "no", task="yes_no")


def _box(scene: Scene) -> Asked:
    box = list(scene.boxes[0])
    said = f'[{{"bbox_2d": {box}}}]'
    return Asked(text="Where is the square?", answer=None, task="grounding", golds={"box": box}, said=said)


KINDS: Mapping[str, Callable[[Scene], Asked]] = MappingProxyType(
    {
        "mcq": _mcq,
        "exact": _word("exact"),
        "free_form": _word("free_form"),
        "ocr": _word("ocr"),
        "numeric": _number("numeric"),
        "counting": _number("counting"),
        "math": _number("math"),
        "regression": _number("regression"),
        "yes_no": _yes_no,
        "box": _box,
    }
)
"""The second word of a row of `recipe.rows`."""
