"""Scores beside the engine, by real reward workers: nobody waits for them, none is lost, none is left behind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from mmreason.config import RewardConfig, ScoringConfig
from mmreason.inference.generate import Finished, Text
from mmreason.inference.prepare import Ready
from mmreason.inference.scores import Scorer, ScoringThread
from mmreason.types import Message, Sample, Segment

SLOW = """
import time
from mmreason.types import Score

def slow(sample, rollouts):
    time.sleep(float(sample.answer))
    return [Score(total=len(rollout.text)) for rollout in rollouts]
"""


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scorer]:
    file = tmp_path_factory.mktemp("rewards") / "slow.py"
    file.write_text(SLOW)
    with Scorer([RewardConfig(name=f"{file}:slow")], ScoringConfig(workers=1, deadline_s=30), 1) as scorer:
        yield scorer


def finished(id: str, seconds: float) -> Finished:
    prompt = Segment(kind="prompt", ids=torch.tensor([1]), loss_mask=torch.tensor([False]))
    asked = Sample(id=id, messages=(Message(role="user", content=("?",)),), answer=str(seconds))
    ready = Ready(id=id, sample=asked, names=(), prompt=prompt)
    return Finished(ready=ready, texts=(Text(text=id, tokens=1, truncated=False),), seconds=0.0)


def test_nobody_waits_for_scores_and_they_come_in_order(scorer: Scorer) -> None:
    with ScoringThread(scorer) as scores:
        began = time.monotonic()
        scores.submit([finished("slow", 0.5), finished("b", 0)])
        scores.submit([finished("long", 0)])
        assert scores.taken(0.0) == []
        assert time.monotonic() - began < 0.4
        made = []
        while scores.waiting:
            made += scores.taken(20.0)
    assert [(one.ready.id, answers[0].text, marks[0].total) for one, answers, marks in made] == [
        ("slow", "slow", 4.0),
        ("b", "b", 1.0),
        ("long", "long", 4.0),
    ]


def test_what_goes_wrong_is_raised_where_scores_are_taken(scorer: Scorer) -> None:
    wrong = finished("a", 0)
    with ScoringThread(scorer) as scores:
        scores.submit([Finished(ready=None, texts=wrong.texts, seconds=0.0)])  # type: ignore[arg-type]
        scores.submit([wrong])
        with pytest.raises(AttributeError):
            scores.taken(20.0)
        ((one, _, _),) = scores.taken(20.0)
    assert one is wrong


def test_what_was_scored_before_something_went_wrong_is_taken_first(scorer: Scorer) -> None:
    right = finished("a", 0)
    with ScoringThread(scorer) as scores:
        scores.submit([right])
        scores.submit([Finished(ready=None, texts=right.texts, seconds=0.0)])  # type: ignore[arg-type]
        end = time.monotonic() + 20
        while scores._made.qsize() < 2 and time.monotonic() < end:
            time.sleep(0.01)
        ((one, _, _),) = scores.taken(20.0)
        assert (one, scores.waiting) == (right, 1)
        with pytest.raises(AttributeError):
            scores.taken(20.0)
        assert scores.waiting == 0


def test_an_end_in_the_middle_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    before = set(psutil.Process().children(recursive=True))
    began = time.monotonic()
    with Scorer([RewardConfig(name=f"{tmp_path}/slow.py:slow")], ScoringConfig(workers=1), 1) as scorer:
        with ScoringThread(scorer) as scores:
            for _ in range(3):
                scores.submit([finished("a", 25.0)])
            scores.taken(0.3)
            began = time.monotonic()
    assert time.monotonic() - began < 10
    time.sleep(0.3)
    assert set(psutil.Process().children(recursive=True)) <= before
