"""Runs of several processes for the tests: started by the scripts of configs/launch/, watched, killed."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.integration.runs import metrics

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "configs" / "launch"
ZERO = ROOT / "configs" / "deepspeed"


def launch(script: str, folder: Path, *overrides: str, log: str = "log", **variables: Any) -> subprocess.Popen[bytes]:
    """A script with `folder`/run.yaml, in that folder; its output goes to `folder`/`log`."""
    named = {name: str(value) for name, value in variables.items()}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHON": sys.executable, **named}
    command = ["bash", str(SCRIPTS / script), "run.yaml", *overrides]
    with (folder / log).open("wb") as output:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)


def write(values: dict[str, Any], folder: Path) -> None:
    """`folder`/run.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.yaml").write_text(yaml.safe_dump(values))


def ended(process: subprocess.Popen[bytes], folder: Path, *, log: str = "log", timeout: float = 240) -> tuple[int, str]:
    """Wait for a launcher; its exit status and what it and its processes said."""
    try:
        status = process.wait(timeout)
    except subprocess.TimeoutExpired:
        end_all(process)
        raise AssertionError(f"still running after {timeout} s:\n{said(folder, log)}") from None
    return status, said(folder, log)


def said(folder: Path, log: str = "log") -> str:
    """What was written to a log so far, redrawn progress lines as lines of their own."""
    return (folder / log).read_text(errors="replace").replace("\r", "\n")


def ours(output: str) -> list[str]:
    """Our lines, without those that every run has."""
    lines = re.findall(r"^mmreason: (.*)$", output, re.MULTILINE)
    return [line for line in lines if not line.startswith(("distributed: ", "resumed from "))]


def rank(launcher: subprocess.Popen[bytes], number: int) -> psutil.Process:
    """The process of this rank."""
    for child in psutil.Process(launcher.pid).children():
        if child.environ().get("RANK") == str(number):
            return child
    raise AssertionError(f"no process of rank {number}")


def wait_for_step(step: int, launcher: subprocess.Popen[bytes], folder: Path, *, log: str = "log") -> None:
    """Until a step is finished. Fails when the run ends before, or it takes too long."""
    deadline = time.monotonic() + 180
    while not any(line["step"] >= step for line in _metrics(folder / "run")):
        assert launcher.poll() is None, f"ended before step {step}:\n{said(folder, log)}"
        assert time.monotonic() < deadline, said(folder, log)
        time.sleep(0.05)


def _metrics(run_dir: Path) -> list[dict[str, Any]]:
    try:
        return metrics(run_dir)
    except (OSError, ValueError):  # not there yet, or the last line is being written
        return []


def end_all(launcher: subprocess.Popen[bytes]) -> None:
    """Kill a launcher and all that it started."""
    for process in [*psutil.Process(launcher.pid).children(recursive=True), launcher]:
        process.send_signal(signal.SIGKILL)
    launcher.wait()


def free_port() -> int:
    """A port that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
