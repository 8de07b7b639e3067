"""Checkpoints are complete or not there: torn ones are passed over, a full disk leaves the old ones alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mmreason.errors import CheckpointError
from mmreason.training import checkpoint


def _save(run_dir: Path, step: int, *, size: int = 10, keep: int = 2) -> Path:
    def write(folder: Path) -> None:
        save_file({"w": torch.full((size,), float(step))}, folder / "optimizer.safetensors")
        checkpoint.write_json(folder / "state.json", {"step": step})

    return checkpoint.save(run_dir, step, writers=(write,), is_main=True, gather=lambda value: [value], keep=keep)


def test_the_newest_complete_one_is_found_and_old_ones_go(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        _save(tmp_path, step)
    assert checkpoint.latest(tmp_path) == tmp_path / "checkpoints/step-00000003"
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000002", "step-00000003"]
    assert checkpoint.read_state(tmp_path / "checkpoints/step-00000003") == {"step": 3}


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) is None


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "no readable manifest"),
        (lambda folder: (folder / "optimizer.safetensors").write_bytes(b"x"), "not the file that was saved"),
        (lambda folder: _flip(folder / "optimizer.safetensors"), "not the file that was saved"),
        (lambda folder: (folder / "state.json").unlink(), "state.json is missing"),
    ],
)
def test_a_torn_one_is_passed_over_loudly(tmp_path: Path, damage: object, reason: str) -> None:
    good, torn = _save(tmp_path, 1), _save(tmp_path, 2)
    assert callable(damage)
    damage(torn)
    with pytest.warns(checkpoint.TornCheckpointWarning, match=reason):
        assert checkpoint.latest(tmp_path) == good


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def test_a_torn_one_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    torn = _save(tmp_path, 1)
    (torn / "manifest.json").unlink()
    assert checkpoint.find_fault(_save(tmp_path, 1)) is None


def test_a_damaged_one_costs_no_good_one(tmp_path: Path) -> None:
    good, damaged = _save(tmp_path, 1), _save(tmp_path, 4)
    _flip(damaged / "optimizer.safetensors")
    with pytest.warns(checkpoint.TornCheckpointWarning):
        assert checkpoint.latest(tmp_path) == good
    assert not checkpoint.exists(tmp_path, 4), "so that it is written again"
    for step in (2, 3):
        newest = _save(tmp_path, step, keep=1)
        assert checkpoint.latest(tmp_path) == newest
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]


def test_a_half_written_folder_is_ignored(tmp_path: Path) -> None:
    good = _save(tmp_path, 1)
    (tmp_path / "checkpoints/step-00000002.partial").mkdir()
    assert checkpoint.latest(tmp_path) == good


def test_missing_rank_file_names_the_cause(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="fewer processes"):
        checkpoint.read_state(_save(tmp_path, 1), "rank-1.json")


def test_a_full_disk_keeps_the_old_checkpoint(small_disk: Callable[[str], Path]) -> None:
    disk = small_disk("1m")
    good = _save(disk, 1)
    with pytest.raises(CheckpointError, match="the disk is full; free some space"):
        _save(disk, 2, size=1_000_000)
    assert checkpoint.latest(disk) == good
    assert sorted(path.name for path in good.parent.iterdir()) == ["step-00000001"]
    _save(disk, 2)
    assert json.loads((disk / "checkpoints/step-00000002/state.json").read_text()) == {"step": 2}
