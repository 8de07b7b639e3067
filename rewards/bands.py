"""Numbers that are nearly right (Reason-RFT)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mmreason.rewards.base import extract_answer
from mmreason.rewards.golds import bad_gold, by_gold
from mmreason.rewards.numbers import Number, read_number
from mmreason.types import Rollout, Sample, Score

NUMERIC = ("numeric", "regression", "counting")


def numeric_band(sample: Sample, rollouts: Sequence[Rollout], *, full: float = 0.05, none: float = 0.2) -> list[Score]:
    """1 within `full` relative error, 0 beyond `none`, half a cosine wave between (Reason-RFT).

    For rows of task numeric, regression or counting. tanhuajie/Reason-RFT train/stage_rl/reward.py
    `math_accuracy_reward`, but for a gold of 0, where 0 is 1 here and, by a division by zero, 0 there; numbers are
    read as `accuracy` reads them. Range: 0 to 1; "correct" is a value over 0.5.
    """
    if sample.task not in NUMERIC:
        return [Score(total=None)] * len(rollouts)

    def read(given: Any) -> Number:
        return read_number(given) or bad_gold(given, "one number")

    def grade(rollout: Rollout, gold: Number) -> Score:
        number = read_number(extract_answer(rollout.text))
        value = 0.0 if number is None else band(number.value, gold.value, full, none)
        return Score(total=value, flags={"correct": value > 0.5, "answered": number is not None})

    return by_gold(sample, rollouts, sample.task, read, grade)


def band(answer: float, gold: float, full: float, none: float) -> float:
    """Example: of a gold of 100, 104 is 1, 112.5 is 0.5 and 121 is 0, with full 0.05 and none 0.2."""
    error = abs(answer - gold)
    if error == 0 or error < full * abs(gold):
        return 1.0
    if error > none * abs(gold) or none <= full:
        return 0.0
    return 0.5 * (1.0 + math.cos(math.pi * (error / abs(gold) - full) / (none - full)))
