"""The prompt of an item: a template with fields in braces, filled from the names of its files and its metadata.

    "This is {name}, filed under {folder}. {meta.question}"

A brace that begins no field ("{" before a space or a quote, as in JSON) is text; "{{name}}" writes "{name}".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from mmreason.errors import ConfigError, DataError
from mmreason.plugins import nearest

FIELDS = {
    "name": "the file's name",
    "stem": "the file's name without its ending",
    "extension": "the ending, without its dot",
    "size": "the file's size in bytes",
    "kind": "image, video or audio",
    "folder": "the folder's name",
    "path": "the path inside the root",
}
"""Fields of every item; of several files they are lists, but for `folder` and `path`: those of the first."""
_FIELD = re.compile(r"\{(\{)?([A-Za-z_][\w.-]*)\}(?(1)\})")


def check_template(template: str, *, has_meta: bool) -> None:
    """Raise ConfigError for a field that no item can have. has_meta: items are rows, with metadata of their own."""
    for doubled, field in _FIELD.findall(template):
        if doubled or field in FIELDS:
            continue
        if field.startswith("meta."):
            if has_meta:
                continue
            raise ConfigError(f"--prompt: {{{field}}}: files have no metadata; fields of rows (.jsonl) can be used so")
        known = [*FIELDS, "meta.KEY"]
        raise ConfigError(
            f"--prompt: {{{field}}}: no such field{nearest(field, known)}; write {{{{{field}}}}} for the text itself"
        )


@dataclass(frozen=True, slots=True)
class Named:
    """What a template can say of a file. Example: `Named("birds/7.png", "image", 20481)`"""

    path: str
    """Inside the root."""
    kind: str
    size: int
    """Bytes."""


def filled(template: str, files: Sequence[Named], meta: Mapping[str, Any]) -> str:
    """The template with an item's values. Raises DataError for metadata that it lacks."""
    values = _values(files)

    def value(match: re.Match[str]) -> str:
        doubled, field = match.groups()
        if doubled:
            return f"{{{field}}}"
        return values[field] if field in values else _of_meta(field, meta)

    return _FIELD.sub(value, template)


def _values(files: Sequence[Named]) -> dict[str, str]:
    paths = [PurePosixPath(file.path) for file in files]
    first = paths[0] if paths else PurePosixPath()
    return {
        "name": ", ".join(path.name for path in paths),
        "stem": ", ".join(path.stem for path in paths),
        "extension": ", ".join(path.suffix.removeprefix(".") for path in paths),
        "size": ", ".join(str(file.size) for file in files),
        "kind": ", ".join(file.kind for file in files),
        "folder": first.parent.name,
        "path": str(first),
    }


def _of_meta(field: str, meta: Mapping[str, Any]) -> str:
    value: Any = meta
    for key in field.split(".")[1:]:
        if not isinstance(value, Mapping) or key not in value:
            has = ", ".join(map(str, meta)) or "nothing"
            raise DataError(f"prompt: no {{{field}}}; the row's meta has {has}")
        value = value[key]
    return str(value)
