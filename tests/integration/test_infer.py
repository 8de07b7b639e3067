"""`mmreason infer` with the decode loop: one row for every file of a folder, whatever it is; kills; archives."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mmreason
from mmreason.cli import main
from mmreason.data import sample_from_row
from mmreason.errors import ConfigError
from tests.media_files import clip, cut, picture, tone, write_audio, write_image, write_video

pytestmark = pytest.mark.xdist_group("infer")  # they share the folder and its rows

SMALL = [
    *("media.image_min_pixels=784", "media.image_max_pixels=3136", "media.video_min_pixels=784"),
    *("media.video_max_pixels=3136", "media.video_max_frames=4", "rollout.max_rows=8"),
]
OPTIONS: dict[str, Any] = {"prompt": "What is {name}?", "max_new_tokens": 6, "engine": "hf"}


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 files in sub-folders with odd names: 38 media, 2 of them broken and 3 wrongly named, and 2 that are none."""
    root = tmp_path_factory.mktemp("media")
    for number in range(20):
        folder = root / ("ünï côde" if number % 2 else "plain/deep")
        folder.mkdir(parents=True, exist_ok=True)
        write_image(folder / f"{number}.png", picture(56, 56, number))
    for number in range(8):
        write_video(root / f"{number} clip.mp4", clip(8))
    for number in range(5):
        write_audio(root / f"{number}.wav", tone(0.3))
    write_image(root / "really a picture.mp4", picture(56, 56), format="PNG")
    write_audio(root / "sound.wav", tone(0.3)).rename(root / "really_a_sound.png")
    write_video(root / "film.mp4", clip(8)).rename(root / "no ending")
    cut(write_image(root / "cut.jpg", picture(320, 240)), 0.6)
    (root / "page.jpg").write_text("<!DOCTYPE html>")
    (root / "README.txt").write_text("no media")
    (root / "notes.json").write_text("{}")
    return root


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    """Rows by id; every id stands there once."""
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    found = {row["id"]: row for row in rows}
    assert len(found) == len(rows), "an id stands twice"
    return found


def files_of(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()} - {"README.txt", "notes.json"}


def without_time(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "seconds"}


