"""Several runs in a row within one group of processes, with what only the processes themselves can see.

    python -m mmreason.launch --standalone --nproc-per-node 2 -m tests.integration.strategies FOLDER

FOLDER/cases.json: name -> values of a config. Each process writes FOLDER/rank-N.json: name -> facts.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from safetensors.torch import save_file

from mmreason.config import build_config
from mmreason.training import METHODS, open_run
from mmreason.training.run import Run
from mmreason.training.watch import Watch, watching


def main(folder: Path) -> None:
    """Run every case; raises what the first one to fail raises."""
    cases: dict[str, dict[str, Any]] = json.loads((folder / "cases.json").read_text())
    with watching(600) as watch:
        facts = {}
        for name, values in cases.items():
            facts[name], rank = _run(name, values, watch)
    (folder / f"rank-{rank}.json").write_text(json.dumps(facts))


def _run(name: str, values: dict[str, Any], watch: Watch) -> tuple[dict[str, Any], int]:
    opened = open_run(build_config(values), watch)
    try:
        facts: dict[str, Any] = {"kinds": _kinds_ahead(opened), "lengths": _record_lengths(opened)}
        if name == "frozen":
            _move_optimizer_state(opened)
        METHODS[opened.config.train.method](opened)
        facts |= _distribution(opened)
        folder = opened.export()
        state = opened.engine.state_dict()  # ZeRO-3 gathers it: all processes take part
        if opened.engine.is_main:
            whole = opened.policy.model.state_dict() if state is None else state
            save_file({name: tensor.detach().clone() for name, tensor in whole.items()}, folder.parent / "memory.st")
    finally:
        opened.close()
    return facts, opened.engine.rank


def _move_optimizer_state(run: Run) -> None:
    """To the host and back before each step, as an engine on the trainer's GPU wants it; nothing comes of it."""
    step = run.engine.step

    def moved() -> float:
        run.engine.move_optimizer_state(torch.device("cpu"))
        run.engine.move_optimizer_state(run.engine.device)
        return step()

    setattr(run.engine, "step", moved)  # noqa: B010  # mypy forbids plain assignment to a method


def _distribution(run: Run) -> dict[str, Any]:
    """What torch, accelerate and DeepSpeed say that this is, and whether all parameters are split between steps."""
    engine = run.engine
    deepspeed = engine.accelerator.distributed_type == DistributedType.DEEPSPEED
    return {
        "world": engine.world,
        "deepspeed": deepspeed,
        "stage": engine.model.zero_optimization_stage() if deepspeed else None,
        "split": all(parameter.numel() == 0 for parameter in run.policy.model.parameters()),
        "said": engine.describe(),
    }


def _kinds_ahead(run: Run) -> list[list[str]]:
    """Kinds of media that this process will train on in each remaining step."""
    state, count = run.feed.state, run.share(run.config.train.prompts_per_step)
    steps = [run.feed.take(count) for _ in range(run.step, run.config.train.steps)]
    run.feed.restore(state)
    return [sorted({ref.kind for sample, _ in step for ref in sample.media}) for step in steps]


def _record_lengths(run: Run) -> list[int]:
    """Filled during the run: decoding steps of each call of the rollout engine in this process."""
    lengths: list[int] = []
    generate = run.rollouts.generate

    def recorded(*arguments: Any) -> Any:
        groups = generate(*arguments)
        lengths.append(max(rollout.tokens for group in groups for rollout in group))
        return groups

    setattr(run.rollouts, "generate", recorded)  # noqa: B010  # mypy forbids plain assignment to a method
    return lengths


if __name__ == "__main__":
    main(Path(sys.argv[1]))
