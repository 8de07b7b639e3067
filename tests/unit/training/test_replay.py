"""Hard samples: who is in the pool, how often they come again, and that a restored pool goes on the same way."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from mmreason.training.replay import Replay
from tests.unit.training.test_feed import _feed, _ids


def _pool(share: float = 0.5, below: float = 0.5, **means: float) -> Replay:
    replay = Replay(share=share, below=below, seed=3)
    for id, mean in means.items():
        replay.note(id, mean)
    return replay


def test_only_samples_below_the_bound_are_hard_and_they_leave_when_they_are_not() -> None:
    replay = _pool(a=0.0, b=0.49, c=0.5, d=-2.0)
    assert replay.pool == {"a": 0.0, "b": 0.49, "d": -2.0}
    replay.note("a", 0.7)
    assert "a" not in replay.pool


def test_a_drawn_sample_is_out_until_its_next_group() -> None:
    replay = _pool(share=1.0, a=0.1)
    assert replay.draw() == "a"
    assert replay.draw() is None
    replay.note("a", 0.2)
    assert replay.draw() == "a"
    assert replay.drawn == 2


def test_the_share_is_kept_and_the_harder_come_more_often() -> None:
    replay = _pool(share=0.25, a=0.0, b=0.4)
    drawn: Counter[str | None] = Counter()
    for _ in range(4000):
        id = replay.draw()
        drawn[id] += 1
        replay.note("a", 0.0)
        replay.note("b", 0.4)
    assert drawn[None] == pytest.approx(3000, abs=110)
    assert drawn["a"] / drawn["b"] == pytest.approx(5, rel=0.25)


def test_a_restored_pool_draws_the_same() -> None:
    replay = _pool(share=0.6, **{str(i): i / 20 for i in range(9)})
    replay.draw()
    state, expected = replay.state, [replay.draw() for _ in range(8)]
    other = _pool(share=0.6)
    other.restore(state)
    assert [other.draw() for _ in range(8)] == expected
    assert state["asked"] == 1, "a state does not change with the pool"


def test_a_feed_mixes_them_in_and_resumes_exactly(tmp_path: Path) -> None:
    feed = _feed(tmp_path, 12)
    feed.replay = _pool(share=0.5)
    feed._place = {str(i): i for i in range(12)}
    first = _ids(feed.take(4))
    for id in first:
        feed.replay.note(id, 0.1)
    state, expected = feed.state, _ids(feed.take(8))
    assert set(first) & set(expected)
    assert feed.replay.drawn == sum(id in first for id in expected)
    other = _feed(tmp_path, 12)
    other.replay, other._place = _pool(share=0.5), feed._place
    other.restore(state)
    assert _ids(other.take(8)) == expected


def test_one_that_is_gone_from_the_data_is_named_and_does_not_come_again(tmp_path: Path) -> None:
    feed = _feed(tmp_path, 3)
    feed.replay, feed._place = _pool(share=1.0, gone=0.0, **{"1": 0.1}), {str(i): i for i in range(3)}
    other = _feed(tmp_path, 3)
    other.replay, other._place = _pool(share=1.0), feed._place
    assert other.restore(feed.state) == ["gone"]
    assert other.replay.pool == {"1": 0.1}
    assert _ids(other.take(4))[0] == "1"


def test_one_that_was_quarantined_meanwhile_does_not_come_again(tmp_path: Path) -> None:
    feed = _feed(tmp_path, 3, bad=["1"])
    feed.replay, feed._place = _pool(share=1.0), {str(i): i for i in range(3)}
    feed.take(2)
    feed.replay.note("1", 0.0)
    assert "1" not in _ids(feed.take(2))
