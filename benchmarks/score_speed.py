"""Completions per second of `mmreason score` with eight rewards at once, each row having the golds of all of them.

    python benchmarks/score_speed.py [--rows 2500] [--per-row 4]

Start of the processes included; a tenth of the answers is no answer at all.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

from mmreason import score
from mmreason.config import RewardConfig, RunConfig
from mmreason.config.sections import ModelConfig

REWARDS = ("accuracy", "format", "iou", "tiou", "triplets", "rerank", "expression", "substring")


def row(index: int, per_row: int) -> dict[str, object]:
    picker = random.Random(index)
    number = picker.randrange(100)
    return {
        "id": f"row-{index}",
        "task": "numeric",
        "answer": str(number),
        "golds": {
            "box": {"value": [10, 20, 110, 220], "frame": "per_thousand"},
            "spans": [[3, 9]],
            "triplets": [[2, "color", "cyan"]],
            "rerank": {"positives": [3], "total": 4},
            "expression": {"cards": [10, 4, 3, 1], "target": 24},
        },
        "completions": [completion(picker, number) for _ in range(per_row)],
    }


def completion(picker: random.Random, number: int) -> str:
    thought = " ".join(picker.choices(("the", "cube", "turns", "left", "so", "we", "count", "it"), k=80))
    said = picker.choice((str(number), "[12, 20, 100, 210]", "3 to 8", "(2, color, cyan)", "[3, 1, 2]", "(10-4)*(3+1)"))
    return thought if picker.random() < 0.1 else f"<think>{thought}</think><answer>{said}</answer>"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rows", type=int, default=2500)
    parser.add_argument("--per-row", type=int, default=4)
    options = parser.parse_args()
    framed = {"iou": {"frame": "per_thousand"}}
    rewards = tuple(RewardConfig(name=name, options=framed.get(name, {})) for name in REWARDS)
    config = RunConfig(run_dir="unused", model=ModelConfig(path="unused"), rewards=rewards)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answers.jsonl"
        path.write_text("".join(json.dumps(row(i, options.per_row)) + "\n" for i in range(options.rows)))
        started = time.perf_counter()
        summary = score(path, config=config, out=Path(folder) / "scores.jsonl")
        seconds = time.perf_counter() - started
    count, kinds = summary.completions, len(REWARDS)
    print(f"{count} completions, {kinds} rewards, {summary.failed} without a score: {seconds:.1f} s")
    print(f"{count / seconds:.0f} completions/s, {count * kinds / seconds:.0f} scores/s")


if __name__ == "__main__":
    main()
