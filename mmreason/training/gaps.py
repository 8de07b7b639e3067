"""How far an engine's log-probs are from the trainer's for the same tokens and weights: the first sign of trouble."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmreason.rollout.vllm_setup import options_of
from mmreason.training.run import Run
from mmreason.types import Batch


def logprob_gaps(run: Run, updates: Sequence[Sequence[Batch]], *, stale: bool) -> dict[str, float]:
    """`rollout/logprob_gap` (mean), `_p99` and `rollout/logprob_correlation` of a step's tokens; {} for our own loop.

    Over a limit (rollout.options.logprob_gap) the run says so once, with the likely causes. The 99th percentile is
    the largest of the processes' own. stale: the answers are by older weights, so that a gap says nothing of the
    engine; with `rollout.ahead` those of the first step after each checkpoint are not.
    """
    if run.config.rollout.engine == "hf":
        return {}
    engine, trainer = _sampled([row for rows in updates for row in rows])
    totals = run.engine.sum(moments(engine, trainer))
    highest = max(run.engine.gather(percentile_99((trainer - engine).abs())))
    if not totals["n"]:
        return {}
    found = statistics(totals)
    limit = options_of(run.config.rollout).logprob_gap
    if not found["rollout/logprob_gap"] <= limit and not stale:
        run.announce(_warning(limit), f"step {run.step + 1}: {found['rollout/logprob_gap']:.3g}; docs/rollout.md")
    return {**found, "rollout/logprob_gap_p99": highest}


def _sampled(rows: Sequence[Batch]) -> tuple[Tensor, Tensor]:
    """Both log-probs of all tokens that the engine sampled and that are trained on. float64 [N] each"""
    columns = ([], [])  # type: tuple[list[Tensor], list[Tensor]]
    for row in rows:
        own = row.loss_mask & (row.columns.get("demo", torch.zeros(len(row.ids))).cpu() == 0)
        for found, name in zip(columns, ("logprob.sampling", "logprob.old"), strict=True):
            found.append(row.columns[name].cpu().double()[own])
    engine, trainer = (torch.cat([torch.zeros(0, dtype=torch.float64), *found]) for found in columns)
    return engine, trainer


def percentile_99(values: Tensor) -> float:
    """The smallest value that 99 % are not over; 0 of none. (torch.quantile refuses more than 16 million.)"""
    return float(values.kthvalue(math.ceil(0.99 * len(values))).values) if len(values) else 0.0


def moments(engine: Tensor, trainer: Tensor) -> dict[str, float]:
    """Sums over tokens that add up over processes."""
    return {
        "n": float(len(engine)),
        "gap": float((trainer - engine).abs().sum()),
        "x": float(engine.sum()),
        "y": float(trainer.sum()),
        "xx": float((engine * engine).sum()),
        "yy": float((trainer * trainer).sum()),
        "xy": float((engine * trainer).sum()),
    }


def statistics(totals: Mapping[str, float]) -> dict[str, float]:
    """Mean gap and Pearson correlation (1 where one side does not vary) from `moments`."""
    n = totals["n"]
    across = totals["xy"] - totals["x"] * totals["y"] / n
    spread = math.sqrt(max(totals["xx"] - totals["x"] ** 2 / n, 0) * max(totals["yy"] - totals["y"] ** 2 / n, 0))
    return {
        "rollout/logprob_gap": totals["gap"] / n,
        "rollout/logprob_correlation": min(1.0, across / spread) if spread > 0 else 1.0,
    }


def _warning(limit: float) -> str:
    """The same words at every step, by which `Run.announce` knows what it has said."""
    return (
        f"log-probs of the rollout engine are too far off the trainer's in the mean (limit {limit:g}): another dtype "
        "(rollout.options.dtype), another attention kernel, weights that are not in, or positions of media; the "
        "difference is corrected by grpo.off_policy, but answers are not those of the trained model"
    )
