"""Further terms of the loss of a run (`grpo.terms`): what each needs before the update, and its share in the loss.

The losses themselves are pure functions (`algorithms.terms`). The loop asks for all of them at once and knows no names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mmreason.algorithms.kl import KL_SCHEDULES, KLState
from mmreason.algorithms.spans import with_spans
from mmreason.algorithms.terms import LOSSES, TermRow
from mmreason.config import RunConfig, TermConfig
from mmreason.config.columns import tags_of
from mmreason.config.grpo_terms import NO_DEMOS, TERMS
from mmreason.config.reward_names import labels
from mmreason.errors import DataError
from mmreason.training.run import Run
from mmreason.types import LossOutput, Rollout, RolloutGroup, Sample

WITH_SCORED_DEMOS = ("demo_policy",)
"""For these demonstrations are scored like answers, and count in the statistics of their group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeighedTerm:
    """A term with its factor in one step's loss. Example: `WeighedTerm(label="imitation", term=term, factor=0.5)`"""

    label: str
    term: TermConfig
    factor: float

    def __call__(self, row: TermRow) -> LossOutput:
        """Its share in the loss; the metrics are named after it, `NAME/loss` is without the factor."""
        term = self.term
        out = LOSSES[term.name](row, {name: term.option(name) for name in TERMS[term.name]})
        metrics = {f"{self.label}/{name}": value for name, value in {**out.metrics, "loss": out.loss.item()}.items()}
        return LossOutput(loss=self.factor * out.loss, metrics=metrics)


def terms_of(config: RunConfig, finished: int) -> list[WeighedTerm]:
    """The terms of the step after `finished` ones."""
    terms = config.grpo.terms
    names = labels([term.name for term in terms])
    done = finished / config.train.steps
    return [
        WeighedTerm(label=label, term=term, factor=factor_of(term, done))
        for label, term in zip(names, terms, strict=True)
    ]


def factor_of(term: TermConfig, done: float) -> float:
    """The weight of a term when this share of the run is done."""
    if "schedule" not in TERMS[term.name]:
        return term.weight
    state = KLState(start=term.weight, end=term.weight * term.option("end"), done=done)
    return KL_SCHEDULES[term.option("schedule")](state)


def with_demos(run: Run, groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
    """The groups with the demonstrations of their samples, where a term needs them, scored where one asks for that."""
    if not run.config.grpo.uses_demos:
        return list(groups)
    with_them = [
        replace(group, demos=tuple(_demonstration(run, *demo) for demo in group.sample.weighed_demos))
        for group in groups
    ]
    if any(term.name in WITH_SCORED_DEMOS for term in run.config.grpo.terms):
        return _scored(run, with_them)
    return with_them


def _scored(run: Run, groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
    shown = [group for group in groups if group.demos]
    scores = iter(run.rewards.score([(group.sample, group.demos) for group in shown]) if shown else [])
    found = [replace(group, demo_scores=tuple(next(scores))) if group.demos else group for group in groups]
    for group in found:
        for error in {score.error for score in group.demo_scores if score.error}:
            run.announce(f"a demonstration: {error}", f"sample {group.sample.id}")
    return found


def _demonstration(run: Run, text: str, spans: Sequence[tuple[int, int, float]]) -> Rollout:
    rollout = Rollout(text=text, segments=(run.encoder.demo(text, spans),))
    return with_spans(rollout, tags_of(run.config), run.encoder.text)


def require_demos(config: RunConfig, samples: Sequence[Sample]) -> None:
    """Raises DataError where a term needs demonstrations and no row has any; rows without are trained without."""
    if config.grpo.uses_demos and not any(sample.demos for sample in samples):
        raise DataError(NO_DEMOS)
