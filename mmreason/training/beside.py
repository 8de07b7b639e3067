"""Work that a thread does for the next step while the current one is trained on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")

END_S = 10.0
"""Longest wait, when a run ends, for work that was cancelled."""


@dataclass(frozen=True, slots=True)
class Work(Generic[T]):
    """What the thread was given to do."""

    feed_state: Mapping[str, Any]
    """Of the feed before the work began: a checkpoint must not know what was taken for it."""
    future: Future[T]


class Beside:
    """One thread for all of a run's work: Linux ends worker processes with the thread that started them.

    It is a daemon: a process that ends does not wait for it.

    Example: `beside.begin(feed.state, lambda: collect(run, 7))`
    """

    def __init__(self) -> None:
        self.under_way: Work[Any] | None = None
        """What is done for the next step, until that step takes it."""
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def begin(self, feed_state: Mapping[str, Any], work: Callable[[], T]) -> Work[T]:
        """Have the work done, after what was begun before."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="collect ahead", daemon=True)
            self._thread.start()
        begun: Work[T] = Work(feed_state, Future())
        self._tasks.put(lambda: _do(work, begun.future))
        self.under_way = begun
        return begun

    def end(self, cancel: Callable[[], None]) -> None:
        """Cancel what is under way, wait for it to be over, and end the thread."""
        if self.under_way is not None:
            cancel()
        if self._thread is not None:
            self._tasks.put(None)
            self._thread.join(END_S)

    def _serve(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()
            del task  # it holds a step's answers


def _do(work: Callable[[], T], future: Future[T]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # raised where the result is asked for
        future.set_exception(error)
