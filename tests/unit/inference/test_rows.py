"""Rows of batch inference, and the file that they are in."""

from __future__ import annotations

import csv
import json
import math
import os
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from mmreason.config import DataSource
from mmreason.data import load_samples, sample_from_row
from mmreason.errors import ConfigError, DataError
from mmreason.inference.outfile import OutFile, rows_file, settings_file
from mmreason.inference.rows import Answer, answer_of, answered, described, failed, majority
from mmreason.types import MediaRef, Message, Sample, Score

SETTINGS: dict[str, Any] = {"model": "m", "n": 1}


def sample(**fields: Any) -> Sample:
    image = MediaRef(kind="image", path="/d/b/7.png", options={"max_pixels": 784})
    clip = MediaRef(kind="video", path="/d/b/8.mp4", sound=True)
    message = Message(role="user", content=(image, clip, "Which bird?"))
    return Sample(id="b/7.png", messages=(message,), **fields)


def row(id: str, settings: str, **fields: Any) -> dict[str, Any]:
    stamp = {"source": "d", "model": "m", "engine": "hf", "settings": settings}
    answers = [answer_of("<think>two eyes</think><answer>owl</answer>", 7, False)]
    return {**answered(described(id, None, (), stamp), answers, prompt_tokens=9, seconds=0.5), **fields}


def test_an_answer_is_taken_apart() -> None:
    found = answer_of("<think>a</think><answer>x</answer> <answer> owl </answer>", 5, True)
    assert (found.thinking, found.parsed, found.tokens, found.truncated) == ("a", "owl", 5, True)
    assert answer_of("owl", 1, False).parsed is None
    assert answer_of("<t>b</t><a>c</a>", 1, False, ("t", "a")).thinking == "b"


@pytest.mark.parametrize(
    ("votes", "expected"),
    [([0], (0, 1)), ([0, 1, None, 1], (1, 2)), ([0, 1], (0, 1)), ([None, 1, 2, 1, 2], (1, 2)), ([None, None], (0, 0))],
)
def test_most_votes_win_and_the_first_of_equals(votes: list[int | None], expected: tuple[int, int]) -> None:
    assert majority(votes) == expected


def test_a_row_is_a_sample_with_its_answer() -> None:
    stamp = {"source": "d", "model": "m", "engine": "hf", "settings": "s"}
    base = described("b/7.png", sample(answer="owl", task="mcq", meta={"x": 1}), ["b/7.png", "b/8.mp4"], stamp)
    made = answered(base, [answer_of("<answer>owl</answer>", 7, False)], prompt_tokens=9, seconds=0.12345)
    assert list(made)[:2] == ["id", "messages"]
    assert made["messages"][0]["content"][:2] == [
        {"type": "image", "image": "b/7.png", "max_pixels": 784},
        {"type": "video", "video": "b/8.mp4", "sound": True},
    ]
    native = {key: made[key] for key in ("id", "messages", "answer", "task", "meta", "source")}
    again = sample_from_row(native, "r.jsonl:1", Path("/d"))
    assert [ref.path for ref in again.media] == ["/d/b/7.png", "/d/b/8.mp4"]
    assert (again.answer, again.task, again.meta) == ("owl", "mcq", {"x": 1})
    assert (made["status"], made["parsed"], made["seconds"], made["tokens"]) == ("ok", "owl", 0.123, 7)
    assert "answers" not in made
    assert "options" not in made


def test_several_answers_show_the_majority_and_a_score() -> None:
    answers = [Answer(text=text, tokens=2, vote=vote) for text, vote in (("a", 0), ("b", 1), ("b", 1))]
    scores = [Score(total=None, error="hung"), Score(total=0.5, parts={"iou": 0.5}), Score(total=0.0)]
    made = answered({"id": "x"}, answers, prompt_tokens=1, seconds=1, scores=scores)
    assert (made["text"], made["votes"], made["tokens"], len(made["answers"])) == ("b", 2, 6, 3)
    assert made["score"] == {"total": 0.5, "parts": {"iou": 0.5}, "error": None}
    assert [answer["score"] for answer in made["answers"]] == [None, 0.5, 0.0]
    lost = failed({"id": "x"}, "corrupt\n  (no header)")
    assert (lost["status"], lost["reason"], lost["text"]) == ("error", "corrupt (no header)", None)
    assert set(made) - set(lost) == {"answers", "votes", "score"}


