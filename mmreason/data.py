"""Data files -> Samples. JSONL, Parquet and `datasets` data sets, one native schema:

    {"id": "q7",                                                              optional; default "file.jsonl:17"
     "messages": [{"role": "user", "content": [
         {"type": "image", "image": "a.png"},
         {"type": "video", "video": "b.mp4", "fps": 2, "sound": true},
         {"type": "audio", "audio": {"bytes": ..., "path": ...}},
         {"type": "text", "text": "What is shown?"}]}],                       content may be plain text
     "answer": .., "task": "mcq", "options": [..], "golds": {..}, "demos": [..], "source": "..", "meta": {..}}

A media item says where its file is under its own kind, `path` or `url`: a path, a `file://` URL, a `data:` URL, or
`{"bytes": .., "path": ..}` as `datasets` and Parquet give it. Paths start at the media root and may not leave it,
symbolic links followed. A file that does not exist is no error here: it is quarantined when it is decoded.

torch is not imported here; pyarrow and datasets only when a source needs them.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, overload
from urllib.parse import unquote, urlparse

from mmreason.config import DataConfig, DataSource
from mmreason.errors import ConfigError, DataError
from mmreason.plugins import nearest
from mmreason.rows import read_rows as read_rows  # for scoring.py, which reads the same files
from mmreason.types import MediaRef, Message, Sample

KEYS = ("id", "messages", "answer", "task", "options", "golds", "demos", "source", "meta")
ROLES = ("system", "user", "assistant")

_TIMES = {"start": "start", "end": "end"}
_PIXELS = {"min_pixels": "min_pixels", "max_pixels": "max_pixels"}
OPTIONS: dict[str, dict[str, str]] = {
    "image": _PIXELS,
    "video": {
        **_PIXELS,
        **_TIMES,
        "fps": "fps",
        "min_frames": "min_frames",
        "max_frames": "max_frames",
        "nframes": "nframes",
        # qwen-vl-utils' names
        "video_start": "start",
        "video_end": "end",
    },
    "audio": {**_TIMES, "audio_start": "start", "audio_end": "end"},
}
"""Per kind: key in a media item -> sampling option."""

_WHOLE = {"min_pixels", "max_pixels", "min_frames", "max_frames", "nframes"}
_LARGEST = 1e15
"""A larger number is a mistake, and JSON may spell some that no float holds."""
_SPELLINGS = {"image_url": "image", "video_url": "video", "audio_url": "audio"}

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
    for origin, row in read_rows(source):
        try:
            yield origin, sample_from_row(_raised(row), origin, root)
        except DataError as error:
            yield origin, error


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
        _wrong(origin, f"the row is {_kind(row)}, expected an object with keys such as messages, answer, task")
    row = _cleaned(row, origin)
    for key in row:
        if key not in KEYS:
            _wrong(origin, f"unknown key {key!r}{nearest(str(key), list(KEYS))}")
    messages = row.get("messages", [])
    if messages_required and not messages:
        _wrong(origin, "messages: missing or empty, expected a list with at least the user's question")
    return Sample(
        id=_id(row.get("id", Path(origin).name), origin),
        messages=_messages(messages, origin, root),
        answer=row.get("answer"),
        task=_text(row.get("task", "exact"), "task", origin),
        options=_texts(row.get("options", []), "options", origin),
        golds=_object(row.get("golds", {}), "golds", origin),
        demos=_texts(row.get("demos", []), "demos", origin),
        source=_text(row.get("source", Path(origin.rpartition(":")[0]).name), "source", origin),
        meta=_object(row.get("meta", {}), "meta", origin),
    )


# ---- messages


def _messages(value: Any, origin: str, root: Path | None) -> tuple[Message, ...]:
    if not isinstance(value, list):
        _wrong(origin, f"messages: {_kind(value)}, expected a list of {{role, content}}")
    messages = tuple(_message(item, f"messages[{index}]", origin, root) for index, item in enumerate(value))
    for index, message in enumerate(messages):
        if message.role == "system" and index > 0:
            _wrong(origin, f"messages[{index}].role: a system message stands first or not at all")
    if messages and messages[-1].role != "user":
        _wrong(
            origin,
            f"messages: the last one is the {messages[-1].role}'s, expected the user's question; put answers to "
            "imitate under demos",
        )
    return messages


def _message(value: Any, where: str, origin: str, root: Path | None) -> Message:
    if not isinstance(value, Mapping):
        _wrong(origin, f"{where}: {_kind(value)}, expected an object with role and content")
    for key in value:
        if key not in ("role", "content"):
            _wrong(origin, f"{where}: unknown key {key!r}{nearest(str(key), ['role', 'content'])}")
    if value.get("role") not in ROLES:
        _wrong(origin, f"{where}.role: {value.get('role')!r}, expected one of {', '.join(ROLES)}")
    content = value.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list) or not content:
        _wrong(origin, f"{where}.content: {_kind(content)}, expected text or a list of typed parts")
    parts = tuple(_part(item, f"{where}.content[{index}]", origin, root) for index, item in enumerate(content))
    if value["role"] == "user" and not any(isinstance(part, MediaRef) or part.strip() for part in parts):
        _wrong(origin, f"{where}.content: only empty text, expected a question or media")
    return Message(role=value["role"], content=parts)


def _part(value: Any, where: str, origin: str, root: Path | None) -> str | MediaRef:
    if not isinstance(value, Mapping):
        _wrong(origin, f'{where}: {_kind(value)}, expected an object such as {{"type": "text", "text": ...}}')
    value = dict(value)
    kind = value.pop("type", None)
    if kind == "text":
        for key in value:
            if key != "text":
                _wrong(origin, f"{where}: unknown key {key!r} in a text part{nearest(str(key), ['text'])}")
        text = value.get("text")
        return text if text == "" else _text(text, f"{where}.text", origin)
    spelled, kind = kind, _SPELLINGS.get(str(kind), kind)
    if not isinstance(kind, str) or kind not in OPTIONS:
        _wrong(origin, f"{where}.type: {spelled!r}{nearest(str(spelled), ['text', *OPTIONS])}")
    return _media(value, kind, where, origin, root)


def _media(value: dict[str, Any], kind: str, where: str, origin: str, root: Path | None) -> MediaRef:
    places = [key for key in (kind, f"{kind}_url", "path", "url", "bytes") if key in value]
    if set(places) == {"bytes", "path"}:
        item: Any = {key: value.pop(key) for key in places}
    elif len(places) == 1:
        item = value.pop(places[0])
        item = {"bytes": item} if places[0] == "bytes" else item
    else:
        given = f"{' and '.join(places)} given" if places else "no file given"
        _wrong(origin, f"{where}: {given}; expected exactly one of {kind}, path, url, or bytes")
    sound = value.pop("sound", False) if kind == "video" else False
    if not isinstance(sound, bool):
        _wrong(origin, f"{where}.sound: {sound!r}, expected true or false")
    options = _options(value, kind, where, origin)
    path, data = _file(item, f"{where}.{places[0]}", origin, root)
    return MediaRef(kind=kind, path=path, data=data, sound=sound, options=options)


def _options(value: dict[str, Any], kind: str, where: str, origin: str) -> dict[str, Any]:
    """The sampling options among the keys of a media item, by the names that the processors know."""
    options: dict[str, Any] = {}
    for key, number in value.items():
        if key not in OPTIONS[kind]:
            names = [*OPTIONS[kind], kind, *(["sound"] if kind == "video" else [])]
            _wrong(origin, f"{where}: unknown key {key!r} in {_a(kind)} part{nearest(str(key), names)}")
        name = OPTIONS[kind][key]
        if name in options:
            _wrong(origin, f"{where}: {key} and {name} are the same option, expected one of them")
        options[name] = _number(number, name, f"{where}.{key}", origin)
    if "fps" in options and "nframes" in options:
        _wrong(origin, f"{where}: fps and nframes given, expected one of them")
    for low, high in (("min_pixels", "max_pixels"), ("min_frames", "max_frames")):
        if low in options and high in options and options[low] > options[high]:
            _wrong(origin, f"{where}: {low} {options[low]} is more than {high} {options[high]}")
    if "end" in options and options["end"] <= options.get("start", 0):
        _wrong(origin, f"{where}: end {options['end']} is not after start {options.get('start', 0)}")
    return options


def _number(value: Any, name: str, where: str, origin: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        _wrong(origin, f"{where}: {_kind(value)}, expected a number")
    if not 0 <= value <= _LARGEST or (value == 0 and name != "start"):
        _wrong(origin, f"{where}: {_kind(value)}, expected a positive number")
    if name not in _WHOLE:
        return value
    if value != int(value):
        _wrong(origin, f"{where}: {value}, expected a whole number")
    return int(value)  # pandas writes 32.0


def _file(item: Any, where: str, origin: str, root: Path | None) -> tuple[str | None, bytes | None]:
    """(absolute path, None) or (None, content) of what a media item names."""
    if isinstance(item, Mapping):
        unknown = [key for key in item if key not in ("bytes", "path", "url")]
        if unknown or not item:
            _wrong(origin, f"{where}: keys {', '.join(map(str, item)) or 'none'}; expected bytes and path, or url")
        item = item.get("bytes", item.get("path", item.get("url")))
    if isinstance(item, bytes):
        return None, item
    if not isinstance(item, str) or not item:
        _wrong(origin, f"{where}: {_kind(item)}, expected the path of a file, or its bytes")
    if item.startswith("data:"):
        return None, _data_url(item, where, origin)
    if item.startswith("file://"):
        item = _file_url(item, where, origin)
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", item):
        _wrong(origin, f"{where}: {item!r}: remote media not allowed; download the file and give its path")
    return _inside(item, where, origin, root), None


def _file_url(item: str, where: str, origin: str) -> str:
    try:
        return unquote(urlparse(item).path, errors="strict")
    except ValueError as error:  # brackets that are no address; bytes that are no UTF-8
        _wrong(origin, f"{where}: {_kind(item)} is no usable file URL ({error}), expected file:///<path>")


def _data_url(item: str, where: str, origin: str) -> bytes:
    head, _, body = item.partition(",")
    try:
        if not head.endswith(";base64"):
            raise ValueError
        return base64.b64decode(body, validate=True)
    except ValueError:  # binascii.Error is one; letters beyond ASCII raise a plain one
        _wrong(origin, f"{where}: a data URL that is not base64; expected data:<type>;base64,<content>")


def _inside(path: str, where: str, origin: str, root: Path | None) -> str:
    """The absolute path with links followed. A DataError when it is not under the root."""
    if root is None:
        _wrong(origin, f"{where}: {path!r} is a path, but this source has no folder; set data.media_root")
    try:
        base = root.resolve()
        full = (base / path).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL byte
        _wrong(origin, f"{where}: {path!r} is no usable path ({error})")
    if not full.is_relative_to(base):
        _wrong(
            origin, f"{where}: {path!r} lies outside the media root {str(root)!r}; move it there or set data.media_root"
        )
    return str(full)


# ---- small checks


def _wrong(origin: str, what: str) -> NoReturn:
    raise DataError(f"{origin}: {what}")


def _cleaned(row: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """The row without nulls, at any depth. Refuses half characters, which JSON can spell and no tokenizer or file
    name takes, and nesting without end."""
    try:
        return {key: _without_nulls(value) for key, value in row.items() if value is not None}
    except UnicodeEncodeError as error:
        near = ascii(error.object[max(0, error.start - 20) : error.end + 20])
        _wrong(origin, f"{near}: character {error.start + 1} is half of a surrogate pair, expected valid Unicode")
    except RecursionError:
        _wrong(origin, "lists or objects are nested too deeply, expected a few levels")


def _without_nulls(value: Any) -> Any:
    """Parquet gives every key of a struct type in every row, the absent ones as None. Nulls in lists stay."""
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, Mapping):
        return {_without_nulls(key): _without_nulls(item) for key, item in value.items() if item is not None}
    elif isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _kind(value: Any) -> str:
    """What a wrong value is, in a word or two that fit in a message."""
    if value is None:
        return "missing"
    if isinstance(value, str | list | dict) and not value:
        return f"an empty {'text' if isinstance(value, str) else type(value).__name__}"
    short = repr(value)
    return short if len(short) <= 40 else _a(type(value).__name__)


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _text(value: Any, key: str, origin: str) -> str:
    if not isinstance(value, str) or not value:
        _wrong(origin, f"{key}: {_kind(value)}, expected text")
    return value


def _id(value: Any, origin: str) -> str:
    number = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if number else _text(value, "id", origin)


def _texts(value: Any, key: str, origin: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        _wrong(origin, f"{key}: {_kind(value)}, expected a list of texts")
    return tuple(_text(item, f"{key}[{index}]", origin) for index, item in enumerate(value))


def _object(value: Any, key: str, origin: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        _wrong(origin, f"{key}: {_kind(value)}, expected an object")
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
