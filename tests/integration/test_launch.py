"""The scripts of configs/launch/, with real processes: what they start, what they refuse, and what a death costs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmreason.demo.media import DemoFiles
from mmreason.errors import ConfigError
from mmreason.training.engine import require_devices
from tests.integration.launched import SCRIPTS, ZERO, ended, free_port, launch, ours, rank, wait_for_step, write
from tests.integration.runs import config, metrics, weights

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]  # two of these at once would starve
END = "; all processes stop; the same command goes on"
GONE = r"rank 1 \(.+\) is gone, its process ended in stage \w+ of step \d+" + END
SILENT = r"rank 1 \(.+\) stopped answering in stage \w+ of step \d+, 30 s ago" + END


def _values(folder: Path, model: Path, data: DemoFiles, **train: Any) -> dict[str, Any]:
    settings = {"steps": 26, "prompts_per_step": 2, "save_every": 5, "keep": 1, **train}
    return config(folder / "run", model, data, "sft", train=settings)


@pytest.fixture(scope="module")
def undisturbed(tiny_omni: Path, demo_data: DemoFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes that nobody kills."""
    folder = tmp_path_factory.mktemp("undisturbed-pair")
    write(_values(folder, tiny_omni, demo_data), folder)
    status, output = ended(launch("one_node.sh", folder, PROCESSES=2), folder)
    assert status == 0, output
    assert "distributed: DDP, 2 processes" in output
    assert ours(output) == []
    return folder / "run"


def _equal(first: Path, second: Path) -> None:
    mine, theirs = weights(first), weights(second)
    assert mine.keys() == theirs.keys()
    assert not [name for name in mine if not torch.equal(mine[name], theirs[name])]
    for name in ("loss", "grad_norm"):
        assert [line[name] for line in metrics(first)] == [line[name] for line in metrics(second)]


def _within_a_minute(what: str, since: float, output: str) -> None:
    seconds = time.monotonic() - since
    print(f"{what}: all ended after {seconds:.0f} s;", *ours(output)[:1])
    assert seconds < 60


# ---- what the scripts start ------------------------------------------------------------------------------------------


