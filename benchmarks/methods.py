"""What two methods are for, on a tiny model: T-GRPO and the order of frames, PA-GRPO and what the model says it saw.

    python benchmarks/methods.py METHOD --seed 0 [--steps 15] [--folder methods_run]

METHOD is grpo, t_grpo or pa_grpo. Clips show a square that goes left, right, up or down: reversed, a clip has another
answer. The cold start (SFT, made once per seed and shared) teaches the form, the axis, and little about direction: the
direction in a demonstration is right in 65 % of the cases, tossed once for the <observation> and once for the <answer>.

    grpo      accuracy and format
    t_grpo    the same with a contrast view of shuffled frames and the temporal bonus (mode paper)
    pa_grpo   one reward alone, for the <observation> block: whether it names the right direction

Prints one JSON line: on held-out clips, before and after training, the accuracy of four sampled answers, that with
shuffled frames, their difference, and the accuracy of the observations. How much a method gained at the same number of
steps is what tells them apart: in the long run all of them come to 100 %.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import mmreason
from mmreason.demo.media import DIRECTIONS, TASKS, _Question
from mmreason.demo.tiny import build_tiny
from mmreason.rewards.base import extract_answer
from mmreason.types import Rollout, Sample, Score

AXES = {"left": ("left", "right"), "right": ("left", "right"), "up": ("up", "down"), "down": ("up", "down")}
COUNTS = {"sft": 1200, "train": 1200, "eval": 200}
RIGHT = 0.65
"""Share of the demonstrations' directions that are right."""
COLD_STEPS = 150
SHAPE = r"<observation>[^<]*</observation><answer>[^<]*</answer>"

FORMAT: dict[str, Any] = {"name": "format", "weight": 0.2, "options": {"pattern": SHAPE}}
METHODS: dict[str, dict[str, Any]] = {
    "grpo": {"rewards": [{"name": "accuracy"}, FORMAT]},
    "t_grpo": {
        "rewards": [{"name": "accuracy"}, FORMAT],
        "shaping": [{"name": "temporal_bonus", "options": {"mode": "paper"}}],
        "contrast": {"contrast_view": "shuffled", "contrast_n": 4},
    },
    "pa_grpo": {"rewards": [{"name": f"{__file__}:observed", "span": "observation"}]},
}


def observed(sample: Sample, rollouts: Sequence[Rollout]) -> list[Score]:
    """1 if the observation names the right direction and no other, else 0."""
    return [_says(_observation(rollout.text), str(sample.answer)) for rollout in rollouts]


def _observation(text: str) -> str:
    return text.partition("<observation>")[2].partition("</observation>")[0]


def _says(text: str, answer: str) -> Score:
    right = [word for word in DIRECTIONS if word in text.split()] == [answer]
    return Score(total=float(right), flags={"correct": right})


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("method", choices=METHODS)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--steps", type=int, default=15, help="half-way up for grpo; by 30 all are near the top")
    options.add_argument("--folder", type=Path, default=Path("methods_run"))
    chosen = options.parse_args()
    folder = chosen.folder / f"seed-{chosen.seed}"
    started = time.perf_counter()
    cold = cold_start(folder, chosen.seed)
    prepared = time.perf_counter()
    run_dir = folder / f"{chosen.method}-{chosen.steps}"
    trained = mmreason.train(settings(folder, run_dir, cold, chosen.seed, chosen.method, chosen.steps))
    finished = time.perf_counter()
    print(
        json.dumps(
            {
                "method": chosen.method,
                "seed": chosen.seed,
                "steps": chosen.steps,
                "before": measure(folder, "cold", cold),
                "after": measure(folder, run_dir.name, trained),
                "seconds": {"cold start": round(prepared - started), "training": round(finished - prepared)},
            }
        )
    )


