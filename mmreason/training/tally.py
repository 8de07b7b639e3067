"""Means that can be made in pieces: every process tallies its own rollouts, then the tallies are joined."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from mmreason.types import Rollout, RolloutGroup, Score

SAME = 1e-9
"""Rewards no further apart than this teach nothing (as `algorithms.advantages.has_signal` has it)."""


class Tally:
    """Sum and count per metric name. Processes need not have seen the same names."""

    def __init__(self) -> None:
        self.totals: dict[str, tuple[float, int]] = {}

    def add(self, name: str, value: float, count: int = 1) -> None:
        total, seen = self.totals.get(name, (0.0, 0))
        self.totals[name] = (total + value, seen + count)

    def means(self, others: Iterable[dict[str, tuple[float, int]]] = ()) -> dict[str, float]:
        """Mean per name over this tally or, when given, over `others` (the totals of all processes)."""
        joined = Tally()
        for totals in list(others) or [self.totals]:
            for name, (value, count) in totals.items():
                joined.add(name, value, count)
        return {name: value / count for name, (value, count) in sorted(joined.totals.items()) if count}


def tally_staleness(tally: Tally, groups: Sequence[RolloutGroup], step: int) -> None:
    """`rollout/staleness`: how many optimizer steps the weights that sampled for `step` were behind those it trains."""
    for group in groups:
        for rollout in group.rollouts:
            for segment in rollout.segments:
                if segment.kind == "policy":
                    tally.add("rollout/staleness", step - 1 - segment.weight_version)


def tally_contrast(tally: Tally, groups: Sequence[RolloutGroup]) -> None:
    """How much better answers are with the media than in the contrast view, over groups that have both.

    `contrast/gap` is the mean difference of total rewards; `contrast/correct_gap` that of the shares of right answers.
    """
    for group in groups:
        tally.add("contrast/groups", float(bool(group.contrast)))
        for score in group.contrast:
            tally.add("contrast/errors", float(score.error is not None))
        for name, value in (("gap", _total), ("correct_gap", _correct)):
            shown = [v for score in group.scores if (v := value(score)) is not None]
            changed = [v for score in group.contrast if (v := value(score)) is not None]
            if shown and changed:
                tally.add(f"contrast/{name}", sum(shown) / len(shown) - sum(changed) / len(changed))


def _total(score: Score) -> float | None:
    return score.total


def _correct(score: Score) -> float | None:
    return float(score.flags["correct"]) if "correct" in score.flags else None


def tally_groups(tally: Tally, groups: Sequence[RolloutGroup]) -> None:
    """Rewards by part, source and modality; lengths; truncation; and how many groups carry a signal."""
    for group in groups:
        right = [score.flags["correct"] for score in group.scores if "correct" in score.flags]
        if right:  # a reward that tells right from wrong was among them
            tally.add("groups/all_right", float(all(right)))
            tally.add("groups/all_wrong", float(not any(right)))
        totals = [score.total for score in group.scores if score.total is not None]
        tally.add("groups/signal", float(bool(totals) and max(totals) - min(totals) > SAME))
        for rollout, score in zip(group.rollouts, group.scores, strict=True):
            tally.add("length/mean", rollout.tokens)
            for segment in rollout.segments:
                if segment.support is not None:
                    tally.add("support/size", len(segment.support.ids), segment.ids.shape[0])
            tally.add("entropy/sampled", _surprise(rollout), rollout.tokens)
            tally.add("truncated", float(rollout.finish_reason == "length"))
            tally.add("reward/errors", float(score.error is not None))
            if "correct" in score.flags:
                tally.add("correct", float(score.flags["correct"]))
            if score.total is None:
                continue
            tally.add("reward/mean", score.total)
            tally.add(f"reward/modality/{group.sample.modality}", score.total)
            if group.sample.source:
                tally.add(f"reward/source/{group.sample.source}", score.total)
            for part, value in score.parts.items():
                tally.add(f"reward/{part}", value)


def _surprise(rollout: Rollout) -> float:
    """Minus the log-probs of an answer's sampled tokens, summed: its mean per token estimates the entropy."""
    columns = [segment.columns.get("logprob.sampling") for segment in rollout.segments if segment.kind == "policy"]
    return -math.fsum(float(column.sum()) for column in columns if column is not None)
