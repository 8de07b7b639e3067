"""Runs Python that a model wrote, shut in: no network, no files but the interpreter's, no way out, and an end.

sandbox_child.py is the inside and lists what it does. From here the code gets no environment and no descriptors; it is
killed, with everything that it started, at the deadline, and when its output grows too long. What the machine lacks is
SandboxMissing, with its name: nothing runs with less.

`isolation="container"`: you say that this process is already in a container that may be lost, network and all. Then the
code runs without namespaces and sees the container's files; limits and the system-call filter stay.

Known limits: the code shares a process with `after` and `given`, so it may read both and forge its own result: never
give it a gold. Threads are bounded by memory only. The filter refuses what is known to be dangerous and allows others.
Who is killed while code runs leaves a folder mmreason-sandbox-* behind, empty but for `isolation="container"`; such
folders are removed a day later, by the next process that runs code.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mmreason.errors import RewardError

Isolation = Literal["namespaces", "container"]

_CHILD = Path(__file__).with_name("sandbox_child.py")
_SHOWN = ("/usr", "/lib", "/lib64", "/lib32", "/etc/ld.so.cache", "/etc/localtime", "/dev/null", "/dev/zero",
          "/dev/urandom")  # fmt: skip
_START_S = 20.0
"""Longest time until the inside is ready, which does not count as the code's."""
_EXIT_S = 2.0
_PREFIX = "mmreason-sandbox-"
_STALE_S = 86400.0
"""Age of a folder that nobody uses any more."""
_MOST_REPORT = 8 << 20
"""Bytes of a result, a rendered picture included."""


class SandboxMissing(RewardError):
    """This machine cannot shut code in; the message names what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What code may use."""

    wall_s: float = 20.0
    cpu_s: int = 20
    memory_mb: int = 2048
    """Address space. Libraries reserve more than they use."""
    file_mb: int = 16
    """Of one file, and of all files in /tmp together."""
    files: int = 64
    """Open at the same time."""
    output_kb: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of it. Example: `Outcome(result=3, error=None, output="hello\\n")`"""

    result: Any = None
    """What `after` left in `result`."""
    error: str | None = None
    """Why there is no result, in a line."""
    cut_off: bool = False
    """Whether it was out of time, or killed: on another day the same code may come to an end."""
    output: str = field(default="", repr=False)
    """What was printed, to either stream."""


def run(
    code: str,
    *,
    before: str = "",
    after: str = "",
    given: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
    isolation: Isolation = "namespaces",
) -> Outcome:
    """Run `code`, and around it `before` and `after`, which are ours: `after` has `space` (the code's variables) and
    the values `given` (JSON), and may leave a JSON value in `result`. The code can read all of it: never give a gold.

    Raises SandboxMissing, in one line, where the machine cannot do it.
    """
    if sys.platform != "linux":
        raise SandboxMissing(f"model-written code runs on Linux only, this is {sys.platform}")
    limits = limits or Limits()
    job = {"code": code, "before": before, "after": after, "given": dict(given or {}), "limits": asdict(limits),
           "isolation": isolation, "parent": os.getpid(), "paths": _paths()}  # fmt: skip
    _tidy()
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder:
        ours, theirs = os.pipe()
        with os.fdopen(ours, "rb") as reports:
            try:
                process = _started({**job, "folder": folder}, folder, theirs)
            finally:
                os.close(theirs)
            try:
                return _watched(process, reports.fileno(), limits)
            finally:
                _end(process)


def require(isolation: Isolation = "namespaces") -> None:
    """Raise SandboxMissing, with one line, unless code can be shut in here."""
    outcome = run("", after="result = 1", isolation=isolation)
    if outcome.result != 1:
        raise SandboxMissing(f"a sandbox on this machine runs nothing: {outcome.error}")


@functools.cache
def _tidy() -> None:
    """Once per process: remove the folders of processes that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or gone meanwhile
            if time.time() - folder.lstat().st_mtime > _STALE_S:
                shutil.rmtree(folder)


def _paths() -> list[str]:
    """What the interpreter needs, outermost first; a folder within another one is there already."""
    wanted = [os.path.realpath(path) for path in (sys.base_prefix, sys.base_exec_prefix)] + [sys.prefix]
    given = [path for path in (*_SHOWN, sys.base_prefix) if os.path.lexists(path)]
    found: list[str] = []
    for path in sorted({*given, *wanted}, key=len):
        if not any(path == other or path.startswith(other + "/") for other in found):
            found.append(path)
    return found


def _started(job: Mapping[str, Any], folder: str, reports: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-I", str(_CHILD), str(reports)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[reports],
        env={"HOME": "/tmp", "LANG": "C.UTF-8", "MPLBACKEND": "agg", "MPLCONFIGDIR": "/tmp/.matplotlib",
             "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        cwd=folder,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(job).encode())
        process.stdin.close()
    except BrokenPipeError:
        pass  # it ended before it read its job: `_watched` says how
    return process


def _watched(process: subprocess.Popen[bytes], reports: int, limits: Limits) -> Outcome:
    assert process.stdout is not None
    read = {reports: bytearray(), process.stdout.fileno(): bytearray()}
    most = {reports: _MOST_REPORT, process.stdout.fileno(): limits.output_kb << 10}
    deadline, ready = time.monotonic() + _START_S, False
    with selectors.DefaultSelector() as selector:
        for descriptor in read:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            events = selector.select(max(0.0, deadline - time.monotonic()))
            if not events and time.monotonic() >= deadline:
                return replace(_ended(read, process, f"did not end within {limits.wall_s:g} s"), cut_off=True)
            for key, _ in events:
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fd)
                read[key.fd] += data
                if len(read[key.fd]) > most[key.fd]:
                    return _ended(read, process, f"wrote more than {most[key.fd] >> 10} kB")
            if not ready and b"\n" in read[reports]:
                ready, deadline = True, time.monotonic() + limits.wall_s
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_EXIT_S)  # nobody can write any more, so it is on its way out: for its own exit status
    return _ended(read, process, None)


def _ended(read: Mapping[int, bytearray], process: subprocess.Popen[bytes], why: str | None) -> Outcome:
    _end(process)
    reports, output = (bytes(data) for data in read.values())
    printed = output.decode(errors="replace")
    messages = [_message(line) for line in reports.splitlines()]
    if messages and "missing" in messages[0]:
        raise SandboxMissing(
            f"model-written code cannot be shut in here: {messages[0]['missing']}; allow it on this machine, or give "
            "isolation: container if this is a container that may be lost"
        )
    if not messages or "ready" not in messages[0]:
        raise SandboxMissing(f"a sandbox did not start within {_START_S:g} s: {' '.join(printed.split())[-200:]}")
    if why is None and len(messages) > 1 and ("result" in messages[-1] or "error" in messages[-1]):
        return Outcome(result=messages[-1].get("result"), error=messages[-1].get("error"), output=printed)
    itself = f"ended by itself (exit status {process.returncode})"
    return Outcome(error=why or itself, cut_off=why is None, output=printed)


def _message(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left, and wait for it: with its first process a namespace loses all others."""
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # gone meanwhile
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
