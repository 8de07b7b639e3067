"""A run that was killed anywhere and started again ends with the very same weights as one that never was."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mmreason.demo.media import DemoFiles
from mmreason.training.checkpoint import TornCheckpointWarning
from tests.integration.runs import config, finish, metrics, start, tensors_of, train_here, weights

KILLER = '''
import os, signal
from pathlib import Path

def kill_trainer_once(sample, text):
    """Kills the training process on its 30th call, the first time round; scores as HARMLESS does."""
    with open("calls", "ab") as calls:  # one byte per call: whole, whenever this process dies
        calls.write(b".")
        count = calls.tell()
    if count == 30 and not Path("killed").exists():
        Path("killed").touch()
        os.kill(os.getppid(), signal.SIGKILL)
    return len(text) % 5 / 5
'''
HARMLESS = "def kill_trainer_once(sample, text):\n    return len(text) % 5 / 5\n"


def _grpo(folder: Path, model: Path, data: DemoFiles, reward: str) -> dict[str, object]:
    values = config(folder / "run", model, data, "grpo", scoring={"workers": 1})
    values["rewards"].append({"name": f"{reward}:kill_trainer_once", "weight": 1.0})
    return values


@pytest.fixture(scope="module")
def undisturbed(tiny_omni: Path, demo_data: DemoFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "killer.py").write_text(HARMLESS)
    train_here(_grpo(folder, tiny_omni, demo_data, "killer.py"), folder)
    return folder / "run"


def _equal(first: Path, second: Path) -> None:
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different, f"{len(different)} of {len(ours)} tensors differ, first {different[0]}"
    names = ("loss", "reward/mean", "length/mean", "grad_norm")
    for mine, other in zip(metrics(first), metrics(second), strict=True):
        assert [mine[name] for name in names] == [other[name] for name in names]


def test_the_undisturbed_run_learns_something(undisturbed: Path, tiny_omni: Path) -> None:
    before, after = tensors_of(tiny_omni), weights(undisturbed)
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_killed_while_rewards_are_computed(
    undisturbed: Path, tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path
) -> None:
    (tmp_path / "killer.py").write_text(KILLER)
    values = _grpo(tmp_path, tiny_omni, demo_data, "killer.py")
    finish(start(values, tmp_path), expect=-signal.SIGKILL)
    assert len(metrics(tmp_path / "run")) == 1, "the 30th answer is in the second step"
    finish(start(values, tmp_path))
    _equal(undisturbed, tmp_path / "run")


def _kill_when(values: dict[str, object], folder: Path, moment: Callable[[], bool]) -> None:
    with start(values, folder) as process:
        deadline = time.monotonic() + 240
        try:
            while not moment():
                assert process.poll() is None, f"ended before it could be killed: {process.communicate()[0]}"
                assert time.monotonic() < deadline
                time.sleep(0.0005)
        finally:
            process.kill()
        finish(process, expect=-signal.SIGKILL)


def test_killed_while_a_checkpoint_is_written(
    undisturbed: Path, tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path
) -> None:
    shutil.copy(undisturbed.parent / "killer.py", tmp_path)
    values = _grpo(tmp_path, tiny_omni, demo_data, "killer.py")
    partial = tmp_path / "run/checkpoints/step-00000002.partial"
    _kill_when(values, tmp_path, partial.exists)
    assert not (tmp_path / "run/checkpoints/step-00000002").exists()
    train_here(values, tmp_path)
    _equal(undisturbed, tmp_path / "run")


def test_killed_between_steps_and_the_newest_checkpoint_torn(
    undisturbed: Path, tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path
) -> None:
    shutil.copy(undisturbed.parent / "killer.py", tmp_path)
    values = _grpo(tmp_path, tiny_omni, demo_data, "killer.py")
    third = tmp_path / "run/checkpoints/step-00000003"
    _kill_when(values, tmp_path, third.exists)
    with (third / "optimizer.safetensors").open("r+b") as file:
        file.truncate(1000)
    with pytest.warns(TornCheckpointWarning, match="using the checkpoint before it"):
        output = train_here(values, tmp_path)
    assert "resumed from" in output
    assert "step-00000002" in output
    _equal(undisturbed, tmp_path / "run")


def test_sigterm_saves_and_exits_with_0(
    undisturbed: Path, tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path
) -> None:
    shutil.copy(undisturbed.parent / "killer.py", tmp_path)
    values = _grpo(tmp_path, tiny_omni, demo_data, "killer.py")
    values["train"] = {**values["train"], "save_every": 100}  # type: ignore[dict-item]
    process = start(values, tmp_path)
    log = tmp_path / "run/metrics.jsonl"
    while not (log.exists() and '"kind": "train"' in log.read_text()):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    output = finish(process, expect=0)
    assert "SIGTERM received; saving, then stopping" in output
    assert list((tmp_path / "run/checkpoints").glob("step-*/manifest.json"))
    assert not (tmp_path / "run/model").exists()
    train_here(values, tmp_path)
    _equal(undisturbed, tmp_path / "run")


def test_a_checkpoint_of_another_model_is_refused(
    undisturbed: Path, tiny_vl: Path, demo_data: DemoFiles, tmp_path: Path
) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    shutil.copy(undisturbed.parent / "killer.py", tmp_path)
    output = train_here(_grpo(tmp_path, tiny_vl, demo_data, "killer.py"), tmp_path, expect=2)
    assert "was written with model" in output
    assert "use the same setting, or a new run_dir" in output
