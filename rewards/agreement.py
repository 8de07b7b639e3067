"""Which answers to one question are the same answer: what a majority vote counts.

Answers are the same where the accuracy reward, given one of them as the gold, would call the other right: "B" and "(b)"
for mcq, "1/2" and "0.5" for numeric and math. Where a task has no such notion (free_form, ocr, a task that accuracy
does not know) they are the same when their texts are, but for case, white space and a closing full stop. An answer that
the task cannot read ("A or B" for mcq, "many" for numeric) is none, and does not vote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mmreason.rewards.accuracy import TASKS, answer_of
from mmreason.rewards.texts import plain
from mmreason.types import Rollout, Sample, Score

NO_VOTE = -1.0
BY_TEXT = ("free_form", "ocr")
"""Tasks whose grades measure likeness: two answers that are alike are not one answer."""


def agreement(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    task: str | None = None,
    require_tags: bool = True,
    rel_tol: float = 1e-6,
) -> list[Score]:
    """Total: the index of the first answer that this one equals, its own where it is new; NO_VOTE without an answer.

    The options are those of `accuracy`.
    """
    task = task or sample.task
    if task == "exact" and not isinstance(sample.answer, str):
        task = "numeric"  # as accuracy compares golds that the data file has as numbers
    firsts: list[tuple[int, str]] = []
    scores = []
    for index, rollout in enumerate(rollouts):
        answer = answer_of(rollout.text, require_tags)
        if answer is None or not _same(answer, answer, task, sample, rel_tol):
            scores.append(Score(total=NO_VOTE))
            continue
        same = next((first for first, other in firsts if _same(answer, other, task, sample, rel_tol)), index)
        if same == index:
            firsts.append((index, answer))
        scores.append(Score(total=float(same)))
    return scores


def _same(answer: str, other: str, task: str, sample: Sample, rel_tol: float) -> bool:
    """Whether `answer` is right where `other` is the gold. Of an answer and itself: whether it can be read at all."""
    if task not in TASKS or task in BY_TEXT:
        return plain(answer) == plain(other)
    gold = TASKS[task].gold(other, replace(sample, answer=other))
    return gold is not None and TASKS[task].grade(answer, gold, sample, rel_tol) == 1.0
