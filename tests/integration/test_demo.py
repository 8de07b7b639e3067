"""`mmreason demo`: everything it does, at a hundredth of its size; and that the model learns, at full size."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmreason.demo.run import main
from mmreason.errors import ConfigError
from tests.integration.runs import finish, metrics


def test_every_stage_runs_and_the_same_command_continues(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = main(tmp_path, seed=1, share=0.02)
    printed = capsys.readouterr().out
    assert [row.name for row in rows] == ["untrained", "cold start (SFT)", "GRPO", "SFT for as long"]
    for name in ("untrained", "cold start", "GRPO", "SFT for as long"):
        assert re.search(rf"^{name}.*\d+ \[\d+-\d+\].*\d\.\d$", printed, re.MULTILINE), printed
    assert len(re.findall(r"^  \S*mmreason ", printed, re.MULTILINE)) == 3, "three commands to try next"
    assert "<html" in (tmp_path / "grpo/report.html").read_text()
    before = metrics(tmp_path / "grpo", "eval")
    assert main(tmp_path, seed=1, share=0.02) == rows
    assert metrics(tmp_path / "grpo", "eval") == before, "nothing was trained twice"
    with pytest.raises(ConfigError, match=r"holds a demo of .*'seed': 1.*give another folder"):
        main(tmp_path, seed=2, share=0.02)


def test_a_stopped_demo_stops(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mmreason.cli", "demo", "run", "--no-control"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    log, deadline = tmp_path / "run/sft/metrics.jsonl", time.monotonic() + 200
    while not (log.exists() and '"kind": "train"' in log.read_text()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.terminate()
    output = finish(process)
    assert "mmreason: stopped; the same command goes on" in output
    assert list((tmp_path / "run/sft/checkpoints").glob("step-*/manifest.json"))
    assert not (tmp_path / "run/grpo").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_learns(tmp_path: Path) -> None:
    rows = {row.name: row.metrics["accuracy/mean"] for row in main(tmp_path, seed=0, control=False)}
    assert rows["untrained"] < 0.1
    assert rows["GRPO"] > rows["cold start (SFT)"] + 0.15
    assert rows["GRPO"] > 0.9
