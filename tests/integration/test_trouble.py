"""What goes wrong during a run and must not end it, or must end it with one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from mmreason.demo.media import DemoFiles
from tests.integration.runs import config, metrics, train_here

MISBEHAVING = '''
import time

def per_answer(sample, text):
    """Right for one prompt in four; raises, hangs or returns NaN for the others."""
    fate = sum(map(ord, sample.id)) % 4
    if fate == 0:
        raise RuntimeError("no such thing")
    if fate == 1:
        time.sleep(1000)
    return float("nan") if fate == 2 else len(text) % 5 / 5

def per_group(sample, rollouts):
    """One score too few."""
    return [0.5] * (len(rollouts) - 1)
'''


def test_a_reward_that_raises_hangs_or_returns_nan(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MISBEHAVING)
    scoring = {"workers": 2, "deadline_s": 0.8}
    train = {"steps": 2, "prompts_per_step": 8}
    values = config(tmp_path / "run", tiny_omni, demo_data, "grpo", scoring=scoring, train=train)
    values["rewards"] = [{"name": "mine.py:per_answer"}]
    output = train_here(values, tmp_path)
    assert "no such thing" in output, "what went wrong is said"
    steps = metrics(tmp_path / "run")
    assert len(steps) == 2
    assert all(0 < step["reward/errors"] < 1 for step in steps)
    assert any("reward/mean" in step for step in steps), "the others' mean, no zeros in it"
    shown = [json.loads(line) for line in (tmp_path / "run/gallery.jsonl").read_text().splitlines()]
    totals = [rollout["total"] for group in shown if group["trained"] for rollout in group["rollouts"]]
    assert totals
    assert any("mine.py" in str(rollout.get("error")) for group in shown for rollout in group["rollouts"])
    assert set(totals) <= {0.0, 0.2, 0.4, 0.6, 0.8}, "only groups without errors are trained on"


def test_a_reward_of_the_wrong_length_with_stop(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MISBEHAVING)
    values = config(tmp_path / "run", tiny_omni, demo_data, "grpo", scoring={"workers": 1, "on_error": "stop"})
    values["rewards"] = [{"name": "mine.py:per_group"}]
    output = train_here(values, tmp_path, expect=2)
    line = [line for line in output.splitlines() if line.startswith("mmreason: ") and "per_group" in line][-1]
    assert "3" in line, "what it returned"
    assert "4" in line, "what was expected"
    assert "Traceback" not in output


def test_prompts_over_the_budget(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in demo_data.sft.read_text().splitlines()]
    for row in rows[::4]:
        row["messages"][0]["content"][-1]["text"] += " Think about it." * 500
    long = {row["id"] for row in rows[::4]}
    file = demo_data.sft.with_name("long.jsonl")
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = config(tmp_path / "run", tiny_omni, demo_data, "sft", train={"steps": 3, "prompts_per_step": 5})
    values["data"] = {"train": [{"path": str(file)}], "max_prompt_tokens": 500}
    train_here(values, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "run/quarantine.jsonl").read_text().splitlines()]
    assert {line["id"] for line in lines} == long
    assert {line["reason"] for line in lines} == {"prompt too long"}
    assert len(metrics(tmp_path / "run")) == 3


def test_a_disk_that_is_full_when_a_checkpoint_is_due(
    tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("40m")  # room for three checkpoints of the tiny model
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(25_000_000))
    train = {"steps": 3, "prompts_per_step": 2, "save_every": 1, "keep": 3}
    values = config(disk / "run", tiny_omni, demo_data, "sft", train=train)
    output = train_here(values, tmp_path, expect=2)
    assert "the disk is full; free some space" in output
    assert "Traceback" not in output
    assert len(metrics(disk / "run")) == 3, "a checkpoint that failed did not stop the training"
    assert list((disk / "run/checkpoints").glob("step-*/manifest.json"))
    assert not (disk / "run/model").exists()
    ballast.unlink()
    assert "resumed from" in train_here(values, tmp_path)
    assert (disk / "run/model/config.json").is_file()
    assert [line["step"] for line in metrics(disk / "run")] == [1, 2, 3]


def test_a_report_that_cannot_be_written(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> None:
    (tmp_path / "run/report.html.partial").mkdir(parents=True)
    values = config(tmp_path / "run", tiny_omni, demo_data, "sft", train={"steps": 1, "prompts_per_step": 2})
    output = train_here(values, tmp_path)
    assert "report.html not written: Is a directory" in output
    assert (tmp_path / "run/model/config.json").is_file()


def test_a_run_dir_that_cannot_be_made(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    values = config(tmp_path / "file" / "run", tiny_omni, demo_data, "sft")
    output = train_here(values, tmp_path, expect=2)
    assert "mmreason: run_dir:" in output
    assert "no folder can be made there (Not a directory)" in output
    assert "Traceback" not in output


def test_an_answer_that_would_not_fit_in_a_row(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in demo_data.sft.read_text().splitlines()]
    for row in rows[::4]:
        row["demos"] = ["so " * 400 + "<answer>1</answer>"]
    file = demo_data.sft.with_name("long-demos.jsonl")
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = {"steps": 3, "prompts_per_step": 5, "row_tokens": 300}
    values = config(tmp_path / "run", tiny_omni, demo_data, "sft", train=train)
    values["data"] = {"train": [{"path": str(file)}]}
    train_here(values, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "run/quarantine.jsonl").read_text().splitlines()]
    assert {line["id"] for line in lines} == {row["id"] for row in rows[::4]}
    assert all("train.row_tokens (300)" in line["detail"] for line in lines)


def test_a_run_dir_of_another_method_is_left_alone(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> None:
    values = config(tmp_path / "run", tiny_omni, demo_data, "sft", train={"steps": 2, "prompts_per_step": 2})
    train_here(values, tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.*") if path.is_file()}
    assert {"metrics.jsonl", "config.yaml"} <= before.keys()
    output = train_here(config(tmp_path / "run", tiny_omni, demo_data, "grpo"), tmp_path, expect=2)
    assert "was written with method 'sft', this run has 'grpo'; use the same setting, or a new run_dir" in output
    assert {name: (tmp_path / "run" / name).read_bytes() for name in before} == before
