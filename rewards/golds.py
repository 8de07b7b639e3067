"""For rewards with a kind of gold of their own: where it stands in a row, and what becomes of one that cannot be read.

A gold of the kind "plan" is `golds["plan"]`, or the row's `answer` where its `task` is "plan". A row with neither is
left to other rewards; a row whose gold cannot be read is an error for its whole group, never a score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from mmreason.errors import DataError
from mmreason.rewards.base import BAD_GOLD, one_line
from mmreason.types import Rollout, Sample, Score

KINDS = (
    "triplets", "calls", "steps", "trace", "plan", "maze", "ego_grounding",
    "rerank", "ranked_list", "hierarchy", "multi_label", "table_answer", "table_number", "table_sentence",
    "table_evidence", "guard", "tars", "judge_pair", "step_labels", "expression", "grid",
)  # fmt: skip
"""Kinds of golds that one reward each understands; as tasks, `accuracy` leaves them alone."""
Gold = TypeVar("Gold")


def by_gold(
    sample: Sample,
    rollouts: Sequence[Rollout],
    kind: str,
    read: Callable[[Any], Gold],
    grade: Callable[[Rollout, Gold], Score],
) -> list[Score]:
    """A score for each rollout by `grade`, with the sample's gold of this kind as `read` understands it.

    Both may raise DataError for what cannot be scored: an error for every rollout, with the flag that puts the sample
    into quarantine.
    """
    if kind not in sample.golds and sample.task != kind:
        return [Score(total=None)] * len(rollouts)
    try:
        gold = read(sample.golds[kind] if kind in sample.golds else sample.answer)
        return [grade(rollout, gold) for rollout in rollouts]
    except DataError as error:
        failed = Score(total=None, error=f"{sample.id}: gold {kind!r}: {error}", flags={BAD_GOLD: True})
        return [failed] * len(rollouts)


def bad_gold(given: Any, wants: str) -> NoReturn:
    """Raise the DataError of a gold that is not what it must be."""
    raise DataError(f"{one_line(repr(given), limit=80)}; expected {wants}")


def texts(given: Any, wants: str) -> list[str]:
    """A gold that is a list of texts, none of them blank."""
    if not isinstance(given, (list, tuple)) or not given:
        bad_gold(given, wants)
    if not all(isinstance(item, str) and item.strip() for item in given):
        bad_gold(given, wants)
    return list(given)


def whole_numbers(given: Any, wants: str) -> list[int]:
    """A gold that is a list of whole numbers."""
    if not isinstance(given, (list, tuple)) or not given:
        bad_gold(given, wants)
    if not all(isinstance(item, int) and not isinstance(item, bool) for item in given):
        bad_gold(given, wants)
    return list(given)


def entry(given: Any, key: str, wants: str) -> Any:
    """One value of a gold that is an object."""
    if not isinstance(given, Mapping) or key not in given:
        bad_gold(given, wants)
    return given[key]


def block(text: str, tag: str) -> str | None:
    """Content of the last complete block of this tag, as `extract_answer` finds it; None where it is empty."""
    opening, closing = f"<{tag}>", f"</{tag}>"
    start = text.rfind(opening, 0, max(0, text.rfind(closing)))
    if start < 0:
        return None
    start += len(opening)
    return text[start : text.find(closing, start)].strip() or None
