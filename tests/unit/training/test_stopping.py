"""A run that is told to stop: what it still does, nothing cuts off."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from types import FrameType, SimpleNamespace
from typing import Any, cast

import pytest

from mmreason.training import METHODS, StopRequested, _train
from mmreason.training.run import Run


class Stopped:
    """The part of a run that stopping uses; SIGTERM comes again while it saves."""

    config = SimpleNamespace(train=SimpleNamespace(method="sft"))
    engine = SimpleNamespace(is_main=False)

    def __init__(self) -> None:
        self.done: list[str] = []

    def request_stop(self, number: int, frame: FrameType | None) -> None:
        self.done.append(signal.Signals(number).name)

    def save(self, *, must: bool) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        self.done.append("saved")

    def close(self) -> None:
        self.done.append("closed")


@pytest.fixture
def unhandled() -> Iterator[list[int]]:
    """SIGTERM that nobody of the run handled."""
    found: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: found.append(number))
    yield found
    signal.signal(signal.SIGTERM, previous)


def test_a_second_sigterm_does_not_cut_off_the_save(unhandled: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(run: Any) -> None:
        raise StopRequested

    monkeypatch.setitem(METHODS, "sft", stop)
    stopped = Stopped()
    with pytest.raises(StopRequested):
        _train(cast(Run, stopped))
    assert stopped.done == ["SIGTERM", "saved", "closed"]
    assert not unhandled
    os.kill(os.getpid(), signal.SIGTERM)
    assert unhandled, "after the run the signal is the caller's again"
