"""`mmreason demo`: data, cold start, GRPO, a control, and a table of held-out accuracy, on a CPU in minutes.

Everything is what a real run does - media files on disk, decoders, the real Qwen2.5-Omni architecture, YAML configs,
checkpoints - with a model small enough to learn from scratch. Killed half-way, the same command continues.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import yaml

from mmreason.config import RunConfig, build_config
from mmreason.config.engines import EngineName, vllm_missing
from mmreason.demo.media import DemoFiles, write_demo_data
from mmreason.demo.tiny import build_tiny
from mmreason.errors import ConfigError
from mmreason.training import run
from mmreason.training.checkpoint import write_json

LONGEST = 512
"""Tokens that no question with its answer exceeds."""
MODALITIES = ("image", "video", "audio", "text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the final table. Example: `Row(name="GRPO", metrics={"accuracy/mean": 0.97, ...})`"""

    name: str
    metrics: dict[str, float]


def main(
    folder: Path, *, seed: int = 0, control: bool = True, share: float = 1.0, engine: EngineName = "hf"
) -> list[Row]:
    """Run the demo into `folder` and print its table. Returns the table's rows.

    `share` of the data and the steps: below 1 everything runs, but little is learnt. `engine`: what samples GRPO's
    answers (rollout.engine). Raises ConfigError when `folder` holds the demo of another seed or engine, or the engine
    is not installed.
    """
    if missing := vllm_missing(engine):
        raise ConfigError(missing)
    started = time.perf_counter()
    demo = _Demo(folder, seed, share, engine)
    print(f"mmreason demo, seed {seed}, in {folder}/", flush=True)
    demo.prepare()
    say = _Narrator(started)
    say("1/3 cold start: a short SFT on correct demonstrations")
    cold = run(demo.stage("sft", "sft", demo.model))
    say("2/3 GRPO: the model's own answers, rewarded when they are right")
    trained = run(demo.stage("grpo", "grpo", cold))
    rows = [
        Row(name="untrained", metrics=_lines(folder / "sft", "eval")[0]),
        Row(name="cold start (SFT)", metrics=_lines(folder / "sft", "eval")[-1]),
        Row(name="GRPO", metrics=_lines(folder / "grpo", "eval")[-1]),
    ]
    if control:
        seconds, steps = _as_long_as(folder / "grpo", folder / "sft")
        say(f"3/3 control: {seconds:.0f} s more of SFT on the same demonstrations instead of GRPO")
        run(demo.stage("sft", "control", cold, steps))
        rows.append(Row(name="SFT for as long", metrics=_lines(folder / "control", "eval")[-1]))
    _epilogue(folder, rows, trained, time.perf_counter() - started)
    return rows


def table(rows: Sequence[Row]) -> str:
    """Held-out accuracy per modality with 95 % intervals, one line per stage."""
    lines = [f"{'held-out accuracy, %':24}" + "".join(f"{name:>17}" for name in (*MODALITIES, "mean"))]
    for row in rows:
        cells = [_cell(row.metrics, name) for name in MODALITIES]
        cells.append(f"{100 * row.metrics['accuracy/mean']:.1f}")
        lines.append(f"{row.name:24}" + "".join(f"{cell:>17}" for cell in cells))
    return "\n".join(lines)


class _Narrator:
    """Announces each stage with the time so far."""

    def __init__(self, started: float) -> None:
        self.started = started

    def __call__(self, text: str) -> None:
        print(f"[{time.perf_counter() - self.started:4.0f} s] {text}", flush=True)


def _cell(metrics: dict[str, float], name: str) -> str:
    share, low, high = (100 * metrics[f"accuracy/{name}{end}"] for end in ("", "/low", "/high"))
    return f"{share:.0f} [{low:.0f}-{high:.0f}]"


