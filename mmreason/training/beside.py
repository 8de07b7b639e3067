"""Work that a thread does for the next step while the current one is trained on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")

END_S = 10.0
"""Longest wait, when a run ends, for work that was cancelled."""


@dataclass(frozen=True, slots=True)
class Beside(Generic[T]):
    """Example: `Beside.begin("collect step 7", feed.state, lambda: collect(run, 7))`"""

    feed_state: Mapping[str, Any]
    """Of the feed before the work began: a checkpoint must not know what was taken for it."""
    future: Future[T]

    @classmethod
    def begin(cls, name: str, feed_state: Mapping[str, Any], work: Callable[[], T]) -> Beside[T]:
        """Start the work, in a daemon thread: a process that ends does not wait for it."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as error:  # raised where the result is asked for
                future.set_exception(error)

        threading.Thread(target=run, name=name, daemon=True).start()
        return cls(feed_state, future)

    def end(self, cancel: Callable[[], None]) -> None:
        """Cancel the work, and wait for it to be over."""
        cancel()
        wait([self.future], timeout=END_S)
