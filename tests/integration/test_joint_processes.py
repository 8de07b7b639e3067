"""Two processes (DDP) train DPO, and terms with a teacher and demonstrations, as one process does."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from mmreason.demo.media import DemoFiles
from tests.integration.runs import config, metrics
from tests.integration.test_processes import _run

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]
TRAIN = {"steps": 2, "prompts_per_step": 4, "learning_rate": 1e-4, "save_every": 100}


def cases(folder: Path, model: Path, data: DemoFiles) -> dict[str, dict[str, Any]]:
    """Configs of both runs. The teacher is the untrained model itself, which does not see the media."""
    rows = [json.loads(line) for line in data.sft.read_text().splitlines()][:8]
    pairs = [{**row, "pairs": [{"chosen": row["demos"][0], "rejected": "I do not know."}]} for row in rows]
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "demos"}) + "\n" for row in pairs))
    dpo = config(folder / "dpo", model, data, "dpo", train={**TRAIN, "aggregation": "sequence_sum"})
    dpo |= {"grpo": {"kl_coef": 0.1}, "data": {"train": [{"path": str(file)}], "media_root": str(data.sft.parent)}}
    terms = [
        {"name": "imitation", "weight": 0.5},
        {"name": "distill", "options": {"teacher": str(model), "on": "all"}},
    ]
    made = config(folder / "terms", model, data, "grpo", train=TRAIN, rollout={"max_new_tokens": 8})
    made |= {"data": {"train": [{"path": str(data.sft)}]}, "grpo": {**made["grpo"], "terms": terms}}
    return {"dpo": dpo, "terms": made}


@pytest.mark.timeout(600)
def test_dpo_and_terms_on_two_processes(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> None:
    alone, pair = tmp_path / "alone", tmp_path / "pair"
    for folder, launcher in ((alone, ()), (pair, ("mmreason.launch", "--standalone", "--nproc-per-node", "2", "-m"))):
        folder.mkdir()
        _run(folder, cases(folder, tiny_omni, demo_data), *launcher)
    for mine, theirs in zip(metrics(pair / "dpo"), metrics(alone / "dpo"), strict=True):
        assert mine["pairs"] == theirs["pairs"] == 4
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)
    first, other = metrics(pair / "terms")[0], metrics(alone / "terms")[0]
    assert first["imitation/nll"] == pytest.approx(other["imitation/nll"], rel=1e-4)
    assert first["distill/taught"] == pytest.approx(1, abs=1e-5)
    assert all(math.isfinite(line["distill/loss"]) for line in metrics(pair / "terms"))
