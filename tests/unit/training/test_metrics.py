"""Logs survive a kill in the middle of a line and are cut back to the checkpoint on resume."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from mmreason.training.grpo import mean
from mmreason.training.metrics import GALLERY, METRICS, MetricsLog, Progress, Stopwatch
from mmreason.training.tally import Tally, tally_groups
from mmreason.types import Message, Rollout, RolloutGroup, Sample, Score


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_resume_drops_later_steps_and_a_torn_line(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, after_step=None, active=True)
    for step in (1, 2, 3):
        log.write(step, "train", {"loss": step / 2})
        log.show({"step": step})
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 4, "ki')
    MetricsLog(tmp_path, after_step=2, active=True).write(3, "train", {"loss": 9})
    assert [(line["step"], line["loss"]) for line in _lines(tmp_path / METRICS)] == [(1, 0.5), (2, 1.0), (3, 9)]
    assert [line["step"] for line in _lines(tmp_path / GALLERY)] == [1, 2]


def test_any_text_of_an_answer_survives_a_resume(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, after_step=None, active=True)
    texts = ["one\u2028two\x85three", "half a pair: \ud800", "\u9b5a"]
    for text in texts:
        log.show({"step": 1, "text": text})
    with (tmp_path / GALLERY).open("ab") as file:
        file.write('{"step": 1, "text": "\u9b5a'.encode()[:-1])  # torn inside a character
    MetricsLog(tmp_path, after_step=1, active=True)
    lines = (tmp_path / GALLERY).read_bytes().split(b"\n")[:-1]
    assert [json.loads(line)["text"] for line in lines] == texts


def test_a_fresh_run_starts_empty(tmp_path: Path) -> None:
    MetricsLog(tmp_path, after_step=None, active=True).write(1, "train", {})
    MetricsLog(tmp_path, after_step=None, active=True)
    assert _lines(tmp_path / METRICS) == []


def test_only_the_active_process_writes(tmp_path: Path) -> None:
    MetricsLog(tmp_path, after_step=None, active=False).write(1, "train", {})
    assert not (tmp_path / METRICS).exists()


def test_a_log_that_cannot_be_written_does_not_stop_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = MetricsLog(tmp_path, after_step=None, active=True)
    (tmp_path / METRICS).mkdir()
    log.write(1, "train", {})
    assert "line not written" in capsys.readouterr().err


def test_progress_names_what_matters_and_where_time_goes() -> None:
    stream = io.StringIO()
    progress = Progress(10, 4, active=True, label="grpo", stream=stream)
    progress.update({"reward/mean": 0.5, "kl": 0.01, "time/step": 2.0, "time/rollout": 1.5, "time/update": 0.5})
    progress.bar.refresh()
    progress.close()
    assert "reward 0.500 kl 0.0100 | rollout 75% update 25%" in stream.getvalue()


def test_stopwatch_laps() -> None:
    timed = Stopwatch()
    with timed("rollout"):
        pass
    assert set(timed.lap()) == {"time/rollout", "time/step"}
    assert timed.lap() == {"time/step": 0}


def test_tallies_of_two_processes_join_to_the_mean_over_all() -> None:
    ours, theirs = Tally(), Tally()
    ours.add("reward/mean", 1.0)
    theirs.add("reward/mean", 0.0)
    theirs.add("reward/mean", 0.5)
    theirs.add("reward/source/b", 0.5)
    assert ours.means([ours.totals, theirs.totals]) == {"reward/mean": 0.5, "reward/source/b": 0.5}


def test_groups_are_told_apart() -> None:
    sample = Sample(id="a", messages=(Message(role="user", content=("?",)),), source="s")

    def group(*totals: float | None) -> RolloutGroup:
        scores = tuple(
            Score(total=None, error="reward x: raised") if t is None else Score(total=t, flags={"correct": t >= 1})
            for t in totals
        )
        rollouts = tuple(Rollout(text="", finish_reason="length") for _ in totals)
        return RolloutGroup(sample=sample, prompt=None, rollouts=rollouts, scores=scores)  # type: ignore[arg-type]

    tally = Tally()
    tally_groups(tally, [group(1, 1), group(0.2, 0.2), group(0.8, 0), group(1, 0), group(None, None)])
    means = tally.means()
    assert (means["groups/all_right"], means["groups/all_wrong"], means["reward/errors"]) == (0.25, 0.5, 0.2)
    assert means["groups/signal"] == 0.4
    assert means["reward/mean"] == means["reward/source/s"] == pytest.approx(4.2 / 8)
    assert means["truncated"] == 1


def test_tokens_of_a_batch_are_added_up_over_its_updates() -> None:
    changes = [{"tokens/forwarded": 10.0, "nll": 1.0}, {"tokens/forwarded": 30.0, "nll": 2.0}]
    assert mean(changes) == {"tokens/forwarded": 40.0, "nll": 1.5, "updates": 2.0}
    assert mean([]) == {"updates": 0.0}
