"""Rows as the model will get them: tokens from headers alone, and some rows encoded in full, as training does it.

The checkpoint's config, tokenizer and processor are loaded; its weights are not.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmreason.checking.findings import Findings
from mmreason.checking.rows import Row, describe
from mmreason.config import RunConfig
from mmreason.encode import Encoder
from mmreason.errors import BudgetError, MediaError, MMReasonError
from mmreason.policy.families import Family
from mmreason.policy.front import load_front
from mmreason.processors.media import Prepared
from mmreason.processors.pipeline import MediaPipeline
from mmreason.types import Geometry

_AT_ONCE = 64
"""Rows whose headers are read, or that are encoded, together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """What stands before the model: everything of a checkpoint but its weights."""

    family: Family
    model_config: Any
    encoder: Encoder
    pipeline: MediaPipeline


def open_front(config: RunConfig) -> Front:
    """Raises ModelError for a checkpoint that cannot be used, ConfigError for media settings that cannot."""
    front = load_front(config.model)
    family, processor = front.family, front.processor
    pipeline = MediaPipeline(config.media, family.traits(front.config), processor, config.data.media_root)
    encoder = Encoder(processor, processor.tokenizer, family.rules(front.config), pipeline, config.data)
    return Front(family=family, model_config=front.config, encoder=encoder, pipeline=pipeline)


@dataclass(slots=True)
class Lengths:
    """Tokens of the prompts that were counted, by modality, and those that would be dropped."""

    by_modality: dict[str, list[int]]
    dropped: list[str]

    @property
    def longest(self) -> int:
        return max((max(tokens) for tokens in self.by_modality.values()), default=0)

    def table(self) -> list[str]:
        """Lines of text: a row per modality."""
        lines = [f"{'tokens per prompt':24}{'rows':>8}{'median':>9}{'95 %':>9}{'longest':>9}"]
        for modality, tokens in sorted(self.by_modality.items()):
            ordered = sorted(tokens)
            high = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
            middle = statistics.median_high(ordered)
            lines.append(f"{modality:24}{len(ordered):>8}{middle:>9}{high:>9}{ordered[-1]:>9}")
        return lines


def measure(front: Front, config: RunConfig, rows: Sequence[Row], found: Findings) -> tuple[list[Row], Lengths]:
    """Count tokens without decoding. Returns the usable rows, with their geometry, and the lengths of all prompts."""
    lengths = Lengths({}, [])
    usable: list[Row] = []
    for start in range(0, len(rows), _AT_ONCE):
        batch = rows[start : start + _AT_ONCE]
        for row, tokens in zip(batch, front.encoder.lengths([row.sample for row in batch]), strict=True):
            if isinstance(tokens, MMReasonError):
                _note(row, tokens, found)
                continue
            lengths.by_modality.setdefault(row.sample.modality, []).append(tokens)
            if why := _over_budget(front, config, row, tokens):
                lengths.dropped.append(f"{row.place}: {str(why).removeprefix(f'{row.sample.id}: ')}")
            else:
                usable.append(replace(row, sample=replace(row.sample, geometry=_geometry(front, row))))
    return usable, lengths


def encode_some(front: Front, rows: Sequence[Row], found: Findings) -> int:
    """Encode these rows as training does it. Returns how many media items were decoded for it."""
    before = front.pipeline.loader.decoded
    for start in range(0, len(rows), _AT_ONCE):
        batch = rows[start : start + _AT_ONCE]
        for row, result in zip(batch, front.encoder.prompts([row.sample for row in batch]), strict=True):
            if isinstance(result, MMReasonError):
                _note(row, result, found)
    return front.pipeline.loader.decoded - before


def _over_budget(front: Front, config: RunConfig, row: Row, tokens: int) -> BudgetError | None:
    """Why training would drop this row, prompt and answer."""
    error = front.encoder.over_budget(row.sample, tokens)
    if error is None and row.which == "train":
        error = front.encoder.over_row(row.sample, tokens, config)
    return error


def _geometry(front: Front, row: Row) -> tuple[Geometry, ...]:
    """Sizes of the images and videos of a row, before and after resizing, from their headers."""
    prepared = front.pipeline.loader.prepare(row.sample.media)
    frame = front.family.traits(front.model_config).frame
    sized: Iterator[Prepared] = (item for item in prepared if isinstance(item, Prepared) and item.ref.kind != "audio")
    return tuple(Geometry(original=item.facts.size, resized=item.plan.size, frame=frame) for item in sized)


def _note(row: Row, error: MMReasonError, found: Findings) -> None:
    if isinstance(error, MediaError):
        found.add("media", f"{row.place}: {error.source}: {describe(error.reason, error.detail)}")
    else:  # its message starts with the sample's id, which the row's place says better
        found.add("prompt", f"{row.place}: {str(error).removeprefix(f'{row.sample.id}: ')}")
