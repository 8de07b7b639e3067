"""Training: `run(config)` opens a run, trains its remaining steps, exports the model and writes the report."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from mmreason.config import RunConfig
from mmreason.config.extras import require_trackers
from mmreason.data import load_all
from mmreason.difficulty import kept
from mmreason.errors import ConfigError, StopRequested
from mmreason.order import order_of
from mmreason.reporting import write_report
from mmreason.rewards import check_rewards
from mmreason.rollout.vllm_setup import require_vllm
from mmreason.training import terms
from mmreason.training.credit import advantage_rule
from mmreason.training.dpo import require_pairs, train_dpo
from mmreason.training.grpo import train_grpo
from mmreason.training.run import Run
from mmreason.training.sft import require_demos, train_sft
from mmreason.training.shaping import load_shaping
from mmreason.training.watch import Watch, watching
from mmreason.types import Sample

__all__ = ["METHODS", "StopRequested", "open_run", "run"]

METHODS: dict[str, Callable[[Run], None]] = {"sft": train_sft, "grpo": train_grpo, "dpo": train_dpo}
DATA_CHECKS: dict[str, Callable[[list[Sample]], None]] = {"sft": require_demos, "dpo": require_pairs}


def run(config: RunConfig) -> Path:
    """Train to the end. Returns the folder of the trained model.

    Raises an MMReasonError when config, data, model or disk do not allow it, and StopRequested when SIGTERM or SIGINT
    came, after saving: the run is continued by calling this again with the same config.
    """
    with watching(config.train.timeout_s) as watch:
        return _train(open_run(config, watch))


def _train(opened: Run) -> Path:
    try:
        with _stop_signals(opened):  # around the save as well, which a second SIGTERM must not cut off
            return _train_or_save(opened)
    finally:
        opened.close()


def _train_or_save(opened: Run) -> Path:
    try:
        METHODS[opened.config.train.method](opened)
        folder = opened.export()
    except StopRequested:
        opened.save(must=True)
        _report(opened)
        raise
    _report(opened)
    return folder


def open_run(config: RunConfig, watch: Watch | None = None) -> Run:
    """Load data and model; resume if `run_dir` holds a checkpoint. `watch`: who looks after the processes, if any."""
    if not config.data.train:
        raise ConfigError("data.train: empty; name at least one data file")
    check_rewards(config.rewards)  # a misspelt one should not wait for data and model
    load_shaping(config)
    advantage_rule(config)
    require_trackers(config.train.trackers)
    require_vllm(config.rollout.engine)
    torch.manual_seed(config.seed)
    samples = kept(config.data, load_all(config.data, "train"))
    order = order_of(config.data, samples, config.seed)
    eval_samples = load_all(config.data, "eval") if config.data.eval else []
    if config.train.method in DATA_CHECKS:
        DATA_CHECKS[config.train.method](samples)
    terms.require_demos(config, samples)
    return Run(config, samples, order, eval_samples, watch or Watch())


def _report(opened: Run) -> None:
    if not opened.engine.is_main:
        return
    try:
        write_report(opened.run_dir, title=opened.run_dir.name)
    except OSError as error:  # all else is saved; `mmreason report` makes the page when there is room for it
        print(f"mmreason: {opened.run_dir}: report.html not written: {error.strerror}", file=sys.stderr)


@contextlib.contextmanager
def _stop_signals(opened: Run) -> Iterator[None]:
    """SIGTERM and SIGINT ask the run to stop; outside the main thread (notebooks) Python allows no handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.signal(number, opened.request_stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
