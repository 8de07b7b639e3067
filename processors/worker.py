"""The main loop of a decoding worker: a process of its own that loads neither torch nor transformers.

It dies with its parent, may use a bounded amount of memory, and serves one job at a time over a socket.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from multiprocessing.connection import Connection

_PR_SET_PDEATHSIG = 1


def main(descriptor: int, parent: int, memory_bytes: int) -> None:
    """Serve jobs `(function, arguments)` until the socket closes; answer each with its result or a Refusal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _die_with(parent)
    from mmreason.processors.jobs import guarded  # the decoders: loaded before the first deadline starts

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    connection = Connection(descriptor)
    connection.send("ready")
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        connection.send(guarded(function, arguments))


def _die_with(parent: int) -> None:
    """Linux: be killed when the parent's thread that started us ends. Elsewhere an idle worker ends with the socket."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it had ended before the call
            os._exit(1)
