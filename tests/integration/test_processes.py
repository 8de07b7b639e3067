"""Two processes, with DDP and with DeepSpeed ZeRO-2 and ZeRO-3, train what one process trains."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from mmreason.demo.media import DemoFiles, write_demo_data
from tests.integration.runs import config, finish, metrics, start, tensors_of, weights

ZERO = Path(__file__).parents[2] / "configs" / "deepspeed"
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]  # two of these at once would starve


def _values(folder: Path, model: Path, data: DemoFiles, method: str, **train: Any) -> dict[str, Any]:
    values = config(folder / "run", model, data, method, train={"prompts_per_step": 6, "save_every": 2, **train})
    values["grpo"]["kl_coef"] = 0.1 if method == "grpo" else 0.0
    return values


def _by_two(values: dict[str, Any], folder: Path, *, timeout: float = 500) -> str:
    """The run as two processes; their output."""
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    process = subprocess.Popen(
        [*command, "-m", "mmreason.cli", "train", "run.yaml"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return finish(process, timeout=timeout)


@pytest.fixture(scope="module")
def mostly_text(tmp_path_factory: pytest.TempPathFactory) -> DemoFiles:
    """Demonstrations for one epoch of which few have media: in most steps some process has none, or other ones."""
    data = write_demo_data(tmp_path_factory.mktemp("mostly-text"), seed=9, train=1, eval=1, sft=80, choices=10)
    rows = [json.loads(line) for line in data.sft.read_text().splitlines()]
    text = [row for row in rows if row["source"] in ("compare", "parity")]
    media = [row for row in rows if row["source"] in ("colour", "pitch", "motion")]
    data.sft.write_text("".join(json.dumps(row) + "\n" for row in [*text[:18], *media[:6]]))
    return data


@pytest.fixture(scope="module")
def alone(tiny_omni: Path, mostly_text: DemoFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    finish(start(_values(folder, tiny_omni, mostly_text, "sft"), folder))
    return folder / "run"


def _distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(float((first[name] - second[name]).square().sum()) for name in first))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("zero", [None, "zero2.json", "zero3.json"])
def test_sft_is_what_one_process_does(
    zero: str | None, alone: Path, tiny_omni: Path, mostly_text: DemoFiles, tmp_path: Path
) -> None:
    deepspeed = str(ZERO / zero) if zero else None
    data = mostly_text
    # Stopped half-way and resumed, so that what is saved between processes is tested as well.
    _by_two(_values(tmp_path, tiny_omni, data, "sft", deepspeed=deepspeed, steps=2, schedule="constant"), tmp_path)
    for leftover in (tmp_path / "run/model").iterdir():
        leftover.unlink()
    (tmp_path / "run/model").rmdir()
    output = _by_two(_values(tmp_path, tiny_omni, data, "sft", deepspeed=deepspeed), tmp_path)
    assert "resumed from" in output
    mine, theirs = metrics(tmp_path / "run"), metrics(alone)
    for name in ("nll", "grad_norm"):
        assert [line[name] for line in mine] == pytest.approx([line[name] for line in theirs], rel=1e-3), name
    ours, other = weights(tmp_path / "run"), weights(alone)
    assert ours.keys() == other.keys()
    way = _distance(other, tensors_of(tiny_omni))
    assert _distance(ours, other) < 0.15 * way, "more than Adam makes of the noise in gradients that are nearly zero"
    Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(tmp_path / "run/model")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("zero", [None, "zero3.json"])
def test_grpo_on_all_modalities(zero: str | None, tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> None:
    deepspeed = str(ZERO / zero) if zero else None
    _by_two(_values(tmp_path, tiny_omni, demo_data, "grpo", deepspeed=deepspeed, steps=2), tmp_path)
    steps = metrics(tmp_path / "run")
    assert [line["step"] for line in steps] == [1, 2]
    assert steps[0]["ratio"] == pytest.approx(1, abs=1e-4)
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert steps[0]["groups/sampled"] == 6
    assert len(list((tmp_path / "run/tensorboard").glob("events.*"))) == 1, "one process tracks"
