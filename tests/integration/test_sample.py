"""`mmreason sample`: rows that the next stage reads, another selection without a model, going on after a stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import mmreason
from mmreason.cli import main
from mmreason.config import build_config
from mmreason.demo.media import DemoFiles
from mmreason.errors import ConfigError
from mmreason.training import run
from tests.integration.runs import config, metrics

ODD = '''
from mmreason.types import Score

def odd(sample, rollouts):
    """Texts of odd length stand for right answers of an untrained model."""
    return [Score(total=1.0, flags={"correct": len(rollout.text) % 2 == 1}) for rollout in rollouts]
'''


@pytest.fixture
def values(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> dict[str, Any]:
    rows = demo_data.sft.read_text().splitlines()[:6]
    (tmp_path / "train.jsonl").write_text("".join(line + "\n" for line in rows))
    (tmp_path / "mine.py").write_text(ODD)
    made = config(tmp_path / "run", tiny_omni, demo_data, "grpo", rollout={"max_rows": 8, "n": 4, "max_new_tokens": 8})
    made["rewards"] = [{"name": str(tmp_path / "mine.py:odd")}]
    made["data"] = {"train": [{"path": str(tmp_path / "train.jsonl")}], "media_root": str(demo_data.sft.parent)}
    return made


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_answers_are_the_next_stages_data(values: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "next.jsonl"
    # Answers of this model are cut at 8 tokens, so that only those that end by themselves could be kept.
    found = mmreason.sample(values, "rollout.stop=[e,a,o,t]", out=out, every_row=True)
    assert (found.questions, found.rows, found.unanswered) == (6, 6, 0)
    rows, answers = lines(out), lines(tmp_path / "next.jsonl.answers/eval.jsonl")
    assert len({row["id"] for row in rows}) == 6
    for row, answered in zip(rows, answers, strict=True):
        right = [answer for answer in answered["answers"] if answer["correct"]]
        assert row["meta"]["pass_rate"] == len(right) / 4
        assert all(answer["score"] == 1 for answer in answered["answers"])
        kept = list(dict.fromkeys(" ".join(answer["text"].split()) for answer in right if not answer["truncated"]))
        if kept:
            assert [" ".join(text.split()) for text in row["demos"]] == kept
    before = (tmp_path / "next.jsonl.answers/eval.jsonl").read_bytes()
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    command = ["sample", str(tmp_path / "run.yaml"), "rollout.stop=[e,a,o,t]", "--out", str(out), "--keep", "all"]
    assert main([*command, "--per-question", "1"]) == 0
    assert (tmp_path / "next.jsonl.answers/eval.jsonl").read_bytes() == before, "no question was asked again"
    assert all(len(row["demos"]) == 1 for row in lines(out))
    sft = {**values, "train": {**values["train"], "method": "sft", "steps": 1}, "run_dir": str(tmp_path / "sft")}
    sft["data"] = {**values["data"], "train": [{"path": str(out)}]}
    run(build_config(sft, "test"))
    assert metrics(tmp_path / "sft")[0]["nll"] > 0
    with pytest.raises(ConfigError, match=r"other settings \(.*; --fresh starts over"):
        mmreason.sample(values, "rollout.temperature=0.5", out=out)


def test_a_stop_in_the_middle_changes_nothing(values: dict[str, Any], tmp_path: Path) -> None:
    mmreason.sample(values, out=tmp_path / "whole.jsonl", every_row=True)
    mmreason.sample(values, out=tmp_path / "parts.jsonl", every_row=True)
    answers = tmp_path / "parts.jsonl.answers/eval.jsonl"
    answers.write_text("".join(answers.read_text().splitlines(keepends=True)[:2]) + '{"torn')
    (tmp_path / "parts.jsonl").unlink()
    mmreason.sample(values, out=tmp_path / "parts.jsonl", every_row=True)
    assert (tmp_path / "parts.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert len(lines(answers)) == 6
