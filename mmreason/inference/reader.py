"""Reads ahead: threads that prepare items side by side and lay them in a queue that is bounded in items and bytes.

Each thread has a media pipeline with one decoding process, so that a file that takes long holds up one thread only, and
closes it itself. Prepared items come in the order in which they are ready.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from mmreason.errors import DataError
from mmreason.inference.items import Item
from mmreason.inference.prepare import Prepared, Preparer
from mmreason.processors.pipeline import MediaPipeline

JOIN_S = 2.0
"""How long `close` waits for a thread that is decoding; its process is killed with ours at the latest."""


class Reader:
    """Prepared items of a listing. Use as a context manager.

    Example: `with Reader(items, preparer, open_pipeline, threads=2, most=64, most_bytes=1e9) as reader: reader.take(1)`
    """

    def __init__(
        self,
        items: Iterator[Item],
        preparer: Preparer,
        open_pipeline: Callable[[], MediaPipeline],
        *,
        threads: int,
        most: int,
        most_bytes: float,
    ) -> None:
        """items: those that have no row yet. most, most_bytes: how much is prepared ahead; one item always fits."""
        self._items, self._preparer, self._open = items, preparer, open_pipeline
        self._most, self._most_bytes = most, most_bytes
        self._items_lock = threading.Lock()
        self._ready: deque[Prepared] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._stopped = False
        self._failure: BaseException | None = None
        self._threads = [threading.Thread(target=self._run, daemon=True, name=f"reader-{i}") for i in range(threads)]
        self._running = threads

    def __enter__(self) -> Reader:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, timeout_s: float) -> Prepared | None:
        """The next prepared item; None when there is none within this time, or no more at all (`ended`).

        Raises what went wrong in a thread, once all that was prepared before is taken.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not self._ready and self._running:
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(left)
            if not self._ready:
                if self._failure is not None:
                    raise self._failure
                return None
            item = self._ready.popleft()
            self._bytes -= item.bytes
            self._changed.notify_all()
            return item

    @property
    def ended(self) -> bool:
        """Whether everything was taken."""
        with self._changed:
            return not self._ready and not self._running and self._failure is None

    def close(self) -> None:
        """End the threads; what they are decoding is given up."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        deadline = time.monotonic() + JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        failure: BaseException | None = None
        try:
            with self._open() as pipeline:
                while not self._stopped and (item := self._next()) is not None:
                    self._put(self._preparer.prepare(item, pipeline))
        except BaseException as error:  # a thread's boundary: raised again by `take`
            failure = error
        with self._changed:
            self._failure = self._failure or failure
            self._stopped = self._stopped or failure is not None
            self._running -= 1
            self._changed.notify_all()

    def _next(self) -> Item | None:
        """The next item, its content read if it is in an archive, which has one reader at a time."""
        with self._items_lock:
            item = next(self._items, None)
            if item is None or item.load is None or item.error:
                return item
            try:
                return Item(id=item.id, files=(item.load(),))
            except DataError as error:
                return Item(id=item.id, files=item.files, error=str(error))

    def _put(self, item: Prepared) -> None:
        with self._changed:
            while self._ready and not self._stopped and self._is_full(item):
                self._changed.wait()
            if not self._stopped:
                self._ready.append(item)
                self._bytes += item.bytes
                self._changed.notify_all()

    def _is_full(self, item: Prepared) -> bool:
        return len(self._ready) >= self._most or self._bytes + item.bytes > self._most_bytes
