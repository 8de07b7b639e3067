"""The file of rows: appended as items are finished, so that a run that was killed anywhere goes on without a hole.

Beside it stands OUT.settings.json: the root that paths in rows start at, and the settings that the answers were made
with. Parquet and CSV are written at the end, from the rows in OUT.jsonl, which stays: the next start goes on from it.
"""

from __future__ import annotations

import csv
import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from mmreason.errors import ConfigError, DataError
from mmreason.evaluation.file import digest
from mmreason.formats.answered import NESTED
from mmreason.inference.rows import Row

ENDINGS = (".jsonl", ".parquet", ".csv")
COLUMNS = (
    *("id", "status", "reason", "text", "parsed", "thinking", "tokens", "prompt_tokens", "truncated", "seconds"),
    *("votes", "task", "source", "model", "engine", "settings", *NESTED),
)


def rows_file(out: Path) -> Path:
    """Where the rows are appended: `out` itself, or OUT.jsonl for Parquet and CSV."""
    return out if out.suffix == ".jsonl" else out.with_name(f"{out.name}.jsonl")


def settings_file(out: Path) -> Path:
    """Where the root and the settings of `out` are."""
    return out.with_name(f"{out.name}.settings.json")


def settings_hash(settings: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that depend on every setting."""
    return digest([json.dumps(settings, sort_keys=True)])


def read_rows_file(file: Path) -> Iterator[Row]:
    """The rows of a file, one at a time; a torn last line is passed over. Raises DataError for what is no row."""
    return (row for _, row in rows_with_places(file))


def rows_with_places(file: Path) -> Iterator[tuple[int, Row]]:
    """The same, each after the byte at which it begins."""
    place = 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict) or not isinstance(row.get("id"), str):
                raise DataError(f"{file}:{number}: is no row of `mmreason infer`; --overwrite starts over")
            yield place, row
            place += len(line)


class OutFile:
    """Rows on disk. Example: `with OutFile(Path("r.jsonl"), settings, root, overwrite=False) as file: file.append(row)`

    done: ids that have a row. counts: rows by status, those of earlier starts counted. A row that is appended under an
    id that has one (`retry_errors`) takes its place; the old one stays in the file until `finish`, or the next start.
    """

    def __init__(
        self, out: Path, settings: Mapping[str, Any], root: str, *, overwrite: bool = False, retry_errors: bool = False
    ) -> None:
        """Opens the file and goes on from what it holds. retry_errors: ids of errors are not `done`.

        Raises ConfigError: another ending, rows of other settings and not `overwrite`. DataError: cannot be written.
        """
        if out.suffix not in ENDINGS:
            raise ConfigError(f"--out {out}: expected a name that ends in {', '.join(ENDINGS)}")
        self.out, self.rows, self.hash = out, rows_file(out), settings_hash(settings)
        self.done: set[str] = set()
        self.counts: Counter[str] = Counter()
        self._errors: set[str] = set()
        self._doubled, self._descriptor = False, -1
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            if not overwrite and out.exists() and not self.rows.exists():
                raise ConfigError(f"--out {out}: exists and is not of `mmreason infer`; choose another, or --overwrite")
            if self.rows.exists() and not self.rows.is_file():  # opening a pipe would wait for its reader
                raise DataError(f"--out {out}: cannot be written (not a regular file)")
            self._open()
            try:
                if overwrite:  # not before the lock: another run may be writing
                    os.ftruncate(self._descriptor, 0)
                    for file in {out, settings_file(out)} - {self.rows}:
                        file.unlink(missing_ok=True)
                self._resume(settings)
                if retry_errors:
                    self.done -= self._errors
            except BaseException:
                self.close()
                raise
            facts = {"root": root, "hash": self.hash, "settings": settings}
            _write_whole(settings_file(out), json.dumps(facts, indent=1))
        except OSError as error:
            raise _unwritable(out, error) from error

    def append(self, row: Row) -> None:
        """Write one row as one line, at once. Raises DataError; then the file ends with the row before."""
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
        end = os.fstat(self._descriptor).st_size
        try:
            written = 0
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
        except OSError as error:
            os.ftruncate(self._descriptor, end)
            raise _unwritable(self.rows, error) from error
        self._count(row)

    def finish(self) -> None:
        """Leave out what was replaced; write the Parquet or CSV file, whole or not at all. Raises DataError."""
        self._leave_out_replaced()
        write = {".parquet": _write_parquet, ".csv": _write_csv}.get(self.out.suffix)
        if write is None:
            return
        partial = self.out.with_name(f".{self.out.name}.partial")
        try:
            write(self.rows, partial)
            partial.replace(self.out)
        except OSError as error:
            raise _unwritable(self.out, error) from error

    def close(self) -> None:
        """Close the file; what was appended is in it already."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> OutFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _count(self, row: Row) -> None:
        """Note a row; an earlier one of its id no longer counts."""
        id, status = row["id"], str(row.get("status"))
        if id in self.done or id in self._errors:
            self._doubled = True
            self.counts["error" if id in self._errors else "ok"] -= 1
        self._errors.discard(id)
        if status == "error":
            self._errors.add(id)
        self.done.add(id)
        self.counts[status] += 1

    def _leave_out_replaced(self) -> None:
        """Of rows with the same id only the last stays. Raises DataError; the file is as it was then."""
        if not self._doubled:
            return
        partial = self.rows.with_name(f".{self.rows.name}.partial")
        last = {row["id"]: place for place, row in rows_with_places(self.rows)}
        try:
            with self.rows.open("rb") as file, partial.open("wb") as kept:
                for place in sorted(last.values()):
                    file.seek(place)
                    kept.write(file.readline())
            new = os.open(partial, os.O_WRONLY | os.O_APPEND)
            self._lock(new)  # before it is anyone's to open
            partial.replace(self.rows)
        except OSError as error:
            raise _unwritable(self.rows, error) from error
        self._doubled = False
        self.close()
        self._descriptor = new

    def _open(self) -> None:
        """Be the only one that writes. The lock ends with the process, however that ends."""
        current = False
        while not current:  # who wrote it until now may have put another file in its place
            self._descriptor = os.open(self.rows, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                self._lock(self._descriptor)
                current = self.rows.exists() and os.path.samestat(os.fstat(self._descriptor), self.rows.stat())
            finally:
                if not current:
                    self.close()

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"--out {self.out}: another run is writing it; each needs an --out of its own") from error
        except OSError:  # a file system without locks
            pass

    def _resume(self, settings: Mapping[str, Any]) -> None:
        for row in read_rows_file(self.rows):
            if row.get("settings") != self.hash:
                raise ConfigError(
                    f"{self.out}: holds rows made with other settings{self._difference(settings)}; choose another "
                    "--out, or --overwrite"
                )
            self._count(row)
        if not self.done and self.rows.stat().st_size and not settings_file(self.out).exists():
            raise DataError(f"{self.rows}:1: is no row of `mmreason infer`; --overwrite starts over")
        _cut_torn_line(self.rows)  # only now: someone else's file may lack its last line end, too
        self._leave_out_replaced()

    def _difference(self, settings: Mapping[str, Any]) -> str:
        """Which settings differ, where the file beside says."""
        try:
            before = json.loads(settings_file(self.out).read_text(encoding="utf-8"))["settings"]
        except (OSError, ValueError, KeyError, TypeError):
            return ""
        now = json.loads(json.dumps(settings))
        changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        return f" ({', '.join(changed)})" if changed else ""


def _cut_torn_line(file: Path) -> None:
    """Take away what a kill left after the last line end."""
    with file.open("r+b") as stream:
        end = stream.seek(0, os.SEEK_END)
        place, tail = end, b""
        while place > 0 and b"\n" not in tail:
            place = max(0, place - (1 << 16))
            stream.seek(place)
            tail = stream.read(1 << 16)
        whole = place + tail.rfind(b"\n") + 1 if b"\n" in tail else 0
        if whole != end:
            stream.truncate(whole)


def _flat(row: Row) -> dict[str, Any]:
    nested = {key: json.dumps(row[key], ensure_ascii=False) for key in NESTED if key in row}
    flat = {key: nested.get(key, row.get(key)) for key in COLUMNS}
    return {key: _encodable(value) if isinstance(value, str) else value for key, value in flat.items()}


def _encodable(text: str) -> str:
    """Halves of surrogate pairs, which JSON can hold and other files cannot, as backslash escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _write_csv(rows: Path, file: Path) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(map(_flat, read_rows_file(rows)))


def _write_parquet(rows: Path, file: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    kinds = {"tokens": pa.int64(), "prompt_tokens": pa.int64(), "votes": pa.int64(), "seconds": pa.float64()}
    kinds["truncated"] = pa.bool_()
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS])
    with parquet.ParquetWriter(file, schema) as writer:
        for batch in _batches(map(_flat, read_rows_file(rows)), 1000):
            writer.write_table(pa.Table.from_pylist(batch, schema))


def _batches(rows: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    while batch := list(islice(rows, size)):
        yield batch


def _write_whole(file: Path, text: str) -> None:
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(file)


def _unwritable(file: Path, error: OSError) -> DataError:
    return DataError(f"--out {file}: cannot be written ({error.strerror})")