@pytest.fixture(scope="module")
def whole(media: Path, tiny_omni: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows of the folder."""
    out = tmp_path_factory.mktemp("whole") / "r.jsonl"
    found = mmreason.infer(media, *SMALL, model=tiny_omni, out=out, **OPTIONS)
    assert (found.answered, found.errors, found.skipped) == (36, 2, 2)
    return out


def test_every_file_has_one_row_that_is_a_sample(whole: Path, media: Path) -> None:
    rows = rows_of(whole)
    assert set(rows) == files_of(media)
    assert {id for id, row in rows.items() if row["status"] == "error"} == {"cut.jpg", "page.jpg"}
    assert rows["page.jpg"]["reason"] == "wrong type (the content is no media)"
    assert rows["cut.jpg"]["reason"].startswith("truncated")
    kinds = {id: row["messages"][0]["content"][0]["type"] for id, row in rows.items()}
    assert (kinds["really a picture.mp4"], kinds["really_a_sound.png"], kinds["no ending"]) == (
        "image",
        "audio",
        "video",
    )
    assert len({row["settings"] for row in rows.values()}) == 1
    for id, row in rows.items():
        native = {key: row[key] for key in ("id", "messages", "source")}
        sample = sample_from_row(native, "r.jsonl:1", media)
        assert sample.media[0].path == str((media / id).resolve())
        assert sample.messages[0].content[1] == f"What is {Path(id).name}?"
        if row["status"] == "ok":
            assert 0 < row["tokens"] <= 6
            assert row["seconds"] > 0
            assert row["prompt_tokens"] > 10


def test_nothing_is_asked_twice_and_other_settings_are_refused(whole: Path, media: Path, tiny_omni: Path) -> None:
    before = whole.read_bytes()
    started = time.perf_counter()
    found = mmreason.infer(media, *SMALL, model=tiny_omni, out=whole, **OPTIONS)
    assert time.perf_counter() - started < 5, "no model is needed"
    assert (found.made, found.answered, found.errors) == (0, 36, 2)
    assert whole.read_bytes() == before
    with pytest.raises(ConfigError, match=r"other settings \(max_new_tokens, prompt\)"):
        mmreason.infer(media, *SMALL, model=tiny_omni, out=whole, prompt="Why?", max_new_tokens=5)


def test_a_gallery_is_made_of_finished_rows(
    whole: Path, media: Path, tiny_omni: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "g.html"
    found = mmreason.infer(media, *SMALL, model=tiny_omni, out=whole, gallery=page, **OPTIONS)
    assert found.made == 0
    assert "g.html: 38 items, 2 media without a picture" in capsys.readouterr().err
    html = page.read_text(encoding="utf-8")
    assert html.count('class="item"') == 38
    assert "truncated" in html
    assert "really a picture.mp4" in html


def test_what_an_archive_and_a_list_hold_is_answered_alike(
    whole: Path, media: Path, tiny_omni: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = ["ünï côde/1.png", "plain/deep/2.png", "0 clip.mp4", "1.wav", "really_a_sound.png", "cut.jpg"]
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        for name in chosen:
            archive.write(media / name, name)
        archive.writestr("../up.png", b"")
        archive.writestr("words.txt", "no media")
    (tmp_path / "list.txt").write_text("\n".join([*chosen, "README.txt", "gone.png"]))
    packed = mmreason.infer(tmp_path / "m.zip", *SMALL, model=tiny_omni, out=tmp_path / "z.jsonl", **OPTIONS)
    assert (packed.answered, packed.errors, packed.skipped) == (5, 2, 1)
    rows, members = rows_of(whole), rows_of(tmp_path / "z.jsonl")
    assert members.pop("../up.png")["reason"] == "its name leads out of the archive"
    listed = mmreason.infer(
        tmp_path / "list.txt", *SMALL, model=tiny_omni, out=tmp_path / "l.jsonl", root=media, **OPTIONS
    )
    assert (listed.answered, listed.errors, listed.skipped) == (5, 3, 0)
    lines = rows_of(tmp_path / "l.jsonl")
    assert lines.pop("README.txt")["reason"] == "wrong type (the content is no media)"
    assert lines.pop("gone.png")["reason"] == "missing"
    for found in (members, lines):
        assert set(found) == set(chosen)
        for name in chosen:
            assert (found[name]["text"], found[name]["messages"]) == (rows[name]["text"], rows[name]["messages"])


def test_a_folder_per_item_and_rows_with_prompts(media: Path, tiny_omni: Path, tmp_path: Path) -> None:
    root = tmp_path / "items"
    for name in ("one/a.png", "one/b.png", "two/c.png", "two/d.wav", "bad/e.png", "bad/f.png", "none/g.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        source = {"d.wav": "1.wav", "f.png": "page.jpg", "g.txt": "README.txt"}.get(Path(name).name)
        shutil.copy(media / (source or "ünï côde/1.png"), root / name)
    mmreason.infer(root, *SMALL, model=tiny_omni, out=tmp_path / "f.csv", item="folder", **OPTIONS)
    rows = rows_of(tmp_path / "f.csv.jsonl")
    assert {id: row["status"] for id, row in rows.items()} == {"one": "ok", "two": "ok", "bad": "error"}
    assert rows["bad"]["reason"] == "bad/f.png: wrong type (the content is no media)"
    assert [part["type"] for part in rows["two"]["messages"][0]["content"]] == ["image", "audio", "text"]
    assert rows["one"]["messages"][0]["content"][2]["text"] == "What is a.png, b.png?"
    assert len((tmp_path / "f.csv").read_text().splitlines()) == 4

    image = {"type": "image", "image": "one/a.png"}
    asked = [
        {
            "id": "own",
            "messages": [{"role": "user", "content": [image, {"type": "text", "text": "How?"}]}],
            "answer": "x",
        },
        {"id": "filled", "messages": [{"role": "user", "content": [image]}], "meta": {"q": "Who?"}},
        {"id": "lacks", "messages": [{"role": "user", "content": [image]}]},
        {"id": "text", "messages": [{"role": "user", "content": "2+3?"}]},
        {"id": "bad"},
    ]
    (root / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    found = mmreason.infer(
        root / "q.jsonl", *SMALL, model=tiny_omni, out=tmp_path / "q.jsonl", prompt="{meta.q}", max_new_tokens=3,
        engine="hf", n=3, temperature=1.0, rewards=["accuracy"],
    )  # fmt: skip
    rows = rows_of(tmp_path / "q.jsonl")
    assert (found.answered, found.errors) == (3, 2)
    assert rows["filled"]["messages"][0]["content"][1]["text"] == "Who?"
    assert rows["own"]["messages"][0]["content"][1]["text"] == "How?"
    assert "no {meta.q}" in rows["lacks"]["reason"]
    assert "messages: missing or empty" in rows["q.jsonl:5"]["reason"]
    assert len(rows["text"]["answers"]) == 3
    assert (rows["own"]["answer"], rows["own"]["score"]["total"]) == ("x", 0.0)
    assert "gold" in rows["text"]["score"]["error"]


def test_errors_are_asked_again_and_what_is_too_long_is_one(
    tiny_omni: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "media", tmp_path / "r.jsonl"
    root.mkdir()
    write_image(root / "a.png", picture(56, 56))
    (root / "b.jpg").write_text("<html>")
    asked: dict[str, Any] = {**OPTIONS, "prompt": "{extension}, {size} bytes", "max_new_tokens": 2}
    first = mmreason.infer(root, *SMALL, model=tiny_omni, out=out, **asked)
    assert (first.answered, first.errors) == (1, 1)
    assert rows_of(out)["b.jpg"]["messages"][0]["content"][1]["text"] == "jpg, 6 bytes"
    write_image(root / "b.jpg", picture(56, 56))
    again = mmreason.infer(root, *SMALL, model=tiny_omni, out=out, retry_errors=True, **asked)
    assert (again.answered, again.errors, again.made) == (2, 0, 1)
    assert "infer: 2/2 files" in capsys.readouterr().err
    assert {id: row["status"] for id, row in rows_of(out).items()} == {"a.png": "ok", "b.jpg": "ok"}
    asked["max_new_tokens"] = 10**6
    long = mmreason.infer(root, *SMALL, model=tiny_omni, out=tmp_path / "long.jsonl", **asked)
    assert (long.answered, long.errors) == (0, 2)
    assert "1000000 for its answer are more than the" in rows_of(tmp_path / "long.jsonl")["a.png"]["reason"]


def test_killed_and_stopped_there_is_no_hole_and_no_double(
    whole: Path, media: Path, tiny_omni: Path, tmp_path: Path
) -> None:
    out = tmp_path / "r.jsonl"
    line = [sys.executable, "-m", "mmreason.cli", "infer", str(media), "--model", str(tiny_omni), "--out", str(out)]
    line += [
        "--engine",
        "hf",
        "--prompt",
        OPTIONS["prompt"],
        "--max-new-tokens",
        "6",
        *SMALL[:-1],
        "rollout.max_rows=2",
    ]

    def start_until(count: int, number: signal.Signals) -> subprocess.Popen[str]:
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wait_for(lambda: out.exists() and out.read_bytes().count(b"\n") >= count, process)
        process.send_signal(number)
        process.communicate(timeout=30)
        return process

    start_until(3, signal.SIGKILL)
    with out.open("ab") as torn:
        torn.write(b'{"id": "half')
    stopped = start_until(10, signal.SIGTERM)
    assert stopped.returncode == 143
    assert out.read_bytes().endswith(b"\n")
    assert len(rows_of(out)) < 38
    assert main(line[3:]) == 0
    rows, expected = rows_of(out), rows_of(whole)
    assert set(rows) == set(expected)
    for id, row in rows.items():
        assert row["text"] == expected[id]["text"]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_mistakes_are_one_line(media: Path, tiny_vl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "r.jsonl")
    base = ["infer", str(media), "--model", str(tiny_vl), "--out", out]
    for arguments, message in [
        (base, "--prompt: missing; say what to ask about each item"),
        ([*base, "--prompt", "{nam}"], "--prompt: {nam}: no such field; did you mean 'name'?"),
        ([*base, "--prompt", "?", "--n", "0"], "--n 0: expected 1 or more"),
        ([*base, "--prompt", "?", "--shard", "3/2"], "--shard 3/2: expected i/n with i from 1 to n"),
        ([*base, "--prompt", "?", "--top-p", "2"], "top_p 2.0: expected more than 0 and at most 1"),
        ([*base, "--prompt", "?", "--n", "2", "--temperature", "0"], "all answers would be the same"),
        ([*base, "--prompt", "?", "--reward", "acuracy"], "acuracy"),
        ([*base, "--prompt", "?", "media.fps=2"], "media.fps: unknown key"),
        ([*base, "--prompt", "?", "--gallery", str(media / "cut.jpg" / "g.html")], "g.html: cannot be written"),
        ([*base, "--prompt", "?", "--overwrite", "--retry-errors"], "exclude each other"),
        (["infer", "no/where", *base[2:], "--prompt", "?"], "no/where: there is no such file or folder"),
        ([*base[:2], "--model", str(tmp_path / "none"), "--out", out, "--prompt", "?"], "none"),
    ]:
        assert main(arguments) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mmreason: ")]
        assert message in line
    assert not Path(out).exists() or not Path(out).read_bytes()
