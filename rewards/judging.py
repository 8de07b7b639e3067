"""Rewards for models that judge: two answers against each other (JudgeLRM), the steps of a solution (VRPRM)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from mmreason.rewards.base import extract_answer
from mmreason.rewards.golds import bad_gold, by_gold, whole_numbers
from mmreason.rewards.length_curves import length_of
from mmreason.types import Rollout, Sample, Score

Pair = tuple[int, int]
_BLOCK = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
_WHOLE = re.compile(r"\s*[+-]?\d{1,9}\s*")
_STEP_LABEL = re.compile(r"\bstep\s*(\d{1,4})\s*:\s*([01])\b(?!\.\d)", re.IGNORECASE)
_LABELS = re.compile(r"\[?\s*[01](?:\s*,\s*[01])*\s*,?\s*\]?")


def judge_pair(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    ties: Literal["own", "first"] = "own",
    length_terms: bool = True,
    long: int = 120,
) -> list[Score]:
    """Structure, order, closeness and length of two marks from 0 to 10 that compare two answers (JudgeLRM).

    The completion is one think block, then `<answer>8</answer><answer>3</answer>`. Structure: 1; -1 where tags are not
    just these; -.5 where a mark is no whole number from 0 to 10. Then, only with structure 1, the content: -1.5 for the
    wrong order; for the right one 2, and 1 where both marks are the gold's or .6 where they differ by at most 2 in
    all, and .2 where the gap is not smaller than the gold's; without structure -2. `length_terms`: .2 over `long`
    tokens, -1 where the answer was cut off at the budget.

    Source: NuoJohnChen/JudgeLRM src/verl/utils/reward_score/judgelrm.py. `ties`: "own", a tie is its own order;
    "first", as there, where (5, 5) is the same as (8, 3). Gold "judge_pair": [8, 3]. Range: -3 to 4.4.
    """

    def grade(rollout: Rollout, gold: Pair) -> Score:
        length = length_of(rollout, "tokens") if length_terms else 0
        structure, marks = read_marks(rollout.text)
        parts = {"structure": structure, "content": -2.0 if marks is None else content(marks, gold, ties)}
        if marks is not None and length_terms:
            parts["length"] = 0.2 * (length > long) - 1.0 * (rollout.finish_reason == "length")
        flags = {
            "correct": marks is not None and order(marks, ties) == order(gold, ties), "answered": marks is not None
        }  # fmt: skip
        return Score(total=sum(parts.values()), parts=parts, flags=flags)

    return by_gold(sample, rollouts, "judge_pair", _gold_pair, grade)


def step_labels(sample: Sample, rollouts: Sequence[Rollout]) -> list[Score]:
    """Share of the steps whose label, 1 right or 0 wrong, is the gold's; of the longer list, if they differ (VRPRM).

    VRPRM's code was not at hand: how lists of different length count is our choice. The answer is [1, 0, 1], or lines
    "Step 1: 1"; a step that has two labels is wrong. Gold "step_labels": [1, 1, 0]. Range: 0 to 1.
    """

    def grade(rollout: Rollout, gold: list[int]) -> Score:
        labels = read_step_labels(extract_answer(rollout.text) or "")
        right = sum(label == wanted for label, wanted in zip(labels, gold, strict=False))
        value = right / max(len(labels), len(gold))
        return Score(total=value, flags={"correct": value == 1.0, "answered": bool(labels)})

    return by_gold(sample, rollouts, "step_labels", _gold_labels, grade)


def read_marks(text: str) -> tuple[float, Pair | None]:
    """(structure, the two marks); marks only with structure 1."""
    tags = {"<think>": 1, "</think>": 1, "<answer>": 2, "</answer>": 2}
    places = [text.find(tag) for tag in tags]
    blocks = _BLOCK.findall(text) if all(text.count(tag) == count for tag, count in tags.items()) else []
    if len(blocks) != 2 or places != sorted(places):
        return -1.0, None
    marks = [int(block) for block in blocks if _WHOLE.fullmatch(block)]
    if len(marks) != 2 or not all(0 <= mark <= 10 for mark in marks):
        return -0.5, None
    return 1.0, (marks[0], marks[1])


def order(marks: Pair, ties: str) -> int:
    """Which is better: 1 the first, -1 the second, 0 neither; with ties "first" a tie is 1."""
    sign = (marks[0] > marks[1]) - (marks[0] < marks[1])
    return 1 if ties == "first" and sign == 0 else sign


def content(marks: Pair, gold: Pair, ties: str) -> float:
    """What the marks are worth: -1.5, or 2 to 3.2."""
    if order(marks, ties) != order(gold, ties):
        return -1.5
    apart = abs(marks[0] - gold[0]) + abs(marks[1] - gold[1])
    close = 1.0 if apart == 0 else 0.6 if apart <= 2 else 0.0
    return 2.0 + close + 0.2 * (abs(marks[0] - marks[1]) >= abs(gold[0] - gold[1]))


def read_step_labels(answer: str) -> list[int]:
    """Labels in order of the steps; a step without one, or with two, is -1."""
    if _LABELS.fullmatch(answer):
        return [int(label) for label in re.findall(r"[01]", answer)]
    found: dict[int, set[int]] = {}
    for step, label in _STEP_LABEL.findall(answer):
        found.setdefault(int(step), set()).add(int(label))
    labels = [found.get(step, {-1}) for step in range(1, max(found, default=0) + 1)]
    return [next(iter(label)) if len(label) == 1 else -1 for label in labels]


def _gold_pair(given: Any) -> Pair:
    wants = "two whole numbers from 0 to 10"
    marks = whole_numbers(given, wants)
    return (marks[0], marks[1]) if len(marks) == 2 and all(0 <= m <= 10 for m in marks) else bad_gold(given, wants)


def _gold_labels(given: Any) -> list[int]:
    wants = "a list of labels, 1 (right) or 0 (wrong)"
    labels = whole_numbers(given, wants)
    return labels if set(labels) <= {0, 1} else bad_gold(given, wants)
