"""`mmreason demo`: everything it does, at a hundredth of its size; and that the model learns, in fewer steps."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmreason.cli import main as cli
from mmreason.demo.run import _Demo, main
from mmreason.errors import ConfigError
from mmreason.training import run
from tests.integration.runs import finish, metrics


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the demo that runs here first; it holds data and a model that others may copy."""
    return tmp_path_factory.mktemp("demo")


def test_every_stage_runs_and_the_same_command_continues(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = main(folder, seed=1, share=0.02)
    printed = capsys.readouterr().out
    assert [row.name for row in rows] == ["untrained", "cold start (SFT)", "GRPO", "SFT for as long"]
    for name in ("untrained", "cold start", "GRPO", "SFT for as long"):
        assert re.search(rf"^{name}.*\d+ \[\d+-\d+\].*\d\.\d$", printed, re.MULTILINE), printed
    assert len(re.findall(r"^  \S*mmreason ", printed, re.MULTILINE)) == 3, "three commands to try next"
    assert "<html" in (folder / "grpo/report.html").read_text()
    before = metrics(folder / "grpo", "eval")
    assert main(folder, seed=1, share=0.02) == rows
    assert metrics(folder / "grpo", "eval") == before, "nothing was trained twice"
    with pytest.raises(ConfigError, match=r"holds a demo of .*'seed': 1.*give another folder"):
        main(folder, seed=2, share=0.02)


def test_vllm_samples_where_it_is_asked_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The config alone: docs/evidence.md D2 has the whole demo."""
    demo = _Demo(tmp_path, 1, 0.02, "vllm")
    assert demo.stage("grpo", "grpo", folder).rollout.engine == "vllm"
    assert demo.stage("sft", "sft", folder).rollout.engine == "hf"
    monkeypatch.setattr("mmreason.config.engines.find_spec", lambda name: None)
    assert cli(["demo", str(tmp_path), "--engine", "vllm"]) == 2
    assert "rollout.engine: vllm, but vLLM is not installed; pip install" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_stopped_demo_stops(folder: Path, tmp_path: Path) -> None:
    """With the data of the small demo as if it were its own: writing 4,000 files is not what is tested."""
    _Demo(folder, 1, 0.02).prepare()
    for part in ("data", "tiny-omni"):
        shutil.copytree(folder / part, tmp_path / "run" / part)
    (tmp_path / "run/demo.json").write_text(json.dumps({"seed": 0, "share": 1.0, "engine": "hf"}))
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
    """The demo as it is, but for GRPO's steps: 60 of 200 are enough to see it (docs/evidence.md has the whole demo)."""
    demo = _Demo(tmp_path, 0, 1.0)
    demo.prepare()
    run(demo.stage("grpo", "grpo", run(demo.stage("sft", "sft", demo.model)), steps=60))
    untrained, cold = (line["accuracy/mean"] for line in metrics(tmp_path / "sft", "eval"))
    trained = metrics(tmp_path / "grpo", "eval")[-1]["accuracy/mean"]
    assert untrained < 0.1
    assert trained > cold + 0.15
    assert trained > 0.9
