"""Sampling and scoring of one step's groups, with refills for those that carry no signal."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mmreason.algorithms.advantages import NEEDS_GREEDY, mean_within
from mmreason.algorithms.spans import with_spans
from mmreason.config import RunConfig
from mmreason.config.columns import tags_of
from mmreason.errors import GoldError
from mmreason.rewards.base import BAD_GOLD, keep_mask
from mmreason.rollout.base import SamplingParams
from mmreason.training.contrast import contrast_scores
from mmreason.training.outcomes import rewards_of, teaches
from mmreason.training.replay import Replay
from mmreason.training.run import Run
from mmreason.training.tally import Tally, tally_contrast, tally_groups, tally_staleness
from mmreason.types import Rollout, RolloutGroup, Sample, Score, Segment


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What one process has for one step.

    Example: 4 prompts wanted, one group without signal replaced: `Collected(groups=(4 groups), sampled=5, ...)`
    """

    groups: tuple[RolloutGroup, ...]
    left_out: RolloutGroup | None
    """The first group without a signal, if there was one: what the model cannot do at all, or can do already."""
    sampled: int
    """How many groups were sampled, useful or not."""
    tokens: int
    """How many tokens were sampled for them."""
    tally: Tally


def collect(run: Run, step: int) -> Collected:
    """Sample groups until this process has its share of useful ones, or `grpo.max_refills` is used up."""
    config, tally = run.config, Tally()
    run.quarantine.step = step
    kept: list[RolloutGroup] = []
    left_out: RolloutGroup | None = None
    sampled = tokens = 0
    run.sync()
    # Other engines have weights of their own, and what is collected ahead must not wait for other processes.
    with run.engine.whole_parameters() if config.rollout.engine == "hf" else contextlib.nullcontext():
        for attempt in range(1 + config.grpo.max_refills):
            wanted = run.share(config.train.prompts_per_step) - len(kept)
            if wanted == 0 or run.stop_requested:
                break
            groups = sample_groups(run, step, attempt, wanted)
            tally_groups(tally, groups)
            if config.rollout.ahead:
                tally_staleness(tally, groups, step)
            if run.feed.replay is not None:
                note_hard(run.feed.replay, groups)
            if config.grpo.contrast_view:
                tally_contrast(tally, groups)
            shaped = run.shaping(groups, tally)
            marks = [_useful(run, *pair) for pair in zip(groups, shaped, strict=True)]
            useful = [group for group, mark in zip(shaped, marks, strict=True) if mark]
            left_out = left_out or next((group for group, mark in zip(shaped, marks, strict=True) if not mark), None)
            tally.add("groups/useful", len(useful), len(groups))
            kept += useful
            sampled += len(groups)
            tokens += sum(rollout.tokens for group in groups for rollout in group.rollouts)
    run.rollouts.rest()
    return Collected(groups=tuple(kept), left_out=left_out, sampled=sampled, tokens=tokens, tally=tally)


def sample_groups(run: Run, step: int, attempt: int, count: int) -> list[RolloutGroup]:
    """`count` new prompts, `rollout.n` scored answers each."""
    config = run.config
    with run.timed("encode"):
        prompts = run.feed.take(count)
    ids = [sample.id for sample, _ in prompts]
    engine = run.engine
    # A small data set may give a sample twice, to one process or to two.
    times = [engine.rank + engine.world * ids[:place].count(id) for place, id in enumerate(ids)]

    def seeds_of(count: int, *purpose: str) -> list[list[int]]:
        return [
            [seed_of(config.seed, step, attempt, id, time, *purpose, index) for index in range(count)]
            for id, time in zip(ids, times, strict=True)
        ]

    with run.timed("rollout"):
        n, params = config.rollout.n, sampling(run)
        answers = run.rollouts.generate([prompt for _, prompt in prompts], n, params, seeds_of(n))
        tags, text_of = tags_of(config), run.encoder.text
        answers = [tuple(with_spans(rollout, tags, text_of) for rollout in group) for group in answers]
    with run.timed("reward"):
        scores = run.rewards.score([(sample, group) for (sample, _), group in zip(prompts, answers, strict=True)])
    contrast: list[tuple[Score, ...]] = [()] * len(prompts)
    if view := config.grpo.contrast_view:
        seeds, shown_by = seeds_of(config.grpo.contrast_n, "contrast"), seed_of(config.seed, step, attempt, view)
        plain = replace(params, keep_support=False)
        contrast = contrast_scores(run, view, prompts, plain, seeds, shown_by)
    greedy = greedy_scores(run, prompts) if config.grpo.advantage in NEEDS_GREEDY else [None] * len(prompts)
    for (sample, _), marks in zip(prompts, scores, strict=True):
        for error in {mark.error for mark in marks if mark.error}:
            run.announce(error, f"sample {sample.id}")
    return [
        RolloutGroup(sample=sample, prompt=prompt, rollouts=group, scores=tuple(marks), greedy=best, contrast=other)
        for (sample, prompt), group, marks, best, other in zip(prompts, answers, scores, greedy, contrast, strict=True)
    ]


def greedy_scores(run: Run, prompts: Sequence[tuple[Sample, Segment]]) -> list[Score | None]:
    """The score of a greedy answer to each prompt."""
    params = replace(sampling(run), greedy=True)
    with run.timed("rollout"):
        answers = run.rollouts.generate([prompt for _, prompt in prompts], 1, params, [[0] for _ in prompts])
    with run.timed("reward"):
        scores = run.rewards.score([(sample, group) for (sample, _), group in zip(prompts, answers, strict=True)])
    return [marks[0] for marks in scores]


def sampling(run: Run) -> SamplingParams:
    """The sampling parameters of the step that is being made."""
    rollout = run.config.rollout
    return SamplingParams(
        temperature=run.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        max_new_tokens=rollout.max_new_tokens,
        stop=rollout.stop,
        keep_support=bool(run.config.grpo.option("support")),
    )


def note_hard(replay: Replay, groups: Sequence[RolloutGroup]) -> None:
    """Tell the pool of hard samples what each group got. A group without any score says nothing."""
    for group in groups:
        totals = [score.total for score in group.scores if score.total is not None]
        if totals:
            replay.note(group.sample.id, math.fsum(totals) / len(totals))


def is_masked(config: RunConfig, rollout: Rollout) -> bool:
    """Whether `grpo.mask_truncated` keeps this answer out of the loss (its reward still counts in its group)."""
    return config.grpo.mask_truncated and rollout.finish_reason == "length"


def seed_of(*parts: object) -> int:
    """A 63-bit seed that depends on nothing but `parts`."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _useful(run: Run, group: RolloutGroup, shaped: RolloutGroup) -> bool:
    """Whether to train on a group, given also as shaping left it.

    Rollouts without a score are handled as `scoring.on_error` says; `grpo.keep_mean` is about rewards before shaping.
    """
    config = run.config
    kept = keep_mask(group.scores, config.scoring.on_error)
    if any(score.flags.get(BAD_GOLD) for score in group.scores):
        reason = next((score.error for score in group.scores if score.error), "cannot be scored")
        run.feed.reject(group.sample, GoldError(f"its gold answer: {reason}"))
    masked = [is_masked(config, rollout) for rollout in group.rollouts]
    left = [score.total is not None for score in shaped.scores]
    if not any(keep and stays and not mask for keep, stays, mask in zip(kept, left, masked, strict=True)):
        return False
    within = config.grpo.keep_mean is None or bool(mean_within(rewards_of(config, (group,)), *config.grpo.keep_mean))
    return within and (not config.grpo.drop_constant_groups or teaches(config, shaped))
