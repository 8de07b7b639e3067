"""Direct preference optimisation: a prompt is a trunk, the two answers of each of its pairs are branches of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmreason.algorithms.dpo import dpo_loss, log_ratios, numbered_from_1
from mmreason.errors import DataError
from mmreason.policy.policy import TokenScores
from mmreason.training.run import Run
from mmreason.training.update import RowLoss, rows_of, update, weigh
from mmreason.types import Batch, LossOutput, Sample, Segment, Tree


def train_dpo(run: Run) -> None:
    """Run every remaining step."""
    for step in run.steps():
        with run.timed("encode"):
            prompts = run.feed.take(run.share(run.config.train.prompts_per_step))
        run.check_stop()
        pairs = run.engine.sum({"pairs": float(sum(len(sample.pairs) for sample, _ in prompts))})["pairs"]
        with run.timed("pack"):
            trees = pair_trees(run, prompts)
            weighed, counts = weigh(run, trees, "token_mean")  # of metrics; the loss has weights of its own
            rows = rows_of(run, weighed)
        with run.timed("score"):
            rows = [with_reference(run, row) for row in rows]
        loss = row_loss(run.config.grpo.kl_coef, pairs)
        with run.timed("update"):
            metrics = update(run, rows, loss, temperature=1.0)
        metrics |= {"length/mean": counts.tokens / counts.sequences, "pairs": pairs}
        run.finish_step(step, metrics, tokens=sum(row.ids.shape[0] for row in rows))


def pair_trees(run: Run, prompts: Sequence[tuple[Sample, Segment]]) -> list[Tree]:
    """A tree per prompt. Answers carry the number of their `pair` (from 1), whether they are `chosen`, and
    the `share` of each token in their log-ratio.
    """
    trees, number = [], 0
    for sample, prompt in prompts:
        answers = []
        for pair in sample.pairs:
            number += 1
            for text, chosen in ((pair.chosen, 1.0), (pair.rejected, 0.0)):
                answers.append(_answer(run, text, number, chosen))
        trees.append(Tree(id=sample.id, segments=(prompt, *answers)))
    return trees


def _answer(run: Run, text: str, number: int, chosen: float) -> Segment:
    segment = replace(run.encoder.demo(text), parent=0)
    share = 1.0 / len(segment.ids) if run.config.train.aggregation == "sequence_mean" else 1.0
    values = {"pair": float(number), "chosen": chosen, "share": share}
    return segment.with_columns(**{name: torch.full(segment.ids.shape, value) for name, value in values.items()})


def with_reference(run: Run, row: Batch) -> Batch:
    """Add "logprob.ref", from a no-grad pass of the frozen model over the very same row."""
    scores = run.policy.reference_scores(row, forward=run.reference)
    return replace(row, columns={**row.columns, "logprob.ref": scores.logprob})


def row_loss(beta: float, pairs: float) -> RowLoss:
    """The loss of one row, of a step of so many pairs over all processes."""

    def loss(scores: TokenScores, row: Batch) -> LossOutput:
        blank = torch.zeros_like(scores.logprob)
        columns = {name: row.columns.get(name, blank).to(blank.device) for name in ("pair", "chosen", "share")}
        pair, count = numbered_from_1(columns["pair"].long())
        reference = row.columns["logprob.ref"].to(blank.device)

        def of(side: float) -> Tensor:
            share = columns["share"] * (columns["chosen"] == side)
            return log_ratios(scores.logprob, reference, share, pair, count)[1:]

        return dpo_loss(of(1.0), of(0.0), beta=beta, weight=blank.new_full((count,), 1 / pairs))

    return loss


def require_pairs(samples: list[Sample]) -> None:
    """Raises DataError that names the first sample without a pair."""
    for sample in samples:
        if not sample.pairs:
            raise DataError(f"{sample.id}: train.method is dpo, but this row has no `pairs`; give chosen and rejected")
