"""Questions about tables (Reasoning-Table, MJinXiang/Reasoning-Table verl/utils/reward_score).

    table_answer     WikiTQ: the same words or number                       0, 0.1 or 0.15 well-formed but wrong, 1
    table_number     FinQA: a number within 5 %                             0, 0.1 well-formed but wrong, 1
    table_sentence   FeTaQA: BLEU, below 0.5 mixed with keywords            0 to 1
    table_evidence   the right answer, worth more with the right cells      0 to 1.6

All want a think and an answer block, else 0. Differences from the public code: the last answer is read, not the first;
"Answer:" before it is dropped as there; a gold that cannot be read is an error.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mmreason.rewards.base import extract_answer
from mmreason.rewards.golds import bad_gold, block, by_gold, entry, texts
from mmreason.rewards.numbers import read_number, same_number
from mmreason.types import Rollout, Sample, Score

LONGEST = 20_000
"""Characters of an answer that are compared as words."""
_LABEL = re.compile(r"Answer:\s*", re.ASCII)
_PAIR = re.compile(r"<\|([^|\n]*)\|><\|([^|\n]*)\|>")
_STEP_WORDS = re.compile(r"step \d+|first|second|then|next|finally")
_STOP = {"a", "an", "the", "in", "on", "at", "to", "for", "with", "by", "as", "and"}
_BLEU_WEIGHTS = (0.4, 0.3, 0.2, 0.1)
_HIGHLIGHTS = ("highlight", "<hl>", "</hl>", "marked")
Cells = frozenset[tuple[str, str]]


def table_answer(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    formed: float = 0.1,
    long_thought: float = 0.05,
    numbers: bool = True,
) -> list[Score]:
    """1 for the right words or number, `formed` for another well-formed answer, more after 500 characters of thought.

    WikiTQ's rule: case and punctuation do not count, a gold "a|b" holds alternatives. `numbers`: where the gold is a
    number, compare numbers; false is the public code, to which "-5" is "5" and "1.5" is not "1.50". Gold
    "table_answer": a text, a number or a list of alternatives. Range: 0 to 1.
    """

    def grade(rollout: Rollout, golds: list[str]) -> Score:
        answer, thought = _parts(rollout.text)
        if answer is None or thought is None:
            return _score(0.0, False, answer)
        right = any(same_cell(answer, gold, numbers) for gold in golds)
        wrong = formed + (long_thought if len(thought) >= 500 else 0.0)
        return _score(1.0 if right else wrong, right, answer)

    return by_gold(sample, rollouts, "table_answer", _alternatives, grade)


def table_number(
    sample: Sample, rollouts: Sequence[Rollout], *, formed: float = 0.1, rel_tol: float = 0.05
) -> list[Score]:
    """1 for a number within `rel_tol` of the gold, `formed` for another well-formed answer, else 0 (FinQA's rule).

    Numbers are read as `accuracy` reads them (thousands with commas, "3.2 million", "12%"), where the public code takes
    the first digits of the text ("1,234" is 1 there). A gold of 0 wants 0. Gold "table_number". Range: 0 to 1.
    """

    def grade(rollout: Rollout, gold: Any) -> Score:
        answer, thought = _parts(rollout.text)
        if answer is None or thought is None:
            return _score(0.0, False, answer)
        number = read_number(answer)
        right = number is not None and same_number(number, gold, rel_tol)
        return _score(1.0 if right else formed, right, answer)

    def read(given: Any) -> Any:
        return read_number(given) or bad_gold(given, "one number")

    return by_gold(sample, rollouts, "table_number", read, grade)


def table_sentence(sample: Sample, rollouts: Sequence[Rollout], *, unfit: float = 0.0) -> list[Score]:
    """BLEU of a sentence, or, where it is at most 0.5, mostly BLEU with a little for keywords and steps (FeTaQA).

    R = BLEU if over .5, else .05 x min(.1, .02 x step words) + .75 x max(BLEU, .05) + .2 x min(.2, .3 x keywords).
    BLEU: 1 to 4 words, weights .4 .3 .2 .1, smoothed as NLTK's method 1. `unfit`: an answer of several sentences, with
    a list in it, or that speaks of highlighted cells; the public code gives 0.1, more than for a poor but fitting
    answer. Gold "table_sentence": a text, or a list whose first counts. Range: 0 to 1.
    """

    def grade(rollout: Rollout, golds: list[str]) -> Score:
        answer, thought = _parts(rollout.text)
        if answer is None or thought is None:
            return Score(total=0.0, flags={"answered": answer is not None})
        if not is_one_sentence(answer):
            return Score(total=unfit, flags={"answered": True})
        value = bleu(answer[:LONGEST], golds[0])
        parts = {"bleu": value}
        return Score(total=_sentence_value(value, answer, thought, golds[0]), parts=parts, flags={"answered": True})

    return by_gold(sample, rollouts, "table_sentence", _sentences, grade)


def table_evidence(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    evidence_weight: float = 0.5,
    formed: float = 0.1,
    numbers: bool = True,
) -> list[Score]:
    """Right answer x (1 + evidence_weight x Jaccard of the cells named) + formed for a think and an answer block.

    Cells are written `<|value|><|column|>` anywhere in the completion. Gold "table_evidence": {"answer": "42",
    "cells": [{"value": "8,189", "column": "yds"}, ..]}; pairs [value, column] are understood too. `numbers` as in
    `table_answer`. Range: 0 to 1 + evidence_weight + formed.
    """

    def grade(rollout: Rollout, gold: tuple[list[str], Cells]) -> Score:
        answer, thought = _parts(rollout.text)
        right = answer is not None and any(same_cell(answer, text, numbers) for text in gold[0])
        parts = {
            "answer": float(right),
            "evidence": jaccard(frozenset(_PAIR.findall(rollout.text)), gold[1]),
            "format": float(answer is not None and thought is not None),
        }
        total = parts["answer"] * (1 + evidence_weight * parts["evidence"]) + formed * parts["format"]
        return Score(total=total, parts=parts, flags={"correct": right, "answered": answer is not None})

    return by_gold(sample, rollouts, "table_evidence", _gold_evidence, grade)


def jaccard(left: Cells, right: Cells) -> float:
    """Share of the cells of either that are in both; 0 where there are none. Two of four is 0.5."""
    return len(left & right) / len(left | right) if left or right else 0.0


def same_cell(answer: str, gold: str, numbers: bool) -> bool:
    """Whether two texts say the same, but for case and punctuation; as numbers, where asked and the gold is one."""
    wanted = read_number(gold) if numbers and re.fullmatch(r"\s*[-+$]?[\d,.]+\s*%?\s*", gold) else None
    if wanted is not None:
        number = read_number(answer)
        return number is not None and same_number(number, wanted, 1e-6)
    return _normal(answer) == _normal(gold)


def bleu(answer: str, gold: str) -> float:
    """Sentence BLEU of 1 to 4 words and marks, a count of 0 taken as 0.1 (NLTK's SmoothingFunction.method1)."""
    given, wanted = (re.findall(r"\w+|[^\w\s]", text.lower()) for text in (answer, gold))
    if not set(given) & set(wanted):
        return 0.0
    total = 0.0
    for size, weight in enumerate(_BLEU_WEIGHTS, 1):
        ours, theirs = (Counter(zip(*(words[i:] for i in range(size)), strict=False)) for words in (given, wanted))
        matched = sum((ours & theirs).values()) or 0.1
        total += weight * math.log(matched / max(1, len(given) - size + 1))
    return math.exp(total + min(0.0, 1.0 - len(wanted) / len(given)))


def is_one_sentence(answer: str) -> bool:
    """One sentence without a list, that does not speak of highlighted cells."""
    ends = re.findall(r"[.!?]", answer)
    if len(ends) > 1 and len([s for s in re.split(r"[.!?]\s+", answer) if s.strip()]) > 1:
        return False
    return not re.search(r"\d\.\s|[-*]\s", answer) and not any(word in answer.lower() for word in _HIGHLIGHTS)


def keywords(gold: str) -> set[str]:
    """What of a reference should be named: words over two letters that are no stop words, names, numbers."""
    words = {word for word in re.findall(r"\b\w+\b", gold.lower()) if len(word) > 2 and word not in _STOP}
    return words | set(re.findall(r"\b[A-Z][a-z]+\b", gold)) | set(re.findall(r"\b\d+(?:[-\u2013\u2014]\d+)?", gold))


def _sentence_value(value: float, answer: str, thought: str, gold: str) -> float:
    if value > 0.5:
        return min(1.0, value)
    wanted = keywords(gold)
    found = sum(word.lower() in answer.lower() for word in wanted) / len(wanted) if wanted else 0.0
    steps = min(0.1, 0.02 * len(_STEP_WORDS.findall(thought.lower())))
    return 0.05 * steps + 0.75 * max(value, 0.05) + 0.2 * min(0.2, 0.3 * found)


def _parts(text: str) -> tuple[str | None, str | None]:
    """(answer without its label, in single spaces; thought), None where missing."""
    answer = extract_answer(text)
    if answer is not None:
        label = _LABEL.search(answer)
        answer = " ".join(answer[label.end() if label else 0 :].split()) or None
    return answer, block(text, "think")


def _score(value: float, right: bool, answer: str | None) -> Score:
    return Score(total=value, flags={"correct": right, "answered": answer is not None})


def _normal(text: str) -> str:
    text = " ".join(re.sub(r"[^\w\s]", " ", text.lower()).split())
    return text.lstrip("0") or "0" if text.isascii() and text.isdigit() else text


def _alternatives(given: Any) -> list[str]:
    wants = "a text, a number or a list of alternatives"
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        given = str(given)
    golds = given.split("|") if isinstance(given, str) else texts(given, wants)
    return golds if golds and all(_normal(gold) for gold in golds) else bad_gold(given, wants)


def _sentences(given: Any) -> list[str]:
    if isinstance(given, str) and given.startswith("[") and given.endswith("]"):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            bad_gold(given, "a sentence, or a list of sentences")
    return texts([given] if isinstance(given, str) else given, "a sentence, or a list of sentences")


def _gold_evidence(given: Any) -> tuple[list[str], Cells]:
    wants = '{"answer": "42", "cells": [{"value": "8,189", "column": "yds"}]}'
    answer, cells = entry(given, "answer", wants), entry(given, "cells", wants)
    if not isinstance(cells, (list, tuple)):
        bad_gold(given, wants)
    pairs = [(cell.get("value"), cell.get("column")) if isinstance(cell, Mapping) else cell for cell in cells]
    if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
        bad_gold(given, wants)
    return _alternatives(answer), frozenset((str(value), str(column)) for value, column in pairs)
