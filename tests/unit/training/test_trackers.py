"""Trackers that raise, block or fall behind cost no time; tensorboard on a full disk; what is not installed."""

from __future__ import annotations

import threading
import time
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from mmreason.config import TrainConfig
from mmreason.config.extras import require_trackers
from mmreason.errors import ConfigError
from mmreason.training import trackers
from mmreason.training.metrics import METRICS, MetricsLog
from mmreason.training.trackers import Trackers, Trouble


class Recorder(GeneralTracker):  # type: ignore[misc]  # accelerate carries no types
    """A tracker as accelerate wants them: keeps what it is given, and raises or blocks where it is told to."""

    name = "recorder"
    requires_logging_directory = False
    tracker = None

    def __init__(self, fate: str, release: threading.Event) -> None:
        super().__init__()
        self.fate, self.release = fate, release
        self.seen: list[tuple[int | None, dict[str, Any]]] = []
        self.settings: dict[str, Any] = {}

    def start(self) -> None:
        self._meet("start")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.settings = values

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self._meet("log")
        self.seen.append((step, values))

    def finish(self) -> None:
        self._meet("finish")

    def _meet(self, stage: str) -> None:
        if self.fate == f"raise at {stage}":
            raise ConnectionError("nobody\nthere")
        if self.fate == f"block at {stage}":
            self.release.wait(60)


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> typing.Iterator[Callable[..., Recorder]]:
    """Makes a tracker of a fate and its name known to accelerate; blocked ones end with the test."""
    release = threading.Event()
    monkeypatch.setattr(trackers, "CLOSE_S", 1.0)

    def known(fate: str) -> Recorder:
        recorder = Recorder(fate, release)

        def make(project: str) -> Recorder:
            return recorder

        make.requires_logging_directory = False  # type: ignore[attr-defined]
        monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, fate, make)
        return recorder

    yield known
    release.set()


def test_every_tracker_of_accelerate_can_be_named() -> None:
    (names, _) = typing.get_args(TrainConfig.model_fields["trackers"].annotation)
    assert set(typing.get_args(names)) == set(LOGGER_TYPE_TO_CLASS)


def test_what_is_not_installed_is_a_line_with_the_package() -> None:
    with pytest.raises(ConfigError) as caught:
        require_trackers(["tensorboard", "comet_ml", "wandb", "mlflow", "mlflow"])
    assert str(caught.value).splitlines() == [
        "train.trackers: comet_ml is not installed; pip install comet-ml, or take it out",
        "train.trackers: mlflow is not installed; pip install mlflow, or take it out",
    ]


def test_a_tracker_gets_numbers_and_settings(recorders: Callable[..., Recorder], tmp_path: Path) -> None:
    recorder = recorders("good")
    settings: dict[str, Any] = {"train.steps": 3, "model.lora": None, "rewards": [], "seed": 0}
    tracked = Trackers(["good", "good"], tmp_path, settings, step=0, resumed=False)
    tracked.log(1, "train", {"nll": 0.5, "note": "text"})
    tracked.log(1, "eval", {"accuracy/all": 1})
    assert tracked.close() == []
    assert recorder.seen == [(1, {"train/nll": 0.5}), (1, {"eval/accuracy/all": 1})]
    assert recorder.settings == {"train.steps": 3, "model.lora": None, "rewards": "[]", "seed": 0}


@pytest.mark.parametrize("fate", ["raise at start", "raise at log", "raise at finish"])
def test_a_tracker_that_raises_is_noted_once(
    fate: str, recorders: Callable[..., Recorder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorders(fate)
    good = recorders("good")
    log = MetricsLog(tmp_path, after_step=None, active=True)
    log.trackers = Trackers([fate, "good"], tmp_path, {}, step=0, resumed=False)
    for step in range(1, 6):
        log.write(step, "train", {"nll": 0.5})
        time.sleep(0.02)
    log.close(5)
    lines = (tmp_path / METRICS).read_text().splitlines()
    assert len(lines) == 6
    (event,) = [line for line in lines if '"event"' in line]
    assert f'"event": "tracker", "tracker": "{fate}", "reason": "ConnectionError: nobody there"' in event
    assert capsys.readouterr().err == (
        f"mmreason: tracker {fate}: ConnectionError: nobody there; training goes on without it\n"
    )
    assert [step for step, _ in good.seen] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("stage", ["start", "log", "finish"])
def test_a_tracker_that_blocks_costs_no_step_and_a_bounded_end(
    stage: str, recorders: Callable[..., Recorder], tmp_path: Path
) -> None:
    fate = f"block at {stage}"
    recorders(fate)
    tracked = Trackers([fate], tmp_path, {}, step=0, resumed=False)
    started = time.perf_counter()
    for step in range(1000):
        tracked.log(step, "train", {"nll": 0.5})
    assert time.perf_counter() - started < 1
    assert tracked.troubles() == []
    started = time.perf_counter()
    assert tracked.close() == [
        Trouble(tracker=fate, reason="not finished 1 s after the end; what it has not sent is in metrics.jsonl")
    ]
    assert time.perf_counter() - started < 3


def test_a_tracker_that_falls_behind_is_given_up_once(recorders: Callable[..., Recorder], tmp_path: Path) -> None:
    recorder = recorders("block at log")
    tracked = Trackers(["block at log"], tmp_path, {}, step=0, resumed=False)
    for step in range(trackers.MOST_WAITING + 100):
        tracked.log(step, "train", {"nll": 0.5})
    (trouble,) = tracked.troubles()
    assert trouble.reason == f"{trackers.MOST_WAITING} records behind; from here on they are only in metrics.jsonl"
    recorder.release.set()
    assert tracked.close() == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # tensorboard's writer dies of it
def test_tensorboard_on_a_full_disk(tmp_path: Path, small_disk: Callable[[str], Path]) -> None:
    disk = small_disk("1m")
    (tmp_path / "tensorboard").symlink_to(disk)
    tracked = Trackers(["tensorboard"], tmp_path, {}, step=0, resumed=False)
    tracked.log(1, "train", {"nll": 0.5})
    deadline = time.monotonic() + 60
    while not [file for file in disk.iterdir() if file.stat().st_size > 100]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(OSError, match="No space left"):
        (disk / "ballast").write_bytes(bytes(2_000_000))
    found: list[Trouble] = []
    for step in range(2, 2000):
        tracked.log(step, "train", {f"value {index}": 0.5 for index in range(50)})
        found += tracked.troubles()
        if found:
            break
        time.sleep(0.05)
    assert [trouble.tracker for trouble in found] == ["tensorboard"]
    assert "No space left" in found[0].reason
    assert tracked.close() == []
