"""What is wrong with a value of a row, in words: shared by all that read rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from mmreason.errors import DataError


def wrong(origin: str, what: str) -> NoReturn:
    """Raise the DataError of a row: `file:line: what is wrong`."""
    raise DataError(f"{origin}: {what}")


def cleaned(row: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """The row without nulls, at any depth. Refuses half characters, which JSON can spell and no tokenizer or file
    name takes, and nesting without end."""
    try:
        return {key: _without_nulls(value) for key, value in row.items() if value is not None}
    except UnicodeEncodeError as error:
        near = ascii(error.object[max(0, error.start - 20) : error.end + 20])
        wrong(origin, f"{near}: character {error.start + 1} is half of a surrogate pair, expected valid Unicode")
    except RecursionError:
        wrong(origin, "lists or objects are nested too deeply, expected a few levels")


def _without_nulls(value: Any) -> Any:
    """Parquet gives every key of a struct type in every row, the absent ones as None. Nulls in lists stay."""
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, list):
        return [_without_nulls(item) for item in value]
    elif isinstance(value, dict):
        return {_without_nulls(key): _without_nulls(item) for key, item in value.items() if item is not None}
    return value


def kind_of(value: Any) -> str:
    """What a wrong value is, in a word or two that fit in a message."""
    if value is None:
        return "missing"
    if isinstance(value, str | list | dict) and not value:
        return f"an empty {'text' if isinstance(value, str) else type(value).__name__}"
    short = repr(value)
    return short if len(short) <= 40 else with_article(type(value).__name__)


def with_article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def text_of(value: Any, key: str, origin: str) -> str:
    """The value itself, which must be text that is not empty. Raises DataError."""
    if not isinstance(value, str) or not value:
        wrong(origin, f"{key}: {kind_of(value)}, expected text")
    return value
