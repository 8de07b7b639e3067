"""Small real runs for the integration tests: demo data, a tiny omni checkpoint, configs, and runs as processes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

from mmreason.cli import main
from mmreason.demo.media import DemoFiles

SMALL_MEDIA = {
    "image_min_pixels": 784,
    "image_max_pixels": 3136,
    "video_min_pixels": 784,
    "video_max_pixels": 3136,
    "video_max_frames": 8,
    "workers": 1,
    "deadline_s": 20.0,
}


def config(run_dir: Path, model: Path, data: DemoFiles, method: str, /, **sections: dict[str, Any]) -> dict[str, Any]:
    """Values of a run of a few steps; `sections` are merged over it."""
    values: dict[str, Any] = {
        "run_dir": str(run_dir),
        "seed": 3,
        "model": {"path": str(model), "freeze": [], "self_check": False},
        "data": {"train": [{"path": str(data.sft if method == "sft" else data.train)}]},
        "media": dict(SMALL_MEDIA),
        "rollout": {"n": 4, "max_new_tokens": 12},
        "rewards": [{"name": "accuracy"}, {"name": "format", "weight": 0.2}],
        "train": {"method": method, "steps": 4, "prompts_per_step": 4, "learning_rate": 1e-3, "save_every": 1},
        "grpo": {"drop_constant_groups": False, "mask_truncated": False} if method == "grpo" else {},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return values


def train_here(values: dict[str, Any], folder: Path, *, expect: int = 0) -> str:
    """`mmreason train` in this process, as if started in `folder`, for runs that nobody kills: a process of its own
    needs longer to import its libraries than such a run takes. What was printed; fails where the exit status is not
    `expect`."""
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(values))
    output = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        status = main(["train", str(file)])
    assert status == expect, f"exit status {status}:\n{output.getvalue()}"
    return output.getvalue()


def start(values: dict[str, Any], folder: Path, name: str = "run.yaml") -> subprocess.Popen[str]:
    """`mmreason train` as a process of its own, in `folder`."""
    file = folder / name
    file.write_text(yaml.safe_dump(values))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    command = [sys.executable, "-m", "mmreason.cli", "train", str(file)]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str], *, expect: int = 0, timeout: float = 240) -> str:
    """Wait for a run; its output. Fails with that output when the exit status is not `expect`."""
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        raise AssertionError(f"still running after {timeout} s:\n{output}") from None
    assert process.returncode == expect, f"exit status {process.returncode}:\n{output}"
    return output


def tensors_of(model: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint folder."""
    return {name: tensor for file in model.glob("*.safetensors") for name, tensor in load_file(file).items()}


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    """The exported model of a run."""
    return tensors_of(run_dir / "model")


def metrics(run_dir: Path, kind: str = "train") -> list[dict[str, Any]]:
    """Lines of metrics.jsonl of one kind."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]
