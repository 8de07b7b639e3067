"""Every row of the data: its schema, its id, and whether its media files are there. Nothing is opened but the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from mmreason.checking.findings import Findings
from mmreason.config import DataConfig
from mmreason.data import endless, iter_with_origins
from mmreason.processors.base import REASONS, Refusal
from mmreason.processors.source import locate
from mmreason.types import Sample

Which = Literal["train", "eval"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row that is a Sample. Example: `Row(place="d/train.jsonl:17", which="train", sample=s)`"""

    place: str
    which: Which
    sample: Sample


def read_all(data: DataConfig, method: str, found: Findings) -> list[Row]:
    """All rows that can be read, of training and held-out data; what is wrong with the others goes to `found`."""
    rows: list[Row] = []
    for which in get_args(Which):
        if lines := list(endless(data, which)):
            for line in lines:
                found.add("data", line)
            continue
        for place, item in iter_with_origins(data, which, unreadable="collect"):
            if not isinstance(item, Sample):
                found.add("data", str(item))
            elif method == "sft" and which == "train" and not item.demos:
                found.add("data", f"{place}: no `demos`, but train.method is sft; give at least one complete answer")
            elif method == "dpo" and which == "train" and not item.pairs:
                found.add("data", f"{place}: no `pairs`, but train.method is dpo; give at least one")
            else:
                rows.append(Row(place=place, which=which, sample=item))
    return rows


def with_media_there(rows: Sequence[Row], media_root: str | None, found: Findings) -> list[Row]:
    """The rows whose media files are all there, not empty, and under the media root."""
    known: dict[str, str] = {}
    kept = []
    for row in rows:
        wrong = list(_absent(row, media_root, known))
        for line in wrong:
            found.add("media", line)
        if not wrong:
            kept.append(row)
    return kept


def _absent(row: Row, media_root: str | None, known: dict[str, str]) -> Iterator[str]:
    for ref in row.sample.media:
        if ref.path is None:
            continue
        if ref.path not in known:
            try:
                locate(ref.path, media_root)
                known[ref.path] = ""
            except Refusal as refusal:
                known[ref.path] = describe(refusal.reason, refusal.detail)
        if known[ref.path]:
            yield f"{row.place}: {ref.name}: {known[ref.path]}"


def describe(reason: str, detail: str) -> str:
    """"missing: there is no such file"; the detail where there is one."""
    return f"{reason}: {detail or REASONS.get(reason, '')}"


def spread(items: Sequence[T], count: int | None) -> list[T]:
    """`count` items (None: all), evenly spaced, so that every part of the data is among them."""
    if count is None or count >= len(items):
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]
