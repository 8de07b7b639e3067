"""The quarantine file: once per sample, whole lines from several processes, a limit, and counts that survive."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mmreason.errors import DataError
from mmreason.processors.quarantine import Quarantine


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
    for number in range(10, 15):
        after.add(str(number), "x", "corrupt")
    with pytest.raises(DataError, match="16 of 30"):
        after.add("15", "x", "corrupt")
    whole = [line for line in (tmp_path / "q.jsonl").read_text().splitlines() if "torn" not in line]
    assert [json.loads(line)["id"] for line in whole] == [str(number) for number in range(16)]


def test_ranks_count_apart_and_know_each_others_samples(tmp_path: Path) -> None:
    zero, one = (Quarantine(tmp_path / "q.jsonl", 0.5, rank) for rank in (0, 1))
    zero.add("a", "x", "corrupt")
    one.add("b", "x", "corrupt")
    again = Quarantine(tmp_path / "q.jsonl", 0.5, 1)
    assert again.bad == 1
    assert "a" in again


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
