"""Requests of many threads become batches of one scorer, in one thread, each request with a deadline."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Busy(Exception):
    """More is waiting than may wait, or the service is about to end: come back later."""


@dataclass(slots=True)
class _Waiting(Generic[T, R]):
    item: T
    deadline: float
    result: Future[R] = field(default_factory=Future)


class Batcher(Generic[T, R]):
    """Calls `work` with up to `most` items that came within `gather_s` of the first; one batch at a time.

    A batch that fails is tried again item by item, so that one bad item costs the others nothing but time.
    """

    def __init__(self, work: Callable[[Sequence[T]], Sequence[R]], *, most: int, gather_s: float, room: int) -> None:
        self._work, self._most, self._gather_s = work, most, gather_s
        self._queue: queue.Queue[_Waiting[T, R] | None] = queue.Queue(maxsize=room)
        self._stopping = threading.Event()
        self.batches = self.done = 0
        self.busy_since: float | None = None
        """When the batch at hand began, by the monotonic clock."""
        self._thread = threading.Thread(target=self._serve, name="batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        return self._queue.qsize()

    def ask(self, item: T, timeout_s: float) -> R:
        """The result for one item. Raises Busy, TimeoutError, and what `work` raises about this item."""
        one: _Waiting[T, R] = _Waiting(item, time.monotonic() + timeout_s)
        if self._stopping.is_set():
            raise Busy("the service is ending")
        try:
            self._queue.put_nowait(one)
        except queue.Full:
            raise Busy(f"{self._queue.maxsize} requests are waiting already") from None
        try:
            return one.result.result(timeout_s)
        except TimeoutError:
            one.result.cancel()
            raise TimeoutError(f"not scored within {timeout_s:g} s") from None

    def stop(self, timeout_s: float) -> bool:
        """End after the batch at hand; whoever still waits is told Busy. False where that batch takes longer."""
        self._stopping.set()
        try:
            self._queue.put_nowait(None)  # wakes the thread; a full queue keeps it awake anyway
        except queue.Full:
            pass
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            first = self._queue.get()
            if first is not None:
                self._run([first, *self._more()])
        while not self._queue.empty():
            left = self._queue.get_nowait()
            if left is not None and left.result.set_running_or_notify_cancel():
                left.result.set_exception(Busy("the service is ending"))

    def _more(self) -> list[_Waiting[T, R]]:
        until, found = time.monotonic() + self._gather_s, list[_Waiting[T, R]]()
        while len(found) + 1 < self._most and not self._stopping.is_set():
            try:
                one = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if one is not None:
                found.append(one)
        return found

    def _run(self, batch: Sequence[_Waiting[T, R]]) -> None:
        now = time.monotonic()
        fresh = [one for one in batch if one.deadline > now and one.result.set_running_or_notify_cancel()]
        if not fresh:
            return
        self.busy_since = now
        try:
            results = self._work([one.item for one in fresh])
            for one, result in zip(fresh, results, strict=True):
                one.result.set_result(result)
        except Exception as error:  # the boundary to a scorer, which may be foreign code
            self._run_apart(fresh, error)
        self.busy_since = None
        self.batches += 1
        self.done += len(fresh)

    def _run_apart(self, batch: Sequence[_Waiting[T, R]], error: Exception) -> None:
        for one in batch:
            if one.result.done():
                continue
            if len(batch) == 1:
                one.result.set_exception(error)
                continue
            try:
                (result,) = self._work([one.item])
                one.result.set_result(result)
            except Exception as own:  # as above
                one.result.set_exception(own)
