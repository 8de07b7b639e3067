"""Measures that compare two texts, each from 0 (nothing in common) to 1 (the same)."""

from __future__ import annotations

from typing import Any

from mmreason.rewards.base import slow_import

_scorers: list[Any] = []
"""The ROUGE scorer, once it was needed: importing it takes seconds."""


def plain(text: str) -> str:
    """For exact comparison: case, repeated white space and a closing full stop do not count."""
    return " ".join(text.split()).rstrip(".").strip().casefold()


def rouge_mean(answer: str, gold: str) -> float:
    """Mean of ROUGE-1, ROUGE-2 and ROUGE-L F1 with stemming (Lin 2004), as Video-R1 scores free-form answers."""
    if not _scorers:
        module = slow_import("rouge_score.rouge_scorer")
        _scorers.append(module.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True))
    scores = _scorers[0].score(gold, answer)
    return float(sum(score.fmeasure for score in scores.values()) / len(scores))


def word_accuracy(answer: str, gold: str) -> float:
    """max(0, 1 - WER): word edits needed to turn the answer into the gold, over the gold's words."""
    words = gold.split()
    return max(0.0, 1.0 - edit_distance(answer.split(), words) / len(words))


def edit_distance(left: list[str], right: list[str]) -> int:
    """Insertions, deletions and substitutions between two lists (Levenshtein)."""
    row = list(range(len(right) + 1))
    for i, item in enumerate(left, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(right, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (item != other))
    return row[-1]
