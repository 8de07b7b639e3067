"""A judge on a real server in a real run: its verdicts train, and the run says who judged and by which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmreason.config import build_config
from mmreason.demo.media import DemoFiles
from mmreason.evaluation.verb import evaluate_config
from mmreason.rewards.judge_prompts import PROMPTS, prompt_hash
from mmreason.training import run
from tests.integration.runs import config, metrics
from tests.unit.rewards.judge_server import JudgeServer, code_of, judge_server

HASH = prompt_hash(PROMPTS["correct"])


def long_is_right(system: str, user: str) -> str:
    return f"VERDICT {code_of(system)} {'YES' if len(user) % 2 else 'NO'}"


def values_of(folder: Path, model: Path, data: DemoFiles, url: str) -> dict[str, Any]:
    options = {"url": url, "model": "judge-7b", "on_outage": "drop", "retries": 0}
    values = config(folder, model, data, "grpo", train={"steps": 1, "prompts_per_step": 2})
    values["rewards"] = [{"name": "judge", "options": options}, {"name": "format", "weight": 0.2}]
    values["data"]["eval"] = [{"path": str(data.train), "limit": 3}]
    return values


def test_a_run_with_a_judge(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> None:
    with judge_server(JudgeServer(judgement=long_is_right)) as judge:
        values = values_of(tmp_path, tiny_omni, demo_data, judge.url)
        run(build_config(values, "test"))
        evaluate_config(build_config(values, "test"))
    (event,) = metrics(tmp_path, "event")
    assert (event["reward"], event["model"], event["prompt_hash"]) == ("judge", "judge-7b", HASH)
    (step,) = metrics(tmp_path)
    assert "reward/judge" in step
    assert HASH in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "eval.json").read_text())["settings"]["judge.prompt_hash"] == HASH


def test_scores_say_who_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mmreason.cli import main

    row = {"answer": "owl", "completions": ["<answer>owl</answer>", "<answer>tit</answer>"]}
    (tmp_path / "in.jsonl").write_text(json.dumps(row))
    with judge_server() as judge:
        named = f"judge url={judge.url} model=judge-7b"
        assert main(["score", str(tmp_path / "in.jsonl"), "--reward", named, "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().err
    assert f"reward judge, model judge-7b, prompt correct, prompt_hash {HASH}" in shown
    assert "means: total 0.5" in shown
