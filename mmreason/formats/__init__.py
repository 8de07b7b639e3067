"""Data formats that people already have, read as they are: `FORMATS` is all that is built in.

An adapter turns a row of another format into a row of the native schema (data.py), where the one strict parser takes
over. It is a pure function of the row, which comes without nulls, and raises ValueError with one line for a row that it
cannot take. A config names a format by its name here, by `pkg.mod:attr`, `file.py:attr`, or an entry point of the group
"mmreason.formats"; with `adapter: auto` the keys of the first rows decide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmreason.errors import DataError, PluginError
from mmreason.formats.answered import inferred
from mmreason.formats.audio_qa import omni_instruct, r1_aqa
from mmreason.formats.conversations import conversation, is_conversation
from mmreason.formats.prompts import easyr1, trl, verl
from mmreason.formats.video_r1 import video_r1
from mmreason.plugins import load_symbol
from mmreason.row_checks import cleaned

Adapter = Callable[[Mapping[str, Any]], dict[str, Any] | None]
"""None leaves the row out."""

FIRST_ROWS = 10
"""Rows in which a known format is looked for."""


@dataclass(frozen=True, slots=True)
class Format:
    """How a format is recognised, and read."""

    adapter: Adapter
    keys: tuple[str, ...]
    """Rows that have all of these keys are of this format, ..."""
    unless: tuple[str, ...] = ()
    """... unless they have one of these, ..."""
    where: Callable[[Mapping[str, Any]], bool] = lambda row: True
    """... and where this holds."""

    def fits(self, row: Mapping[str, Any]) -> bool:
        given = {key for key, value in row.items() if value is not None}
        return given.issuperset(self.keys) and given.isdisjoint(self.unless) and self.where(row)


def native(row: Mapping[str, Any]) -> dict[str, Any]:
    """The native schema itself."""
    return dict(row)


FORMATS: dict[str, Format] = {
    "native": Format(native, ("messages",), unless=("settings",), where=lambda row: not is_conversation(row)),
    "infer": Format(inferred, ("messages", "status", "settings")),
    "chat": Format(conversation, ("messages",), unless=("settings",), where=is_conversation),
    "sharegpt": Format(conversation, ("conversations",)),
    "video_r1": Format(video_r1, ("problem", "problem_type")),
    "easyr1": Format(easyr1, ("problem", "answer"), unless=("problem_type",)),
    "verl": Format(verl, ("prompt", "reward_model")),
    "trl": Format(trl, ("prompt",), unless=("reward_model",)),
    "r1_aqa": Format(r1_aqa, ("question_text", "multi_choice")),
    "omni_instruct": Format(omni_instruct, ("question", "options", "audio")),
}


def load_adapter(name: str) -> Adapter:
    """The adapter that `data.train[].adapter` names. Raises PluginError."""
    adapter = load_symbol(name, {key: format.adapter for key, format in FORMATS.items()}, "mmreason.formats")
    if not callable(adapter):
        raise PluginError(f"{name}: is {type(adapter).__name__}, expected a function from a row to a native row")
    return adapter  # type: ignore[no-any-return]


def recognised(rows: Sequence[Any], path: str) -> str:
    """The name of the format of a file's first rows: that of the first row that has one.

    Rows that are no objects do not count; where there is nothing else, the native parser shall say so. Raises
    DataError when no row is of a known format, or one is of several.
    """
    objects = [row for row in rows if isinstance(row, Mapping)]
    for row in objects:
        names = [name for name, format in FORMATS.items() if format.fits(row)]
        if len(names) > 1:
            raise DataError(f"{path}: the rows could be {' or '.join(names)}; say which with adapter: {names[0]}")
        if names:
            return names[0]
    if not objects:
        return "native"
    known = "; ".join(f"{name} ({' + '.join(format.keys)})" for name, format in FORMATS.items())
    seen = ", ".join(dict.fromkeys(str(key) for row in objects for key in row))
    raise DataError(
        f"{path}: the format of the rows is not known; they have the keys {seen or 'none'}. Known, with their keys: "
        f"{known}. Name one, or a function of yours, with adapter: (docs/data.md, Other formats)"
    )


def native_row(row: Any, origin: str, adapter: Adapter) -> Any:
    """The row as the native parser wants it; what is no object is left to it. None for an object that is left out.

    Raises DataError.
    """
    if adapter is native or not isinstance(row, Mapping):
        return row
    row = cleaned(row, origin)
    try:
        return adapter(row)
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # what a row that does not fit may raise
        reason = " ".join(str(error).split())
        raise DataError(f"{origin}: {reason if isinstance(error, ValueError) else _named(error, reason)}") from error


def _named(error: Exception, reason: str) -> str:
    return f"no key {reason}" if isinstance(error, KeyError) else f"{type(error).__name__}: {reason}"
