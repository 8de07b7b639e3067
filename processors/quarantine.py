"""Samples whose media cannot be used: noted in a file, counted, and a limit to how many there may be."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from mmreason.errors import DataError

_JUDGED_FROM = 20
"""Below this many samples tried a share says little."""


class Quarantine:
    """Appends one JSON line per bad sample to a file that all processes of a run share.

    Example: `Quarantine(run_dir / "quarantine.jsonl", 0.3).add("train.jsonl:7", "/d/7.mp4", "truncated", "...")`
    """

    def __init__(self, path: Path, max_bad_fraction: float, rank: int = 0) -> None:
        """Goes on from what the file holds. rank: this process's; the share is that of its own samples."""
        self.path, self._limit, self._rank = path, max_bad_fraction, rank
        self._ids: set[str] = set()
        self._tried = self._bad = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            self._restore(path.read_bytes())

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
        }
        self._append(json.dumps(line, ensure_ascii=False))
        self._judge(reason)
        return True

    def tried(self, count: int = 1) -> None:
        """So many more samples were tried. Raises DataError when the share of bad ones is over the limit."""
        self._tried += count
        self._judge()

    def _judge(self, reason: str = "") -> None:
        tried = max(self._tried, self._bad)
        if tried >= _JUDGED_FROM and self._bad / tried > self._limit:
            last = f", the last one: {reason}" if reason else ""
            raise DataError(
                f"{self.path}: {self._bad} of {tried} samples tried ({self._bad / tried:.0%}) have unusable media"
                f"{last}; at most {self._limit:.0%} are allowed (data.max_bad_fraction): mend the data or raise it"
            )

    def _append(self, line: str) -> None:
        """Whole lines, whoever else writes: one write under a lock, after a newline if the last line was torn."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, ("\n" * torn + line + "\n").encode())
        finally:
            os.close(descriptor)

    def _restore(self, content: bytes) -> None:
        for line in content.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # torn by a kill while it was written; its sample will be noted again
                continue
            self._ids.add(entry["id"])
            if entry["rank"] == self._rank:
                self._bad += 1
                self._tried = max(self._tried, entry["tried"])
