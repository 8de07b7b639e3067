"""The command line: one line per mistake and status 2, tracebacks only on request, quick to start."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmreason.cli import build_parser, main
from mmreason.errors import ConfigError
from mmreason.scoring import parse_reward


def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "mmreason.cli", *arguments]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_mistakes_of_a_config_are_one_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_text("model: {path: m, frez: 1}\n")
    assert main(["train", str(tmp_path / "run.yaml"), "train.steps=0"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"mmreason: {tmp_path}/run.yaml: run_dir: required, but not given",
        f"mmreason: {tmp_path}/run.yaml:1: model.frez: unknown key; did you mean 'freeze'?",
        "mmreason: override 'train.steps=0': train.steps: got 0; input should be greater than or equal to 1",
        f"mmreason: {tmp_path}/run.yaml: rewards: empty, but train.method is grpo; name at least one "
        "(`mmreason rewards` lists them)",
    ]


@pytest.mark.parametrize("line", [["--debug", "train", "no.yaml"], ["train", "no.yaml", "--debug"]])
def test_debug_shows_the_traceback(line: list[str]) -> None:
    with pytest.raises(ConfigError):
        main(line)


def test_no_traceback_without_debug(tmp_path: Path) -> None:
    done = command("train", "no.yaml", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "mmreason: no.yaml: cannot be read (No such file or directory); give the path of a YAML file\n"
    )


def test_help_and_config_errors_need_no_torch(tmp_path: Path) -> None:
    code = """
import sys
from mmreason.cli import main
try:
    main(["--help"])
except SystemExit as stop:
    assert stop.code == 0
assert "pydantic" not in sys.modules
assert main(["train", "no.yaml"]) == 2
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout


def test_overrides_may_stand_behind_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("run_dir: r\nmodel: {path: m}\n")
    assert main(["eval", str(file), "seed=x", "--model", "m", "eval.n=0", "--fresh", "train.steps=0"]) == 2
    said = capsys.readouterr().err
    assert "override 'seed=x'" in said
    assert "override 'eval.n=0'" in said
    assert "override 'train.steps=0'" in said
    for line in (["eval", str(file), "eval.n=8", "--modle", "m"], ["rewards", "a=3"]):
        with pytest.raises(SystemExit):
            main(line)
        assert "unrecognized arguments" in capsys.readouterr().err


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("train", "eval", "demo", "score", "report", "rewards", "doctor"):
        with pytest.raises(SystemExit) as stop:
            build_parser().parse_args([verb, "--help"])
        assert stop.value.code == 0
        assert "--debug" in capsys.readouterr().out


def test_rewards_are_listed_with_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rewards"]) == 0
    printed = capsys.readouterr().out
    assert {"accuracy", "format", "iou"} <= {line.split()[0] for line in printed.splitlines()}
    assert printed.splitlines()[-1].startswith("In a config each also has weight, tasks")
    assert "variant=" in printed


def test_reward_options_are_yaml() -> None:
    reward = parse_reward("iou threshold=0.5 names='[a, b]' on=true")
    assert reward.name == "iou"
    assert reward.options == {"threshold": 0.5, "names": ["a", "b"], "on": True}
    assert parse_reward("my_reward.py:fn").options == {}


