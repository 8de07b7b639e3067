"""How far it is: one line that is redrawn on a terminal, or a new line every ten seconds in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

ON_A_TERMINAL_S, IN_A_LOG_S = 0.2, 10.0


class Progress:
    """Counts items and tokens. Example: `progress = Progress(1000); progress.add(tokens=31, failed=False)`"""

    def __init__(
        self,
        total: int | None,
        before: Callable[[], int] = lambda: 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """total: all items, None where it is not known; before: those passed over by now, for they had a row."""
        self._stream, self._clock = stream or sys.stderr, clock
        self._total, self._before = total, before
        self.items = self.tokens = self.failed = 0
        self._redraws = self._stream.isatty()
        self._every = ON_A_TERMINAL_S if self._redraws else IN_A_LOG_S
        self._started = self._last = clock()

    def add(self, tokens: int, *, failed: bool) -> None:
        """One more item has its row."""
        self.items += 1
        self.tokens += tokens
        self.failed += failed
        self.tick()

    def tick(self) -> None:
        """Show the line, if it is time."""
        if self._clock() - self._last >= self._every:
            self._last = self._clock()
            self._write(self.line())

    def close(self) -> None:
        """The last line."""
        self._write(self.line())
        if self._redraws:
            self._stream.write("\n")
            self._stream.flush()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return max(1e-9, self._clock() - self._started)

    def line(self) -> str:
        """ "infer: 240/1000 files, 12.0 files/s, 410 tokens/s, 1:03 left, 5 errors" """
        rate = self.items / self.seconds
        done = self._before() + self.items
        at = f"{done}" + ("" if self._total is None else f"/{self._total}")
        parts = [f"{at} files", f"{rate:.1f} files/s", f"{self.tokens / self.seconds:.0f} tokens/s"]
        if self._total is not None and self.items:
            parts.append(f"{_clock_of((self._total - done) / rate)} left")
        if self.failed:
            parts.append(f"{self.failed} error{'s' if self.failed > 1 else ''}")
        return "infer: " + ", ".join(parts)

    def _write(self, line: str) -> None:
        self._stream.write(f"\r\x1b[K{line}" if self._redraws else f"{line}\n")
        self._stream.flush()


def _clock_of(seconds: float) -> str:
    """ "1:03" or "2:00:09"."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
