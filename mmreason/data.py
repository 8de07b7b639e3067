"""Data files -> Samples. JSONL, Parquet and `datasets` data sets, one native schema:

    {"id": "q7",                                                              optional; default "file.jsonl:17"
     "messages": [{"role": "user", "content": [
         {"type": "image", "image": "a.png"},
         {"type": "video", "video": "b.mp4", "fps": 2, "sound": true},
         {"type": "audio", "audio": {"bytes": ..., "path": ...}},
         {"type": "text", "text": "What is shown?"}]}],                       content may be plain text
     "answer": .., "task": "mcq", "options": [..], "golds": {..}, "demos": [..], "pairs": [..],
     "source": "..", "meta": {..}}

A media item says where its file is under its own kind, `path` or `url`: a path, a `file://` URL, a `data:` URL, or
`{"bytes": .., "path": ..}` as `datasets` and Parquet give it. Paths start at the media root and may not leave it,
symbolic links followed. A file that does not exist is no error here: it is quarantined when it is decoded.

torch is not imported here; pyarrow and datasets only when a source needs them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from mmreason.config import DataConfig, DataSource
from mmreason.errors import ConfigError, DataError, PluginError
from mmreason.formats import FIRST_ROWS, load_adapter, native_row, recognised
from mmreason.media_parts import OPTIONS as OPTIONS
from mmreason.media_parts import read_part
from mmreason.plugins import nearest
from mmreason.row_checks import cleaned, kind_of, text_of, wrong
from mmreason.rows import read_rows as read_rows  # for scoring.py, which reads the same files
from mmreason.types import MediaRef, Message, Pair, Sample

KEYS = ("id", "messages", "answer", "task", "options", "golds", "demos", "demo_weights", "pairs", "source", "meta")
ROLES = ("system", "user", "assistant")

T = TypeVar("T")

OnError = Literal["raise", "collect"]
"""raise: stop at the first bad row. collect: yield its DataError in its place and go on."""


@overload
def load_samples(source: DataSource, *, media_root: str | None = ...) -> Iterator[Sample]: ...
@overload
def load_samples(
    source: DataSource, *, media_root: str | None = ..., on_error: OnError
) -> Iterator[Sample | DataError]: ...
def load_samples(
    source: DataSource, *, media_root: str | None = None, on_error: OnError = "raise"
) -> Iterator[Sample | DataError]:
    """The samples of one source, in order. Raises DataError (starting `file:line: `) at the first bad row; with
    on_error="collect" bad rows are yielded as DataErrors instead. A file that cannot be opened always raises.

    media_root: where relative media paths start and what none may leave; default: the data file's folder.
    """
    for _, item in _read(source, media_root):
        yield _raised(item) if on_error == "raise" else item


def iter_all(config: DataConfig, which: Literal["train", "eval"]) -> Iterator[Sample | DataError]:
    """All sources of `data.train` or `data.eval`, bad rows as DataErrors in their place; a repeated id is one too."""
    return (item for _, item in iter_with_origins(config, which))


def iter_with_origins(
    config: DataConfig, which: Literal["train", "eval"], *, unreadable: OnError = "raise"
) -> Iterator[tuple[str, Sample | DataError]]:
    """The same, each after the place that it comes from: "path/to/file.jsonl:17".

    unreadable="collect" yields the DataError of a source that cannot be read, too, and goes on with the next one.
    """
    sources: tuple[DataSource, ...] = getattr(config, which)
    first_seen: dict[str, str] = {}
    for source in sources:
        rows = _read(source, config.media_root)
        for origin, item in rows if unreadable == "raise" else _collected(rows, source):
            if isinstance(item, Sample):
                if item.id in first_seen and item.id == Path(origin).name:
                    item = replace(item, id=origin)  # default ids of two files of the same name
                if item.id in first_seen:
                    twin = first_seen[item.id]
                    yield origin, DataError(f"{origin}: id {item.id!r} stands at {twin} already; ids must be unique")
                    continue
                first_seen[item.id] = origin
            yield origin, item


def _collected(
    rows: Iterator[tuple[str, Sample | DataError]], source: DataSource
) -> Iterator[tuple[str, Sample | DataError]]:
    try:
        yield from rows
    except DataError as error:
        yield source.path, error
    except PluginError as error:
        yield source.path, DataError(f"{source.path}: adapter {error}")


def load_all(config: DataConfig, which: Literal["train", "eval"]) -> list[Sample]:
    """All samples of `data.train` or `data.eval`, in memory. Raises DataError at the first bad row or repeated id, and
    ConfigError for a stream without an end: it would be held whole before the first step."""
    for line in endless(config, which):
        raise ConfigError(line)
    return [_raised(item) for item in iter_all(config, which)]


def endless(config: DataConfig, which: Literal["train", "eval"]) -> Iterator[str]:
    """What is wrong with the sources that have no end; a line each."""
    for index, source in enumerate(getattr(config, which)):
        if source.streaming and source.limit is None:
            name = f"data.{which}[{index}]"
            yield (
                f"{name}: {source.path} is streamed without a limit, and rows are held in memory before the first "
                f"step; set {name}.limit to the number of rows to use, or streaming: false"
            )


def _read(source: DataSource, media_root: str | None) -> Iterator[tuple[str, Sample | DataError]]:
    root = _media_root(source, media_root)
    rows = read_rows(source)
    first = list(islice(rows, FIRST_ROWS)) if source.adapter == "auto" else []
    name = recognised([row for _, row in first], source.path) if source.adapter == "auto" else source.adapter
    adapter = load_adapter(name)
    for origin, row in chain(first, rows):
        if isinstance(row, DataError):
            yield origin, row
            continue
        try:
            native = native_row(row, origin, adapter)
            if native is not None or row is None:
                yield origin, sample_from_row(native, origin, root)
        except DataError as error:
            yield origin, error if name == "native" else DataError(f"{error} (read as {name})")


def _raised(item: T | DataError) -> T:
    if isinstance(item, DataError):
        raise item
    return item


def sample_from_row(row: Any, origin: str, root: Path | None, *, messages_required: bool = True) -> Sample:
    """One row of the native schema as a Sample. `origin` ("train.jsonl:17") is what errors start with.

    root: the media root, or None where no media path is allowed. messages_required=False is for scoring finished
    texts, where the question may be absent. Raises DataError.
    """
    if not isinstance(row, Mapping):
        wrong(origin, f"the row is {kind_of(row)}, expected an object with keys such as messages, answer, task")
    row = cleaned(row, origin)
    for key in row:
        if key not in KEYS:
            wrong(origin, f"unknown key {key!r}{nearest(str(key), list(KEYS))}")
    messages = row.get("messages", [])
    if messages_required and not messages:
        wrong(origin, "messages: missing or empty, expected a list with at least the user's question")
    return Sample(
        id=_id(row.get("id", os.path.basename(origin)), origin),
        messages=_messages(messages, origin, root),
        answer=row.get("answer"),
        task=text_of(row.get("task", "exact"), "task", origin),
        options=_texts(row.get("options", []), "options", origin),
        golds=_object(row.get("golds", {}), "golds", origin),
        demos=_texts(row.get("demos", []), "demos", origin),
        demo_weights=_demo_weights(row.get("demo_weights", []), row.get("demos", []), origin),
        pairs=_pairs(row.get("pairs", []), origin),
        source=text_of(row.get("source", os.path.basename(origin.rpartition(":")[0])), "source", origin),
        meta=_object(row.get("meta", {}), "meta", origin),
    )


# ---- messages


def _messages(value: Any, origin: str, root: Path | None) -> tuple[Message, ...]:
    if not isinstance(value, list):
        wrong(origin, f"messages: {kind_of(value)}, expected a list of {{role, content}}")
    messages = tuple(_message(item, f"messages[{index}]", origin, root) for index, item in enumerate(value))
    for index, message in enumerate(messages):
        if message.role == "system" and index > 0:
            wrong(origin, f"messages[{index}].role: a system message stands first or not at all")
    if messages and messages[-1].role != "user":
        wrong(
            origin,
            f"messages: the last one is the {messages[-1].role}'s, expected the user's question; put answers to "
            "imitate under demos",
        )
    return messages


def _message(value: Any, where: str, origin: str, root: Path | None) -> Message:
    if not isinstance(value, Mapping):
        wrong(origin, f"{where}: {kind_of(value)}, expected an object with role and content")
    for key in value:
        if key not in ("role", "content"):
            wrong(origin, f"{where}: unknown key {key!r}{nearest(str(key), ['role', 'content'])}")
    if value.get("role") not in ROLES:
        wrong(origin, f"{where}.role: {value.get('role')!r}, expected one of {', '.join(ROLES)}")
    content = value.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list) or not content:
        wrong(origin, f"{where}.content: {kind_of(content)}, expected text or a list of typed parts")
    parts = tuple(read_part(item, f"{where}.content[{index}]", origin, root) for index, item in enumerate(content))
    if value["role"] == "user" and not any(isinstance(part, MediaRef) or part.strip() for part in parts):
        wrong(origin, f"{where}.content: only empty text, expected a question or media")
    return Message(role=value["role"], content=parts)


# ---- small checks


def _id(value: Any, origin: str) -> str:
    number = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if number else text_of(value, "id", origin)


def _texts(value: Any, key: str, origin: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        wrong(origin, f"{key}: {kind_of(value)}, expected a list of texts")
    return tuple(text_of(item, f"{key}[{index}]", origin) for index, item in enumerate(value))


def _demo_weights(value: Any, demos: Any, origin: str) -> tuple[tuple[tuple[int, int, float], ...], ...]:
    if value == []:
        return ()
    if not isinstance(value, list) or not isinstance(demos, list) or len(value) != len(demos):
        wrong(origin, f"demo_weights: {kind_of(value)}, expected a list of spans for each of the demos")
    pairs = enumerate(zip(value, demos, strict=True))
    return tuple(_spans(spans, text, f"demo_weights[{at}]", origin) for at, (spans, text) in pairs)


def _spans(value: Any, text: Any, where: str, origin: str) -> tuple[tuple[int, int, float], ...]:
    found = []
    spans: list[Any] = value if isinstance(value, list) else [value]
    for span in spans:
        numbers = isinstance(span, list) and len(span) == 3 and not any(isinstance(part, bool) for part in span)
        if not numbers or not all(isinstance(part, int | float) for part in span) or not span[2] > 0:
            wrong(origin, f"{where}: expected [start, end, weight] with a weight over 0, got {kind_of(span)}")
        start, end, weight = span
        if start != int(start) or end != int(end) or not 0 <= start < end <= len(text):
            wrong(origin, f"{where}: characters {start} to {end} of a demonstration of {len(text)}")
        found.append((int(start), int(end), float(weight)))
    return tuple(found)


def _pairs(value: Any, origin: str) -> tuple[Pair, ...]:
    if not isinstance(value, list):
        wrong(origin, f"pairs: {kind_of(value)}, expected a list of {{chosen, rejected}}")
    found = []
    for index, item in enumerate(value):
        if not isinstance(item, Mapping) or set(item) != {"chosen", "rejected"}:
            wrong(origin, f"pairs[{index}]: {kind_of(item)}, expected an object with chosen and rejected")
        texts = {side: text_of(item[side], f"pairs[{index}].{side}", origin) for side in ("chosen", "rejected")}
        if texts["chosen"] == texts["rejected"]:
            wrong(origin, f"pairs[{index}]: chosen and rejected are the same text, so there is nothing to prefer")
        found.append(Pair(**texts))
    return tuple(found)


def _object(value: Any, key: str, origin: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        wrong(origin, f"{key}: {kind_of(value)}, expected an object")
    return dict(value)


# ---- sources


def _media_root(source: DataSource, media_root: str | None) -> Path | None:
    # os.path, not pathlib: a name that is too long or holds a NUL is no folder, and no traceback.
    if media_root is not None:
        if not os.path.isdir(media_root):
            raise DataError(f"data.media_root: {media_root!r} is no folder")
        return Path(media_root)
    if os.path.isdir(source.path):
        return Path(source.path)
    return Path(source.path).parent if os.path.isfile(source.path) else None
