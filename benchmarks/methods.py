"""What four methods are for, on tiny models, over several seeds, with 95 % intervals. Minutes per seed on one core.

    python benchmarks/methods.py EXPERIMENT --seeds 0 1 2 [--steps 30] [--cold-steps 300] [--folder methods_run]

    order       T-GRPO beside GRPO, equal in all but the bonus. An answer that names the axis of a movement gets 0.5 and
                needs no order of frames; one that names the direction does, and gets 1 if right and -0.5 if wrong:
                at chance less than the axis, and with the bonus (ALPHA) more.
                Measured: accuracy of the direction, minus that with shuffled frames, and how often one is named
    controls    T-GRPO of `order` with mu 0 (the bonus is paid always, whatever the shuffled frames give) and with the
                paper's alpha of 0.3
    perception  PA-GRPO with one reward alone, for the <observation> block: whether it names the right direction
    grounding   GRPO with the reward iou
    mixed       GRPO with a reward per task, as VLAA-Thinker: iou for boxes (perception), accuracy for colours and
                counts (cognition)

Every method starts from a short SFT on noisy demonstrations (benchmarks/method_data.py), made once per seed and kind of
data (a folder holds those of one number of cold steps). Prints a line per seed and method: held-out figures before and
after, each a mean over questions of the mean over four sampled answers, with the half-width of its 95 % interval; then
the mean change over seeds (Student's t) and that of each seed (question by question).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from method_data import says, sees, write_rows
from scipy.stats import t as student

import mmreason
from mmreason.demo.media import DIRECTIONS
from mmreason.demo.tiny import build_tiny
from mmreason.evaluation.rows import EvalRow
from mmreason.types import View

OWN = Path(__file__).with_name("method_data.py")
DIRECTION: dict[str, Any] = {"name": f"{OWN}:direction"}
ACCURACY: dict[str, Any] = {"name": "accuracy", "tasks": ["exact", "counting"]}
IOU: dict[str, Any] = {"name": "iou", "tasks": ["grounding"]}
BY_TASK = {"rewards": [ACCURACY, IOU], "scoring": {"combine": "first"}}
ALPHA = 1.0
"""The temporal bonus. The paper's 0.3 is too small for this task: at chance, naming the axis is still worth more."""
GRPO: dict[str, Any] = {"rewards": [DIRECTION], "grpo": {"mask_truncated": False}}


