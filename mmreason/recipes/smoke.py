"""`mmreason train RECIPE --smoke`: a recipe as it stands, only smaller, on a CPU in seconds.

Kept: every stage, method, reward, loss, prompt and part that the recipe names, and the family of its model. Smaller: a
tiny model with random weights, a few made-up rows of the kinds in `recipe.rows`, 2 steps, few and short answers.
Otherwise: constant groups and truncated answers are trained on, because answers of random weights are nothing else.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mmreason.config import Plan, RecipeHeader, Stage, build_config
from mmreason.config.sections import ModelConfig
from mmreason.demo.tiny import build_tiny
from mmreason.errors import ConfigError
from mmreason.policy.families import FAMILIES, family_of
from mmreason.policy.policy import load_policy
from mmreason.recipes.chain import run_plan
from mmreason.recipes.rows import write_rows
from mmreason.recipes.services import started

ROWS = 6
STEPS = 2
ANSWER_TOKENS = 12
_MARKER = "smoke.json"
_NOBODY: Mapping[str, str] = MappingProxyType({})
_PLAIN_ROWS = RecipeHeader(paper="", method="", modality="", fidelity="inspired")


@dataclass
class Workshop:
    """Tiny models, made when first asked for, and kept in a folder for the next smoke."""

    folder: Path
    _made: dict[str, Path] = field(default_factory=dict)

    def model(self, family: str, seed: int = 0) -> Path:
        """Folder of a tiny checkpoint. Other seeds have other weights and the same tokenizer: teachers."""
        name = f"tiny-{family}-{seed}"
        if name not in self._made:
            self._made[name] = build_tiny(family, self.folder / name, seed=seed)
        return self._made[name]


def smoke(plan: Plan, run_dir: Path, workshop: Workshop | None = None, say: Callable[[str], None] = print) -> Path:
    """Run a plan small in `run_dir`, which an earlier smoke may have filled; returns the last model's folder.

    Every stage's checkpoint is opened by the stage after it, the last one by this. Raises ConfigError for a folder
    that something else has filled, and whatever the run itself raises.
    """
    _clear(run_dir)
    workshop = workshop or Workshop(run_dir / "tiny")
    with started(plan, run_dir) as urls:
        small = shrunk(plan, run_dir, workshop, urls)
        say(f"smoke: {', '.join(_described(stage) for stage in small.stages)}; in {run_dir}")
        run_plan(small, say)
    model = Path([stage for stage in small.stages if stage.sample is None][-1].config.run_dir) / "model"
    load_policy(ModelConfig(path=str(model), self_check=False), "cpu")
    return model


def smoke_folder(plan: Plan) -> Path:
    """Where a smoke goes by default: beside the run."""
    stage = plan.stages[0]
    run_dir = Path(stage.config.run_dir)
    run_dir = run_dir.parent if stage.name else run_dir
    return run_dir.with_name(f"{run_dir.name}-smoke")


def shrunk(plan: Plan, run_dir: Path, workshop: Workshop, urls: Mapping[str, str] = _NOBODY) -> Plan:
    """The same plan, small, with its data written; rewards that ask a service ask the one at their name's URL."""
    header = plan.header or _PLAIN_ROWS
    folders = {stage.config.run_dir: str(run_dir / (stage.name or "run")) for stage in plan.stages}
    stages = []
    for stage in plan.stages:
        values = _small(stage.config.model_dump(mode="json"))
        values["run_dir"] = folders[stage.config.run_dir]
        family = header.family or family_named(_first_model(plan, stage))
        after = next((folders[s.config.run_dir] for s in plan.stages if s.name == stage.after), None)
        values["model"]["path"] = f"{after}/model" if after else str(workshop.model(family))
        values["data"] = _data(values["data"], header, run_dir / "data" / (stage.name or "run"), folders, values)
        for term in values["grpo"]["terms"]:
            if "teacher" in term["options"]:
                term["options"]["teacher"] = str(workshop.model(family, seed=1))
        for reward in values["rewards"]:
            if reward["name"] in urls:
                reward["options"]["url"] = urls[reward["name"]]
        sample = stage.sample and stage.sample.model_copy(update={"every_row": True})  # no answer will be right
        stages.append(replace(stage, sample=sample, config=build_config(values, f"smoke of stage {stage.name or 1}")))
    return replace(plan, stages=tuple(stages))


