"""The quarantine file: once per sample, whole lines from several processes, a limit, and counts that survive."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mmreason.errors import DataError
from mmreason.processors.quarantine import Quarantine
from tests.media_files import cut, write_image


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_line_per_sample(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "run" / "quarantine.jsonl", 0.3)
    assert quarantine.add("a:1", "/d/ü.mp4", "truncated", "half of it")
    assert not quarantine.add("a:1", "/d/ü.mp4", "truncated")
    assert quarantine.add("a:2", "/d/b.mp4", "corrupt")
    assert "a:1" in quarantine
    assert "a:3" not in quarantine
    first, second = lines(quarantine.path)
    assert (first["id"], first["source"], first["reason"], first["detail"]) == (
        "a:1", "/d/ü.mp4", "truncated", "half of it")  # fmt: skip
    assert second["reason"] == "corrupt"


def test_limit(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "q.jsonl", 0.25)
    for number in range(19):  # all bad, but fewer than 20: no verdict yet
        quarantine.add(str(number), "x", "corrupt")
    with pytest.raises(DataError, match=r"20 of 20 samples tried \(100%\).*at most 25%"):
        quarantine.add("19", "x", "corrupt")


def test_limit_counts_good_samples(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "q.jsonl", 0.25)
    quarantine.tried(40)
    for number in range(10):
        quarantine.add(str(number), "x", "corrupt")  # 10 of 40 is the limit, not over it
    with pytest.raises(DataError, match="11 of 40"):
        quarantine.add("10", "x", "corrupt")
    with pytest.raises(DataError, match="11 of 41"):
        quarantine.tried(1)
    quarantine._tried = 0
    quarantine.tried(44)


def test_resume(tmp_path: Path) -> None:
    before = Quarantine(tmp_path / "q.jsonl", 0.5)
    before.tried(30)
    for number in range(10):
        before.add(str(number), "x", "corrupt")
    with (tmp_path / "q.jsonl").open("a") as file:
        file.write('{"id": "torn", "sou')  # killed while writing
    after = Quarantine(tmp_path / "q.jsonl", 0.5)
    assert after.bad == 10
    assert not after.add("3", "x", "corrupt")
    assert "torn" not in after
    assert b"torn" not in (tmp_path / "q.jsonl").read_bytes()
    for number in range(10, 15):
        after.add(str(number), "x", "corrupt")
    with pytest.raises(DataError, match="16 of 30"):
        after.add("15", "x", "corrupt")
    assert [line["id"] for line in lines(tmp_path / "q.jsonl")] == [str(number) for number in range(16)]


def test_ranks_count_and_know_their_own(tmp_path: Path) -> None:
    """As in a run that is not interrupted: what another rank finds in its own share, this one does not learn."""
    zero, one = (Quarantine(tmp_path / "q.jsonl", 0.5, rank) for rank in (0, 1))
    zero.add("a", "x", "corrupt")
    one.add("b", "x", "corrupt")
    again = Quarantine(tmp_path / "q.jsonl", 0.5, 1)
    assert again.bad == 1
    assert "b" in again
    assert "a" not in again


def full(path: Path, sources: list[Path]) -> None:
    """A quarantine over its limit, as the run that stopped left it."""
    quarantine = Quarantine(path, 0.3)
    quarantine.tried(22)  # of 22, six are allowed
    for number, source in enumerate(sources[:6]):
        quarantine.add(str(number), str(source), "missing")
    with pytest.raises(DataError, match="7 of 22"):
        quarantine.add("6", str(sources[6]), "missing")


def test_mended_files_are_tried_again(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(7)]
    for path in paths[:4]:
        cut(write_image(path), 0.5)
    full(tmp_path / "q.jsonl", paths)  # four are cut, three are not there
    with pytest.raises(DataError, match=r"mend the data.*or raise data\.max_bad_fraction"):
        Quarantine(tmp_path / "q.jsonl", 0.3).tried(1)
    for path in paths[1:]:
        write_image(path)
    again = Quarantine(tmp_path / "q.jsonl", 0.3)
    again.tried(20)
    assert again.bad == 1
    assert "0" in again
    assert [line["id"] for line in lines(tmp_path / "q.jsonl")] == ["0"]


def test_unchanged_files_and_rows_stay(tmp_path: Path) -> None:
    path = cut(write_image(tmp_path / "a.png"), 0.5)
    before = Quarantine(tmp_path / "q.jsonl", 0.3)
    before.add("a", str(path), "truncated")
    before.add("t.jsonl:7", "t.jsonl:7", "bad gold")
    before.add("bytes", "<image, 12 bytes>", "corrupt")
    content = (tmp_path / "q.jsonl").read_bytes()
    after = Quarantine(tmp_path / "q.jsonl", 0.3)
    assert all(name in after for name in ("a", "t.jsonl:7", "bytes"))
    assert (tmp_path / "q.jsonl").read_bytes() == content


@pytest.mark.parametrize("reason", ["timeout", "decoder crashed"])
def test_bad_luck_is_not_carried_over(tmp_path: Path, reason: str) -> None:
    path = write_image(tmp_path / "a.png")
    before = Quarantine(tmp_path / "q.jsonl", 0.3)
    before.add("a", str(path), reason)
    assert "a" in before
    assert "a" not in Quarantine(tmp_path / "q.jsonl", 0.3)


def test_what_was_noted_after_the_checkpoint_is_forgotten(tmp_path: Path) -> None:
    before = Quarantine(tmp_path / "q.jsonl", 1.0)
    for step in range(1, 5):
        before.step = step
        before.tried(10)
        before.add(str(step), "x", "corrupt")
    assert [line["step"] for line in lines(tmp_path / "q.jsonl")] == [1, 2, 3, 4]
    for rank, kept in ((1, 4), (0, 2)):  # only rank 0 rewrites
        resumed = Quarantine(tmp_path / "q.jsonl", 1.0, rank, until_step=2)
        assert len(lines(tmp_path / "q.jsonl")) == kept
    assert [name in resumed for name in "1234"] == [True, True, False, False]
    assert (resumed.bad, resumed._tried) == (2, 20)
    assert [path.name for path in tmp_path.iterdir()] == ["q.jsonl"]
    assert Quarantine(tmp_path / "q.jsonl", 1.0, until_step=0).bad == 0


def test_lines_of_an_older_version_stay(tmp_path: Path) -> None:
    old = {"id": "a", "source": str(tmp_path), "reason": "corrupt", "detail": "", "rank": 0, "tried": 3}
    (tmp_path / "q.jsonl").write_text(json.dumps(old) + "\n5\n{}\n")
    assert "a" in Quarantine(tmp_path / "q.jsonl", 0.3, until_step=0)


def test_a_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\x80.png")
    write_image(tmp_path / "a.png").rename(path)
    Quarantine(tmp_path / "q.jsonl", 0.3).add("a", path, "corrupt")
    assert lines(tmp_path / "q.jsonl")[0]["source"] == path
    assert "a" in Quarantine(tmp_path / "q.jsonl", 0.3)


def test_a_file_that_is_replaced_while_others_write(tmp_path: Path) -> None:
    one = Quarantine(tmp_path / "q.jsonl", 1.0, 1)
    one.add("a", "x", "timeout")
    with (tmp_path / "q.jsonl").open("rb") as old:
        Quarantine(tmp_path / "q.jsonl", 1.0, 0)  # takes the time-out away, in a new file
        one.add("b", "x", "corrupt")
        assert b"corrupt" not in old.read()
    assert [line["id"] for line in lines(tmp_path / "q.jsonl")] == ["b"]


def test_several_processes_write_whole_lines(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mmreason.processors.quarantine import Quarantine\n"
        "quarantine = Quarantine(Path(sys.argv[1]), 1.0)\n"
        "for number in range(200): quarantine.add(f'{sys.argv[2]}:{number}', 'x' * 500, 'corrupt')\n"
    )
    path = str(tmp_path / "q.jsonl")
    running = [subprocess.Popen([sys.executable, "-c", code, path, str(rank)]) for rank in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert len({line["id"] for line in lines(tmp_path / "q.jsonl")}) == 600


def test_a_full_disk_costs_the_line_and_not_the_run(
    small_disk: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    disk = small_disk("64k")
    quarantine = Quarantine(disk / "quarantine.jsonl", 0.5)
    with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    assert quarantine.add("a", "/d/a.mp4", "corrupt")
    assert "a" in quarantine
    assert "line not written: No space left on device" in capsys.readouterr().err
