"""A pool of killable processes, one deadline per job.

Workers are started with a fresh interpreter (no fork, so no locks of torch's threads are inherited, and no re-import
of the user's main module). A job that runs too long or takes its worker down costs that worker and nothing else.
Linux ties the life of a worker to the thread that started it: use a pool from a thread that lasts.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from mmreason.errors import ConfigError
from mmreason.processors.base import CRASHED, TIMEOUT, Refusal

Job = tuple[Callable[..., Any], tuple[Any, ...]]
"""A module-level function and its arguments."""

_START_S = 120.0
"""Longest time for a worker to load its decoders, on a machine that is busy."""
_CODE = """import json, sys
path, *numbers = json.loads(sys.argv[1])
sys.path[:] = path
from mmreason.processors.worker import main
main(*numbers)
"""


class WorkerPool:
    """`WorkerPool(2, deadline_s=60).run([(decode, arguments), ...])` -> results in order. Close it, or use `with`."""

    def __init__(self, workers: int, deadline_s: float, recycle_after: int = 500, memory_bytes: int = 0) -> None:
        """recycle_after: jobs after which a worker is replaced (decoders leak). memory_bytes: 0 sets no bound."""
        assert workers > 0
        self._deadline_s, self._recycle_after, self._memory = deadline_s, recycle_after, memory_bytes
        self._size = workers
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()
        self.replaced = 0  # workers that were killed or died
        self._closer = weakref.finalize(self, _end_all, self._workers)

    def run(self, jobs: Sequence[Job]) -> list[Any]:
        """One result per job, in order: what the function returned, or a Refusal (also for time-out and crash).

        Raises ConfigError when workers cannot be started at all.
        """
        with self._lock:
            results: list[Any] = [None] * len(jobs)
            pending = deque(range(len(jobs)))
            while pending or any(worker.job is not None for worker in self._workers):
                self._assign(jobs, pending)
                self._collect(results)
            return results

    def start(self) -> None:
        """Start all workers now and wait for them: the first jobs need not. Raises ConfigError."""
        with self._lock:
            self._workers.extend(_Worker(self._memory) for _ in range(self._size - len(self._workers)))
            while not all(worker.ready for worker in self._workers):
                self._collect([])

    def close(self) -> None:
        """End all workers. The pool may be used again; it starts new ones."""
        with self._lock:
            _end_all(self._workers)

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _assign(self, jobs: Sequence[Job], pending: deque[int]) -> None:
        idle = sum(worker.job is None for worker in self._workers)
        for _ in range(min(len(pending) - idle, self._size - len(self._workers))):
            self._workers.append(_Worker(self._memory))
        for worker in list(self._workers):
            if worker.job is not None or not worker.ready or not pending:
                continue
            if worker.send(jobs[pending[0]], self._deadline_s):
                worker.job = pending.popleft()
            else:  # it died idle: no job's fault
                self._drop(worker)

    def _collect(self, results: list[Any]) -> None:
        """Wait until a worker answers, starts, dies or is out of time, and deal with all that did."""
        waiting = {worker.connection: worker for worker in self._workers if worker.job is not None or not worker.ready}
        if not waiting:
            return
        until = min(worker.deadline for worker in waiting.values())
        answering = wait(list(waiting), timeout=max(0.0, until - time.monotonic()))
        for connection in answering:
            assert isinstance(connection, Connection)
            self._receive(waiting[connection], results)
        for worker in waiting.values():
            if worker.connection not in answering and time.monotonic() >= worker.deadline:
                self._lost(worker, results)

    def _receive(self, worker: _Worker, results: list[Any]) -> None:
        try:
            answer = worker.receive()
        except (EOFError, OSError):
            self._lost(worker, results)
            return
        if worker.job is None:
            assert answer == "ready"
            worker.ready = True
            return
        results[worker.job], worker.job = answer, None
        worker.served += 1
        if worker.served >= self._recycle_after:
            worker.end()
            self._workers.remove(worker)

    def _lost(self, worker: _Worker, results: list[Any]) -> None:
        """A worker died or ran out of time; its job, if it had one, is refused."""
        late = time.monotonic() >= worker.deadline
        said = worker.said()
        self._drop(worker)
        if worker.job is None:
            why = f"not ready after {_START_S:g} s" if late else "it ended while starting"
            hint = "set media.workers: 0 to decode in the training process"
            raise ConfigError(f"media.workers: a decoding worker cannot be started ({why}: {said}); {hint}")
        limit = f"more than {self._deadline_s:g} s"
        status = f"its process ended with status {worker.process.returncode}"
        results[worker.job] = Refusal(TIMEOUT, limit) if late else Refusal(CRASHED, status)

    def _drop(self, worker: _Worker) -> None:
        worker.end()
        self._workers.remove(worker)
        self.replaced += 1


class _Worker:
    """One process with its socket, its current job and the time by which it must answer."""

    def __init__(self, memory_bytes: int) -> None:
        ours, theirs = socket.socketpair()
        arguments = json.dumps([sys.path, theirs.fileno(), os.getpid(), memory_bytes])
        self._stderr = tempfile.TemporaryFile()  # decoders chatter there; shown only if the start fails
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _CODE, arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # a launcher's SIGTERM goes to the process group; what was begun is finished
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        theirs.close()
        self.connection = Connection(ours.detach())
        self.deadline = time.monotonic() + _START_S
        self.job: int | None = None
        self.ready = False
        self.served = 0

    def send(self, job: Job, deadline_s: float) -> bool:
        """Hand over a job; False when the process is dead."""
        self.deadline = time.monotonic() + deadline_s
        try:
            with self._killed_at_deadline():
                self.connection.send(job)
        except OSError:
            return False
        return True

    def receive(self) -> Any:
        """The answer that has begun to arrive. Raises EOFError or OSError when the process dies meanwhile."""
        with self._killed_at_deadline():
            return self.connection.recv()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.connection.close()
        self._stderr.close()

    def said(self) -> str:
        """The last line that the process has written."""
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "no message"

    @contextlib.contextmanager
    def _killed_at_deadline(self) -> Any:
        """A large message may stop halfway: then nothing but the end of the process unblocks us."""
        timer = threading.Timer(max(0.1, self.deadline - time.monotonic()), self.process.kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def _end_all(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().end()
