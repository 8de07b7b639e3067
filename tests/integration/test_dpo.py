"""DPO through the whole loop: pairs as two branches of one tree, the frozen reference, refusals."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

from mmreason.config import build_config
from mmreason.demo.media import DemoFiles
from mmreason.errors import ConfigError, DataError
from mmreason.training import open_run, run
from mmreason.training.dpo import pair_trees, row_loss, with_reference
from mmreason.training.update import rows_of
from tests.integration.runs import config, metrics

TRAIN = {"steps": 4, "prompts_per_step": 4, "save_every": 100, "learning_rate": 1e-3, "aggregation": "sequence_sum"}


@pytest.fixture
def values(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> dict[str, Any]:
    """Rows whose demonstration is preferred to short answers."""
    rows = [json.loads(line) for line in demo_data.sft.read_text().splitlines()][:16]
    for row in rows:
        (demo,) = row.pop("demos")
        row["pairs"] = [{"chosen": demo, "rejected": text} for text in ("<answer>no</answer>", "I do not know.")]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = config(tmp_path / "run", tiny_omni, demo_data, "dpo", train=TRAIN, grpo={"kl_coef": 0.1})
    made["data"] = {"train": [{"path": str(tmp_path / "pairs.jsonl")}], "media_root": str(demo_data.sft.parent)}
    return made


def test_chosen_answers_gain_on_rejected_ones(values: dict[str, Any]) -> None:
    run(build_config(values, "test"))
    lines = metrics(Path(values["run_dir"]))
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-5), "at first the policy is the reference"
    assert lines[0]["margin"] == pytest.approx(0, abs=1e-5)
    assert lines[0]["pairs"] == 8
    assert lines[-1]["loss"] < 0.6
    assert lines[-1]["margin"] > 0.1
    assert lines[-1]["accuracy"] > 0.9


def test_the_prompt_stands_once_and_packing_changes_nothing(values: dict[str, Any]) -> None:
    losses = []
    for row_tokens in (8192, 320):
        values["train"] |= {"row_tokens": row_tokens}
        with contextlib.closing(open_run(build_config(values, "test"))) as opened:
            trees = pair_trees(opened, opened.feed.take(4))
            assert [segment.kind for segment in trees[0].segments] == ["prompt"] + ["policy"] * 4
            rows = [with_reference(opened, row) for row in rows_of(opened, trees)]
            loss = row_loss(0.1, 8)
            losses.append(sum(loss(opened.policy.token_scores(row, grad=False), row).loss.item() for row in rows))
            if row_tokens < 8192:
                assert len(rows) > 1
                assert not any(row.repeated_tokens for row in rows)
    assert losses == pytest.approx([math.log(2)] * 2, abs=1e-5)


def test_what_cannot_be_is_one_line(values: dict[str, Any], demo_data: DemoFiles) -> None:
    for section, key, value, message in (
        ("train", "aggregation", "token_mean", "train.aggregation: token_mean, but train.method dpo compares answers"),
        ("grpo", "kl_coef", 0.0, "grpo.kl_coef: 0, but it is beta of train.method dpo"),
    ):
        with pytest.raises(ConfigError, match=message):
            build_config({**values, section: {**values[section], key: value}}, "test")
    values["data"] = {"train": [{"path": str(demo_data.sft)}]}
    with pytest.raises(DataError, match=r"train.method is dpo, but this row has no `pairs`; give chosen and rejected"):
        run(build_config(values, "test"))
