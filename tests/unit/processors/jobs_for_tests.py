"""Jobs that misbehave, run by real workers."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from mmreason.processors.base import Refusal


def double(number: int) -> int:
    return 2 * number


def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


def stuck_in_native_code(note: str = "") -> None:
    """Holds the interpreter lock in a C call: no signal handler and no thread of this process could end it.

    note: folder in which a file named by this process says that it has come so far.
    """
    if note:
        Path(note, str(os.getpid())).touch()
    ctypes.PyDLL(None).sleep(1000)


def leave(status: int) -> None:
    os._exit(status)


def segfault() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def process_id() -> int:
    return os.getpid()


def allocate(count: int) -> int:
    return len(bytearray(count))


def refuse() -> None:
    raise Refusal("corrupt", "as asked")


def unforeseen() -> None:
    raise KeyError("what decoders may raise")


def large(count: int) -> bytes:
    return bytes(count)


def loaded_modules() -> Any:
    return sorted(name for name in ("torch", "transformers", "av", "PIL", "pydantic") if name in sys.modules)