def test_one_process(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> None:
    write(_values(tmp_path, tiny_omni, demo_data), tmp_path)
    status, output = ended(launch("one_gpu.sh", tmp_path, "train.steps=1"), tmp_path)
    assert status == 0, output
    assert "distributed:" not in output
    assert len(metrics(tmp_path / "run")) == 1, "the override reached the run"


def test_one_node_with_deepspeed(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> None:
    write(_values(tmp_path, tiny_omni, demo_data), tmp_path)
    process = launch("one_node.sh", tmp_path, "train.steps=1", PROCESSES=2, DEEPSPEED=ZERO / "zero3.json")
    status, output = ended(process, tmp_path)
    assert status == 0, output
    assert "distributed: DeepSpeed ZeRO-3, 2 processes" in output
    assert (tmp_path / "run/model/config.json").is_file()


SRUN = """#!/usr/bin/env bash
# Stands in for srun: the command once per node, at the same time, with what srun sets for each task.
set -eu
[ "$1" = --kill-on-bad-exit=1 ] || exit 64
shift
tasks=()
for node in $(seq 0 $((SLURM_JOB_NUM_NODES - 1))); do
  SLURM_NODEID=$node SLURM_PROCID=$node "$@" &
  tasks+=($!)
done
for task in "${tasks[@]}"; do wait "$task"; done
"""


def test_slurm(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> None:
    write(_values(tmp_path, tiny_omni, demo_data), tmp_path)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "srun").write_text(SRUN)
    (tools / "srun").chmod(0o755)
    given: dict[str, Any] = {"SLURM_JOB_ID": free_port(), "SLURM_JOB_NUM_NODES": 2, "SLURM_JOB_NODELIST": "localhost"}
    path = f"{tools}:{os.environ['PATH']}"
    process = launch("slurm.sh", tmp_path, "train.steps=1", PATH=path, PROCESSES=1, LAUNCH_DIR=SCRIPTS, **given)
    status, output = ended(process, tmp_path)
    assert status == 0, output
    assert "distributed: DDP, 2 processes" in output


# ---- a process that dies ---------------------------------------------------------------------------------------------


@pytest.mark.timeout(600)
def test_stopped_killed_and_frozen_on_one_node(
    undisturbed: Path, tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path
) -> None:
    write(_values(tmp_path, tiny_omni, demo_data), tmp_path)
    process = launch("one_node.sh", tmp_path, PROCESSES=2)
    wait_for_step(3, process, tmp_path)
    process.terminate()
    status, output = ended(process, tmp_path)
    assert status == 128 + signal.SIGTERM, output
    assert ours(output) == ["SIGTERM received; saving, then stopping"]
    (saved,) = (tmp_path / "run/checkpoints").glob("step-*/manifest.json")

    process = launch("one_node.sh", tmp_path, PROCESSES=2)
    wait_for_step(9, process, tmp_path)
    killed = time.monotonic()
    rank(process, 1).kill()
    status, output = ended(process, tmp_path, timeout=120)
    _within_a_minute("killed", killed, output)
    assert status == 128 + signal.SIGKILL
    assert f"resumed from {saved.parent}" in output
    assert re.fullmatch(GONE, ours(output)[0]), output
    assert ours(output)[1:] == ["rank 1 was ended by SIGKILL (out of memory, if nobody did it)"]
    assert "Traceback" not in output

    process = launch("one_node.sh", tmp_path, PROCESSES=2)
    wait_for_step(16, process, tmp_path)
    stopped = time.monotonic()
    rank(process, 1).suspend()
    status, output = ended(process, tmp_path, timeout=120)
    _within_a_minute("frozen", stopped, output)
    assert status == 128 + signal.SIGKILL
    assert re.fullmatch(SILENT, ours(output)[0]), output
    assert re.fullmatch(r"rank 1 \(.+\) stood still for 40 s in stage .*; it is ended", ours(output)[1])

    status, output = ended(launch("one_node.sh", tmp_path, PROCESSES=2), tmp_path)
    assert status == 0, output
    _equal(undisturbed, tmp_path / "run")


@pytest.mark.timeout(600)
def test_killed_on_the_second_of_two_nodes(
    undisturbed: Path, tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path
) -> None:
    write(_values(tmp_path, tiny_omni, demo_data), tmp_path)

    def start() -> list[subprocess.Popen[bytes]]:
        port = free_port()
        given = {"NODES": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": port, "PROCESSES": 1, "WAIT_S": 120}
        return [launch("nodes.sh", tmp_path, log=f"log{node}", NODE_RANK=node, **given) for node in (0, 1)]

    first, second = start()
    wait_for_step(7, first, tmp_path, log="log0")
    killed = time.monotonic()
    rank(second, 1).kill()
    status, output = ended(second, tmp_path, log="log1", timeout=120)
    assert (status, ours(output)) == (137, ["rank 1 was ended by SIGKILL (out of memory, if nobody did it)"])
    status, output = ended(first, tmp_path, log="log0", timeout=120)
    _within_a_minute("killed on another node", killed, output)
    assert status == 3
    assert len(ours(output)) == 1, output
    assert re.fullmatch(SILENT, ours(output)[0]), output

    for node, process in enumerate(start()):
        status, output = ended(process, tmp_path, log=f"log{node}")
        assert status == 0, output
    _equal(undisturbed, tmp_path / "run")


def test_an_error_on_one_process_only(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in demo_data.sft.read_text().splitlines()]
    order = np.random.default_rng([3, 0]).permutation(len(rows))  # of the first epoch, with the run's seed
    for place in order[1::2]:
        rows[place]["messages"][0]["content"] = [{"type": "image", "image": "no.png"}, {"type": "text", "text": "?"}]
    file = demo_data.sft.with_name("half.jsonl")
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = _values(tmp_path, tiny_omni, demo_data)
    values["data"] = {"train": [{"path": str(file)}], "max_bad_fraction": 0.1}
    write(values, tmp_path)
    status, output = ended(launch("one_node.sh", tmp_path, PROCESSES=2), tmp_path)
    assert status == 2, output
    (line,) = ours(output)
    assert re.match(r"rank 1 \(.+\) failed in stage encode of step \d+: .* samples tried \(.*\) cannot be used", line)
    assert "Traceback" not in output


def test_a_stage_that_takes_too_long(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> None:
    write(_values(tmp_path, tiny_omni, demo_data), tmp_path)
    status, output = ended(launch("one_node.sh", tmp_path, "train.timeout_s=1", PROCESSES=2), tmp_path)
    assert status == 3, output
    (line,) = ours(output)
    assert re.fullmatch(r"rank \d \(.+\) has been in stage \w+.* for more than 1 s \(train.timeout_s\)" + END, line)


# ---- what the scripts refuse -----------------------------------------------------------------------------------------


def _refused(script: str, folder: Path, **variables: Any) -> str:
    status, output = ended(launch(script, folder, **variables), folder, timeout=120)
    assert status == 2, output
    (line,) = output.strip().splitlines()
    assert line.startswith("mmreason: ")
    return line


@pytest.mark.parametrize("script", ["one_gpu.sh", "one_node.sh", "nodes.sh", "slurm.sh"])
def test_no_config_and_no_program(script: str, tmp_path: Path) -> None:
    given = {"NODES": "1", "NODE_RANK": "0", "MASTER_ADDR": "x", "SLURM_JOB_ID": "1"}
    done = subprocess.run(
        ["bash", str(SCRIPTS / script)], env={**os.environ, **given}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert re.fullmatch(r"mmreason: no config given; usage: .*\n", done.stderr)
    if script == "slurm.sh":
        assert "srun: not found" in _refused(script, tmp_path, **given)
        return
    assert "run.yaml: no such config file" in _refused(script, tmp_path, **given)
    (tmp_path / "run.yaml").touch()
    assert "nowhere: not found; set PYTHON" in _refused(script, tmp_path, PYTHON="nowhere", **given)


def test_a_mistake_in_the_config_is_said_once(tmp_path: Path) -> None:
    write({"run_dir": "run", "model": {"path": "nowhere"}, "train": {"stepps": 3, "method": "sft"}}, tmp_path)
    assert "train.stepps: unknown key; did you mean 'steps'?" in _refused("one_node.sh", tmp_path, PROCESSES=2)


def test_more_processes_than_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.yaml").touch()
    line = _refused("one_node.sh", tmp_path)
    assert "all GPUs of this machine were asked for, and torch sees none; on CPUs give a number" in line
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    require_devices(8)
    require_devices(None)
    with pytest.raises(ConfigError, match=r"8 processes were started on .*, which has 4 GPUs to use; start 4 "):
        require_devices(4)


def test_a_rendezvous_that_does_not_come_about(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").touch()
    given = {"NODES": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "PROCESSES": 1, "WAIT_S": 3}
    began = time.monotonic()
    for node in (0, 1):  # nobody else comes; nobody is there
        line = _refused("nodes.sh", tmp_path, NODE_RANK=node, **given)
        assert f"no rendezvous of 2 nodes at 127.0.0.1:{given['MASTER_PORT']}" in line
        assert "start the same command on every node" in line
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        line = _refused("nodes.sh", tmp_path, NODE_RANK=0, **{**given, "MASTER_PORT": busy.getsockname()[1]})
        assert "no other program uses the port" in line
    assert time.monotonic() - began < 90
    assert "NODE_RANK=2, but with NODES=2 they are 0 to 1" in _refused("nodes.sh", tmp_path, NODE_RANK=2, **given)
    assert "MASTER_ADDR is not set" in _refused("nodes.sh", tmp_path, NODES=2, NODE_RANK=0)


SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.skipif(SHELLCHECK is None, reason="needs shellcheck")
def test_scripts_are_clean() -> None:
    done = subprocess.run([str(SHELLCHECK), *map(str, SCRIPTS.glob("*.sh"))], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
