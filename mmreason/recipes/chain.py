"""Several stages after one another: each begins with the model of an earlier one. The same command goes on anywhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from mmreason.config import Plan, Stage
from mmreason.errors import ConfigError
from mmreason.evaluation.sampling import sample_config
from mmreason.evaluation.selection import Selection
from mmreason.training import checkpoint, run


def run_plan(plan: Plan, say: Callable[[str], None] = lambda line: print(line, file=sys.stderr)) -> Path:
    """Run every stage that is not finished; returns the folder of the last one's model, or the file that it wrote.

    A stage that was stopped is resumed by itself. Raises what a run raises; StopRequested leaves the rest for the next
    call. A single stage always runs: its own checkpoints know how far it is.
    """
    if len(plan.stages) == 1:
        return _run(plan.stages[0])
    folders = {stage.name: Path(stage.config.run_dir) for stage in plan.stages}
    for number, stage in enumerate(plan.stages, 1):
        title = f"mmreason: stage {number} of {len(plan.stages)}, {stage.name}"
        if is_finished(stage):
            say(f"{title}: finished before, in {folders[stage.name]}")
            continue
        _refuse_outdated(stage, plan)
        say(title)
        _run(stage)
    return _result(plan.stages[-1])


def _run(stage: Stage) -> Path:
    if stage.sample is None:
        return run(stage.config)
    out = _result(stage)
    out.parent.mkdir(parents=True, exist_ok=True)
    return sample_config(stage.config, out, Selection(**stage.sample.model_dump())).file


def _result(stage: Stage) -> Path:
    """What a stage leaves: the folder of its model, or its rows."""
    return Path(stage.config.run_dir) / ("model" if stage.sample is None else "rows.jsonl")


def is_finished(stage: Stage) -> bool:
    """Whether the last step's checkpoint and the exported model, or the rows, are there."""
    if stage.sample is not None:
        return _result(stage).is_file()
    folder = Path(stage.config.run_dir)
    return checkpoint.exists(folder, stage.config.train.steps) and (folder / "model" / "config.json").is_file()


def _refuse_outdated(stage: Stage, plan: Plan) -> None:
    """A later stage that has begun with this one's model would not notice that the model changes under it."""
    for later in plan.stages:
        folder = Path(later.config.run_dir)
        if later.after == stage.name and (folder / checkpoint.FOLDER).is_dir():
            raise ConfigError(
                f"{folder}: this stage has begun with an earlier model of stage {stage.name}, which is to be trained "
                f"further; remove {folder}, or use a new run_dir"
            )
