import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from mmreason.config import RewardConfig, ScoringConfig
from mmreason.errors import ConfigError, DataError, RewardError
from mmreason.scoring import score_file

REWARDS = [RewardConfig(name="accuracy"), RewardConfig(name="format", weight=0.1)]
GOOD, BARE, WRONG = "<think>a</think><answer>5.0</answer>", "<answer>5</answer>", "<think>a</think><answer>6</answer>"


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def row(**fields: Any) -> dict[str, Any]:
    return {"answer": "5", "task": "numeric", "completions": [GOOD], **fields}


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_scores_per_line_and_completion(tmp_path: Path) -> None:
    message = {"role": "user", "content": [{"type": "image", "image": "not_there.png"}, {"type": "text", "text": "?"}]}
    source = write(
        tmp_path / "c.jsonl",
        row(id="q1", completions=[GOOD, BARE, WRONG], messages=[message]),
        "",
        row(answer="abc"),
        row(completions=[]),
    )
    summary = score_file(source, REWARDS, tmp_path / "out.jsonl")
    first, second, third = read(tmp_path / "out.jsonl")
    assert first == {
        "id": "q1",
        "scores": [
            {"total": 1.1, "parts": {"accuracy": 1.0, "format": 1.0}, "error": None},
            {"total": 1.0, "parts": {"accuracy": 1.0, "format": 0.0}, "error": None},
            {"total": 0.1, "parts": {"accuracy": 0.0, "format": 1.0}, "error": None},
        ],
    }
    assert second["id"] == "c.jsonl:3"
    assert second["scores"][0]["total"] is None
    assert "the gold answer 'abc' cannot be scored" in second["scores"][0]["error"]
    assert third == {"id": "c.jsonl:4", "scores": []}
    assert (summary.lines, summary.completions, summary.failed) == (3, 4, 1)
    assert summary.errors == {"accuracy": 1}
    assert summary.means["total"] == pytest.approx((1.1 + 1.0 + 0.1) / 3)
    assert summary.means["format"] == pytest.approx(3 / 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.jsonl", "out.jsonl"]


def test_tasks_and_gates_of_a_config(tmp_path: Path) -> None:
    gated = RewardConfig(name="format", gate="accuracy", tasks=("numeric",))
    source = write(tmp_path / "c.jsonl", row(completions=[GOOD, WRONG]), row(answer="5.0", task="exact"))
    summary = score_file(source, [gated, RewardConfig(name="accuracy")], tmp_path / "out.jsonl")
    numeric, exact = read(tmp_path / "out.jsonl")
    assert [score["total"] for score in numeric["scores"]] == [2.0, 0.0]
    assert exact["scores"] == [{"total": 1.0, "parts": {"accuracy": 1.0}, "error": None}]
    assert summary.means["format"] == 0.5


def test_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score_file(write(tmp_path / "c.jsonl", row(id=7)), REWARDS)
    assert json.loads(capsys.readouterr().out)["id"] == "7"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", r"c.jsonl:2: not a JSON object"),
        ("[1]", r"c.jsonl:2: not an object"),
        (row(completions="text"), r"c.jsonl:2: completions: expected a list of texts, got 'text'"),
        ({"answer": "5"}, r"c.jsonl:2: completions: expected a list of texts, got nothing"),
        (row(completions=[None]), r"c.jsonl:2: completions"),
        (row(anwser="5"), r"c.jsonl:2: unknown key 'anwser'; did you mean 'answer'"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_written(tmp_path: Path, bad: Any, message: str) -> None:
    source = write(tmp_path / "c.jsonl", row(), bad)
    with pytest.raises(DataError, match=message):
        score_file(source, REWARDS, tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["c.jsonl"]


def test_a_bad_last_line_is_found_before_the_first_is_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "c.jsonl", *[row()] * 300, "{")
    with pytest.raises(DataError, match=r"c\.jsonl:301"):
        score_file(source, REWARDS[:1])
    assert capsys.readouterr().out == ""


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        score_file(tmp_path / "none.jsonl", REWARDS)
    source = write(tmp_path / "c.jsonl", row())
    with pytest.raises(DataError, match="cannot be written"):
        score_file(source, REWARDS, tmp_path / "no" / "folder.jsonl")
    with pytest.raises(DataError, match="is the input file itself"):
        score_file(source, REWARDS, source)
    assert read(source) == [row()]


def test_a_reward_that_cannot_be_loaded(tmp_path: Path) -> None:
    source = write(tmp_path / "c.jsonl", row())
    with pytest.raises(ConfigError, match="unknown option"):
        score_file(source, [RewardConfig(name="format", options={"varaint": "cosmos"})], tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_stop_on_error_leaves_no_half_file(tmp_path: Path) -> None:
    source = write(tmp_path / "c.jsonl", row(), row(answer="abc"))
    with pytest.raises(RewardError, match="abc"):
        score_file(source, REWARDS, tmp_path / "out.jsonl", ScoringConfig(on_error="stop"))
    assert [path.name for path in tmp_path.iterdir()] == ["c.jsonl"]


def test_more_lines_than_are_held_at_once(tmp_path: Path) -> None:
    source = write(tmp_path / "c.jsonl", *[row(id=index, answer=str(index)) for index in range(600)])
    score_file(source, REWARDS[:1], tmp_path / "out.jsonl")
    lines = read(tmp_path / "out.jsonl")
    assert [line["id"] for line in lines] == [str(index) for index in range(600)]
    assert [line["scores"][0]["total"] for line in lines] == [float(index == 5) for index in range(600)]


def test_a_pipe_is_written_and_not_replaced(tmp_path: Path) -> None:
    source, pipe = write(tmp_path / "c.jsonl", row(id="q1"), row(id="q2")), tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        try:
            score_file(source, REWARDS[:1], pipe)
            assert stat.S_ISFIFO(pipe.stat().st_mode)
            assert [json.loads(line)["id"] for line in reader.stdout] == ["q1", "q2"]
        finally:
            reader.kill()  # it would wait for ever on a pipe that is gone


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_followed_and_stays_a_link(tmp_path: Path, exists: bool) -> None:
    source, target, link = write(tmp_path / "c.jsonl", row(id="q1")), tmp_path / "target", tmp_path / "link"
    if exists:
        target.write_text("of before\n")
    link.symlink_to(target)
    score_file(source, REWARDS[:1], link)
    assert link.is_symlink()
    assert [line["id"] for line in read(target)] == ["q1"]


def test_a_file_keeps_its_content_until_all_is_written(tmp_path: Path) -> None:
    source, out = write(tmp_path / "c.jsonl", row(), row(answer="abc")), tmp_path / "out.jsonl"
    out.write_text("of before\n")
    with pytest.raises(RewardError):
        score_file(source, REWARDS, out, ScoringConfig(on_error="stop"))
    assert out.read_text() == "of before\n"


def feed(pipe: Path, *rows: Any) -> threading.Thread:
    """Write rows into a pipe as soon as somebody reads it."""
    os.mkfifo(pipe)
    writer = threading.Thread(target=write, args=(pipe, *rows), daemon=True)
    writer.start()
    return writer


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    writer = feed(pipe, row(), row(id="q2"))
    summary = score_file(pipe, REWARDS[:1], tmp_path / "out.jsonl")
    writer.join(timeout=10)
    assert summary.lines == 2
    assert [line["id"] for line in read(tmp_path / "out.jsonl")] == ["pipe:1", "q2"]


@pytest.mark.parametrize("bad", ["{", "[1]", row(anwser="5")])
def test_a_bad_line_of_a_pipe_is_named_after_the_pipe(tmp_path: Path, bad: Any) -> None:
    pipe = tmp_path / "pipe"
    writer = feed(pipe, row(), bad)
    with pytest.raises(DataError, match=f"^{pipe}:2: "):
        score_file(pipe, REWARDS[:1], tmp_path / "out.jsonl")
    writer.join(timeout=10)


@pytest.mark.parametrize("out", [".", "..", ""])
def test_a_folder_is_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="is a folder; give --out the name of a file"):
        score_file(write(tmp_path / "c.jsonl", row()), REWARDS[:1], out)


SHOWS_PATHS = """
def first(sample, text):
    return {"total": float(sample.media[0].path == sample.answer)}
"""


@pytest.mark.parametrize("item", [{"image": "../b.png"}, {"path": "/b.png"}, {"url": "file:///b.png"}])
def test_media_paths_are_not_checked_without_a_root(tmp_path: Path, item: dict[str, str]) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (tmp_path / "plugin.py").write_text(SHOWS_PATHS)
    meant = str(tmp_path.resolve() / "b.png") if "image" in item else "/b.png"
    message = {"role": "user", "content": [{"type": "image", **item}, {"type": "text", "text": "a/b?"}]}
    source = write(folder / "c.jsonl", row(answer=meant, messages=[message]))
    score_file(source, [RewardConfig(name=f"{tmp_path / 'plugin.py'}:first")], tmp_path / "out.jsonl")
    assert read(tmp_path / "out.jsonl")[0]["scores"][0]["total"] == 1.0
    with pytest.raises(DataError, match="outside the media root"):
        score_file(source, REWARDS, tmp_path / "out.jsonl", media_root=folder)


def test_names_that_no_file_can_have_are_one_line(tmp_path: Path) -> None:
    long = "x" * 300
    with pytest.raises(DataError, match="File name too long"):
        score_file(tmp_path / long, [RewardConfig(name="accuracy")])
    (tmp_path / "in.jsonl").write_text('{"answer": "5", "completions": ["5"]}\n')
    with pytest.raises(DataError, match=r"cannot be written \(File name too long\)"):
        score_file(tmp_path / "in.jsonl", [RewardConfig(name="accuracy")], tmp_path / long)


def test_only_what_goes_wrong_with_the_output_is_blamed_on_it(tmp_path: Path) -> None:
    """A worker that cannot be started is no fault of the file that is written."""
    (tmp_path / "in.jsonl").write_text('{"answer": "5", "completions": ["5"]}\n' * 3)
    (tmp_path / "mean.py").write_text(
        "import os, resource\n\n"
        "def fn(sample, text):\n"
        "    resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (3, 3))\n"
        "    os._exit(3)\n"
    )
    line = [sys.executable, "-m", "mmreason.cli", "score", "in.jsonl", "--reward", "mean.py:fn", "--out", "out.jsonl"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert "out.jsonl: cannot be written" not in done.stderr
    assert "Too many open files" in done.stderr
    assert not (tmp_path / "out.jsonl").exists()
    assert len([file for file in tmp_path.iterdir() if file.is_file()]) == 2, "no half-written file"
