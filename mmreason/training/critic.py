"""PPO's part of a step: values before the update, per-token advantages from them, what the values are fitted to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmreason.algorithms.critic import Judged, judged
from mmreason.algorithms.kl import KL_ESTIMATORS
from mmreason.training.run import Run
from mmreason.training.update import rows_of
from mmreason.types import Batch, Segment, Tree

Columns = dict[int, list[Tensor]]
"""By an answer's number: pieces of a per-token column, float64 on the CPU, in order."""


def with_values(run: Run, trees: Sequence[Tree], coefficient: float) -> tuple[list[Tree], dict[str, float]]:
    """The trees with the critic's columns: "advantage" by token, "value.old", "value.target"; and metrics.

    Every token knows its answer's reward (column "reward"). Without a critic nothing changes. `coefficient`: of the KL,
    which with `grpo.kl_in: reward` is taken off at every token.
    """
    if run.policy.head.critic is None:
        return list(trees), {}
    values, costs, kl = _forward(run, rows_of(run, trees), coefficient)
    rewards = {number: reward for tree in trees for number, reward in _rewards(tree)}
    numbers = sorted(rewards)
    option = run.config.grpo.option
    old = [torch.cat(values[number]) for number in numbers]
    found = judged(
        [rewards[number] for number in numbers],
        old,
        [torch.cat(costs[number]) for number in numbers],
        gamma=option("gamma"),
        lam=option("lam"),
    )
    mean, std, metrics = _statistics(run, found, old)
    if option("whiten"):
        found = [replace(one, advantage=(one.advantage - mean) / (std + option("epsilon"))) for one in found]
    columns = {
        number: torch.stack([one.advantage, value, one.target]).float()
        for number, one, value in zip(numbers, found, old, strict=True)
    }
    return [_with_columns(tree, columns) for tree in trees], {**metrics, **kl}


def _forward(run: Run, rows: Sequence[Batch], coefficient: float) -> tuple[Columns, Columns, dict[str, float]]:
    """Values of every answer's tokens, what the KL costs them, and the metric `kl` where there is one."""
    values, costs = defaultdict[int, list[Tensor]](list), defaultdict[int, list[Tensor]](list)
    with_kl = bool(run.config.grpo.kl_coef) and run.config.grpo.kl_in == "reward"
    total, count = 0.0, 0
    for row in rows:
        scores = run.policy.token_scores(row, temperature=run.temperature, forward=run.engine.model, grad=False)
        assert scores.value is not None
        kl = torch.zeros_like(scores.value)
        if with_kl:
            reference = run.policy.reference_scores(row, temperature=run.temperature, forward=run.reference).logprob
            kl = KL_ESTIMATORS[run.config.grpo.kl_estimator](scores.logprob, reference, scores.logprob)
        value, cost = scores.value.detach().cpu().double(), coefficient * kl.detach().cpu().double()
        mine = row.loss_mask & (row.columns.get("demo", torch.zeros(len(row.ids))) == 0)
        for number in sorted({int(number) for number in row.columns["answer"][mine].tolist()}):
            own = mine & (row.columns["answer"] == number)
            values[number].append(value[own])
            costs[number].append(cost[own])
        total, count = total + float(kl.cpu()[mine].sum()), count + int(mine.sum())
    if not with_kl:
        return values, costs, {}
    sums = run.engine.sum({"kl": total, "tokens": count})
    return values, costs, {"kl": sums["kl"] / max(sums["tokens"], 1.0)}


def _answers(tree: Tree) -> Iterator[tuple[int, Segment]]:
    """The trained segments of rollouts, each with its answer's number."""
    for segment in tree.segments:
        if segment.loss_mask.any() and "demo" not in segment.columns:
            yield int(segment.columns["answer"][0]), segment


def _rewards(tree: Tree) -> Iterator[tuple[int, float]]:
    for number, segment in _answers(tree):
        yield number, float(segment.columns["reward"][0])


def _statistics(run: Run, found: Sequence[Judged], old: Sequence[Tensor]) -> tuple[float, float, dict[str, float]]:
    """Mean and deviation of the advantages over the tokens of all processes; what share of the targets is explained."""
    columns = {
        "advantage": torch.cat([one.advantage for one in found] or [torch.zeros(0)]),
        "target": torch.cat([one.target for one in found] or [torch.zeros(0)]),
        "error": torch.cat([one.target - value for one, value in zip(found, old, strict=True)] or [torch.zeros(0)]),
    }
    sums = {"count": float(len(columns["target"]))}
    for name, column in columns.items():
        sums |= {name: float(column.sum()), f"{name}^2": float(column.square().sum())}
    sums = run.engine.sum(sums)
    count = max(sums["count"], 1.0)
    variance = {name: max(sums[f"{name}^2"] / count - (sums[name] / count) ** 2, 0.0) for name in columns}
    explained = 1 - variance["error"] / variance["target"] if variance["target"] > 1e-12 else 0.0
    std = (variance["advantage"] * count / max(count - 1, 1.0)) ** 0.5
    return sums["advantage"] / count, std, {"value/explained": explained, "value/target": sums["target"] / count}


def _with_columns(tree: Tree, columns: Mapping[int, Tensor]) -> Tree:
    """`columns`: advantage, old value and target of an answer's trained tokens, float32 [3, T]."""
    left = dict(columns)
    changed = {}
    for number, segment in _answers(tree):
        count = int(segment.loss_mask.sum())
        whole = torch.zeros(3, len(segment.ids))
        whole[:, segment.loss_mask] = left[number][:, :count]
        left[number] = left[number][:, count:]
        changed[id(segment)] = segment.with_columns(advantage=whole[0], value_old=whole[1], value_target=whole[2])
    return replace(tree, segments=tuple(changed.get(id(segment), segment) for segment in tree.segments))