def test_a_torn_line_is_cut_and_the_file_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "new" / "r.jsonl"
    with OutFile(out, SETTINGS, "/d") as file:
        file.append(row("ä.png", file.hash))
        file.append(failed({"id": "b", "settings": file.hash}, "empty"))
    whole = out.read_bytes()
    with out.open("ab") as stream:
        stream.write(b'{"id": "half' + b"x" * 100_000)
    with OutFile(out, SETTINGS, "/d") as file:
        assert out.read_bytes() == whole
        assert file.done == {"ä.png", "b"}
        assert dict(file.counts) == {"ok": 1, "error": 1}
        file.append(row("c", file.hash))
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["ä.png", "b", "c"]
    assert json.loads(settings_file(out).read_text())["root"] == "/d"
    out.write_bytes(b'{"id": "nothing whole')
    with OutFile(out, SETTINGS, "/d") as file:
        assert not file.done
        assert out.read_bytes() == b""


def test_errors_are_asked_again_and_their_rows_replaced(tmp_path: Path) -> None:
    out = tmp_path / "r.parquet"
    with OutFile(out, SETTINGS, "/d") as file:
        file.append(row("a", file.hash))
        for id in "bcd":
            file.append(failed({"id": id, "settings": file.hash}, "gone"))
    with OutFile(out, SETTINGS, "/d", retry_errors=True) as file:
        assert (file.done, dict(file.counts)) == ({"a"}, {"ok": 1, "error": 3})
        file.append(row("c", file.hash))
        file.append(failed({"id": "b", "settings": file.hash}, "still gone"))
        assert (file.done, dict(file.counts)) == ({"a", "b", "c"}, {"ok": 2, "error": 2})
    assert len(rows_file(out).read_bytes().splitlines()) == 6, "killed before the end: nothing is lost"
    with OutFile(out, SETTINGS, "/d") as file:
        assert (file.done, dict(file.counts)) == (set("abcd"), {"ok": 2, "error": 2})
        assert [json.loads(line)["id"] for line in file.rows.read_text().splitlines()] == ["a", "d", "c", "b"]
        with pytest.raises(ConfigError, match="another run is writing it"):
            OutFile(out, SETTINGS, "/d")
    with OutFile(out, SETTINGS, "/d", retry_errors=True) as file:
        file.append(row("d", file.hash))
        file.finish()
        file.append(row("e", file.hash))
    rows = [json.loads(line) for line in rows_file(out).read_text().splitlines()]
    assert {row["id"]: row["reason"] for row in rows} == {"a": None, "c": None, "b": "still gone", "d": None, "e": None}
    assert len(rows) == 5
    assert parquet.read_table(out).column("id").to_pylist() == ["a", "c", "b", "d"]


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    with OutFile(out, SETTINGS, "/d") as file:
        file.append(row("a", file.hash))
    with pytest.raises(ConfigError, match=r"other settings \(n, prompt\); choose another --out, or --overwrite"):
        OutFile(out, {**SETTINGS, "n": 2, "prompt": "p"}, "/d")
    assert out.read_bytes().count(b"\n") == 1
    with OutFile(out, {**SETTINGS, "n": 2}, "/d", overwrite=True) as file:
        assert not file.done
    out.write_text("[]\n")
    with pytest.raises(DataError, match=r"r\.jsonl:1: is no row"):
        OutFile(out, SETTINGS, "/d")
    with pytest.raises(ConfigError, match=r"ends in \.jsonl, \.parquet, \.csv"):
        OutFile(tmp_path / "r.txt", SETTINGS, "/d")
    (tmp_path / "taken").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        OutFile(tmp_path / "taken" / "r.jsonl", SETTINGS, "/d")


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_tables_are_made_from_the_rows(tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"r.{ending}"
    with OutFile(out, SETTINGS, "/d") as file:
        file.append(row('a,"b"\n', file.hash, votes=2, meta={"k": [1, "ü"]}))
        file.append(failed({"id": "c", "messages": [], "settings": file.hash}, "empty"))
        assert not out.exists()
        file.finish()
    assert rows_file(out).exists()
    if ending == "parquet":
        rows = parquet.read_table(out).to_pylist()
        assert (rows[0]["votes"], rows[0]["truncated"], rows[1]["text"]) == (2, False, None)
    else:
        with out.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert (rows[0]["votes"], rows[1]["text"]) == ("2", "")
    assert [row["id"] for row in rows] == ['a,"b"\n', "c"]
    assert json.loads(rows[0]["meta"]) == {"k": [1, "ü"]}
    with OutFile(out, SETTINGS, "/d") as file:
        assert file.done == {'a,"b"\n', "c"}


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_answers_are_training_data(tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"r.{ending}"
    stamp = {"source": "d", "model": "m", "engine": "hf"}
    answers = [answer_of("<answer>owl</answer>", 7, False)]
    asked = sample(answer="5", options=("5", "6"), meta={"k": 1})
    with OutFile(out, SETTINGS, "/d") as file:
        base = described("b/7.png", asked, ["b/7.png", "b/8.mp4"], {**stamp, "settings": file.hash})
        file.append(answered(base, answers, prompt_tokens=9, seconds=0.5))
        file.append(failed({**base, "id": "bad"}, "empty"))
        file.finish()
    (found,) = load_samples(DataSource(path=str(out)), media_root=str(tmp_path))
    assert found.demos == ("<answer>owl</answer>",)
    assert (found.id, found.answer, found.options, found.source) == ("b/7.png", "5", ("5", "6"), "d")
    assert [ref.path for ref in found.media] == [str(tmp_path / "b/7.png"), str(tmp_path / "b/8.mp4")]
    assert (found.meta["k"], found.meta["parsed"], found.meta["model"]) == (1, "owl", "m")


def test_files_that_are_not_ours_are_left_as_they_are(tmp_path: Path) -> None:
    for name, content in {"a.jsonl": '{"a": 1}\n{"b": 2}', "b.jsonl": '{"id": "mine"}', "c.csv": "by,hand\n"}.items():
        file = tmp_path / name
        file.write_text(content)
        with pytest.raises((ConfigError, DataError), match="of `mmreason infer`"):
            OutFile(file, SETTINGS, "/d")
        assert file.read_text() == content
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(DataError, match="not a regular file"):
        OutFile(tmp_path / "pipe.jsonl", SETTINGS, "/d")


def test_one_run_at_a_time_writes_a_file(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    with OutFile(out, SETTINGS, "/d") as file:
        file.append(row("z", file.hash))
        for overwrite in (False, True):
            with pytest.raises(ConfigError, match="another run is writing it"):
                OutFile(out, SETTINGS, "/d", overwrite=overwrite)
        assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["z"]
    OutFile(out, SETTINGS, "/d", overwrite=True).close()
    assert out.read_text() == ""
    with OutFile(out, SETTINGS, "/d") as file:
        file.append(row("a", file.hash))
    with pytest.raises(ConfigError, match="other settings"):
        OutFile(out, {}, "/d")
    OutFile(out, SETTINGS, "/d").close()


def test_metadata_of_any_table_is_json(tmp_path: Path) -> None:
    meta = {"when": date(2020, 1, 2), "size": math.nan, "deep": [{"x": Decimal("1.5")}, 2, None, True]}
    described_row = described("a", sample(meta=meta), ["b/7.png", "b/8.mp4"], {"settings": "s"})
    again = json.loads(json.dumps(described_row, allow_nan=False))
    assert again["meta"] == {"when": "2020-01-02", "size": None, "deep": [{"x": "1.5"}, 2, None, True]}


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_half_characters_do_not_lose_a_table(tmp_path: Path, ending: str) -> None:
    with OutFile(tmp_path / f"r.{ending}", SETTINGS, "/d") as file:
        file.append(row("a", file.hash, text="x\ud800", meta={"k": "\ud800"}))
        file.finish()
    assert b"x\\ud800" in file.out.read_bytes()


def test_a_full_disk_leaves_whole_rows(tmp_path: Path, small_disk: Any) -> None:
    disk = small_disk("64k")
    with OutFile(disk / "r.jsonl", SETTINGS, "/d") as file:
        file.append(row("a", file.hash, text="x" * 40_000))
        with pytest.raises(DataError, match=r"No space left"):
            file.append(row("b", file.hash, text="x" * 40_000))
        lines = (disk / "r.jsonl").read_bytes()
        assert lines.endswith(b"\n")
        assert all(json.loads(line) for line in lines.splitlines())
