"""Data files -> rows: JSON, JSONL, Parquet and `datasets` data sets, with where each row stands.

What a row means is not known here. pyarrow and datasets are imported only when a source needs them.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from mmreason.config import DataSource
from mmreason.errors import DataError
from mmreason.json_list import list_elements

Row = tuple[str, Any]
"""(where it stands, e.g. "data/train.jsonl:17"; the decoded row, or a DataError)."""

_ENDINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet"}


def read_rows(source: DataSource) -> Iterator[Row]:
    """(origin, row or DataError) of every row, at most `source.limit`."""
    read = {"json": _json, "jsonl": _jsonl, "parquet": _parquet, "datasets": _datasets}[_format(source)]
    return islice(read(source), source.limit)


def _format(source: DataSource) -> str:
    if source.format != "auto":
        return source.format
    ending = Path(source.path).suffix.lower()
    if ending in _ENDINGS:
        return _ENDINGS[ending]
    if os.path.isfile(source.path):
        raise DataError(
            f"{source.path}: {ending or 'no'} ending, expected .jsonl (one object per line), .json (a list of objects) "
            "or .parquet"
        )
    return "datasets"


def _json(source: DataSource) -> Iterator[Row]:
    """One list of objects, or, as many files named .json have it, an object per line."""
    with _opened(source) as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
        file.seek(0)
        if start == b"[":
            with io.TextIOWrapper(file, "utf-8-sig") as text:
                yield from list_elements(text, _DECODER, source.path)
            return
        lines = _json_lines(file, source)
        first = next(lines, None)
        if start != b"{" or first is None or isinstance(first[1], DataError):
            raise DataError(f"{source.path}: expected a JSON list of objects, or an object per line")
        yield from chain([first], lines)


def _jsonl(source: DataSource) -> Iterator[Row]:
    with _opened(source) as file:
        yield from _json_lines(file, source)


def _opened(source: DataSource) -> BinaryIO:
    try:
        return open(source.path, "rb")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{source.path}: cannot be read ({why}); give the path of a JSON or JSONL file") from error


def _json_lines(file: BinaryIO, source: DataSource) -> Iterator[Row]:
    # Bytes, line by line: one line that is not UTF-8 must not take the rest of the file with it.
    for number, line in enumerate(file, 1):
        origin = f"{source.path}:{number}"
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if line.strip():
            yield origin, _json_line(line, origin)


def _json_line(line: bytes, origin: str) -> Any:
    try:
        return _DECODER.decode(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return DataError(f"{origin}: not UTF-8 (byte {error.start + 1} of the line)")
    except json.JSONDecodeError as error:
        return DataError(f"{origin}: not a JSON object ({error.msg} at column {error.colno})")
    except (ValueError, RecursionError) as error:  # NaN, a key twice, thousands of digits, thousands of brackets
        return DataError(f"{origin}: not a usable JSON object ({error})")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python keeps the last of two equal keys: which answer was meant, nobody would know."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} stands twice; give it once")
    return found


_DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_object)


def _parquet(source: DataSource) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(source.path)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{source.path}: not a readable Parquet file ({_first_line(error)})") from error
    batches = (batch.to_pylist() for batch in file.iter_batches(batch_size=64))
    with file:
        yield from _numbered(batches, source, (OSError, ValueError, pyarrow.ArrowException))


def _datasets(source: DataSource) -> Iterator[Row]:
    import datasets

    path = Path(source.path)
    try:
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            found = datasets.load_from_disk(source.path)
            found = found[source.split] if isinstance(found, datasets.DatasetDict) else found
        else:
            found = datasets.load_dataset(source.path, split=source.split, streaming=source.streaming)
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"{source.path}: `datasets` cannot load split {source.split!r} ({_first_line(error)})"
        ) from error
    # As Arrow tables: media stay encoded bytes and paths, instead of being decoded without our limits.
    batches = (table.to_pylist() for table in found.with_format("arrow").iter(batch_size=64))
    yield from _numbered(batches, source, (OSError, ValueError, datasets.exceptions.DatasetsError))


def _numbered(batches: Iterator[list[Any]], source: DataSource, errors: tuple[type[Exception], ...]) -> Iterator[Row]:
    """Rows of all batches with their numbers from 1; what the reader raises becomes a DataError of the file."""
    number = 0
    while True:
        try:
            batch = next(batches, None)
        except errors as error:
            raise DataError(f"{source.path}:{number + 1}: cannot be read ({_first_line(error)})") from error
        if batch is None:
            return
        for row in batch:
            number += 1
            yield f"{source.path}:{number}", row


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
