"""The feed: every sample once per epoch over all processes, bad ones replaced, positions that resume exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from mmreason.errors import DataError, MediaError, MMReasonError
from mmreason.order import Order, Stream
from mmreason.processors.quarantine import Quarantine
from mmreason.training.feed import Feed
from mmreason.types import Message, Sample, Segment

PROMPT = Segment(kind="prompt", ids=torch.zeros(1, dtype=torch.long), loss_mask=torch.zeros(1, dtype=torch.bool))


class Encoding:
    """Stands in for the encoder: samples whose id is in `bad` cannot be encoded."""

    def __init__(self, bad: Sequence[str] = ()) -> None:
        self.bad = bad

    def prompts(self, samples: Sequence[Sample]) -> list[tuple[Sample, Segment] | MMReasonError]:
        return [MediaError(s.id, "corrupt") if s.id in self.bad else (s, PROMPT) for s in samples]


def _feed(
    folder: Path, count: int, bad: Sequence[str] = (), *, rank: int = 0, world: int = 1, order: Order | None = None
) -> Feed:
    samples = [Sample(id=str(i), messages=(Message(role="user", content=("?",)),)) for i in range(count)]
    quarantine = Quarantine(folder / "quarantine.jsonl", 1.0)
    order = order or Order(kind="shuffled", seed=1, streams=(Stream(rows=np.arange(count), count=count),))
    return Feed(samples, Encoding(bad), quarantine, order=order, rank=rank, world=world)  # type: ignore[arg-type]


def _ids(taken: list[tuple[Sample, Segment]]) -> list[str]:
    return [sample.id for sample, _ in taken]


def test_an_epoch_has_every_sample_once_and_the_next_another_order(tmp_path: Path) -> None:
    feed = _feed(tmp_path, 12)
    first, second = _ids(feed.take(12)), _ids(feed.take(12))
    assert sorted(first) == sorted(second) == sorted(map(str, range(12)))
    assert first != second


def test_samples_that_were_come_to_are_counted_once(tmp_path: Path) -> None:
    feed = _feed(tmp_path, 12, bad=["3", "4"])
    assert feed.seen == 0
    feed.take(6)
    first = feed.seen
    assert 6 <= first <= 8, "bad ones too"
    feed.take(7)
    assert feed.seen == 12, "the second epoch has no new ones"
    other = _feed(tmp_path, 12, rank=1, world=3)
    other.take(3)
    assert other.seen == 3


def test_processes_share_an_epoch(tmp_path: Path) -> None:
    parts = [_ids(_feed(tmp_path, 12, rank=rank, world=3).take(4)) for rank in range(3)]
    assert sorted(name for part in parts for name in part) == sorted(map(str, range(12)))


def test_bad_samples_are_replaced_and_never_tried_again(tmp_path: Path) -> None:
    feed = _feed(tmp_path, 6, bad=("2", "4"))
    assert sorted(_ids(feed.take(8))) == ["0", "0", "1", "1", "3", "3", "5", "5"]
    assert (tmp_path / "quarantine.jsonl").read_text().count("corrupt") == 2


def test_a_restored_feed_continues_with_the_next_sample(tmp_path: Path) -> None:
    feed = _feed(tmp_path, 7)
    feed.take(5)
    state, expected = feed.state, _ids(feed.take(9))
    other = _feed(tmp_path, 7)
    other.restore(state)
    assert _ids(other.take(9)) == expected


def test_nothing_usable_is_an_error_not_an_endless_loop(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="every sample of this process is quarantined"):
        _feed(tmp_path, 3, bad=("0", "1", "2")).take(1)


def test_fewer_samples_than_processes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 samples for 2 processes"):
        _feed(tmp_path, 1, world=2)


MIX = (Stream(rows=np.arange(4), count=5), Stream(rows=np.arange(4, 10), count=5, salt=(9,)))


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("kind", ["shuffled", "file", "hard_to_easy", "gaussian"])
def test_every_order_is_resumed_with_the_next_sample(tmp_path: Path, kind: str, world: int) -> None:
    order = Order(kind=kind, seed=1, streams=MIX, rates=np.linspace(0, 1, 10))
    together: list[list[str]] = []
    for rank in range(world):
        feed = _feed(tmp_path, 10, rank=rank, world=world, order=order)
        before = _ids(feed.take(7))
        state, seen, expected = feed.state, feed.seen, _ids(feed.take(9))
        other = _feed(tmp_path, 10, rank=rank, world=world, order=order)
        other.restore(state)
        assert other.seen == seen
        assert _ids(other.take(9)) == expected
        together.append([*before, *expected])
    whole = [str(index) for epoch in range(2) for index in order.epoch(epoch)]
    taken = [sample for turn in zip(*together, strict=True) for sample in turn]
    assert taken[: len(whole)] == whole[: len(taken)], "processes take turns in one order"


def test_samples_of_a_mixture_are_counted_once(tmp_path: Path) -> None:
    feed = _feed(tmp_path, 10, order=Order(kind="file", seed=1, streams=MIX))
    feed.take(10)
    assert feed.seen == 4 + 5
    feed.take(10)
    assert feed.seen == 10
