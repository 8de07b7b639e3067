"""GRPO and its relatives: sample groups, score them, push answers by their advantage.

What is not here: no critic, no base trainer, no branch per variant or modality. A variant is a row in
`algorithms.ADVANTAGES`, `KL_ESTIMATORS` or `AGGREGATIONS`; media are inside the trees.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmreason.algorithms.advantages import ADVANTAGES
from mmreason.algorithms.losses import add, kl_loss, policy_loss
from mmreason.config import RunConfig
from mmreason.policy.policy import TokenScores
from mmreason.training.collect import Collected, collect, is_masked, rewards_of
from mmreason.training.run import Run
from mmreason.training.update import RowLoss, rows_of, update, weigh
from mmreason.types import Batch, LossOutput, RolloutGroup, Segment, Tree


def train_grpo(run: Run) -> None:
    """Run every remaining step."""
    for step in run.steps():
        collected = collect(run, step)
        run.check_stop()
        trees = credit(run.config, collected.groups, advantages_of(run, collected.groups))
        with run.timed("pack"):
            updates = [rows for rows in prepare(run, trees) if rows]
        with run.timed("score"):
            updates = [[with_logprobs(run, row) for row in rows] for rows in updates]
        with run.timed("update"):
            changes = [update(run, rows, row_loss(run.config), run.config.rollout.temperature) for rows in updates]
        with run.timed("gallery"):
            run.gallery.keep(step, collected.groups, collected.left_out)
        tokens = collected.tokens + sum(row.ids.shape[0] for rows in updates for row in rows)
        run.finish_step(step, {**sampling_metrics(run, collected), **mean(changes)}, tokens=tokens)


def advantages_of(run: Run, groups: Sequence[RolloutGroup]) -> Tensor:
    """float64 [N, G] for this process's groups, from those of all processes: "batch" looks at them together."""
    blank_NG = torch.zeros(0, run.config.rollout.n, dtype=torch.float64)
    parts = run.engine.gather(rewards_of(tuple(groups)) if groups else blank_NG)
    advantages_NG = ADVANTAGES[run.config.grpo.advantage](torch.cat(parts))
    first = sum(len(part) for part in parts[: run.engine.rank])
    return advantages_NG[first : first + len(groups)]


def credit(config: RunConfig, groups: Sequence[RolloutGroup], advantages_NG: Tensor) -> list[Tree]:
    """Advantages onto tokens; one tree per group. Truncated answers are left out when `grpo.mask_truncated`."""
    trees = []
    for group, advantages_G in zip(groups, advantages_NG, strict=True):
        answers: list[Segment] = []
        for rollout, score, advantage in zip(group.rollouts, group.scores, advantages_G, strict=True):
            if score.total is not None and not is_masked(config, rollout):
                answers += branch(rollout.segments, float(advantage), first=1 + len(answers))
        if answers:
            trees.append(Tree(id=group.sample.id, segments=(group.prompt, *answers)))
    return trees


def branch(path: Sequence[Segment], advantage: float, *, first: int) -> list[Segment]:
    """One rollout's path hung below the prompt (segment 0); its trained tokens carry the rollout's advantage."""
    hung = []
    for depth, segment in enumerate(path):
        parent = 0 if depth == 0 else first + depth - 1
        hung.append(replace(segment, parent=parent).with_columns(advantage=segment.loss_mask.float() * advantage))
    return hung


def prepare(run: Run, trees: Sequence[Tree]) -> Iterator[list[Batch]]:
    """Rows for each optimizer step of this batch; an empty list where no process has anything to train on.

    Trees are dealt out by their place in the epoch's order, in which processes take turns, so that no number of
    processes changes how many steps there are.
    """
    parts = run.config.grpo.updates_per_batch
    for part in range(parts):
        mine = [tree for i, tree in enumerate(trees) if (i * run.engine.world + run.engine.rank) % parts == part]
        weighed, counts = weigh(run, mine, run.config.train.aggregation)
        yield rows_of(run, weighed) if counts.tokens else []


def with_logprobs(run: Run, row: Batch) -> Batch:
    """Add "logprob.old" and, with a KL term, "logprob.ref", from no-grad passes over the very same row.

    With top-p and top-k off the sampling log-probs ARE the old ones. With them on, sampling renormalised over a
    smaller support, so the old ones are computed again.
    """
    columns = dict(row.columns)
    rollout, temperature = run.config.rollout, run.config.rollout.temperature
    if rollout.top_p == 1.0 and rollout.top_k == 0:
        columns["logprob.old"] = columns["logprob.sampling"]
    else:
        columns["logprob.old"] = run.policy.token_scores(
            row, temperature=temperature, forward=run.engine.model, grad=False
        ).logprob
    if run.config.grpo.kl_coef:
        scores = run.policy.reference_scores(row, temperature=temperature, forward=run.reference)
        columns["logprob.ref"] = scores.logprob
    return replace(row, columns=columns)


def row_loss(config: RunConfig) -> RowLoss:
    """The loss of one row under this config."""
    grpo = config.grpo

    def loss(scores: TokenScores, row: Batch) -> LossOutput:
        columns = {name: column.to(scores.logprob.device) for name, column in row.columns.items()}
        out = policy_loss(
            scores.logprob,
            columns["logprob.old"],
            columns["advantage"],
            columns["weight"],
            clip_low=grpo.clip_low,
            clip_high=grpo.clip_high,
        )
        if not grpo.kl_coef:
            return out
        kl = kl_loss(
            scores.logprob,
            columns["logprob.ref"],
            columns["weight"],
            coefficient=grpo.kl_coef,
            estimator=grpo.kl_estimator,
        )
        return add(out, kl)

    return loss


def sampling_metrics(run: Run, collected: Collected) -> dict[str, float]:
    """Means over the groups sampled by all processes, and how many were sampled and kept."""
    counts = run.engine.sum({"groups/sampled": collected.sampled, "groups/kept": len(collected.groups)})
    return {**collected.tally.means(run.engine.gather(collected.tally.totals)), **counts}


def mean(changes: Sequence[dict[str, float]]) -> dict[str, float]:
    """Metrics of one batch from those of its optimizer steps: sums of `tokens/...`, means of all others.

    `updates` says how many steps there were.
    """
    names = sorted({name for change in changes for name in change})
    sums = {name: math.fsum(change[name] for change in changes) for name in names}
    joined = {name: total if name.startswith("tokens/") else total / len(changes) for name, total in sums.items()}
    return {**joined, "updates": float(len(changes))}
