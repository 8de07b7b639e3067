"""How long an answer is, as a reward. Four published ways, and one of ours; `unit` says what is counted.

    length_cosine     right answers the better the shorter, wrong ones the better the longer, along a cosine
    length_overlong   a penalty that grows over the last tokens before the limit (DAPO)
    length_group      shorter than the others of the group (Kimi k1.5)
    length_budget     as long as the row asks for (ours, after BARD's abstract)

Which answers are right is said by another reward, `right_by` (accuracy), which gives its flags, too. Tokens are counted
where answers are sampled; `mmreason score` has texts alone, so there `unit` has to be words or characters.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from mmreason.errors import RewardError
from mmreason.rewards.base import BAD_GOLD
from mmreason.types import Rollout, Sample, Score

Unit = Literal["tokens", "words", "characters"]


def length_cosine(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    max_length: int,
    variant: Literal["demystify", "vlmr1", "vlmr1_code"] = "demystify",
    right: Sequence[float] | None = None,
    wrong: Sequence[float] | None = None,
    over: float | None = None,
    unit: Unit = "tokens",
    right_by: str = "accuracy",
    right_options: Mapping[str, Any] | None = None,
    right_at: float = 0.5,
) -> list[Score]:
    """Right answers from high to low with their length, wrong ones from low to high, along half a cosine.

    value(0) + (value(max) - value(0)) (1 - cos(pi L / max)) / 2; beyond `max_length` it stays at value(max).
    `right`, `wrong`: values at length 0 and at `max_length`. `over`: value from 16 below `max_length` on, for all.
    demystify (Yeo et al. 2025, 2502.03373; eddycmu/demystify-long-cot @e90cf9b, reward/cosine.py): right [2, 1], wrong
    [-10, 0], over -10. vlmr1 (om-ai-lab/VLM-R1 @90052f4, grpo_jsonl.py, as intended): right [1, 0.5], wrong [-0.5, 0],
    nothing over; there `right_at` is 0.7 of a detection score. vlmr1_code: as that code runs, which takes every answer
    for right and lets the cosine come up again beyond `max_length`. Range: that of the values.
    """
    rule = COSINES[variant]
    rule = rule._replace(
        right=tuple(right or rule.right), wrong=tuple(wrong or rule.wrong), over=rule.over if over is None else over
    )
    if len(rule.right) != 2 or len(rule.wrong) != 2 or max_length < 1:
        raise RewardError(f"right {rule.right}, wrong {rule.wrong}, max_length {max_length}: expected two values each, "
                          "at length 0 and at max_length, which is at least 1")  # fmt: skip
    verdicts = _verdicts(sample, rollouts, right_by, right_options, right_at)
    return [
        _given(verdict, cosine_value(length_of(rollout, unit), bool(verdict.flags.get("correct")), max_length, rule))
        for rollout, verdict in zip(rollouts, verdicts, strict=True)
    ]


class Cosine(NamedTuple):
    """Values of right and of wrong answers at length 0 and at the longest."""

    right: tuple[float, ...]
    wrong: tuple[float, ...]
    over: float | None = None
    as_run: bool = False
    """As VLM-R1's code runs: all answers are right, and nothing is clamped."""


COSINES = {
    "demystify": Cosine(right=(2.0, 1.0), wrong=(-10.0, 0.0), over=-10.0),
    "vlmr1": Cosine(right=(1.0, 0.5), wrong=(-0.5, 0.0)),
    "vlmr1_code": Cosine(right=(1.0, 0.5), wrong=(-0.5, 0.0), as_run=True),
}
MARGIN = 16
"""Demystifying Long CoT takes an answer for too long so many tokens before the limit."""


def cosine_value(length: int, right: bool, max_length: int, rule: Cosine) -> float:
    """The value of one answer. Example: 7168 of 14336, right, COSINES["demystify"] -> 1.5."""
    if rule.over is not None and length + MARGIN >= max_length:
        return rule.over
    first, last = rule.right if right or rule.as_run else rule.wrong
    progress = length / max_length if rule.as_run else min(1.0, length / max_length)
    return first + (last - first) * (1 - math.cos(math.pi * progress)) / 2


