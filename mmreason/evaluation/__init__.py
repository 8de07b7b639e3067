"""Evaluation on held-out samples: answers, what the rewards call correct, accuracy with 95 % intervals, pass@k, votes.

Training calls `evaluate` with its open parts, for one greedy answer per sample; `mmreason eval` (`verb.py`) opens them
by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from zlib import crc32

from mmreason.encode import Encoder
from mmreason.errors import MMReasonError
from mmreason.evaluation.rows import EvalAnswer, EvalResult, EvalRow
from mmreason.processors.views import applies
from mmreason.rewards.agreement import NO_VOTE
from mmreason.rewards.base import extract_answer
from mmreason.rollout.base import Engine, SamplingParams
from mmreason.types import Rollout, Sample, Score, View

__all__ = ["EvalAnswer", "EvalResult", "EvalRow", "evaluate"]

ScoreGroups = Callable[[Sequence[tuple[Sample, Sequence[Rollout]]]], list[list[Score]]]
"""`RewardPool.score`: one list of scores per group."""

BATCH = 64
"""Samples encoded and answered at a time, so that their media need not all be in memory."""


def evaluate(
    samples: Sequence[Sample],
    encoder: Encoder,
    engine: Engine,
    score: ScoreGroups,
    params: SamplingParams,
    n: int = 1,
    vote: ScoreGroups | None = None,
    seed: int = 0,
    view: View = "ordered",
) -> EvalResult:
    """Answer every sample n times (greedily, if `params` say so) and count what the rewards call correct.

    Correct is a score's flag "correct" (the accuracy reward sets it); a sample with a score that lacks it counts as
    unscored. `vote`: a pool of the reward `agreement`, where votes are wanted. The same seed gives the same answers.
    `view`: how media are shown; samples that it leaves as they are have no row.
    """
    if view != "ordered":
        samples = [sample for sample in samples if applies(view, sample)]
    rows: list[EvalRow] = []
    for start in range(0, len(samples), BATCH):
        rows += _evaluate_batch(samples[start : start + BATCH], encoder, engine, score, params, n, vote, seed, view)
    return EvalResult(rows=tuple(rows))


def _evaluate_batch(
    samples: Sequence[Sample],
    encoder: Encoder,
    engine: Engine,
    score: ScoreGroups,
    params: SamplingParams,
    n: int,
    vote: ScoreGroups | None,
    seed: int,
    view: View,
) -> Iterator[EvalRow]:
    results = encoder.prompts(samples, view, seed)
    usable = [result for result in results if not isinstance(result, MMReasonError)]
    seeds = [[crc32(f"{seed} {index} {sample.id}".encode()) for index in range(n)] for sample, _ in usable]
    rollouts = engine.generate([prompt for _, prompt in usable], n, params, seeds) if usable else []
    groups = [(sample, answers) for (sample, _), answers in zip(usable, rollouts, strict=True)]
    scores = score(groups) if groups else []
    votes = vote(groups) if groups and vote else [[Score(total=NO_VOTE)] * n] * len(groups)
    answered = iter(zip(groups, scores, votes, strict=True))
    for sample, result in zip(samples, results, strict=True):
        if isinstance(result, MMReasonError):
            yield _row(sample, str(result))
        else:
            (_, group), marks, agreed = next(answered)
            yield _answered_row(sample, group, marks, agreed)


def _answered_row(sample: Sample, group: Sequence[Rollout], marks: Sequence[Score], agreed: Sequence[Score]) -> EvalRow:
    answers = tuple(
        EvalAnswer(
            text=rollout.text,
            answer=extract_answer(rollout.text),
            correct=None if mark.total is None else mark.flags.get("correct"),
            tokens=rollout.tokens,
            truncated=rollout.finish_reason == "length",
            score=mark.total,
            vote=None if same.total in (None, NO_VOTE) else int(same.total),
        )
        for rollout, mark, same in zip(group, marks, agreed, strict=True)
    )
    reasons = [
        mark.error or "no reward says whether the answer is correct; add accuracy"
        for mark, answer in zip(marks, answers, strict=True)
        if answer.correct is None
    ]
    reasons += [f"votes: {same.error}" for same in agreed if same.error]
    return _row(sample, reasons[0] if reasons else "", answers)


def _row(sample: Sample, reason: str, answers: tuple[EvalAnswer, ...] = ()) -> EvalRow:
    return EvalRow(
        id=sample.id,
        modality=sample.modality,
        task=sample.task,
        source=sample.source,
        status="quarantined" if not answers else "unscored" if reason else "scored",
        reason=reason,
        answers=answers,
    )
