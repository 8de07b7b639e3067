"""A file with two stages: one after the other, skipped when finished, resumed when not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from mmreason.config import load_plan
from mmreason.demo.media import DemoFiles
from mmreason.errors import ConfigError
from mmreason.recipes.chain import is_finished, run_plan
from tests.integration.runs import config, metrics


def _two_stages(folder: Path, model: Path, data: DemoFiles) -> dict[str, Any]:
    values = config(folder, model, data, "sft", train={"steps": 2, "prompts_per_step": 2})
    values["grpo"] = {"drop_constant_groups": False, "mask_truncated": False}  # of the second stage
    rl = {"name": "rl", "data": {"train": [{"path": str(data.train)}]}, "train": {"method": "grpo"}}
    return {**values, "stages": [{"name": "cold_start"}, rl]}


def test_stages_run_in_order_and_only_once(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> None:
    values = _two_stages(tmp_path, tiny_omni, demo_data)
    said: list[str] = []
    folder = run_plan(load_plan(values), said.append)
    assert folder == tmp_path / "rl" / "model"
    assert said == ["mmreason: stage 1 of 2, cold_start", "mmreason: stage 2 of 2, rl"]
    assert "nll" in metrics(tmp_path / "cold_start")[0]
    assert "correct" in metrics(tmp_path / "rl")[0]
    written = (tmp_path / "rl" / "metrics.jsonl").stat().st_mtime_ns
    assert run_plan(load_plan(values), said.append) == folder
    assert said[2:] == [
        f"mmreason: stage 1 of 2, cold_start: finished before, in {tmp_path}/cold_start",
        f"mmreason: stage 2 of 2, rl: finished before, in {tmp_path}/rl",
    ]
    assert (tmp_path / "rl" / "metrics.jsonl").stat().st_mtime_ns == written
    # One more step for the second stage: it is resumed, the first is not touched.
    plan = load_plan(values, ["rl.train.steps=3"])
    assert [is_finished(stage) for stage in plan.stages] == [True, False]
    run_plan(plan, said.append)
    assert [line["step"] for line in metrics(tmp_path / "rl")] == [1, 2, 3]
    # One more for the first: the second has begun with another model.
    with pytest.raises(ConfigError, match=r"rl: this stage has begun with an earlier model of stage cold_start"):
        run_plan(load_plan(values, ["cold_start.train.steps=3"]), said.append)
    shutil.rmtree(tmp_path / "rl")
    run_plan(load_plan(values, ["cold_start.train.steps=3"]), said.append)
    assert [line["step"] for line in metrics(tmp_path / "cold_start")] == [1, 2, 3]
