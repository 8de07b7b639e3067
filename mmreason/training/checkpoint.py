"""Checkpoints that are either complete or not there.

    RUN/checkpoints/step-00000040/
        model/  or  adapters.safetensors     weights (an ordinary transformers checkpoint; adapters for LoRA)
        optimizer.safetensors                optimizer state (deepspeed/ under DeepSpeed)
        rank-0.json ...                      data position and random state, one file per process
        state.json                           step and what the run is
        manifest.json                        size and SHA-256 of all of these, written last

Everything is written under a temporary name, synced to disk, then renamed. A folder without a matching manifest is
torn: it is renamed to *.torn, with a warning, and the one before it is used.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from mmreason.errors import CheckpointError

FOLDER = "checkpoints"
MANIFEST = "manifest.json"
Writer = Callable[[Path], None]
Gather = Callable[[str | None], list[str | None]]


class TornCheckpointWarning(UserWarning):
    """A checkpoint was found incomplete or damaged and is passed over."""


def save(run_dir: Path, step: int, *, writers: Sequence[Writer], is_main: bool, gather: Gather, keep: int) -> Path:
    """Write one checkpoint. Every process calls each writer with the folder, and waits for the others after it.

    Raises CheckpointError, on every process, when one of them could not write; earlier checkpoints stay as they are.
    """
    final = run_dir / FOLDER / f"step-{step:08d}"
    partial = final.with_suffix(".partial")
    phases: list[Callable[[], None]] = [
        lambda: _start(partial) if is_main else None,
        *(functools.partial(writer, partial) for writer in writers),
        lambda: _seal(partial, final) if is_main else None,
    ]
    for phase in phases:
        failures = [failure for failure in gather(attempt(phase, final)) if failure]
        if failures:
            shutil.rmtree(partial, ignore_errors=True)
            raise CheckpointError(failures[0])
    if is_main:
        _forget_old(run_dir, keep)
    return final


def exists(run_dir: Path, step: int) -> bool:
    """Whether a finished checkpoint of this step is there (its hashes are not read again)."""
    return (run_dir / FOLDER / f"step-{step:08d}" / MANIFEST).exists()


def latest(run_dir: Path) -> Path | None:
    """The newest complete checkpoint, or None. Each torn one above it is renamed, with a warning.

    Renamed because a torn one must neither count as kept nor stand in the way of a new one of its step.
    """
    for folder in reversed(_folders(run_dir)):
        fault = find_fault(folder)
        if fault is None:
            return folder
        warnings.warn(f"{folder}: {fault}; using the checkpoint before it", TornCheckpointWarning, stacklevel=2)
        shutil.rmtree(folder.with_suffix(".torn"), ignore_errors=True)
        with contextlib.suppress(OSError):  # a folder of another user: saving will say so
            folder.rename(folder.with_suffix(".torn"))
    return None


def find_fault(folder: Path) -> str | None:
    """Why this checkpoint cannot be trusted, or None when every file matches the manifest."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return "no readable manifest (it was never finished)"
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != entry["bytes"] or _sha256(path) != entry["sha256"]:
            return f"{name} is not the file that was saved (size or hash differs)"
    return None


def read_state(folder: Path, name: str = "state.json") -> dict[str, Any]:
    """One of the JSON files of a checkpoint."""
    try:
        state: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{folder}: has no {name}; it was written by a run with fewer processes, start with as many as then"
        ) from error
    return state


def write_json(path: Path, value: Any) -> None:
    """JSON to a file that appears whole or not at all."""
    temporary = path.with_suffix(path.suffix + ".partial")
    temporary.write_text(json.dumps(value, indent=1), encoding="utf-8")
    _sync(temporary)
    temporary.replace(path)


def _start(partial: Path) -> None:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)


def attempt(phase: Callable[[], None], target: Path) -> str | None:
    """Run one phase; the reason when the disk refused it. Other errors are ours and go up."""
    try:
        phase()
    except Exception as error:  # tokenizers raise a plain Exception on a full disk, torch.save a RuntimeError
        full = getattr(error, "errno", None) == errno.ENOSPC or any(sign in str(error) for sign in _FULL)
        if not full and not isinstance(error, (OSError, SafetensorError, CheckpointError)):
            raise
        reason = "the disk is full; free some space or point run_dir elsewhere" if full else str(error)
        return f"{target}: not saved: {reason}"
    return None


_FULL = ("No space left", "PytorchStreamWriter failed")
"""How libraries say that the disk is full; the second is torch.save's way."""


def _folders(run_dir: Path) -> list[Path]:
    """Checkpoints by name, oldest first; neither unfinished nor torn ones."""
    return sorted(path for path in (run_dir / FOLDER).glob("step-*") if not path.suffix)


def _seal(partial: Path, final: Path) -> None:
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    entries = {}
    for path in files:
        _sync(path)
        entries[str(path.relative_to(partial))] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    write_json(partial / MANIFEST, {"files": entries})
    for folder in {path.parent for path in files}:
        _sync(folder)
    shutil.rmtree(final, ignore_errors=True)  # a torn one of the same step, passed over at the start
    partial.rename(final)
    _sync(final.parent)


def _forget_old(run_dir: Path, keep: int) -> None:
    for torn in (run_dir / FOLDER).glob("step-*.torn"):
        shutil.rmtree(torn)
    complete = [path for path in _folders(run_dir) if (path / MANIFEST).exists()]
    for folder in complete[:-keep]:
        # The manifest goes first, so that a crash half-way leaves a folder that is known to be torn.
        (folder / MANIFEST).unlink()
        shutil.rmtree(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