def cold_start(folder: Path, seed: int) -> Path:
    """The model that every method starts from, made once per folder."""
    if not (folder / "eval.jsonl").exists():
        rng = np.random.default_rng(seed)
        folder.mkdir(parents=True)
        for name, count in COUNTS.items():
            rows = [_row(rng, folder, name, index) for index in range(count)]
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if not (folder / "tiny").exists():
        rows = [json.loads(line) for line in (folder / "sft.jsonl").read_text().splitlines()]
        corpus = [row["messages"][0]["content"][1]["text"] for row in rows] + [row["demos"][0] for row in rows]
        build_tiny("qwen2_5_omni", folder / "tiny", seed=seed, corpus=corpus, fan_in_init=True)
    return mmreason.train(settings(folder, folder / "cold", folder / "tiny", seed, "sft", COLD_STEPS))


def _row(rng: np.random.Generator, folder: Path, split: str, index: int) -> dict[str, Any]:
    question: _Question = TASKS["motion"](rng)
    clip = folder / "media" / split / f"{index:05d}.mp4"
    clip.parent.mkdir(parents=True, exist_ok=True)
    assert question.write is not None
    question.write(clip)
    wrong = next(word for word in AXES[question.answer] if word != question.answer)
    seen, said = (question.answer if rng.random() < RIGHT else wrong for _ in range(2))
    row = {
        "id": f"{split}-{index:05d}",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "video", "video": clip.relative_to(folder).as_posix()},
                    {"type": "text", "text": question.text},
                ],
            }
        ],
        "answer": question.answer,
        "task": "exact",
    }
    demo = f"<observation>it goes {seen}</observation><answer>{said}</answer>"
    return {**row, "demos": [demo]} if split == "sft" else row


def settings(folder: Path, run_dir: Path, model: Path, seed: int, method: str, steps: int) -> dict[str, Any]:
    """The config of a run: only rewards, shaping and contrast view differ between methods."""
    of_method = METHODS.get(method, {"rewards": [{"name": "accuracy"}]})
    sft = method == "sft"
    return {
        "run_dir": str(run_dir),
        "seed": seed,
        "model": {"path": str(model), "freeze": [], "self_check": False},
        "data": {"train": [{"path": str(folder / ("sft.jsonl" if sft else "train.jsonl"))}]},
        "media": {
            **{f"video_{end}_pixels": 3136 for end in ("min", "max")},
            "video_max_frames": 4,
            "cache_dir": str(folder / "cache"),
        },
        "rollout": {"n": 8, "max_new_tokens": 24, "max_rows": 256},
        "rewards": of_method["rewards"],
        "shaping": of_method.get("shaping", []),
        "grpo": {"advantage": "group_mean", "max_refills": 0, **of_method.get("contrast", {})},
        "train": {
            "method": "sft" if sft else "grpo",
            "steps": steps,
            "prompts_per_step": 32 if sft else 16,
            "row_tokens": 2048,
            "learning_rate": 1e-3 if sft else 3e-4,
            "warmup_steps": 5,
            "save_every": 1000,
            "trackers": [],
            "gallery_groups": 0,
        },
    }


def measure(folder: Path, name: str, model: Path) -> dict[str, float]:
    """Four sampled answers to each held-out clip, as it is and with shuffled frames."""
    config = settings(folder, folder / name, model, 0, "sft", 1)
    config["data"] = {"eval": [{"path": str(folder / "eval.jsonl")}]}
    config["rewards"], config["eval"] = [{"name": "accuracy"}], {"n": 4}
    found = mmreason.evaluate(config, out=folder / f"eval-{name}", views=["shuffled"], fresh=True)
    golds = {row["id"]: row["answer"] for row in map(json.loads, (folder / "eval.jsonl").read_text().splitlines())}
    answers = [(answer, golds[row.id]) for row in found.result.rows for answer in row.answers]
    seen = [_says(_observation(answer.text), gold).total for answer, gold in answers]
    accuracy, gap = found.metrics["accuracy/all"], found.metrics["dependence/shuffled/all"]
    answered = sum(extract_answer(answer.text) is not None for answer, _ in answers)
    return {
        "accuracy": round(accuracy, 4),
        "shuffled": round(accuracy - gap, 4),
        "gap": round(gap, 4),
        "observation": round(float(np.mean([value or 0.0 for value in seen])), 4),
        "answered": answered / len(seen),
    }


if __name__ == "__main__":
    main()
