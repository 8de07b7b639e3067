"""A real run with a real vLLM server, of its own: answers, weights, a server that is killed, a trainer that is killed.

One run, so that the server is started twice in all: at the beginning, and after it was killed. Weights travel over
connections of vLLM's weight-transfer interface, once through a folder (served_run.py).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmreason.demo.media import DemoFiles
from mmreason.rollout.keeper import below
from tests.integration import runs, served_run

pytestmark = [
    pytest.mark.xdist_group("vllm"),
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (pip install 'mmreason[vllm]')"),
    pytest.mark.timeout(1800),
]

STEPS = 6
START_S = 900.0


class Watched:
    """The run as a process, and what it has printed."""

    def __init__(self, folder: Path, values: dict[str, Any]) -> None:
        self.run_dir, self.output = Path(values["run_dir"]), folder / "output"
        self.errors = folder / "errors"  # apart, as the progress line has no end
        file = folder / "run.yaml"
        file.write_text(yaml.safe_dump(values))
        command = [sys.executable, "-m", served_run.__name__, str(file)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self.output.open("w") as output, self.errors.open("w") as errors:
            self.process = subprocess.Popen(command, env=environment, stdout=output, stderr=errors)

    def wait_for(self, what: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert self.process.poll() is None, self.errors.read_text()[-4000:]
            assert time.monotonic() < end, self.errors.read_text()[-4000:]
            time.sleep(0.5)

    def records(self) -> list[dict[str, Any]]:
        return runs.metrics(self.run_dir) if (self.run_dir / "metrics.jsonl").exists() else []

    def findings(self) -> dict[str, Any] | None:
        lines = [line for line in self.output.read_text().splitlines() if line.startswith('{"gaps"')]
        return json.loads(lines[0]) if lines else None

    def server(self) -> list[int]:
        """Pids of vLLM's API process and of what it started."""
        return [pid for pid in below(self.process.pid) if "vllm" in command_of(pid).lower()]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


@pytest.fixture(scope="module")
def watched(tiny_omni: Path, demo_data: DemoFiles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("served")
    options = {"max_model_len": 1024, "start_s": START_S, "transfer": "tcp"}
    values = runs.config(
        folder / "run",
        tiny_omni,
        demo_data,
        "grpo",
        rollout={"engine": "server", "ahead": 1, "options": options},
        grpo={"off_policy": "token_truncate"},
        train={"steps": STEPS, "save_every": 3},
    )
    run = Watched(folder, values)
    yield run
    run.process.kill()
    run.process.wait()


def test_log_probs_and_greedy_answers_are_the_trainers_before_and_after_new_weights(watched: Watched) -> None:
    watched.wait_for(lambda: watched.findings() is not None, START_S)
    found = watched.findings()
    assert found is not None
    print("largest gaps of a log-prob:", {name: f"{gap:.1e}" for name, gap in found["gaps"].items()})
    assert max(found["gaps"].values()) < 1e-5, found["gaps"]
    assert all(same for group in found["again"] for same in group)
    for server, trainer in found["greedy"]:
        assert server == trainer
    texts = [json.dumps(server) for server, _ in found["greedy"]]
    assert len(set(texts)) == len(texts)


def test_a_server_killed_in_the_middle_of_a_step_costs_nothing_but_time(watched: Watched) -> None:
    watched.wait_for(lambda: len(watched.records()) >= 1, 300)
    api = next(pid for pid in watched.server() if "api_server" in command_of(pid) and "keeper" not in command_of(pid))
    os.kill(api, signal.SIGKILL)
    watched.wait_for(lambda: served_run.TRAINED in watched.output.read_text().splitlines(), START_S)
    records = watched.records()
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    assert all(record["groups/kept"] == 4 for record in records)
    assert records[-1]["rollout/restarts"] == 1
    assert records[-1]["rollout/remade"] > 0
    assert [record["rollout/staleness"] for record in records] == [0, 1, 1, 0, 1, 1]


def test_when_the_trainer_is_killed_no_engine_is_left(watched: Watched) -> None:
    watched.wait_for(lambda: len(watched.server()) >= 3, START_S)
    started = below(watched.process.pid)
    os.kill(watched.process.pid, signal.SIGKILL)
    watched.process.wait()
    end = time.monotonic() + 30
    while any(command_of(pid) for pid in started) and time.monotonic() < end:
        time.sleep(0.2)
    assert not [command_of(pid) for pid in started if command_of(pid)]