@pytest.mark.parametrize("text", ["", "iou 'a", "iou threshold"])
def test_wrong_reward(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_reward(text)


def test_score_writes_one_line_per_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["<answer>red</answer>", "<answer>blue</answer>"]
    row = {"id": "a", "task": "exact", "answer": "red", "completions": texts}
    (tmp_path / "texts.jsonl").write_text(json.dumps(row) + "\n")
    assert main(["score", str(tmp_path / "texts.jsonl"), "--reward", "accuracy", "--out", str(tmp_path / "o")]) == 0
    (scored,) = map(json.loads, (tmp_path / "o").read_text().splitlines())
    assert scored["id"] == "a"
    assert [score["total"] for score in scored["scores"]] == [1.0, 0.0]
    assert "2 completions, 0 without a score; means: total 0.5" in capsys.readouterr().err


def test_score_takes_the_rewards_of_a_config(tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text('{"id": "a", "answer": "red", "completions": ["<answer>red</answer>"]}\n')
    (tmp_path / "run.yaml").write_text("run_dir: r\nmodel: {path: m}\nrewards: [{name: accuracy, weight: 3}]\n")
    files = [str(tmp_path / name) for name in ("texts.jsonl", "run.yaml", "o")]
    assert main(["score", files[0], "--config", files[1], "--out", files[2]]) == 0
    assert json.loads((tmp_path / "o").read_text())["scores"][0]["total"] == 3.0


def test_score_takes_the_media_root_of_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = {"role": "user", "content": [{"type": "image", "image": str(tmp_path.parent / "a.png")}]}
    row = {"answer": "red", "completions": ["<answer>red</answer>"], "messages": [message]}
    (tmp_path / "texts.jsonl").write_text(json.dumps(row) + "\n")
    config = "run_dir: r\nmodel: {path: m}\nrewards: [{name: accuracy}]\n"
    for root, status in [(tmp_path, 2), (tmp_path.parent, 0)]:
        (tmp_path / "run.yaml").write_text(config + f"data: {{media_root: {root}}}\n")
        assert main(["score", str(tmp_path / "texts.jsonl"), "--config", str(tmp_path / "run.yaml")]) == status
    assert "lies outside the media root" in capsys.readouterr().err


def test_score_by_a_config_without_rewards_is_accuracy_as_in_its_evaluations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts.jsonl").write_text('{"answer": "red", "completions": ["<answer>red</answer>"]}\n')
    (tmp_path / "run.yaml").write_text("run_dir: r\nmodel: {path: m}\ntrain: {method: sft}\n")
    assert main(["score", str(tmp_path / "texts.jsonl"), "--config", str(tmp_path / "run.yaml")]) == 0
    assert json.loads(capsys.readouterr().out)["scores"][0]["parts"] == {"accuracy": 1.0}


@pytest.mark.parametrize("verb", ["rewards", "score texts.jsonl --reward accuracy"])
def test_output_that_cannot_be_written_is_one_line(tmp_path: Path, verb: str) -> None:
    """A limit on the size of files stands for a full disk."""
    (tmp_path / "texts.jsonl").write_text('{"answer": "red", "completions": ["<answer>red</answer>"]}\n')
    line = f"ulimit -f 0; {sys.executable} -m mmreason.cli {verb} > out"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == "mmreason: standard output: cannot be written (File too large)\n"
    assert done.returncode == 2


def test_score_fails_when_nothing_could_be_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.py").write_text("def fn(sample, text):\n    raise RuntimeError('broken')\n")
    (tmp_path / "texts.jsonl").write_text('{"id": "a", "answer": "red", "completions": ["red"]}\n')
    assert main(["score", str(tmp_path / "texts.jsonl"), "--reward", f"{tmp_path}/bad.py:fn"]) == 1
    assert "broken" in capsys.readouterr().err


@pytest.mark.parametrize("rewards", [[], ["--reward", "accuracy", "--config", "run.yaml"]])
def test_score_needs_rewards_from_one_place(rewards: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "texts.jsonl", *rewards]) == 2
    assert "give either --reward" in capsys.readouterr().err


def test_report_of_a_run_that_was_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "kind": "train", "time": 1.0, "loss": 0.5}\n{"step": 2, "ki')
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/report.html\n"
    assert f"<h1>{tmp_path.name}</h1>" in (tmp_path / "report.html").read_text()


def test_report_of_a_run_that_has_just_begun(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("run_dir: r\n")
    assert main(["report", str(tmp_path)]) == 0
    assert "nothing logged yet" in (tmp_path / "report.html").read_text()


def test_report_of_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert main(["report", str(tmp_path / "no")]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"mmreason: {tmp_path}: holds neither metrics.jsonl nor config.yaml; give the run_dir of a run",
        f"mmreason: {tmp_path}/no: is no folder; give the run_dir of a run",
    ]
    assert not list(tmp_path.iterdir())


def test_a_report_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("run_dir: r\n")
    (tmp_path / "report.html.partial").mkdir()
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"mmreason: {tmp_path}: the report cannot be written (Is a directory)\n"


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    line = f"{sys.executable} -m mmreason.cli rewards | true"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_score_and_leave_nothing_behind(tmp_path: Path, number: int, status: int) -> None:
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\n\ndef fn(sample, text):\n    pathlib.Path('started').touch()\n    time.sleep(25)\n"
    )
    (tmp_path / "texts.jsonl").write_text('{"id": "a", "answer": "red", "completions": ["red"]}\n')
    line = [sys.executable, "-m", "mmreason.cli", "score", "texts.jsonl", "--reward", "slow.py:fn", "--out", "o.jsonl"]
    pipe = subprocess.PIPE
    with subprocess.Popen(line, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "started").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, number)  # as a terminal does: to the command and its workers
        _, errors = process.communicate(timeout=30)
    assert process.returncode == status, errors
    assert "Traceback" not in errors
    assert not [path.name for path in tmp_path.iterdir() if "o.jsonl" in path.name]


@pytest.mark.parametrize("line", [["report", "x" * 300], ["score", "x" * 300, "--reward", "accuracy"]])
def test_names_that_no_file_can_have_are_one_line(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("mmreason: xxx")
    assert "File name too long" in error


def test_help_is_there_at_once() -> None:
    """Processor time: wall time depends on what else runs here."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "mmreason.cli", "--help"], capture_output=True, text=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "check" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5
