"""Which groups a run keeps for its report: as many as asked for, evenly spread, with pictures of their media."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from mmreason.config import build_config
from mmreason.training.gallery import Gallery, share_of
from mmreason.training.metrics import MetricsLog
from mmreason.types import MediaRef, Message, Rollout, RolloutGroup, Sample, Score, Segment
from tests.media_files import write_image

PROMPT = Segment(kind="prompt", ids=torch.zeros(1, dtype=torch.long), loss_mask=torch.zeros(1, dtype=torch.bool))


def group(name: str, *refs: MediaRef) -> RolloutGroup:
    sample = Sample(id=name, messages=(Message(role="user", content=(*refs, "What?")),), answer={"b": 1})
    scores = (Score(total=1.0, parts={"accuracy": 1.0}), Score(total=None, error="raised"))
    return RolloutGroup(sample=sample, prompt=PROMPT, rollouts=(Rollout(text="a"), Rollout(text="b")), scores=scores)


@contextmanager
def gallery(folder: Path, steps: int, count: int, active: bool = True) -> Iterator[Gallery]:
    values: dict[str, Any] = {"run_dir": str(folder), "model": {"path": "m"}, "rewards": [{"name": "accuracy"}]}
    values["train"] = {"steps": steps, "gallery_groups": count}
    kept = Gallery(build_config(values, "test"), MetricsLog(folder, after_step=None, active=active))
    yield kept
    kept.close()


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "gallery.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(("steps", "count"), [(1000, 64), (5000, 500), (700, 500), (3, 64), (7, 7), (1, 1), (5, 0)])
def test_exactly_as_many_as_asked_for_evenly_spread(steps: int, count: int) -> None:
    shares = [share_of(step, steps, count) for step in range(1, steps + 1)]
    assert sum(shares) == count
    assert max(shares) - min(shares) <= 1
    assert shares[0] == max(shares), "a run that has just begun has something to show"


def test_a_short_run_keeps_several_of_a_step_and_one_that_was_left_out(tmp_path: Path) -> None:
    with gallery(tmp_path, steps=2, count=6) as kept:
        kept.keep(1, [group("a"), group("b")], group("c"))
        kept.keep(2, [], group("d"))
        kept.keep(2, [], None)
    assert {(row["step"], row["id"], row["trained"]) for row in rows(tmp_path)} == {
        (1, "a", True), (1, "b", True), (1, "c", False), (2, "d", False),
    }  # fmt: skip


def test_what_is_kept_of_a_group(tmp_path: Path) -> None:
    refs = [MediaRef(kind="image", path=str(write_image(tmp_path / "a.png"))), MediaRef(kind="image", path="/gone.png")]
    with gallery(tmp_path, steps=1, count=1) as kept:
        kept.keep(1, [group("a", *refs)], None)
    (row,) = rows(tmp_path)
    assert row["prompt"] == "What?"
    assert row["answer"] == {"b": 1}
    assert row["media"][0]["pictures"]
    assert row["media"][1] == {"kind": "image", "name": "gone.png", "problem": "missing"}
    assert [rollout.get("error") for rollout in row["rollouts"]] == [None, "raised"]
    assert str(tmp_path) not in json.dumps(row), "no paths of the machine"


def test_processes_that_do_not_log_decode_nothing(tmp_path: Path) -> None:
    with gallery(tmp_path, steps=1, count=1, active=False) as kept:
        kept.keep(1, [group("a", MediaRef(kind="image", path=str(write_image(tmp_path / "a.png"))))], None)
    assert not (tmp_path / "gallery.jsonl").exists()
