"""`mmreason eval`: several answers per question, two processes, a kill in the middle, a file that is no image."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import mmreason
from mmreason.cli import main
from mmreason.demo.media import DemoFiles
from mmreason.errors import ConfigError
from mmreason.evaluation.rows import EvalResult
from tests.integration.runs import config, finish

LENGTH = '''
from mmreason.types import Score

def odd(sample, rollouts):
    """An untrained model answers nothing right; texts of odd length stand for right answers."""
    return [Score(total=1.0, flags={"correct": len(rollout.text) % 2 == 1}) for rollout in rollouts]
'''


@pytest.fixture
def values(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> dict[str, Any]:
    """A run that asks 10 questions four times; the first of them has an image that is none."""
    rows = [json.loads(line) for line in demo_data.eval.read_text().splitlines()]
    rows = rows[:9]
    first = next(row for row in rows if any(part["type"] == "image" for part in row["messages"][0]["content"]))
    for row in rows:
        for part in row["messages"][0]["content"]:
            if part["type"] != "text":
                part[part["type"]] = str((demo_data.eval.parent / part[part["type"]]).resolve())
    (tmp_path / "broken.png").write_text("<html>")
    broken = json.loads(json.dumps(first)) | {"id": "broken"}
    for part in broken["messages"][0]["content"]:
        if part["type"] == "image":
            part["image"] = str(tmp_path / "broken.png")
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [broken, *rows]))
    (tmp_path / "mine.py").write_text(LENGTH)
    made = config(tmp_path / "run", tiny_omni, demo_data, "grpo", rollout={"max_rows": 8}, eval={"n": 4})
    made["rewards"] = [{"name": str(tmp_path / "mine.py:odd")}]
    made["data"] = {"eval": [{"path": str(tmp_path / "eval.jsonl")}], "media_root": "/"}
    return made


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "eval.jsonl").read_text().splitlines()]


def command(values: dict[str, Any], folder: Path, *options: str, processes: int = 1) -> subprocess.Popen[str]:
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    launcher = ["torch.distributed.run", "--nproc-per-node", str(processes), "--standalone", "-m"]
    line = [sys.executable, "-m", *(launcher if processes > 1 else []), "mmreason.cli", "eval", "run.yaml", *options]
    return subprocess.Popen(line, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_rows_numbers_and_table(values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = mmreason.evaluate(values)
    rows = lines(tmp_path / "run")
    assert len(rows) == 10
    assert rows[0]["id"] == "broken"
    assert rows[0]["status"] == "quarantined"
    assert "broken.png" in rows[0]["reason"]
    assert len({row["settings"] for row in rows}) == 1
    for row in rows[1:]:
        assert row["status"] == "scored"
        assert [answer["correct"] for answer in row["answers"]] == [len(a["text"]) % 2 == 1 for a in row["answers"]]
        assert all(answer["tokens"] for answer in row["answers"])
        assert len({answer["text"] for answer in row["answers"]}) > 1, "sampled, not greedy"
    numbers = json.loads((tmp_path / "run/eval.json").read_text())
    assert numbers["complete"]
    assert numbers["metrics"] == found.metrics == EvalResult(rows=found.result.rows).metrics()
    assert 0 < numbers["metrics"]["accuracy/all"] < numbers["metrics"]["pass@4/all"]
    assert (numbers["metrics"]["samples"], numbers["metrics"]["quarantined"]) == (10, 1)
    assert numbers["settings"]["eval.n"] == 4

    # Again: nothing is asked, so no model is needed, and the numbers are the same.
    before = (tmp_path / "run/eval.jsonl").read_bytes()
    started = time.perf_counter()
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    assert main(["eval", str(tmp_path / "run.yaml")]) == 0
    assert time.perf_counter() - started < 5
    assert (tmp_path / "run/eval.jsonl").read_bytes() == before
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split() == ["%", "of", "accuracy", "pass@2", "pass@4", "maj@4"]
    assert "; 1 quarantined" in printed

    with pytest.raises(ConfigError, match=r"other settings \(eval\.n, eval\.temperature\); --fresh starts over"):
        mmreason.evaluate(values, "eval.n=1", "eval.temperature=0.5")
    greedy = mmreason.evaluate(values, "eval.n=1", out=tmp_path / "greedy")
    assert [len(row.answers) for row in greedy.result.rows] == [0] + [1] * 9
    assert not any(name.startswith(("pass@", "maj@")) for name in greedy.metrics)
    assert (tmp_path / "run/eval.jsonl").read_bytes() == before
    mmreason.evaluate(values, "eval.n=1", fresh=True)
    assert lines(tmp_path / "run") == lines(tmp_path / "greedy")


def test_a_kill_in_the_middle_and_two_processes_change_nothing(values: dict[str, Any], tmp_path: Path) -> None:
    whole = mmreason.evaluate(values, out=tmp_path / "whole")
    process = command(values, tmp_path)
    file, deadline = tmp_path / "run/eval.jsonl", time.monotonic() + 100
    while not (file.exists() and file.read_bytes().count(b"\n")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    answered = lines(tmp_path / "run")
    assert 0 < len(answered) < 10, "killed in the middle"
    with file.open("a") as torn:
        torn.write('{"id": "half')
    output = finish(command(values, tmp_path, processes=2))
    assert lines(tmp_path / "run")[: len(answered)] == answered
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")
    assert output.count("95 % intervals") == 1, "one process prints"
    assert str(whole).splitlines()[:-1] == [line for line in output.splitlines() if line in str(whole).splitlines()]


def test_what_cannot_be_evaluated_is_one_line(
    values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    run = str(tmp_path / "run.yaml")
    (tmp_path / "taken").write_text("")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/eval.jsonl").write_text("no json\n")
    for arguments, message in [
        (["data.eval=[]"], "data.eval: empty; name at least one data file"),
        (["--model", str(tmp_path / "none")], str(tmp_path / "none")),
        (["--out", str(tmp_path / "taken")], "taken: cannot be written (File exists)"),
        (["--out", str(tmp_path / "odd")], "odd/eval.jsonl:1: is no line of an evaluation; --fresh starts over"),
        (["eval.n=0"], "eval.n: got 0; input should be greater than or equal to 1"),
    ]:
        assert main(["eval", run, *arguments]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mmreason: ")]
        assert message in line


def test_views_tell_what_the_media_are_worth(values: dict[str, Any], tmp_path: Path) -> None:
    plain = mmreason.evaluate(values, "eval.n=1")
    found = mmreason.evaluate(values, "eval.n=1", views=["none", "muted"])
    assert found.result == plain.result, "what was answered already is not asked again"
    rows = [json.loads(line) for line in (tmp_path / "run/eval.muted.jsonl").read_text().splitlines()]
    assert {row["modality"] for row in rows} == {"audio"}
    assert [row.modality for row in found.views["none"].rows].count("text") == 0
    numbers = json.loads((tmp_path / "run/eval.json").read_text())["metrics"]
    assert numbers == found.metrics
    assert "dependence/none/image" in numbers
    assert numbers["dependence/muted/all"] == numbers["dependence/muted/audio"]
    assert "accuracy as it is minus in view none: all" in str(found)
    before = (tmp_path / "run/eval.muted.jsonl").read_bytes()
    assert mmreason.evaluate(values, "eval.n=1", views=["muted"]).views["muted"] == found.views["muted"]
    assert (tmp_path / "run/eval.muted.jsonl").read_bytes() == before
    with pytest.raises(ConfigError, match="views: 'ordered', expected some of shuffled, blank, noise, muted, none"):
        mmreason.evaluate(values, views=["ordered"])
