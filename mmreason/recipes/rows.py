"""Made-up data of the kinds that recipes name in `recipe.rows`: real media files, golds that are true of them.

What a user has to bring for a recipe is described by the same words.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmreason.errors import ConfigError
from mmreason.plugins import nearest
from mmreason.recipes.kinds import KINDS, Asked
from mmreason.recipes.scenes import MEDIA, Scene


def write_rows(
    file: Path, specs: Sequence[str], demo: str, *, count: int, seed: int = 0, pairs: bool = False
) -> Path:
    """Write `count` rows of the kinds `specs` in turn, with their media beside `file`; returns it.

    `specs`: "MEDIA KIND" each. `demo`: the demonstration of every row, with {thought} and {answer} in it. `pairs`: also
    prefer it to the answer alone. The same arguments give the same rows. Raises ConfigError for media or kinds that are
    not known.
    """
    makers = [_maker(spec) for spec in specs]
    media = file.parent / f"{file.stem}_media"
    media.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        draw, ask = makers[index % len(makers)]
        scene = draw(rng, media, f"{index:03d}")
        row, said = _row(scene, ask(scene), demo, f"{file.stem}-{index:03d}")
        rows.append({**row, "pairs": [{"chosen": row["demos"][0], "rejected": said}]} if pairs else row)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def _maker(spec: str) -> tuple[Callable[[np.random.Generator, Path, str], Scene], Callable[[Scene], Asked]]:
    media, _, kind = spec.partition(" ")
    if media not in MEDIA:
        raise ConfigError(f"recipe.rows: {spec!r}: no media {media!r}{nearest(media, MEDIA)}")
    if kind not in KINDS:
        raise ConfigError(f"recipe.rows: {spec!r}: no kind {kind!r}{nearest(kind, KINDS)}")
    return MEDIA[media], KINDS[kind]


def _row(scene: Scene, asked: Asked, demo: str, name: str) -> tuple[dict[str, Any], str]:
    """A row of the native schema (docs/data.md), and its answer as a model says it."""
    said = asked.said or str(asked.answer)
    row: dict[str, Any] = {
        "id": name,
        "messages": [{"role": "user", "content": [*scene.media, {"type": "text", "text": asked.text}]}],
        "answer": asked.answer,
        "task": asked.task,
        "demos": [demo.replace("{thought}", f"I look for the {scene.word} one.").replace("{answer}", said)],
    }
    more = {"options": list(asked.options), "golds": dict(asked.golds)}
    meta = {**asked.meta, "pass_rate": scene.number / 10}
    return row | {key: value for key, value in more.items() if value} | {"meta": meta}, said
