"""Samples whose media cannot be used: noted in a file, counted, and a limit to how many there may be.

Opened again, the file binds only as far as it still holds: what was noted after the checkpoint that a run goes on from
will be noted again; a file that changed since deserves another try, and so does what may have been bad luck.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmreason.errors import DataError
from mmreason.processors.base import CRASHED, TIMEOUT

JUDGED_FROM = 20
"""Below this many samples tried a share says little."""
_TRANSIENT = (TIMEOUT, CRASHED)
"""Reasons that may be the machine's: not carried over to the next start."""


class Quarantine:
    """Appends one JSON line per bad sample to a file that all processes of a run share.

    Example: `Quarantine(run_dir / "quarantine.jsonl", 0.3).add("train.jsonl:7", "/d/7.mp4", "truncated", "...")`
    """

    def __init__(self, path: Path, max_bad_fraction: float, rank: int = 0, until_step: int | None = None) -> None:
        """Goes on from what the file holds, and forgets what no longer binds.

        rank: this process's; each knows, counts and judges its own samples, and rank 0 takes forgotten lines out of
        the file. until_step: lines of later steps are forgotten (the step of the checkpoint, 0 for a new run); None
        keeps them. Open it on every rank before any rank adds.
        """
        self.path, self._limit, self._rank = path, max_bad_fraction, rank
        self.step = 0  # written in every line; the caller keeps it up to date
        self._ids: set[str] = set()
        self._tried = self._bad = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            self._restore(until_step)

    @property
    def bad(self) -> int:
        """Samples of this rank in quarantine."""
        return self._bad

    def __contains__(self, sample_id: str) -> bool:
        return sample_id in self._ids

    def add(self, sample_id: str, source: str, reason: str, detail: str = "") -> bool:
        """Note a sample, once; False when it was noted before. Raises DataError as `tried` does."""
        if sample_id in self._ids:
            return False
        self._ids.add(sample_id)
        self._bad += 1
        line = {
            "id": sample_id,
            "source": source,
            "reason": reason,
            "detail": detail,
            "rank": self._rank,
            "tried": self._tried,
            "step": self.step,
            **_stamp(source),
        }
        self._append(_encoded(line))
        self._judge(reason)
        return True

    def tried(self, count: int = 1) -> None:
        """So many more samples were tried. Raises DataError when the share of bad ones is over the limit."""
        self._tried += count
        self._judge()

    def _judge(self, reason: str = "") -> None:
        tried = max(self._tried, self._bad)
        if tried >= JUDGED_FROM and self._bad / tried > self._limit:
            last = f", the last one: {reason}" if reason else ""
            raise DataError(
                f"{self.path}: {self._bad} of {tried} samples tried ({self._bad / tried:.0%}) cannot be used"
                f"{last}; at most {self._limit:.0%} are allowed: mend the data (files that change are tried again; "
                "take a mended row's line out of this file) or raise data.max_bad_fraction"
            )

    def _append(self, line: bytes) -> None:
        """Whole lines, whoever else writes: one write under a lock, after a newline if the last line was torn."""
        try:
            with self._locked() as descriptor:
                size = os.fstat(descriptor).st_size
                torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
                os.write(descriptor, b"\n" * torn + line)
        except OSError as error:  # a full disk costs the line, not the run; the sample stays banned and counted
            print(f"mmreason: {self.path}: line not written: {error.strerror}: {line.decode()}", file=sys.stderr)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The file that has the name now, open and ours alone: while we waited another may have replaced it."""
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if _named(self.path, descriptor):
                    yield descriptor
                    return
            finally:
                os.close(descriptor)

    def _restore(self, until_step: int | None) -> None:
        with self._locked():
            content = self.path.read_bytes()
            kept = [entry for entry in _entries(content) if _binds(entry, until_step)]
            clean = b"".join(map(_encoded, kept))
            if self._rank == 0 and clean != content:
                self._rewrite(clean)
        for entry in kept:
            if entry["rank"] == self._rank:  # what others found, this rank would not have known without a restart
                self._ids.add(entry["id"])
                self._bad += 1
                self._tried = max(self._tried, entry["tried"])

    def _rewrite(self, content: bytes) -> None:
        """In one step: a run killed meanwhile finds the old file or the new one."""
        temporary = self.path.with_name(f"{self.path.name}.new")
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.path)


def _named(path: Path, descriptor: int) -> bool:
    """Whether the path still leads to this open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _entries(content: bytes) -> Iterator[dict[str, Any]]:
    for line in content.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # torn by a kill while it was written; its sample will be noted again
            continue
        if isinstance(entry, dict) and {"id", "source", "reason", "rank", "tried"} <= entry.keys():
            yield entry


def _binds(entry: dict[str, Any], until_step: int | None) -> bool:
    """Whether a line still holds at this start."""
    if until_step is not None and entry.get("step", 0) > until_step:
        return False
    same = "mtime_ns" not in entry or _stamp(entry["source"]) == {key: entry[key] for key in ("size", "mtime_ns")}
    return same and entry["reason"] not in _TRANSIENT


def _stamp(source: str) -> dict[str, int | None]:
    """By what a change of the file is noticed; None where there is no file (missing, bytes of a Parquet row)."""
    try:
        status = os.stat(source)
    except (OSError, ValueError):
        return {"size": None, "mtime_ns": None}
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _encoded(entry: dict[str, Any]) -> bytes:
    """One line. A file name that is not UTF-8 (a half surrogate in Python) is escaped, as JSON can."""
    return (json.dumps(entry, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
