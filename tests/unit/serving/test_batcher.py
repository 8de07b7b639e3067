"""Threads ask, one thread answers: batches, deadlines, failures, the end."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from mmreason.serving.batcher import Batcher, Busy


class Work:
    """Doubles numbers; remembers its batches; -1 breaks a batch; waits while `hold` is set."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        assert self.go.wait(20)
        if -1 in items:
            raise ValueError("minus one")
        return [2 * item for item in items]


@pytest.fixture
def work() -> Iterator[Work]:
    work = Work()
    yield work
    work.go.set()


def test_requests_that_come_together_are_one_batch(work: Work) -> None:
    batcher = Batcher(work, most=8, gather_s=0.3, room=100)
    with ThreadPoolExecutor(12) as threads:
        assert list(threads.map(lambda n: batcher.ask(n, 20), range(12))) == [2 * n for n in range(12)]
    assert len(work.batches) == 2
    assert len(work.batches[0]) == 8
    assert (batcher.done, batcher.batches) == (12, 2)
    assert batcher.stop(5)


def test_one_that_fails_fails_alone(work: Work) -> None:
    batcher = Batcher(work, most=8, gather_s=0.3, room=100)

    def ask(n: int) -> int | str:
        try:
            return batcher.ask(n, 20)
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(ask, [1, -1, 3])) == [2, "minus one", 6]
    assert batcher.stop(5)


def test_who_waits_too_long_is_told_and_not_scored(work: Work) -> None:
    work.go.clear()
    batcher = Batcher(work, most=1, gather_s=0.0, room=100)
    first = threading.Thread(target=batcher.ask, args=(1, 20))
    first.start()
    while not work.batches:
        time.sleep(0.01)
    with pytest.raises(TimeoutError, match=r"not scored within 0\.1 s"):
        batcher.ask(2, 0.1)
    assert batcher.busy_since is not None
    work.go.set()
    first.join(20)
    assert batcher.ask(3, 20) == 6
    assert work.batches == [[1], [3]]
    assert batcher.stop(5)


def test_a_full_room_and_the_end(work: Work) -> None:
    work.go.clear()
    batcher = Batcher(work, most=1, gather_s=0.0, room=1)
    told: list[str] = []

    def ask(n: int) -> None:
        try:
            batcher.ask(n, 20)
        except Busy as busy:
            told.append(str(busy))

    threads = []
    for n in (1, 2):
        threads.append(threading.Thread(target=ask, args=(n,)))
        threads[-1].start()
        while (not work.batches) if n == 1 else (not batcher.waiting):
            time.sleep(0.01)
    with pytest.raises(Busy, match="1 requests are waiting"):
        batcher.ask(3, 20)
    assert not batcher.stop(0.1)  # the batch at hand takes longer
    with pytest.raises(Busy, match="ending"):
        batcher.ask(4, 20)
    work.go.set()
    assert batcher.stop(20)
    for thread in threads:
        thread.join(20)
    assert told == ["the service is ending"]
    assert work.batches == [[1]]
