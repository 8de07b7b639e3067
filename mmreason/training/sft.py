"""Supervised fine-tuning on demonstrations: a prompt is a trunk, each of its demonstrations a branch."""

from __future__ import annotations

from dataclasses import replace

from mmreason.algorithms.losses import imitation_loss
from mmreason.errors import DataError
from mmreason.policy.policy import TokenScores
from mmreason.training.run import Run
from mmreason.training.update import rows_of, update, weigh
from mmreason.types import Batch, LossOutput, Sample, Segment, Tree


def train_sft(run: Run) -> None:
    """Run every remaining step."""
    for step in run.steps():
        with run.timed("encode"):
            prompts = run.feed.take(run.share(run.config.train.prompts_per_step))
        run.check_stop()
        with run.timed("pack"):
            trees = [demonstration_tree(run, sample, prompt) for sample, prompt in prompts]
            weighed, counts = weigh(run, trees, run.config.train.aggregation)
            rows = rows_of(run, weighed)
        with run.timed("update"):
            metrics = update(run, rows, row_loss, temperature=1.0)
        metrics["length/mean"] = counts.tokens / counts.sequences
        run.finish_step(step, metrics, tokens=sum(row.ids.shape[0] for row in rows))


def demonstration_tree(run: Run, sample: Sample, prompt: Segment) -> Tree:
    """The prompt with every demonstration of the sample below it."""
    demos = tuple(replace(run.encoder.demo(*demo), parent=0) for demo in sample.weighed_demos)
    return Tree(id=sample.id, segments=(prompt, *demos))


def row_loss(scores: TokenScores, row: Batch) -> LossOutput:
    """Weighted cross-entropy of one row."""
    return imitation_loss(scores.logprob, row.columns["weight"].to(scores.logprob.device))


def require_demos(samples: list[Sample]) -> None:
    """Raises DataError that names the first sample without a demonstration."""
    for sample in samples:
        if not sample.demos:
            raise DataError(f"{sample.id}: train.method is sft, but this row has no `demos`; give at least one text")
