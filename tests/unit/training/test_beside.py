"""The thread of the work ahead: workers that are started in it live on, and it ends with the run."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from mmreason.config import RewardConfig, ScoringConfig
from mmreason.processors.workers import WorkerPool
from mmreason.rewards.pool import RewardPool
from mmreason.training import beside as beside_module
from mmreason.training.beside import Beside
from mmreason.types import Rollout, Sample, Score
from tests.unit.processors import jobs_for_tests as jobs

ENDS = "import os\ndef reward(sample, text):\n    return os._exit(3) if sample.answer == 'exit' else 1.0\n"


def nothing() -> None:
    """What has to be done to cancel work that is over."""


def test_workers_that_replaced_others_in_one_work_serve_the_next_and_the_main_thread(tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text(ENDS)
    beside, rewards = Beside(), [RewardConfig(name=f"{tmp_path}/ends.py:reward")]
    with RewardPool(rewards, ScoringConfig(workers=1)) as pool, WorkerPool(1, 30.0) as decoders:

        def work(answer: str) -> tuple[Score, int]:
            sample = Sample(id="x", messages=(), answer=answer)
            ((score,),) = pool.score([(sample, [Rollout(text="x")])])
            return score, decoders.run([(jobs.double, (4,))])[0]

        lost, decoded = beside.begin({}, lambda: work("exit")).future.result(timeout=30)
        assert lost.error is not None
        assert "its worker process ended by itself (exit status 3)" in lost.error
        assert decoded == 8
        for score, decoded in (beside.begin({}, lambda: work("x")).future.result(timeout=30), work("x")):
            assert (score.total, score.error, decoded) == (1.0, None, 8)
        assert decoders.replaced == 0
        beside.end(nothing)


def test_an_error_is_raised_where_the_result_is_asked_for_and_the_thread_goes_on() -> None:
    beside = Beside()
    failed = beside.begin({"index": 4}, lambda: 1 // 0)
    assert beside.under_way == failed
    assert failed.feed_state == {"index": 4}
    with pytest.raises(ZeroDivisionError):
        failed.future.result(timeout=10)
    assert beside.begin({}, lambda: 1 // 1).future.result(timeout=10) == 1
    assert "collect ahead" in names()
    beside.end(nothing)
    assert "collect ahead" not in names()
    Beside().end(nothing)


def test_the_end_waits_for_work_that_was_cancelled_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside_module, "END_S", 0.3)
    over, beside = threading.Event(), Beside()
    work = beside.begin({}, over.wait)
    beside.end(over.set)
    assert work.future.done()
    over, beside = threading.Event(), Beside()
    work = beside.begin({}, over.wait)
    began = time.monotonic()
    beside.end(nothing)
    assert 0.3 <= time.monotonic() - began < 5
    assert not work.future.done()
    over.set()


def names() -> set[str]:
    return {thread.name for thread in threading.enumerate()}
