"""Runs of two processes under each strategy, and the same runs with one, made once for all tests that look at them.

Each strategy starts one group of processes, which makes all runs one after the other (strategies.py): a start takes
longer than most of these runs. The fixtures `alone` and `pair` are in conftest.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from mmreason.demo.media import DemoFiles, write_demo_data
from tests.integration.launched import ROOT, ZERO
from tests.integration.runs import config

STAGES = {"ddp": None, "zero2": 2, "zero3": 3}
STEPS, PROMPTS, SEED = 2, 4, 3
ENGINES = "zero3"
"""The strategy under which two processes with a vLLM engine each are tried: starting engines takes longest of all."""
CASES: dict[str, dict[str, Any]] = {
    "full": {},
    "frozen": {"freeze": ["vision", "audio"]},
    "checkpointing": {"gradient_checkpointing": True},
    "lora": {"lora": {"rank": 4}},
    "lora_checkpointing": {"lora": {"rank": 4}, "gradient_checkpointing": True},
}
"""Settings of the model that must not change what is learnt."""


def write_text_and_media(folder: Path) -> DemoFiles:
    """Demonstrations in such an order that of two processes the first has text only, the second video and audio."""
    data = write_demo_data(folder, seed=9, train=1, eval=1, sft=80, choices=10)
    rows = [json.loads(line) for line in data.sft.read_text().splitlines()]
    of = {name: iter([row for row in rows if row["source"] == name]) for name in ("compare", "motion", "pitch")}
    share = [of["compare"], of["motion"], of["compare"], of["pitch"]] * STEPS
    placed: list[Any] = [None] * len(share)
    for place, source in zip(np.random.default_rng([SEED, 0]).permutation(len(share)), share, strict=True):
        placed[place] = next(source)
    data.sft.write_text("".join(json.dumps(row) + "\n" for row in placed))
    return data


def cases_of(folder: Path, model: Path, data: DemoFiles, deepspeed: Path | None = None) -> dict[str, dict[str, Any]]:
    """Configs of all runs. "half" stops early, "resumed" goes on in its folder; the same for the critic."""

    def values(name: str, method: str = "sft", model_settings: Any = None, **train: Any) -> dict[str, Any]:
        settings = {"steps": STEPS, "prompts_per_step": PROMPTS, "learning_rate": 1e-4, "save_every": 100, **train}
        settings["deepspeed"] = None if deepspeed is None else str(deepspeed)
        made = config(folder / name, model, data, method, train=settings, model=model_settings or {})
        return {**made, "seed": SEED, "data": {"train": [{"path": str(data.sft)}]}}

    cases = {name: values(name, model_settings=settings) for name, settings in CASES.items()}
    cases["half"] = values("resumed", steps=STEPS - 1)
    cases["resumed"] = values("resumed")
    cases["bf16"] = values("bf16", precision="bf16")
    cases["grpo"] = values("grpo", "grpo")
    cases["grpo"]["grpo"]["kl_coef"] = 0.1
    cases["grpo"]["rollout"] = {"n": 4, "max_new_tokens": 40, "stop": ["e", "a"]}
    contrast = {**cases["grpo"]["grpo"], "contrast_view": "shuffled", "contrast_n": 2}
    cases["contrast"] = {**cases["grpo"], "run_dir": str(folder / "contrast"), "grpo": contrast}
    cases["dpo"] = {**values("dpo", "dpo", aggregation="sequence_sum"), "grpo": {"kl_coef": 0.1}}
    cases["dpo"]["data"] = {"train": [{"path": str(_pairs(folder, data))}], "media_root": str(data.sft.parent)}
    cases["terms"] = values("terms", "grpo") | {"rollout": {"n": 4, "max_new_tokens": 8}}
    cases["terms"]["grpo"]["terms"] = _terms(model)
    for name, run_dir, steps in (("critic", "critic", 2), ("half_critic", "critic_2", 1), ("critic_2", "critic_2", 2)):
        cases[name] = values(run_dir, "grpo", steps=steps, learning_rate=1e-3, learning_rates={"critic": 0.002})
        cases[name]["grpo"]["advantage"] = "gae"
        cases[name]["rollout"] = {"n": 2, "max_new_tokens": 6}
        cases[name]["rewards"] = [{"name": f"{_reward(folder)}:one"}]
    return cases


ALONE = (*CASES, "contrast", "dpo", "terms")
"""Runs that are compared with those of one process."""


def _pairs(folder: Path, data: DemoFiles) -> Path:
    """Preference pairs for DPO: a demonstration, and an answer that says nothing."""
    rows = [json.loads(line) for line in data.sft.read_text().splitlines()]
    pairs = [{**row, "pairs": [{"chosen": row["demos"][0], "rejected": "I do not know."}]} for row in rows]
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "demos"}) + "\n" for row in pairs))
    return file


def _terms(teacher: Path) -> list[dict[str, Any]]:
    """The teacher is the untrained model itself, which does not see the media."""
    return [
        {"name": "imitation", "weight": 0.5},
        {"name": "distill", "options": {"teacher": str(teacher), "answers": "all"}},
    ]


def _reward(folder: Path) -> Path:
    """1 for every answer: what values have to come to is known."""
    file = folder / "reward.py"
    file.write_text("def one(sample, text):\n    return 1.0\n")
    return file


def _deepspeed(stage: int | None, folder: Path) -> Path | None:
    """The shipped config, but ZeRO-3 gathers and releases every parameter for every use, as it does those of size."""
    if stage is None:
        return None
    settings = json.loads((ZERO / f"zero{stage}.json").read_text())
    if stage == 3:
        names = ("stage3_param_persistence_threshold", "stage3_max_live_parameters", "stage3_max_reuse_distance")
        settings["zero_optimization"] |= dict.fromkeys(names, 0)
    file = folder / "deepspeed.json"
    file.write_text(json.dumps(settings))
    return file


def run_pair(folder: Path, cases: dict[str, Any]) -> str:
    """Two processes make all runs in `folder`, which strategies.py describes; what went wrong, or nothing."""
    (folder / "cases.json").write_text(json.dumps(cases))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    launcher = ["mmreason.launch", "--standalone", "--nproc-per-node", "2", "-m", "tests.integration.strategies"]
    command = [sys.executable, "-m", *launcher, str(folder)]
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200)
    except subprocess.TimeoutExpired as error:
        return f"still running after {error.timeout} s"
    return done.stdout + done.stderr if done.returncode else ""


def run_strategy(strategy: str, folder: Path, model: Path, data: DemoFiles) -> str:
    """All runs with two processes under a strategy; what went wrong, or nothing."""
    cases = cases_of(folder, model, data, _deepspeed(STAGES[strategy], folder))
    if strategy == ENGINES and find_spec("vllm") is not None:  # last: vLLM changes torch's functions
        rollout = {"n": 4, "max_new_tokens": 12, "engine": "vllm", "options": {"max_model_len": 1024}}
        grpo = {**cases["terms"]["grpo"], "terms": [{"name": "imitation"}], "off_policy": "token_truncate"}
        cases["vllm"] = {**cases["terms"], "run_dir": str(folder / "vllm"), "rollout": rollout, "grpo": grpo}
        other = {**rollout, "options": {"max_model_len": 512}}  # in place of the engines of the run before
        cases["vllm_2"] = {**cases["vllm"], "run_dir": str(folder / "vllm_2"), "rollout": other}
    return run_pair(folder, cases)