def _small(values: dict[str, Any]) -> dict[str, Any]:
    """A config's values with everything that takes long made short."""
    model, media, rollout, grpo, train = (values[key] for key in ("model", "media", "rollout", "grpo", "train"))
    model |= {"dtype": "float32", "revision": None, "trust_remote_code": False, "self_check": False}
    if model["lora"]:
        model["lora"]["rank"] = min(4, model["lora"]["rank"])
    media |= {"workers": 1, "cache_dir": None, "deadline_s": 30.0}
    media |= {"image_min_pixels": 784, "image_max_pixels": 3136, "video_min_pixels": 784, "video_max_pixels": 3136}
    media |= {"video_max_frames": max(4, media["video_min_frames"]) if media["video_min_frames"] <= 4 else 4}
    media["video_min_frames"] = min(4, media["video_min_frames"])
    rollout |= {"n": min(2, rollout["n"]), "max_new_tokens": min(ANSWER_TOKENS, rollout["max_new_tokens"])}
    if train["method"] == "grpo":  # the others refuse what they do not read
        grpo |= {"drop_constant_groups": False, "mask_truncated": False, "keep_mean": None, "max_refills": 0}
    grpo["updates_per_batch"] = min(2, grpo["updates_per_batch"])
    train |= {"steps": STEPS, "prompts_per_step": 2, "warmup_steps": min(1, train["warmup_steps"]), "eval_every": 0}
    train |= {"precision": "fp32", "deepspeed": None, "trackers": [], "save_every": STEPS, "row_tokens": 4096}
    if grpo["contrast_view"]:
        grpo["contrast_n"] = min(2, grpo["contrast_n"])
    values["scoring"]["workers"] = 1
    return values


def _data(
    values: dict[str, Any], header: RecipeHeader, folder: Path, folders: Mapping[str, str], whole: Mapping[str, Any]
) -> dict[str, Any]:
    """A stage's data: made-up rows in the place of its files; what an earlier stage writes stays its own."""
    values["media_root"] = None
    if not values["difficulty"].endswith(".jsonl") or not _made_by(values["difficulty"], folders):
        values["difficulty"] = "pass_rate"  # made-up rows have it, from 0.1 on
        if values["pass_rate"] is not None:
            values["pass_rate"] = (values["pass_rate"][0], max(0.8, values["pass_rate"][1]))
    for which in ("train", "eval"):
        for index, source in enumerate(values[which]):
            made = _made_by(source["path"], folders)
            if made is not None:
                source["path"] = folders[made] + source["path"].removeprefix(made)
                values["media_root"] = str(folder.parent.parent)  # its rows name media by their whole path
                continue
            file = folder / f"{which}-{index}" / f"{Path(source['path']).stem}.jsonl"
            many = len(values[which]) == len(header.rows)
            specs = header.rows[index : index + 1] if many else header.rows
            file.parent.mkdir(parents=True, exist_ok=True)
            seed, pairs = index + 10 * (which == "eval"), whole["train"]["method"] == "dpo"
            write_rows(file, specs, header.demo, count=max(ROWS, len(specs)), seed=seed, pairs=pairs)
            source |= {"path": str(file), "format": "auto", "adapter": "auto", "streaming": False, "limit": None}
    return values


def _made_by(path: str, folders: Mapping[str, str]) -> str | None:
    """The folder of the stage that writes a file, if one does."""
    return next((real for real in folders if path.startswith(f"{real}/")), None)


def _first_model(plan: Plan, stage: Stage) -> str:
    """The checkpoint that the chain up to a stage begins with."""
    by_name = {one.name: one for one in plan.stages}
    while stage.after is not None and stage.after in by_name:
        stage = by_name[stage.after]
    return stage.config.model.path


def family_named(path: str) -> str:
    """The family of a checkpoint, from its folder, or from its name without opening it. Raises an MMReasonError."""
    if Path(path).is_dir():
        return family_of(path).name
    plain = path.lower().replace("-", "_").replace(".", "_")
    found = [name for name in sorted(FAMILIES, key=len, reverse=True) if name in plain]
    if not found:
        raise ConfigError(f"model.path: {path}: --smoke cannot tell its family; known: {', '.join(sorted(FAMILIES))}")
    return found[0]


def _described(stage: Stage) -> str:
    config = stage.config
    rewards: Sequence[str] = [reward.name for reward in config.rewards]
    return f"{stage.name or 'one stage'} ({config.train.method}{': ' + ' + '.join(rewards) if rewards else ''})"


def _clear(run_dir: Path) -> None:
    """An empty folder with our marker in it; one without the marker is somebody's, and stays."""
    if run_dir.exists() and any(run_dir.iterdir()):
        if not (run_dir / _MARKER).is_file():
            raise ConfigError(f"{run_dir}: is not empty, and no earlier --smoke; give another --run-dir")
        shutil.rmtree(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / _MARKER).write_text('{"made_by": "mmreason train --smoke"}\n', encoding="utf-8")
