"""Grades between right and wrong for answers in words: one text inside the other, a thought like the annotated one."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from mmreason.rewards.accuracy import accuracy, answer_of
from mmreason.rewards.base import BAD_GOLD
from mmreason.rewards.texts import plain, words
from mmreason.types import Rollout, Sample, Score

_ARTICLES = ("a", "an", "the")
_TAG = re.compile(r"</?\w+>")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def substring(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    variant: Literal["sane", "qwenlong"] = "sane",
    require_tags: bool = True,
) -> list[Score]:
    """1 if the answer is inside the gold or the gold inside the answer, without articles and punctuation, else 0.

    sane: as whole words, and an answer of nothing but articles and punctuation is only right where it is the gold.
    qwenlong: QwenLong-L1's bidirectional substring match as it is (2505.17667, section 3; research notes "rewards" 7):
    characters, so "1" is in "10", and "the" normalises to nothing, which is in everything. Several golds: the best
    counts. An answer that lists every option contains the right one: the price of this reward.
    """
    golds = [value for value in _listed(sample.answer) if isinstance(value, str | int | float) and str(value).strip()]
    if not golds:
        error = f"{sample.id}: the gold answer {sample.answer!r:.60} cannot be scored; expected text"
        return [Score(total=None, error=error, flags={BAD_GOLD: True})] * len(rollouts)
    within = _within_words if variant == "sane" else _within_characters
    scores = []
    for rollout in rollouts:
        answer = answer_of(rollout.text, require_tags)
        right = answer is not None and any(within(answer, str(gold)) for gold in golds)
        scores.append(Score(total=float(right), flags={"correct": right, "answered": answer is not None}))
    return scores


def _listed(answer: Any) -> Sequence[Any]:
    return answer if isinstance(answer, (list, tuple)) else [answer]


def _normal(text: str) -> str:
    """SQuAD's: lower case, no punctuation, no articles, single spaces."""
    return " ".join(word for word in text.lower().translate(_PUNCTUATION).split() if word not in _ARTICLES)


def _within_characters(answer: str, gold: str) -> bool:
    return _normal(answer) in _normal(gold) or _normal(gold) in _normal(answer)


def _within_words(answer: str, gold: str) -> bool:
    given, wanted = _normal(answer), _normal(gold)
    if not given or not wanted:
        return plain(answer) == plain(gold)
    return f" {given} " in f" {wanted} " or f" {wanted} " in f" {given} "


def partial_credit(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    task: str | None = None,
    require_tags: bool = True,
) -> list[Score]:
    """1 for a right answer; 0.1 cos + 0.2 for a wrong one that can be read; 0 without an answer.

    CARFT's partial reward (research notes "rewards" 7), in [0.1, 0.3]. The cosine there is between learnt embeddings
    of the annotated and the sampled thought. Here it is OURS: between their counts of words, 0 to 1, so partial rewards
    are 0.2 to 0.3; the annotated thought is the row's first demo. `task`, `require_tags`: as for accuracy.
    """
    if not sample.demos:
        error = f"{sample.id}: no demo to compare the thought with; give demos, the annotated answers, in the row"
        return [Score(total=None, error=error, flags={BAD_GOLD: True})] * len(rollouts)
    scores = []
    for rollout, verdict in zip(
        rollouts, accuracy(sample, rollouts, task=task, require_tags=require_tags), strict=True
    ):
        if verdict.total is None:
            scores.append(verdict)
            continue
        likeness = _cosine(_TAG.sub(" ", rollout.text), _TAG.sub(" ", sample.demos[0]))
        partial = carft_partial(likeness) if verdict.flags.get("answered") else 0.0
        total = 1.0 if verdict.flags.get("correct") else partial
        scores.append(Score(total=total, parts={"likeness": likeness}, flags=verdict.flags))
    return scores


def carft_partial(cosine: float) -> float:
    """0.1 cos + 0.2. Example: -1, 0, 1 -> 0.1, 0.2, 0.3."""
    return 0.1 * cosine + 0.2


def _cosine(left: str, right: str) -> float:
    """Of the counts of words; 0 where one has none."""
    given, wanted = Counter(words(left)), Counter(words(right))
    norm = math.sqrt(sum(n * n for n in given.values()) * sum(n * n for n in wanted.values()))
    return min(1.0, sum(count * wanted[word] for word, count in given.items()) / norm) if norm else 0.0
