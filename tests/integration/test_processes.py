"""Two processes, with DDP and with DeepSpeed ZeRO-2 and ZeRO-3, train what one process trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from mmreason.demo.media import DemoFiles
from tests.integration.runs import config, finish, metrics, start, weights

ZERO = Path(__file__).parents[2] / "configs" / "deepspeed"
pytestmark = pytest.mark.slow


def _values(folder: Path, model: Path, data: DemoFiles, method: str, **train: Any) -> dict[str, Any]:
    values = config(folder / "run", model, data, method, train={"prompts_per_step": 6, "save_every": 2, **train})
    values["grpo"]["kl_coef"] = 0.1 if method == "grpo" else 0.0
    return values


def _by_two(values: dict[str, Any], folder: Path, *, timeout: float = 500) -> str:
    """The run as two processes; their output."""
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
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
def one_modality_per_process(demo_data: DemoFiles) -> DemoFiles:
    """Demonstrations of which each step gives one process text only, and the other media only."""
    rows = [json.loads(line) for line in demo_data.sft.read_text().splitlines()]
    rows = [row for row in rows if row["source"] in ("compare", "colour", "pitch", "motion")]
    file = demo_data.sft.with_name("mixed.jsonl")
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DemoFiles(sft=file, train=demo_data.train, eval=demo_data.eval)


@pytest.fixture(scope="module")
def alone(tiny_omni: Path, one_modality_per_process: DemoFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    finish(start(_values(folder, tiny_omni, one_modality_per_process, "sft"), folder))
    return folder / "run"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("zero", [None, "zero2.json", "zero3.json"])
def test_sft_is_what_one_process_does(
    zero: str | None, alone: Path, tiny_omni: Path, one_modality_per_process: DemoFiles, tmp_path: Path
) -> None:
    deepspeed = str(ZERO / zero) if zero else None
    data = one_modality_per_process
    # Stopped half-way and resumed, so that what is saved between processes is tested as well.
    _by_two(_values(tmp_path, tiny_omni, data, "sft", deepspeed=deepspeed, steps=2, schedule="constant"), tmp_path)
    for leftover in (tmp_path / "run/model").iterdir():
        leftover.unlink()
    (tmp_path / "run/model").rmdir()
    output = _by_two(_values(tmp_path, tiny_omni, data, "sft", deepspeed=deepspeed), tmp_path)
    assert "resumed from" in output
    mine, theirs = metrics(tmp_path / "run"), metrics(alone)
    assert [line["nll"] for line in mine] == pytest.approx([line["nll"] for line in theirs], rel=1e-4)
    ours, other = weights(tmp_path / "run"), weights(alone)
    assert ours.keys() == other.keys()
    far = [name for name in ours if not torch.allclose(ours[name], other[name], atol=1e-4, rtol=1e-3)]
    assert not far
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