def _t_grpo(mu: float = 1.0, alpha: float = ALPHA) -> dict[str, Any]:
    """GRPO with the temporal bonus, paid where ordered frames do at least `mu` times as well as shuffled ones."""
    options = {"mode": "paper", "reward": f"{OWN}:direction", "alpha": alpha, "mu": mu}
    bonus = {"name": "temporal_bonus", "options": options}
    return {**GRPO, "shaping": [bonus], "grpo": {**GRPO["grpo"], "contrast_view": "shuffled", "contrast_n": 8}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """What is trained on which data, and what is measured."""

    data: str
    methods: Mapping[str, Mapping[str, Any]]
    """Name -> what its config has of its own."""
    shown: tuple[str, ...]
    """Figures of `measure`."""
    steps: int
    train: str = "train"
    """The rows that are trained on: `train` or those of a task."""


EXPERIMENTS = {
    "order": Experiment(
        data="clips",
        methods={"grpo": GRPO, "t_grpo": _t_grpo()},
        shown=("direction", "shuffled", "gap", "committed"),
        steps=100,
    ),
    "controls": Experiment(
        data="clips",
        methods={"mu_0": _t_grpo(mu=0.0), "alpha_0.3": _t_grpo(alpha=0.3)},
        shown=("direction", "shuffled", "gap", "committed"),
        steps=100,
    ),
    "perception": Experiment(
        data="clips",
        methods={"pa_grpo": {"rewards": [{"name": f"{OWN}:observed", "span": "observation"}]}},
        shown=("observation", "direction"),
        steps=36,
    ),
    "grounding": Experiment(
        data="pictures",
        methods={"grpo": {"rewards": [IOU]}},
        shown=("grounding", "blank"),
        steps=30,
        train="grounding",
    ),
    "mixed": Experiment(
        data="pictures",
        methods={"grpo": BY_TASK},
        shown=("grounding", "cognition", "exact", "counting"),
        steps=30,
    ),
}
FAMILIES = {"clips": "qwen2_5_omni", "pictures": "qwen2_5_vl"}
COUNTS = {"clips": {"sft": 800, "train": 600, "eval": 100}, "pictures": {"sft": 2400, "train": 1200, "eval": 240}}
VIEWS: dict[str, View] = {"clips": "shuffled", "pictures": "blank"}
"""How media are changed for comparison."""
COLD_STEPS = {"clips": 220, "pictures": 300}

Figures = dict[str, list[float]]
"""Name -> one value per held-out question."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("experiment", choices=EXPERIMENTS)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--steps", type=int, help="default: the experiment's")
    options.add_argument("--cold-steps", type=int, help="default: that of its data")
    options.add_argument("--folder", type=Path, default=Path("methods_run"))
    chosen = options.parse_args()
    experiment = EXPERIMENTS[chosen.experiment]
    steps, cold_steps = chosen.steps or experiment.steps, chosen.cold_steps or COLD_STEPS[experiment.data]
    befores: list[Figures] = []
    afters: dict[str, list[Figures]] = {name: [] for name in experiment.methods}
    print(f"{'seed':6}{'method':12}" + "".join(f"{name + ' before, after':>30}" for name in experiment.shown))
    for seed in chosen.seeds:
        folder = chosen.folder / f"{experiment.data}-{seed}"
        cold = cold_start(folder, experiment.data, seed, cold_steps)
        befores.append(measure(folder, experiment.data, cold, seed))
        for method, own in experiment.methods.items():
            run_dir = folder / f"{chosen.experiment}-{method}-{steps}"
            config = settings(folder, experiment.train, run_dir, cold, seed, steps, own)
            afters[method].append(measure(folder, experiment.data, trained(config), seed))
            _line(seed, method, experiment.shown, befores[-1], afters[method][-1])
    _summary(experiment.shown, befores, afters)


def cold_start(folder: Path, data: str, seed: int, steps: int) -> Path:
    """The model that every method starts from, made once per folder."""
    if not (folder / "eval.jsonl").exists():
        write_rows(folder, data, seed, COUNTS[data])
        rows = (folder / "train.jsonl").read_text().splitlines()
        boxes = [line for line in rows if json.loads(line)["task"] == "grounding"]
        (folder / "grounding.jsonl").write_text("".join(line + "\n" for line in boxes))
    if not (folder / "tiny").exists():
        demos = [json.loads(line)["demos"][0] for line in (folder / "sft.jsonl").read_text().splitlines()]
        build_tiny(FAMILIES[data], folder / "tiny", seed=seed, corpus=demos, fan_in_init=True)
    own = {"rewards": [{"name": "accuracy"}]}
    return trained(settings(folder, "sft", folder / "cold", folder / "tiny", seed, steps, own))


def trained(config: dict[str, Any]) -> Path:
    """The model that a run ends with; a finished run is not run again."""
    made = Path(config["run_dir"]) / "model"
    return made if made.exists() else mmreason.train(config)


def settings(
    folder: Path, rows: str, run_dir: Path, model: Path, seed: int, steps: int, own: Mapping[str, Any]
) -> dict[str, Any]:
    """The config of a run; `own` is what it does not share with the others."""
    sft = rows == "sft"
    return {
        "run_dir": str(run_dir),
        "seed": seed,
        "model": {"path": str(model), "freeze": [], "self_check": False},
        "data": {"train": [{"path": str(folder / f"{rows}.jsonl")}]},
        "media": {
            **{f"{kind}_{end}_pixels": 3136 for kind in ("image", "video") for end in ("min", "max")},
            "video_max_frames": 4,
            "cache_dir": str(folder / "cache"),
        },
        "rollout": {"n": 8, "max_new_tokens": 24, "max_rows": 256},
        **own,
        "grpo": {} if sft else {"advantage": "group_mean", "max_refills": 0, **own.get("grpo", {})},
        "train": {
            "method": "sft" if sft else "grpo",
            "steps": steps,
            "prompts_per_step": 16,
            "row_tokens": 2048,
            "learning_rate": 1e-3 if sft else 3e-4,
            "warmup_steps": 5,
            "save_every": 1000,
            "trackers": [],
            "gallery_groups": 0,
        },
    }


# ---- measuring -------------------------------------------------------------------------------------------------


def measure(folder: Path, data: str, model: Path, seed: int) -> Figures:
    """The figures of a model of this folder, once."""
    file = folder / "measured" / f"{model.parent.name}.json"
    if not file.exists():
        figures = _figures(folder, data, model, seed)
        file.write_text(json.dumps(figures))
    known: Figures = json.loads(file.read_text())
    return known if data == "clips" else {**known, "cognition": known["exact"] + known["counting"]}


def _figures(folder: Path, data: str, model: Path, seed: int) -> Figures:
    """Four sampled answers to each held-out question, with its media as they are and changed."""
    own = {"rewards": [DIRECTION]} if data == "clips" else BY_TASK
    view: View = VIEWS[data]
    config = settings(folder, "eval", folder / "eval", model, seed, 1, own)
    config["data"], config["eval"] = {"eval": [{"path": str(folder / "eval.jsonl")}]}, {"n": 4}
    found = mmreason.evaluate(config, out=folder / "measured" / model.parent.name, fresh=True, views=[view])
    rows, changed = found.result.rows, found.views[view].rows
    if data == "pictures":
        figures = {task: _scores(rows, task) for task in ("grounding", "exact", "counting")}
        return {**figures, "blank": _scores(changed, "grounding")}
    golds = {row["id"]: row["answer"] for row in map(json.loads, (folder / "eval.jsonl").read_text().splitlines())}
    shown, shuffled = _right(rows), _right(changed)
    return {
        "direction": list(shown.values()),
        "shuffled": list(shuffled.values()),
        "gap": [shown[id] - shuffled[id] for id in shown],
        "committed": [float(np.mean([says(answer.text) in DIRECTIONS for answer in row.answers])) for row in rows],
        "observation": [float(np.mean([sees(answer.text, golds[row.id]) for answer in row.answers])) for row in rows],
    }


def _right(rows: Sequence[EvalRow]) -> dict[str, float]:
    return {row.id: row.right / len(row.answers) for row in rows}


def _scores(rows: Sequence[EvalRow], task: str) -> list[float]:
    return [float(np.mean([answer.score or 0.0 for answer in row.answers])) for row in rows if row.task == task]


# ---- printing, in per cent -------------------------------------------------------------------------------------


def _line(seed: int, method: str, names: Sequence[str], before: Figures, after: Figures) -> None:
    """One line of the table."""
    cells = [f"{_percent(before[name])} -> {_percent(after[name])}" for name in names]
    print(f"{seed:<6}{method:12}" + "".join(f"{cell:>30}" for cell in cells), flush=True)


def _percent(values: Sequence[float], sign: str = "") -> str:
    """Mean over questions with the half-width of its 95 % interval."""
    half = 1.96 * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{100 * np.mean(values):{sign}5.1f} +-{100 * half:4.1f}"


def _summary(names: Sequence[str], before: Sequence[Figures], after: Mapping[str, Sequence[Figures]]) -> None:
    """How much each method changes a figure, and how much the second method ends over the first."""
    for method, ends in after.items():
        for name in names:
            print(f"{method}: {name} changes by {_over_seeds(before, ends, name)}")
    if len(after) == 2:
        (first, base), (second, other) = after.items()
        for name in names:
            print(f"{second} minus {first}: {name} {_over_seeds(base, other, name)}")


def _over_seeds(old: Sequence[Figures], new: Sequence[Figures], name: str) -> str:
    """Mean difference over seeds with the half-width of its 95 % interval (Student's t; of one seed there is none).

    Then each seed's own, question by question.
    """
    apart = [np.subtract(b[name], a[name]) for a, b in zip(old, new, strict=True)]
    means, count = [100 * float(np.mean(changes)) for changes in apart], len(apart)
    half = student.ppf(0.975, count - 1) * np.std(means, ddof=1) / count**0.5 if count > 1 else float("nan")
    each = "; ".join(_percent(changes.tolist(), "+") for changes in apart)
    return f"{np.mean(means):+.1f} +-{half:.1f} over {count} seeds ({each})"


if __name__ == "__main__":
    main()
