"""Ends the process that started it when that process stands still: stopped, frozen, or its watch cannot get on.

Runs by itself, with nothing but the standard library: `python guard.py SECONDS NAME`, lines on standard input. Each
line says where the process is; when none came for that long, the process is killed. Its peers have given it up by then.
"""

from __future__ import annotations

import os
import select
import signal
import sys

END = "end"
"""The line after which nobody is watched any more."""


def main(patience_s: int, name: str) -> None:
    """Read lines until END or the input's end. Seconds are counted: a machine that slept costs no process."""
    parent, place, silent = os.getppid(), "", 0
    while silent < patience_s:
        if not select.select([0], [], [], 1.0)[0]:
            silent += 1
            continue
        data = os.read(0, 65536)
        silent, place = 0, data.decode(errors="replace").strip().rpartition("\n")[2]
        if place in ("", END):
            return
    if os.getppid() == parent:
        os.write(2, f"\nmmreason: {name} stood still for {patience_s} s in {place}; it is ended\n".encode())
        os.kill(parent, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
