"""`mmreason demo`: data, cold start, GRPO, a control, and a table of held-out accuracy, on a CPU in minutes.

Everything is what a real run does - media files on disk, decoders, the real Qwen2.5-Omni architecture, YAML configs,
checkpoints - with a model small enough to learn from scratch. Killed half-way, the same command continues.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from mmreason.config import RunConfig, build_config
from mmreason.demo.media import DemoFiles, write_demo_data
from mmreason.demo.tiny import build_tiny
from mmreason.train import run

MODALITIES = ("image", "video", "audio", "text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the final table. Example: `Row(name="GRPO", metrics={"accuracy/mean": 0.97, ...})`"""

    name: str
    metrics: dict[str, float]


def main(folder: Path, *, seed: int = 0, control: bool = True) -> list[Row]:
    """Run the demo into `folder` and print its table. Returns the table's rows."""
    started = time.perf_counter()
    print(f"mmreason demo, seed {seed}, in {folder}/", flush=True)
    data = _data(folder / "data", seed)
    model = folder / "tiny-omni"
    if not (model / "config.json").exists():
        build_tiny("qwen2_5_omni", model, seed=seed, corpus=_texts(data), **_demo_settings()["model"])
    say = _Narrator(started)
    say("1/3 cold start: a short SFT on correct demonstrations")
    sft = _stage("sft", folder / "sft", model, data, seed, {})
    cold = run(sft)
    say("2/3 GRPO: the model's own answers, rewarded when they are right")
    grpo_started = time.perf_counter()
    grpo = _stage("grpo", folder / "grpo", cold, data, seed, {})
    trained = run(grpo)
    rows = [
        Row(name="untrained", metrics=_evaluations(folder / "sft")[0]),
        Row(name="cold start (SFT)", metrics=_evaluations(folder / "sft")[-1]),
        Row(name="GRPO", metrics=_evaluations(folder / "grpo")[-1]),
    ]
    if control:
        seconds = time.perf_counter() - grpo_started
        say(f"3/3 control: {seconds:.0f} s more of SFT on the same demonstrations instead of GRPO")
        run(_stage("sft", folder / "control", cold, data, seed, _as_long_as(seconds, folder / "sft")))
        rows.append(Row(name="SFT for as long", metrics=_evaluations(folder / "control")[-1]))
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


def _demo_settings() -> dict[str, dict[str, Any]]:
    settings: dict[str, dict[str, Any]] = yaml.safe_load(files("mmreason.demo").joinpath("demo.yaml").read_text())
    return settings


def _data(folder: Path, seed: int) -> DemoFiles:
    """The demo's files; written once. The marker comes last, so that a half-written folder is written again."""
    marker = folder / "complete"
    found = DemoFiles(sft=folder / "sft.jsonl", train=folder / "train.jsonl", eval=folder / "eval.jsonl")
    if not marker.exists():
        found = write_demo_data(folder, seed=seed, **_demo_settings()["data"])
        marker.touch()
    return found


def _texts(data: DemoFiles) -> list[str]:
    """What the tokenizer is trained on: the demonstrations and questions."""
    rows = [json.loads(line) for line in data.sft.read_text(encoding="utf-8").splitlines()]
    texts = [part["text"] for row in rows for part in row["messages"][0]["content"] if part["type"] == "text"]
    return texts + [demo for row in rows for demo in row["demos"]]


def _stage(name: str, run_dir: Path, model: Path, data: DemoFiles, seed: int, train: dict[str, object]) -> RunConfig:
    """The shipped config of one stage with this demo's paths, checked like any user's config."""
    values = yaml.safe_load(files("mmreason.demo").joinpath(f"{name}.yaml").read_text(encoding="utf-8"))
    values["run_dir"], values["seed"] = str(run_dir), seed
    values["model"]["path"] = str(model)
    values["data"]["train"] = [{"path": str(data.sft if name == "sft" else data.train)}]
    values["data"]["eval"] = [{"path": str(data.eval)}]
    values["media"]["cache_dir"] = str(run_dir.parent / "cache")
    values["train"] |= train
    return build_config(values, f"{name}.yaml")


def _as_long_as(seconds: float, sft_dir: Path) -> dict[str, object]:
    """How many SFT steps fill this time, from the pace of the cold start."""
    lines = [json.loads(line) for line in (sft_dir / "metrics.jsonl").read_text().splitlines()]
    pace = [line["time/step"] for line in lines if line["kind"] == "train"]
    steps = max(1, round(seconds / (sum(pace) / len(pace))))
    return {"steps": steps, "save_every": steps}


def _evaluations(run_dir: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["kind"] == "eval"]


def _epilogue(folder: Path, rows: Sequence[Row], trained: Path, seconds: float) -> None:
    print(f"\n{table(rows)}\n\n95 % intervals in brackets. {seconds / 60:.1f} minutes in all.")
    print(f"run folder: {folder / 'grpo'}   report: {folder / 'grpo' / 'report.html'}")
    print(
        "\nNext:\n"
        f"  mmreason train {folder / 'grpo' / 'config.yaml'} run_dir={folder / 'longer'} train.steps=200\n"
        "  mmreason rewards                       the rewards there are, and how to plug in your own\n"
        "  mmreason doctor                        what works on this machine, and how to mend the rest\n"
        f"The trained model is an ordinary transformers checkpoint: {trained}"
    )
