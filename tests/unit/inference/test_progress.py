"""The line that says how far it is."""

from __future__ import annotations

import io

from mmreason.inference.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_rates_and_time_left() -> None:
    now = [100.0]
    log = io.StringIO()
    progress = Progress(1000, lambda: 200, log, clock=lambda: now[0])
    now[0] += 5
    for number in range(60):
        progress.add(tokens=10, failed=number < 2)
    assert log.getvalue() == "", "a log has a line every ten seconds"
    now[0] += 5
    progress.add(tokens=0, failed=False)
    line = "infer: 261/1000 files, 6.1 files/s, 60 tokens/s, 2:01 left, 2 errors"
    assert log.getvalue() == line + "\n"
    progress.close()
    assert log.getvalue() == f"{line}\n{line}\n"


def test_without_a_total_and_for_long_times() -> None:
    now = [0.0]
    progress = Progress(None, stream=io.StringIO(), clock=lambda: now[0])
    now[0] = 2
    progress.add(tokens=0, failed=True)
    assert progress.line() == "infer: 1 files, 0.5 files/s, 0 tokens/s, 1 error"
    long = Progress(100_001, stream=io.StringIO(), clock=lambda: now[0])
    now[0] = 12
    long.add(tokens=1, failed=False)
    assert long.line().endswith("277:46:40 left")


def test_a_terminal_is_redrawn() -> None:
    now = [0.0]
    terminal = Terminal()
    progress = Progress(10, stream=terminal, clock=lambda: now[0])
    for _ in range(3):
        now[0] += 1
        progress.add(tokens=1, failed=False)
    progress.close()
    assert terminal.getvalue().count("\r") == 4
    assert terminal.getvalue().endswith("3/10 files, 1.0 files/s, 1 tokens/s, 0:07 left\n")
