"""Trackers in real runs: tensorboard read back, also after a resume; wandb offline, and with nobody who answers."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import mmreason
from mmreason.config import leaf_values, load_config
from mmreason.demo.media import DemoFiles
from mmreason.errors import ConfigError
from tests.integration.runs import config, finish, metrics

WITHOUT_WAITING = """
import sys
import mmreason.training.trackers as trackers
from mmreason.cli import main
trackers.CLOSE_S = 2.0
sys.exit(main(["train", "run.yaml"]))
"""


def small(folder: Path, model: Path, data: DemoFiles, **train: Any) -> dict[str, Any]:
    values = config(folder / "run", model, data, "sft", train={"prompts_per_step": 2, **train})
    values["data"]["eval"] = [{"path": str(data.eval), "limit": 2}]
    return values


def numbers(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every number in metrics.jsonl, by what trackers call it."""
    found: dict[str, list[tuple[int, float]]] = {}
    for kind in ("train", "eval"):
        for line in metrics(run_dir, kind):
            for name in line.keys() - {"step", "kind", "time"}:
                found.setdefault(f"{kind}/{name}", []).append((line["step"], line[name]))
    return found


def tensorboard(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """The same, as tensorboard reads its files; it keeps the names of numbers whose steps were purged."""
    files = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0})
    files.Reload()
    found = {tag: [(event.step, event.value) for event in files.Scalars(tag)] for tag in files.Tags()["scalars"]}
    return {tag: events for tag, events in found.items() if events}


def same(found: dict[str, list[tuple[int, float]]], expected: dict[str, list[tuple[int, float]]]) -> None:
    assert found.keys() == expected.keys()
    for name, points in expected.items():
        assert [step for step, _ in found[name]] == [step for step, _ in points], name
        values = [value for _, value in points]
        assert [value for _, value in found[name]] == pytest.approx(values, rel=1e-6, nan_ok=True), name


def test_tensorboard_has_the_numbers_of_metrics_also_after_a_resume(
    tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path
) -> None:
    values = small(tmp_path, tiny_omni, demo_data, save_every=2)
    run = tmp_path / "run"
    mmreason.train(values, "train.steps=3")
    first = numbers(run)
    assert [step for step, _ in first["train/nll"]] == [1, 2, 3]
    assert {step for step, _ in first["eval/accuracy/all"]} == {0, 3}
    same(tensorboard(run), first)
    shutil.rmtree(run / "checkpoints/step-00000003")  # as if it had been killed after step 3, before it was saved
    shutil.rmtree(run / "model")
    mmreason.train(values, "train.steps=4")
    second = numbers(run)
    assert [step for step, _ in second["train/nll"]] == [1, 2, 3, 4]
    same(tensorboard(run), second)
    assert len(list((run / "tensorboard").glob("events.*"))) == 2, "the same folder, continued"
    assert len(list((run / "tensorboard").glob("*/hparams.yml"))) == 1
    (file,) = (run / "tensorboard").glob("*/hparams.yml")
    expected = leaf_values(load_config(values, ["train.steps=3"]))
    plain = {k: json.dumps(v) if isinstance(v, (list, dict)) else v for k, v in expected.items()}
    assert yaml.safe_load(file.read_text()) == plain


def test_no_trackers_and_trackers_that_are_not_there(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> None:
    values = small(tmp_path, tmp_path / "no such model", demo_data)
    with pytest.raises(ConfigError, match="aim is not installed; pip install aim"):  # before the model is looked for
        mmreason.train(values, "train.trackers=[aim, wandb]")
    with pytest.raises(ConfigError, match="tensorbord"):
        mmreason.train(values, "train.trackers=[tensorbord]")
    values = small(tmp_path, tiny_omni, demo_data, steps=1, trackers=[])
    mmreason.train(values)
    assert not (tmp_path / "run/tensorboard").exists()


def wandb_run(values: dict[str, Any], folder: Path, code: str, **environment: str) -> str:
    """A run as a process, with nothing of this machine's wandb settings."""
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    blank = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**blank, "OMP_NUM_THREADS": "1", "HOME": str(folder), "NETRC": str(folder / "netrc"), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return finish(process)


def test_wandb_offline(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> None:
    values = small(tmp_path, tiny_omni, demo_data, steps=2, trackers=["wandb"])
    code = "import mmreason; mmreason.train('run.yaml')"
    output = wandb_run(values, tmp_path, code, WANDB_MODE="offline")
    assert "mmreason: tracker" not in output
    (file,) = (tmp_path / "run/wandb").glob("offline-run-*/*.wandb")
    assert (tmp_path / "run/wandb/run_id").read_text().strip() in file.name
    history, settings = offline_history(file)
    expected = numbers(tmp_path / "run")
    for name, points in expected.items():
        assert [(line["_step"], line[name]) for line in history if name in line] == points, name
    assert settings["train.steps"] == 2
    assert settings["rewards.0.name"] == "accuracy"


def offline_history(file: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What wandb wrote down without a server: its lines by step, and the config."""
    from wandb.proto import wandb_internal_pb2

    lines: list[dict[str, Any]] = []
    settings: dict[str, Any] = {}
    for data in log_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            lines.append({item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item})
        if kind in ("run", "config"):
            update = record.run.config.update if kind == "run" else record.config.update
            settings |= {item.key or item.nested_key[0]: json.loads(item.value_json) for item in update}
    return lines, settings


def log_records(content: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format: blocks of 32 KB, parts headed by checksum, length and type."""
    place, pending = 7, b""  # the file's own header
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        pending += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield pending
            pending = b""


@contextmanager
def nobody(answers: bool) -> Iterator[str]:
    """The URL of a port where nobody listens, or where somebody does and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        if answers:
            server.listen(50)
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("answers", [False, True], ids=["closed port", "silent server"])
def test_wandb_without_a_server_costs_a_line_and_no_step(
    answers: bool, tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path
) -> None:
    values = small(tmp_path, tiny_omni, demo_data, steps=3, trackers=["wandb", "tensorboard"])
    with nobody(answers) as url:
        output = wandb_run(values, tmp_path, WITHOUT_WAITING, WANDB_BASE_URL=url, WANDB_API_KEY="a" * 40)
    ended = time.time()
    assert output.count("mmreason: tracker wandb: ") == 1
    assert "training goes on without it" in output
    assert (tmp_path / "run/model/config.json").exists()
    (event,) = metrics(tmp_path / "run", "event")
    assert (event["event"], event["tracker"], event["step"]) == ("tracker", "wandb", 3)
    assert ended - event["time"] < 60, "nor does wandb's own clean-up wait for ever"
    print(f"exit {ended - event['time']:.1f} s after the trackers were given up")
    assert len(metrics(tmp_path / "run")) == 3
    same(tensorboard(tmp_path / "run"), numbers(tmp_path / "run"))


def test_wandb_without_a_key_asks_nobody(tmp_path: Path) -> None:
    """At a terminal wandb would wait for somebody to type."""
    code = """
import time
from pathlib import Path
from mmreason.training.trackers import Trackers
tracked = Trackers(["wandb"], Path("."), {}, step=0, resumed=False)
print([trouble.reason for trouble in tracked.close()])
"""
    controller, terminal = os.openpty()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**environment, "HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")},
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
        timeout=120,
        check=True,
    )
    os.close(terminal)
    os.close(controller)
    assert (
        done.stdout == "['ConfigError: no API key; set WANDB_API_KEY, run `wandb login`, or set WANDB_MODE=offline']\n"
    )
