"""Rewards for answers that are an order: document pages to rerank (MM-R5), lists of guesses from best to worst."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from mmreason.rewards.base import extract_answer
from mmreason.rewards.format import format as well_formed
from mmreason.rewards.golds import bad_gold, by_gold, entry, texts, whole_numbers
from mmreason.rewards.texts import plain
from mmreason.types import Rollout, Sample, Score

Variant = Literal["sane", "published"]

_IDS = re.compile(r"\[\s*(\d{1,9}(?:\s*,\s*\d{1,9})*)\s*,?\s*\]")
_PUBLISHED_ORDER = re.compile(r"<answer>\[(.*?)\]</answer>")
_PUBLISHED_FORMAT = re.compile(r"</think>\s*<answer>\[([0-9]+(?:,\s*[0-9]+)*)\]</answer>")
_BULLET = re.compile(r"^\s*(?:\d{1,3}[.)]|[-*\u2022])\s+")


class Pages(NamedTuple):
    """A reranking question: which of the pages 1 to `total` are relevant."""

    positives: list[int]
    total: int


def rerank(
    sample: Sample, rollouts: Sequence[Rollout], *, power: float = 3.0, variant: Variant = "sane"
) -> list[Score]:
    """How far to the front the relevant pages are, 0 to 1 (MM-R5).

    R = sum over relevant pages of 1 / rank^power, over the most that can be reached; a page that is left out adds 0.
    The answer is `<answer>[3, 1, 2]</answer>`. Source: i2vec/MM-R5 vlm_modules/qwen_module.py `rerank_reward`.
    "sane": the last answer, a page that is named again counts where it came first and takes no other rank. "published":
    the first answer on one line with nothing around the brackets; every repetition takes a rank.
    Gold "rerank": {"positives": [3], "total": 4}, or MM-R5's [[3], 4].
    """

    def grade(rollout: Rollout, pages: Pages) -> Score:
        order = _published_order(rollout.text) if variant == "published" else read_ids(extract_answer(rollout.text))
        if not order:
            return Score(total=0.0, flags={"correct": False, "answered": False})
        value = gain(order if variant == "published" else list(dict.fromkeys(order)), pages.positives, power)
        return Score(total=value, flags={"correct": value == 1.0, "answered": True})

    return by_gold(sample, rollouts, "rerank", _pages, grade)


def rerank_format(sample: Sample, rollouts: Sequence[Rollout], *, variant: Variant = "sane") -> list[Score]:
    """How complete the list of page numbers is, 0 to 1; 0 without the think and answer blocks (MM-R5).

    R = (N - |length - N|) / N x share of the numbers that are in 1..N. "sane": not below 0, and only different numbers
    count in the share, so that [1, 1, 1, 1] is no complete list. "published": as i2vec/MM-R5 `format_rerank_reward`
    computes it - repetitions count in full, more than 2 N numbers are negative (without bound), a single number is 0,
    and nothing may stand between tag and bracket. Gold as in `rerank`.
    """

    def grade(rollout: Rollout, pages: Pages) -> Score:
        if variant == "published":
            value, shaped = _published_format(rollout.text, pages.total)
        else:
            order = read_ids(extract_answer(rollout.text))
            shaped = bool(order) and well_formed(sample, [rollout])[0].total == 1.0
            value = completeness(order, pages.total) if shaped else 0.0
        return Score(total=value, flags={"format_ok": shaped})

    return by_gold(sample, rollouts, "rerank", _pages, grade)


def ranked_list(sample: Sample, rollouts: Sequence[Rollout], *, longest: int | None = None) -> list[Score]:
    """1 / rank of the first right item of a list from best to worst, 0 where none is right (reciprocal rank).

    After the MRR reward of arXiv 2509.20866, whose penalty on the list's length is not public: `longest`, ours, stops
    reading after so many items. The answer is a JSON list, or items between commas, semicolons or lines, numbered or
    not; a repeated item counts once. Gold "ranked_list": the right item, or a list of alternatives. Range: 0 to 1.
    """

    def grade(rollout: Rollout, golds: list[str]) -> Score:
        items = read_items(extract_answer(rollout.text) or "")[:longest]
        rank = next((rank for rank, item in enumerate(items, 1) if item in golds), None)
        return Score(total=1.0 / rank if rank else 0.0, flags={"correct": rank == 1, "answered": bool(items)})

    return by_gold(sample, rollouts, "ranked_list", _alternatives, grade)


def gain(order: Sequence[int], positives: Sequence[int], power: float) -> float:
    """Sum of 1 / rank^power of the positives' first places, over that of the best order.

    Example: order [1, 3, 2, 4], positives [1, 2], power 3: (1 + 1/27) / (1 + 1/8) = 0.921811.
    """
    first = {page: rank for rank, page in reversed(list(enumerate(order, 1)))}
    reached = sum(first[page] ** -power for page in positives if page in first)
    return float(reached / sum(rank**-power for rank in range(1, len(positives) + 1)))


def completeness(order: Sequence[int], total: int) -> float:
    """The sane `rerank_format` of a list, whatever stands around it."""
    length = (total - abs(len(order) - total)) / total
    different = len({page for page in order if 1 <= page <= total})
    return max(0.0, length) * different / len(order)


def read_ids(answer: str | None) -> list[int]:
    """The numbers of an answer that is one list in brackets; empty for anything else."""
    match = _IDS.fullmatch(answer or "")
    return [int(number) for number in match[1].split(",")] if match else []


def read_items(answer: str) -> list[str]:
    """The different items of a list, in order, as `plain` writes them."""
    try:
        given = json.loads(answer)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, list):
        parts = answer.strip().removeprefix("[").removesuffix("]")
        given = parts.splitlines() if "\n" in parts else re.split(r"[,;]", parts)
    cleaned = (plain(_BULLET.sub("", str(item)).strip().strip("'\"").rstrip(",;")) for item in given)
    return list(dict.fromkeys(item for item in cleaned if item))


def _published_order(text: str) -> list[int]:
    match = _PUBLISHED_ORDER.search(text)
    pieces = [piece for piece in match[1].strip().split(",") if piece.strip()] if match else []
    try:
        return [int(piece) for piece in pieces]
    except ValueError:
        return []


def _published_format(text: str, total: int) -> tuple[float, bool]:
    """(value, whether the pattern matched). What Python's `eval` refuses ("01", a list on two lines) makes it 0."""
    start = text.find("<think>")
    match = _PUBLISHED_FORMAT.search(text, start) if start >= 0 else None
    if match is None:
        return 0.0, False
    pieces = [piece.strip() for piece in match[1].split(",")]
    if len(pieces) == 1 or "\n" in match[1] or any(piece != "0" * len(piece) and piece[0] == "0" for piece in pieces):
        return 0.0, True
    inside = sum(len(piece) < 10 and 1 <= int(piece) <= total for piece in pieces)
    return (total - abs(len(pieces) - total)) / total * inside / len(pieces), True


def _pages(given: Any) -> Pages:
    wants = '{"positives": [3], "total": 4}, the positives among 1 to total and each once'
    if isinstance(given, (list, tuple)) and len(given) == 2:
        given = {"positives": given[0], "total": given[1]}
    positives = whole_numbers(entry(given, "positives", wants), wants)
    total = entry(given, "total", wants)
    if not isinstance(total, int) or isinstance(total, bool) or total < 1:
        bad_gold(given, wants)
    if len(set(positives)) < len(positives) or not all(1 <= page <= total for page in positives):
        bad_gold(given, wants)
    return Pages(positives, total)


def _alternatives(given: Any) -> list[str]:
    wants = "the right item, or a list of alternatives"
    golds = texts([given] if isinstance(given, str) else given, wants)
    return [plain(gold) for gold in golds if plain(gold)] or bad_gold(given, wants)
