"""Measures that compare two texts, each from 0 (nothing in common) to 1 (the same)."""

from __future__ import annotations

import re
from typing import Any

from mmreason.rewards.base import slow_import

_UNSPACED = (  # Thai, Lao, Myanmar, Khmer, kana, Chinese characters: written without spaces between words
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    r"\uf900-\ufaff\U00020000-\U0003ffff"
)
_MARKS = r"\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"
"""Vowel signs and accents that Python does not count among the letters: they must not end a word."""
_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])[^\W_]|[{_MARKS}])+")
_PIECE = re.compile(rf"[{_UNSPACED}]|[^{_UNSPACED}\s]+")
_scorers: dict[bool, Any] = {}
"""The ROUGE scorers, once they were needed: importing them takes seconds."""


def words(text: str) -> list[str]:
    """Words in lower case, without punctuation; single characters of scripts that are written without spaces."""
    return _WORD.findall(text.lower())


def plain(text: str) -> str:
    """For exact comparison: case, repeated white space and a closing full stop do not count."""
    return " ".join(text.split()).rstrip(".").strip().casefold()


def rouge_mean(answer: str, gold: str, *, every_script: bool = True) -> float:
    """Mean of ROUGE-1, ROUGE-2 and ROUGE-L F1 with stemming (Lin 2004), as Video-R1 scores free-form answers.

    `every_script` false is rouge-score's own idea of words, a to z and 0 to 9: the same for plain English only. A gold
    of one word has no pairs of words: ROUGE-2, which would be 0 for the gold itself, is left out then (but not there).
    """
    if every_script not in _scorers:
        module = slow_import("rouge_score.rouge_scorer")
        tokenizer = _Words() if every_script else None
        _scorers[every_script] = module.RougeScorer(
            ["rouge1", "rouge2", "rougeL"], use_stemmer=True, tokenizer=tokenizer
        )
    scores = _scorers[every_script].score(gold, answer)
    if every_script and len(words(gold)) == 1:
        del scores["rouge2"]
    return float(sum(score.fmeasure for score in scores.values()) / len(scores))


class _Words:
    """`words` as a tokenizer of rouge-score, with its stemmer, which knows English."""

    def __init__(self) -> None:
        self._stem = slow_import("nltk.stem.porter").PorterStemmer().stem

    def tokenize(self, text: str) -> list[str]:
        return [self._stem(word) if len(word) > 3 and word.isascii() else word for word in words(text)]


def word_accuracy(answer: str, gold: str, *, every_script: bool = True) -> float:
    """max(0, 1 - WER): word edits needed to turn the answer into the gold, over the gold's words.

    Words are what white space separates; with `every_script`, also the characters of scripts without spaces.
    """
    given, wanted = (_PIECE.findall(text) if every_script else text.split() for text in (answer, gold))
    if len(given) >= 2 * len(wanted):  # as many edits as the gold has words, at least: no need to count them
        return 0.0
    return max(0.0, 1.0 - edit_distance(given, wanted) / len(wanted))


def edit_distance(left: list[str], right: list[str]) -> int:
    """Insertions, deletions and substitutions between two lists (Levenshtein)."""
    row = list(range(len(right) + 1))
    for i, item in enumerate(left, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(right, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (item != other))
    return row[-1]
