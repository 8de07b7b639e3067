"""The typed parts of a message: texts, and media with the place of their file and their sampling options.

Paths start at the media root and may not leave it, symbolic links followed; nothing is opened here.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from mmreason.plugins import nearest
from mmreason.row_checks import kind_of, text_of, with_article, wrong
from mmreason.types import MediaRef

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


def read_part(value: Any, where: str, origin: str, root: Path | None) -> str | MediaRef:
    """A typed part of a message: its text, or the media that it names. Raises DataError."""
    if not isinstance(value, Mapping):
        wrong(origin, f'{where}: {kind_of(value)}, expected an object such as {{"type": "text", "text": ...}}')
    value = dict(value)
    kind = value.pop("type", None)
    if kind == "text":
        for key in value:
            if key != "text":
                wrong(origin, f"{where}: unknown key {key!r} in a text part{nearest(str(key), ['text'])}")
        text = value.get("text")
        return text if text == "" else text_of(text, f"{where}.text", origin)
    spelled, kind = kind, _SPELLINGS.get(str(kind), kind)
    if not isinstance(kind, str) or kind not in OPTIONS:
        wrong(origin, f"{where}.type: {spelled!r}{nearest(str(spelled), ['text', *OPTIONS])}")
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
        wrong(origin, f"{where}: {given}; expected exactly one of {kind}, path, url, or bytes")
    sound = value.pop("sound", False) if kind == "video" else False
    if not isinstance(sound, bool):
        wrong(origin, f"{where}.sound: {sound!r}, expected true or false")
    options = _options(value, kind, where, origin)
    path, data = _file(item, f"{where}.{places[0]}", origin, root)
    return MediaRef(kind=kind, path=path, data=data, sound=sound, options=options)


def _options(value: dict[str, Any], kind: str, where: str, origin: str) -> dict[str, Any]:
    """The sampling options among the keys of a media item, by the names that the processors know."""
    options: dict[str, Any] = {}
    for key, number in value.items():
        if key not in OPTIONS[kind]:
            names = [*OPTIONS[kind], kind, *(["sound"] if kind == "video" else [])]
            wrong(origin, f"{where}: unknown key {key!r} in {with_article(kind)} part{nearest(str(key), names)}")
        name = OPTIONS[kind][key]
        if name in options:
            wrong(origin, f"{where}: {key} and {name} are the same option, expected one of them")
        options[name] = _number(number, name, f"{where}.{key}", origin)
    if "fps" in options and "nframes" in options:
        wrong(origin, f"{where}: fps and nframes given, expected one of them")
    for low, high in (("min_pixels", "max_pixels"), ("min_frames", "max_frames")):
        if low in options and high in options and options[low] > options[high]:
            wrong(origin, f"{where}: {low} {options[low]} is more than {high} {options[high]}")
    if "end" in options and options["end"] <= options.get("start", 0):
        wrong(origin, f"{where}: end {options['end']} is not after start {options.get('start', 0)}")
    return options


def _number(value: Any, name: str, where: str, origin: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        wrong(origin, f"{where}: {kind_of(value)}, expected a number")
    if not 0 <= value <= _LARGEST or (value == 0 and name != "start"):
        wrong(origin, f"{where}: {kind_of(value)}, expected a positive number")
    if name not in _WHOLE:
        return value
    if value != int(value):
        wrong(origin, f"{where}: {value}, expected a whole number")
    return int(value)  # pandas writes 32.0


def _file(item: Any, where: str, origin: str, root: Path | None) -> tuple[str | None, bytes | None]:
    """(absolute path, None) or (None, content) of what a media item names."""
    if isinstance(item, Mapping):
        unknown = [key for key in item if key not in ("bytes", "path", "url")]
        if unknown or not item:
            wrong(origin, f"{where}: keys {', '.join(map(str, item)) or 'none'}; expected bytes and path, or url")
        item = item.get("bytes", item.get("path", item.get("url")))
    if isinstance(item, bytes):
        return None, item
    if not isinstance(item, str) or not item:
        wrong(origin, f"{where}: {kind_of(item)}, expected the path of a file, or its bytes")
    if item.startswith("data:"):
        return None, _data_url(item, where, origin)
    if item.startswith("file://"):
        item = _file_url(item, where, origin)
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", item):
        wrong(origin, f"{where}: {item!r}: remote media not allowed; download the file and give its path")
    return _inside(item, where, origin, root), None


def _file_url(item: str, where: str, origin: str) -> str:
    try:
        return unquote(urlparse(item).path, errors="strict")
    except ValueError as error:  # brackets that are no address; bytes that are no UTF-8
        wrong(origin, f"{where}: {kind_of(item)} is no usable file URL ({error}), expected file:///<path>")


def _data_url(item: str, where: str, origin: str) -> bytes:
    head, _, body = item.partition(",")
    try:
        if not head.endswith(";base64"):
            raise ValueError
        return base64.b64decode(body, validate=True)
    except ValueError:  # binascii.Error is one; letters beyond ASCII raise a plain one
        wrong(origin, f"{where}: a data URL that is not base64; expected data:<type>;base64,<content>")


def _inside(path: str, where: str, origin: str, root: Path | None) -> str:
    """The absolute path with links followed. A DataError when it is not under the root."""
    if root is None:
        wrong(origin, f"{where}: {path!r} is a path, but this source has no folder; set data.media_root")
    try:
        full = os.path.realpath(os.path.join(root, path))
        if os.path.islink(full):
            raise OSError("a loop of links")
        inside = _under(full, str(root)) or _under(full, os.path.realpath(root))
    except (OSError, ValueError) as error:  # ValueError: a NUL byte
        wrong(origin, f"{where}: {path!r} is no usable path ({error})")
    if not inside:
        wrong(
            origin, f"{where}: {path!r} lies outside the media root {str(root)!r}; move it there or set data.media_root"
        )
    return full


def _under(real: str, folder: str) -> bool:
    """Whether a path without links begins with the folder; where it does, the folder has no links either."""
    return real == folder or real.startswith(folder if folder.endswith(os.sep) else folder + os.sep)
