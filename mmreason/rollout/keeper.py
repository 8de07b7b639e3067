"""Stands between us and an engine process, so that none outlives us: `python keeper.py PARENT GRACE COMMAND...`

vLLM's API process starts engine processes of its own, which go on when it is killed. The keeper adopts whatever its
command leaves behind (a "child subreaper"), and kills all of it as soon as

- the command ends, however it ended;
- PARENT, the process that started the keeper, is gone, also by SIGKILL;
- SIGTERM or SIGINT arrives: the command is told first, and has GRACE seconds.

Should the keeper itself be killed, the kernel kills the command (PR_SET_PDEATHSIG), and `servers.ServerProcess` the
rest of its process group, which is the keeper's own. Runs by itself, with nothing but the standard library; Linux.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

LOOK_S = 0.5
"""Seconds between two looks whether the parent still lives."""
REAP_S = 10.0
"""Longest wait for killed processes to be gone; one that waits for a device may take its time."""
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_ENDS = (signal.SIGTERM, signal.SIGINT)


def main(parent: int, grace_s: float, command: Sequence[str]) -> int:
    """Run the command to its end; returns its exit status, 128 + signal where one ended it."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_ENDS, signal.SIGCHLD})

    def before_it_starts() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*_ENDS, signal.SIGCHLD})

    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=before_it_starts)
    while child.poll() is None and os.getppid() == parent:
        came = signal.sigtimedwait({*_ENDS, signal.SIGCHLD}, LOOK_S)
        if came is not None and came.si_signo in _ENDS:
            child.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(grace_s)
            break
    status = child.poll()
    kill_all()
    if status is None:
        return 128 + signal.SIGKILL
    return status if status >= 0 else 128 - status


def kill_all() -> None:
    """Kill every process below this one. Killing leaves orphans, which come to us, so until there are none."""
    end = time.monotonic() + REAP_S
    while time.monotonic() < end:
        for pid in below(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        if not below(os.getpid()):
            return
        time.sleep(0.02)


def below(root: int) -> list[int]:
    """The processes that descend from `root`, zombies left out."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit():
                with open(f"/proc/{name}/stat", "rb") as file:  # names of processes may be cut inside a character
                    state, parent = file.read().rpartition(b")")[2].split()[:2]
                if state != b"Z":
                    children.setdefault(int(parent), []).append(int(name))
    found, new = list[int](), [root]
    while new:
        new = [child for pid in new for child in children.get(pid, ())]
        found += new
    return found


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
