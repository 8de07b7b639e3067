"""Every verb is one function, and importing them costs nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mmreason
from mmreason.config import RunConfig, load_config
from mmreason.errors import ConfigError, DataError

CONFIG = {"run_dir": "r", "model": {"path": "m"}, "rewards": [{"name": "accuracy"}], "train": {"steps": 7}}


def test_importing_is_quick_and_imports_nothing_else() -> None:
    code = (
        "import sys, time; started = time.perf_counter(); import mmreason; seconds = time.perf_counter() - started\n"
        "print(seconds, [name for name in ('torch', 'pydantic', 'yaml', 'transformers') if name in sys.modules])\n"
        "assert all(callable(getattr(mmreason, name)) for name in mmreason.__all__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    seconds, modules = done.stdout.strip().split(" ", 1)
    assert modules == "[]"
    assert float(seconds) < 0.2


def test_a_config_is_a_path_a_dictionary_or_one_that_is_made(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("run_dir: r\nmodel: {path: m}\nrewards: [{name: accuracy}]\ntrain: {steps: 7}\n")
    made = load_config(CONFIG)
    assert isinstance(made, RunConfig)
    assert made == load_config(made) == load_config(file) == load_config(str(file))
    for config in (CONFIG, made, file):
        changed = load_config(config, ["train.steps=8", "rewards.0.weight=2"])
        assert (changed.train.steps, changed.rewards[0].weight) == (8, 2)
    assert CONFIG["train"] == {"steps": 7}, "a caller's dictionary stays as it was"
    with pytest.raises(ConfigError, match=r"train\.stepz: unknown key; did you mean 'steps'\?"):
        load_config(CONFIG, ["train.stepz=8"])


def test_functions_are_the_verbs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.jsonl").write_text('{"answer": "5", "completions": ["<answer>5</answer>", "6"]}\n')
    assert mmreason.score(tmp_path / "in.jsonl", "accuracy", out=tmp_path / "out").means["accuracy"] == 0.5
    by_config = mmreason.score(tmp_path / "in.jsonl", config=CONFIG, out=tmp_path / "again")
    assert by_config.means == {"total": 0.5, "accuracy": 0.5}
    assert (tmp_path / "out").read_text() == (tmp_path / "again").read_text()
    with pytest.raises(ConfigError, match="give either"):
        mmreason.score(tmp_path / "in.jsonl")
    (tmp_path / "config.yaml").write_text("run_dir: r\n")
    assert mmreason.report(tmp_path) == tmp_path / "report.html"
    with pytest.raises(DataError, match="is no folder"):
        mmreason.report(tmp_path / "no")
    with pytest.raises(ConfigError, match=r"data\.train: empty"):
        mmreason.train(CONFIG)
    with pytest.raises(ConfigError, match=r"data\.eval: empty"):
        mmreason.evaluate(CONFIG)
    found = mmreason.doctor()
    assert found.works
    assert repr(found).splitlines()[-1] == "all that a run needs is here"
    assert capsys.readouterr().out == ""