def length_overlong(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    max_length: int,
    buffer: int,
    factor: float = 1.0,
    unit: Unit = "tokens",
) -> list[Score]:
    """0 up to `max_length` - `buffer`, from there in a line down to -`factor` at `max_length`.

    Source: DAPO (2503.14476), soft overlong punishment; volcengine/verl @b178a3c, reward_manager/dapo.py: max_length
    20480, buffer 4096, factor 1. Range [-factor, 0].
    """
    if not 0 < buffer <= max_length:
        raise RewardError(f"buffer {buffer}: expected more than 0 and at most max_length ({max_length})")
    start = max_length - buffer
    over = [min(1.0, max(0.0, (length_of(rollout, unit) - start) / buffer)) for rollout in rollouts]
    return [Score(total=-factor * share) for share in over]


def length_group(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    unit: Unit = "tokens",
    right_by: str = "accuracy",
    right_options: Mapping[str, Any] | None = None,
    right_at: float = 0.5,
) -> list[Score]:
    """From 0.5 for the shortest answer of the group to -0.5 for the longest; a wrong one gets nothing above 0.

    0.5 - (L - min) / (max - min); 0 for all where all are equally long. Source: Kimi k1.5 (2501.12599).
    Reason-RFT counts characters, weighs it 0.05 and begins at step 800: use `unit`, the weight, a stage of its own.
    """
    verdicts = _verdicts(sample, rollouts, right_by, right_options, right_at)
    lengths = [length_of(rollout, unit) for rollout in rollouts]
    low, high = min(lengths, default=0), max(lengths, default=0)
    scores = []
    for verdict, length in zip(verdicts, lengths, strict=True):
        value = 0.5 - (length - low) / (high - low) if high > low else 0.0
        scores.append(_given(verdict, value if verdict.flags.get("correct") else min(0.0, value)))
    return scores


def length_budget(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    budget: int | None = None,
    unit: Unit = "tokens",
    right_by: str = "accuracy",
    right_options: Mapping[str, Any] | None = None,
    right_at: float = 0.5,
) -> list[Score]:
    """How right the answer is x how near its length is to the budget of the row: a max(0, 1 - |L - B| / B).

    B is `golds["budget"]`, or the option. OUR formula: of BARD (a budget in the prompt, accuracy and fidelity rewarded
    jointly) we have the abstract only. Range [0, 1] with accuracy.
    """
    wanted = sample.golds.get("budget", budget)
    if isinstance(wanted, bool) or not isinstance(wanted, int | float) or not 0 < wanted < math.inf:
        error = f"{sample.id}: the budget {wanted!r} cannot be used; give golds.budget, or the option, a length over 0"
        return [Score(total=None, error=error, flags={BAD_GOLD: True})] * len(rollouts)
    scores = []
    for rollout, verdict in zip(rollouts, _verdicts(sample, rollouts, right_by, right_options, right_at), strict=True):
        fidelity = max(0.0, 1 - abs(length_of(rollout, unit) - wanted) / wanted)
        scores.append(_given(verdict, (verdict.total or 0.0) * fidelity, fidelity=fidelity))
    return scores


def length_of(rollout: Rollout, unit: Unit) -> int:
    """How long the answer is. Raises RewardError for tokens where there is a text alone."""
    if unit == "characters":
        return len(rollout.text)
    if unit == "words":
        return len(rollout.text.split())
    if rollout.text and not rollout.tokens:
        raise RewardError("counts tokens, and a text alone has none; set the option unit to words or characters")
    return rollout.tokens


def _verdicts(
    sample: Sample, rollouts: Sequence[Rollout], by: str, options: Mapping[str, Any] | None, at: float
) -> Sequence[Score]:
    """What the reward `by` says; `correct` is its flag, or where it sets none a total of at least `at`."""
    judge = importlib.import_module("mmreason.rewards").bind(by, options or {})  # it imports this module: not before
    verdicts: Sequence[Score] = judge(sample, rollouts)
    return [
        score if score.total is None else replace(score, flags={"correct": score.total >= at, **score.flags})
        for score in verdicts
    ]


def _given(verdict: Score, value: float, **parts: float) -> Score:
    """`value`, unless there is no verdict: then that, with its reason."""
    return verdict if verdict.total is None else Score(total=value, parts=parts, flags=verdict.flags)