@dataclass(frozen=True, slots=True)
class _Demo:
    """Where one demo lives and how big it is."""

    folder: Path
    seed: int
    share: float
    engine: EngineName = "hf"

    @property
    def data(self) -> DemoFiles:
        folder = self.folder / "data"
        return DemoFiles(sft=folder / "sft.jsonl", train=folder / "train.jsonl", eval=folder / "eval.jsonl")

    @property
    def model(self) -> Path:
        return self.folder / "tiny-omni"

    def prepare(self) -> None:
        """Data and untrained model, written once. The marker comes last: what is half-written is written again."""
        marker, mine = self.folder / "demo.json", {"seed": self.seed, "share": self.share, "engine": self.engine}
        if marker.exists():
            found = json.loads(marker.read_text())
            if found != mine:
                raise ConfigError(f"{self.folder}: holds a demo of {found}, not {mine}; give another folder")
            return
        settings = yaml.safe_load(files("mmreason.demo").joinpath("demo.yaml").read_text(encoding="utf-8"))
        counts = {name: max(20, round(self.share * count)) for name, count in settings["data"].items()}
        write_demo_data(self.folder / "data", seed=self.seed, **counts)
        build_tiny("qwen2_5_omni", self.model, seed=self.seed, corpus=_texts(self.data), **settings["model"])
        write_json(marker, mine)

    def stage(self, method: str, name: str, model: Path, steps: int | None = None) -> RunConfig:
        """The shipped config of a method with this demo's paths, checked like any user's config."""
        values = yaml.safe_load(files("mmreason.demo").joinpath(f"{method}.yaml").read_text(encoding="utf-8"))
        values["run_dir"], values["seed"] = str(self.folder / name), self.seed
        values["model"]["path"] = str(model)
        values["data"]["train"] = [{"path": str(self.data.sft if method == "sft" else self.data.train)}]
        values["data"]["eval"] = [{"path": str(self.data.eval)}]
        values["media"]["cache_dir"] = str(self.folder / "cache")
        train = values["train"]
        train["steps"] = steps or max(1, round(self.share * train["steps"]))
        if method == "grpo" and self.engine != "hf":
            values["rollout"] |= {"engine": self.engine, "options": {"max_model_len": LONGEST}}
            values["grpo"]["off_policy"] = "token_truncate"
        return build_config(values, f"{method}.yaml")


def _texts(data: DemoFiles) -> list[str]:
    """What the tokenizer is trained on: the demonstrations and questions."""
    rows = [json.loads(line) for line in data.sft.read_text(encoding="utf-8").splitlines()]
    texts = [part["text"] for row in rows for part in row["messages"][0]["content"] if part["type"] == "text"]
    return texts + [demo for row in rows for demo in row["demos"]]


def _as_long_as(run_dir: Path, sft_dir: Path) -> tuple[float, int]:
    """Seconds that a run's steps took, and how many SFT steps take as long, from the pace of another run."""
    taken, pace = (
        [line["time/step"] - line.get("time/evaluate", 0.0) for line in _lines(folder, "train")]
        for folder in (run_dir, sft_dir)
    )
    return sum(taken), max(1, round(sum(taken) / statistics.median(pace)))


def _lines(run_dir: Path, kind: str) -> list[dict[str, float]]:
    """Lines of a run's metrics.jsonl of one kind."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["kind"] == kind]


def _epilogue(folder: Path, rows: Sequence[Row], trained: Path, seconds: float) -> None:
    print(f"\n{table(rows)}\n\n95 % intervals in brackets; mean of the four. {seconds / 60:.1f} minutes in all.")
    print(f"run folder: {folder / 'grpo'}   report: {folder / 'grpo' / 'report.html'}")
    # `make demo` runs in an environment that is not active: then the name alone would not be found.
    command = "mmreason" if shutil.which("mmreason") else os.path.relpath(Path(sys.executable).parent / "mmreason")
    print(
        "\nNext:\n"
        f"  {command} train {folder / 'grpo' / 'config.yaml'} run_dir={folder / 'longer'} train.steps=400\n"
        f"  {command} rewards                       the rewards there are, and how to plug in your own\n"
        f"  {command} doctor                        what works on this machine, and how to mend the rest\n"
        f"The trained model is an ordinary transformers checkpoint: {trained}"
    )
