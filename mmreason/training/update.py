"""From trees to one optimizer step: token weights, packed rows, forward, loss, backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from mmreason.algorithms.aggregation import AGGREGATIONS, StepCounts
from mmreason.collate import equalize, pack
from mmreason.policy.policy import Policy, Teaching, TokenScores
from mmreason.training.run import Run
from mmreason.types import Batch, LossOutput, Segment, Tree

RowLoss = Callable[[TokenScores, Batch], LossOutput]


def weigh(run: Run, trees: Sequence[Tree], aggregation: str, *, demos: bool = False) -> tuple[list[Tree], StepCounts]:
    """Give every trained token its weight in the step's loss (column "weight"); counts are over all processes.

    Rollouts, or `demos`: those beside rollouts have a mean of their own (column "weight.demo").
    """
    name = "weight_demo" if demos else "weight"
    lengths = [_length(segment, demos) for tree in trees for segment in tree.segments if _length(segment, demos)]
    totals = run.engine.sum({"sequences": len(lengths), "tokens": sum(lengths)})
    counts = StepCounts(
        sequences=int(totals["sequences"]),
        tokens=int(totals["tokens"]),
        max_new_tokens=run.config.rollout.max_new_tokens,
    )
    weight_of = AGGREGATIONS[aggregation]

    def weighed(segment: Segment) -> Segment:
        length = _length(segment, demos)
        if length == 0:
            return segment
        critical = segment.columns.get("critical", torch.ones(segment.ids.shape[0]))
        return segment.with_columns(**{name: segment.loss_mask * critical * weight_of(length, counts)})

    return [replace(tree, segments=tuple(weighed(segment) for segment in tree.segments)) for tree in trees], counts


def _length(segment: Segment, demos: bool) -> int:
    """Trained tokens of a segment of that kind, else 0."""
    return int(segment.loss_mask.sum()) if ("demo" in segment.columns) == demos else 0


def rows_of(run: Run, trees: Sequence[Tree], policy: Policy | None = None) -> list[Batch]:
    """Packed rows, as many on every process and with the same modalities in each; every row has every column.

    `policy`: who reads them, where it is not the run's own.
    """
    policy = policy or run.policy
    rows = pack(trees, run.config.train.row_tokens, policy.positions)
    return [_complete(row) for row in equalize(rows, policy, run.engine.gather)]


def _complete(row: Batch) -> Batch:
    """Zeros for missing columns (dummy trees have none); no weight where a split tree repeats a token without loss."""
    blank = {name: torch.zeros(row.ids.shape[0]) for name in ("advantage", "answer", "logprob.sampling", "weight")}
    columns = {**blank, **row.columns}
    columns |= {name: columns[name] * row.loss_mask for name in ("weight", "weight.demo") if name in columns}
    return replace(row, columns=columns)


def update(
    run: Run,
    rows: Sequence[Batch],
    loss: RowLoss,
    temperature: float,
    teaching: Callable[[Batch], Teaching | None] = lambda row: None,
) -> dict[str, float]:
    """One optimizer step over these rows. Metrics are sums over rows and processes.

    `teaching`: what a teacher makes of a row, where the loss compares with one.
    `tokens/repeated`: how many of the forwarded tokens stand in two rows because their tree had to be split.
    """
    totals: dict[str, float] = {}
    run.policy.model.train()
    for index, row in enumerate(rows):
        last = index == len(rows) - 1
        with run.engine.micro_batch(last=last):
            scores = run.policy.token_scores(
                row, temperature=temperature, forward=run.engine.model, grad=True, teaching=teaching(row)
            )
            out = loss(scores, row)
            run.engine.backward(out.loss, last=last)
        weight = row.columns["weight"].to(scores.entropy.device)
        entropy = float((scores.entropy.detach() * weight).sum())
        tokens = {"tokens/forwarded": float(row.ids.shape[0]), "tokens/repeated": float(row.repeated_tokens)}
        for name, value in {**out.metrics, **tokens, "loss": float(out.loss.detach()), "entropy": entropy}.items():
            totals[name] = totals.get(name, 0.0) + value
    totals = run.engine.sum(totals)
    norm = run.engine.step()
    skipped = float(not torch.isfinite(torch.tensor(norm)))
    return {**totals, "grad_norm": norm, "skipped": skipped}
