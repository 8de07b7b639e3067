"""GRPO and its relatives: sample groups, score them, push answers by their advantage.

What is not here: no base trainer, no branch per variant or modality. A variant is a row in a table of
`algorithms`; media are inside the trees.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmreason.algorithms.advantages import NEEDS_CRITIC
from mmreason.algorithms.clips import WHOLE_GROUPS
from mmreason.config.columns import spans_of
from mmreason.errors import ConfigError
from mmreason.training.ahead import Collector
from mmreason.training.collect import Collected, is_masked
from mmreason.training.credit import advantages_of, credit
from mmreason.training.critic import with_values
from mmreason.training.gaps import logprob_gaps
from mmreason.training.objective import kl_coefficient, kl_sums, objective_of, row_loss
from mmreason.training.run import Run
from mmreason.training.term_inputs import TermInputs
from mmreason.training.terms import terms_of, with_demos
from mmreason.training.update import rows_of, update, weigh
from mmreason.types import Batch, RolloutGroup, Tree

CARRIED = ("kl", "kl_coef", "temperature", "entropy/sampled")
"""Metrics of a step that the next one looks at."""


def train_grpo(run: Run) -> None:
    """Run every remaining step."""
    config, inputs, collector = run.config, TermInputs(run), Collector(run)
    for step in run.steps():
        collected = collector.take(step)
        run.check_stop()
        groups = with_demos(run, collected.groups)
        sampled = sampling_metrics(run, collected)
        coefficient = kl_coefficient(config, step - 1, sampled, run.carried)
        with run.timed("score"):
            penalties_NG, kl = penalties(run, collected.groups, coefficient)
        trees = credit(
            groups,
            advantages_of(run, groups, penalties_NG),
            spans_of(config),
            trained=lambda rollout: not is_masked(config, rollout),
        )
        with run.timed("score"):
            trees, judged = with_values(run, trees, coefficient)
        trees = inputs.noted(groups, trees, step)
        with run.timed("pack"):
            updates = [rows for rows in prepare(run, trees) if rows]
        with run.timed("score"):
            updates = [
                [with_logprobs(run, row, reference=config.grpo.kl_in == "loss") for row in rows] for rows in updates
            ]
        gaps = logprob_gaps(run, updates, stale=collector.was_ahead)
        loss = row_loss(config, objective_of(config, step - 1), coefficient, terms_of(config, step - 1))
        with run.timed("update"):
            changes = [update(run, rows, loss, run.temperature, inputs.teaching) for rows in updates]
        with run.timed("gallery"):
            run.gallery.keep(step, collected.groups, collected.left_out)
        tokens = collected.tokens + sum(row.ids.shape[0] for rows in updates for row in rows)
        metrics = {**sampled, **gaps, **kl, **judged, **mean(changes)}
        if config.grpo.kl_coef:
            metrics["kl_coef"] = coefficient
        if config.rollout.entropy_target is not None:
            metrics["temperature"] = run.temperature
        run.carried = {name: metrics[name] for name in CARRIED if name in metrics}
        collector.settle()
        run.finish_step(step, metrics, tokens=tokens)


def penalties(run: Run, groups: Sequence[RolloutGroup], coefficient: float) -> tuple[Tensor, dict[str, float]]:
    """float64 [N, G]: what `grpo.kl_in: reward` takes off each answer's reward, else zeros; and the metric `kl`.

    Truncated answers are scored like all others: they count in their group's statistics.
    """
    config = run.config
    blank_NG = torch.zeros(len(groups), config.rollout.n, dtype=torch.float64)
    by_token = config.grpo.advantage in NEEDS_CRITIC  # which then has it taken off by token
    if not config.grpo.kl_coef or config.grpo.kl_in != "reward" or by_token:
        return blank_NG, {}
    rows = rows_of(run, credit(groups, blank_NG[:, :, None], trained=lambda rollout: True))
    scored = [with_logprobs(run, row, reference=True) for row in rows]
    sums = kl_sums(scored, blank_NG.numel(), config.grpo.kl_estimator)
    totals = run.engine.sum({"kl": float(sums.sum()), "tokens": float(sum(row.loss_mask.sum() for row in rows))})
    return coefficient * sums.reshape(blank_NG.shape), {"kl": totals["kl"] / max(totals["tokens"], 1.0)}


def prepare(run: Run, trees: Sequence[Tree]) -> Iterator[list[Batch]]:
    """Rows for each optimizer step of this batch; an empty list where no process has anything to train on.

    Trees are dealt out by their place in the epoch's order, in which processes take turns, so that no number of
    processes changes how many steps there are.
    """
    parts = run.config.grpo.updates_per_batch
    for part in range(parts):
        mine = [tree for i, tree in enumerate(trees) if (i * run.engine.world + run.engine.rank) % parts == part]
        weighed, answers = weigh(run, mine, run.config.train.aggregation)
        weighed, demos = weigh(run, weighed, run.config.train.aggregation, demos=True)
        rows = rows_of(run, weighed) if answers.tokens + demos.tokens else []
        clip = run.config.grpo.clip
        if clip in WHOLE_GROUPS and any(row.repeated_tokens for row in rows):
            raise ConfigError(
                f"train.row_tokens: {run.config.train.row_tokens} is too little for a prompt with all its answers, "
                f"which grpo.clip {clip} needs in one row; raise it, or lower rollout.max_new_tokens or rollout.n"
            )
        yield rows


def with_logprobs(run: Run, row: Batch, *, reference: bool) -> Batch:
    """Add "logprob.old" and, with a KL and where asked, "logprob.ref", from no-grad passes over the very same row.

    The sampling log-probs ARE the old ones: over the very ids that tokens are scored over, all of them or, with top-p
    or top-k and `options.support`, those that were left to choose among. With `grpo.off_policy`, or another engine than
    our own loop, it is the difference by rounding that matters: then they are computed again.
    """
    columns = dict(row.columns)
    temperature = run.temperature
    if run.config.grpo.off_policy == "none" and run.config.rollout.engine == "hf":
        columns["logprob.old"] = columns["logprob.sampling"]
    else:
        columns["logprob.old"] = run.policy.token_scores(
            row, temperature=temperature, forward=run.engine.model, grad=False
        ).logprob
    if run.config.grpo.kl_coef and reference:
        scores = run.policy.reference_scores(row, temperature=temperature, forward=run.reference)
        columns["logprob.ref"] = scores.logprob
    return replace(row, columns=columns)


def sampling_metrics(run: Run, collected: Collected) -> dict[str, float]:
    """Means over the groups sampled by all processes, and how many were sampled and kept."""
    own = {"groups/sampled": float(collected.sampled), "groups/kept": float(len(collected.groups))}
    counts = run.engine.sum({**own, **run.rollouts.counts()})
    return {**collected.tally.means(run.engine.gather(collected.tally.totals)), **counts}


def mean(changes: Sequence[dict[str, float]]) -> dict[str, float]:
    """Metrics of one batch from those of its optimizer steps: sums of `tokens/...`, means of all others.

    `updates` says how many steps there were.
    """
    names = sorted({name for change in changes for name in change})
    sums = {name: math.fsum(change[name] for change in changes) for name in names}
    joined = {name: total if name.startswith("tokens/") else total / len(changes) for name, total in sums.items()}
    return {**joined, "updates": float(len(changes))}
