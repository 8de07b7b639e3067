"""Sets of changes or calls with credit for those that are partly right.

triplets   STAR-R1's (object, attribute, value): 5 / 1.5 / 0.5, minus 1 for each wrong and each missing one
calls      Reason-RFT's func(object, 'value'): shares of the longer list, so at most 1
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

from mmreason.rewards.base import extract_answer
from mmreason.rewards.golds import bad_gold, by_gold
from mmreason.rewards.texts import plain
from mmreason.types import Rollout, Sample, Score

Item = tuple[str, str, str]
Credit = Literal["partial", "penalty", "full"]

_GROUP = re.compile(r"[\[(]([^\[\]()]*)[\])]")
_CALL = re.compile(r"\b(\w+)\((\w+),\s*'?(\w+)'?\)")
_STAR_TIERS: tuple[Callable[[Item], Hashable], ...] = (lambda i: i, lambda i: i[:2], lambda i: i[0])
_CALL_TIERS: tuple[Callable[[Item], Hashable], ...] = (
    lambda i: i,
    lambda i: i[:2],
    lambda i: (i[0], i[2]),
    lambda i: i[0],
)
_CALL_CREDITS: dict[Credit, tuple[float, ...]] = {
    "partial": (1.0, 0.5, 0.5, 0.25),
    "penalty": (1.0, -0.25, -0.25, -0.5),
    "full": (1.0, 0.0, 0.0, 0.0),
}


def triplets(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    credits: Sequence[float] = (5.0, 1.5, 0.5),
    partial_is_wrong: bool = True,
    wrong_penalty: float = 1.0,
    missing_penalty: float = 1.0,
    reuse_golds: bool = False,
) -> list[Score]:
    """Credit for each (object, attribute, value), less a penalty for each wrong and each missing one (STAR-R1).

    R = sum of credits - wrong_penalty x wrong - missing_penalty x max(0, golds - answers); with a format reward of 1
    it is STAR-R1's total. `credits`: of a full match, of object and attribute, of the object.
    `partial_is_wrong`: whether an answer that is partly right counts among the wrong ones too; the paper does not say,
    true is our choice. The penalties at 0 are the paper's ablations. `reuse_golds`: the paper's words taken literally,
    any number of answers may score on one gold; then a list of guesses for one object gains half a point a guess. By
    default a gold serves one answer, so that guesses only cost.

    Gold "triplets": [[2, "color", "cyan"], ..] or the same as text; read from the last `<answer>`, in ( ) or [ ].
    Repeated triplets count once; case does not matter. Range: -(answers + golds) to 5 x golds.
    """

    def grade(rollout: Rollout, golds: list[Item]) -> Score:
        answer = extract_answer(rollout.text)
        found = read_triplets(answer or "")
        counts = matches(found, golds, _STAR_TIERS, reuse=reuse_golds)
        wrong = len(found) - (counts[0] if partial_is_wrong else sum(counts))
        missing = max(0, len(golds) - len(found))
        earned = sum(credit * count for credit, count in zip(credits, counts, strict=False))
        parts = {
            "full": float(counts[0]), "partial": float(sum(counts[1:])), "wrong": float(wrong),
            "missing": float(missing),
        }  # fmt: skip
        correct = counts[0] == len(golds) == len(found)
        total = earned - wrong_penalty * wrong - missing_penalty * missing
        return Score(total=total, parts=parts, flags={"correct": correct, "answered": bool(found)})

    return by_gold(sample, rollouts, "triplets", _gold_triplets, grade)


def calls(
    sample: Sample, rollouts: Sequence[Rollout], *, credit: Credit = "partial", duplicates_cost: bool = True
) -> list[Score]:
    """Share of the right calls func(object, 'value'), with credit for those that are partly right (Reason-RFT).

    Every answered call takes one gold call, exact ones first, then those that share function and object, function and
    value, the function. R = sum of credits x distinct / all / max(answers, golds), answers counted once each. `credit`,
    for the four kinds: "partial" 1, .5, .5, .25; "penalty" 1, -.25, -.25, -.5; "full" 1, 0, 0, 0.
    `duplicates_cost`: the factor distinct / all.

    Source: tanhuajie/Reason-RFT train/stage_rl/reward.py, which pairs calls in the order of a Python set, so that
    ambiguous pairs differ from run to run; here they are paired in the order of the answer. Gold "calls": the text, or
    a list of texts. Range: 0 to 1; -0.5 to 1 with "penalty".
    """

    def grade(rollout: Rollout, golds: list[Item]) -> Score:
        answer = extract_answer(rollout.text)
        every = _CALL.findall(answer or "")
        found = list(dict.fromkeys(every))
        if not found:
            return Score(total=0.0, flags={"correct": False, "answered": False})
        counts = matches(found, golds, _CALL_TIERS)
        unit = (len(found) / len(every) if duplicates_cost else 1.0) / max(len(found), len(golds))
        total = sum(count * worth for count, worth in zip(counts, _CALL_CREDITS[credit], strict=True)) * unit
        correct = counts[0] == len(golds) == len(found)
        return Score(total=total, flags={"correct": correct, "answered": True})

    return by_gold(sample, rollouts, "calls", _gold_calls, grade)


def matches(
    found: Sequence[Item], golds: Sequence[Item], tiers: Sequence[Callable[[Item], Hashable]], reuse: bool = False
) -> list[int]:
    """How many items of `found` agree with a gold by each of the tiers, strictest first; an item counts once.

    Each gold is taken by one item, the first that agrees; with `reuse` by any number.
    """
    open_items, open_golds, counts = list(found), list(golds), []
    for key in tiers:
        rest = []
        for item in open_items:
            partner = next((gold for gold in open_golds if key(gold) == key(item)), None)
            if partner is None:
                rest.append(item)
            elif not reuse:
                open_golds.remove(partner)
        counts.append(len(open_items) - len(rest))
        open_items = rest
    return counts


def read_triplets(text: str) -> list[Item]:
    """The distinct triplets of a text, in order: groups in brackets with three parts between commas."""
    groups = ([_key(part) for part in group.split(",")] for group in _GROUP.findall(text))
    return list(dict.fromkeys((a, b, c) for a, b, c in (group for group in groups if len(group) == 3) if a and b and c))


def _key(part: object) -> str:
    if isinstance(part, float) and part.is_integer():
        part = int(part)  # columns of numbers with gaps come as floats
    return plain(str(part).strip().strip("'\""))


def _gold_triplets(given: Any) -> list[Item]:
    wants = "a list of [object, attribute, value]"
    if isinstance(given, str):
        groups = [group.split(",") for group in _GROUP.findall(given)]
        whole = groups and all(len(group) == 3 and all(map(_key, group)) for group in groups)
        return read_triplets(given) if whole else bad_gold(given, wants)
    if not isinstance(given, (list, tuple)) or not given:
        bad_gold(given, wants)
    if not all(isinstance(item, (list, tuple)) and len(item) == 3 and all(map(_is_word, item)) for item in given):
        bad_gold(given, wants)
    return list(dict.fromkeys((_key(a), _key(b), _key(c)) for a, b, c in given))


def _is_word(value: Any) -> bool:
    return isinstance(value, (str, int, float)) and bool(_key(value))


def _gold_calls(given: Any) -> list[Item]:
    text = ", ".join(given) if isinstance(given, (list, tuple)) and all(isinstance(g, str) for g in given) else given
    found: list[Item] = _CALL.findall(text) if isinstance(text, str) else []
    whole = found and len(found) == text.count("(")  # one that cannot be read must not be left out in silence
    return list(dict.fromkeys(found)) if whole else bad_gold(given, "calls such as change_color(2, 'cyan')")
