"""The groups that a run kept: media, prompt, gold answer, and every sampled answer with its scores by part."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from mmreason.reporting.charts import number
from mmreason.reporting.figures import media_figures
from mmreason.reporting.logs import as_float
from mmreason.reporting.page import shortened

Group = Mapping[str, Any]

LONGEST = 4000
"""Characters of a text that are shown; what was cut is said."""
SHORT = 200
"""The same for names of parts, sources and samples."""
FIRST = 12
"""Groups on the first page."""
FIRST_BYTES, PAGE_BYTES = 2_000_000, 2_000_000
"""Bounds of the groups' HTML on the first page and on each further one; one group always has room."""
PER_PAGE = 20
"""Groups on a further page."""
OPEN = 8
"""Answers of a group that are shown at once; the others unfold."""
MOST_ANSWERS, MOST_PARTS, MOST_OPTIONS = 64, 12, 26


@dataclass(frozen=True, slots=True)
class Card:
    """A line of gallery.jsonl and its HTML, made once."""

    group: Group
    html: str

    @property
    def bytes(self) -> int:
        return len(self.html.encode("utf-8", "backslashreplace"))


def cards_of(groups: Iterable[Group]) -> list[Card]:
    """One per group, in order."""
    return [Card(group, _card(group)) for group in groups]


def choose(cards: Sequence[Card]) -> list[Card]:
    """The newest group of each modality, then of each source, then the newest: FIRST and FIRST_BYTES of HTML at most.

    Of a modality or source, one whose answers differ comes before a newer one without a signal.
    """
    newest = list(reversed(cards))
    first: dict[tuple[str, str], Card] = {}
    for kind in ("modality", "source"):
        for card in sorted(newest, key=lambda card: card.group.get("trained") is False):
            first.setdefault((kind, str(card.group.get(kind))), card)
    in_order = {id(card): card for card in [*first.values(), *newest]}  # each once, at its first place
    return _that_fit(list(in_order.values())[:FIRST], FIRST_BYTES)


def pages(cards: Sequence[Card]) -> list[list[Card]]:
    """All groups, oldest first, on pages that are bounded in number and bytes; a full page never changes again."""
    found: list[list[Card]] = []
    start = 0
    while start < len(cards):
        found.append(_that_fit(cards[start : start + PER_PAGE], PAGE_BYTES))
        start += len(found[-1])
    return found


def steps_of(cards: Sequence[Card]) -> str:
    """Which steps the groups are from: "steps 10 to 400"."""
    steps = [step for card in cards if math.isfinite(step := as_float(card.group.get("step")))]
    if not steps:
        return "steps ?"
    low, high = min(steps), max(steps)
    return f"steps {number(low)} to {number(high)}" if low < high else f"step {number(low)}"


def _that_fit(cards: Sequence[Card], room: int) -> list[Card]:
    fitting: list[Card] = []
    for card in cards:
        room -= card.bytes
        if room < 0 and fitting:
            break
        fitting.append(card)
    return fitting


def _card(group: Group) -> str:
    rollouts = [one for one in _list(group.get("rollouts")) if isinstance(one, Mapping)]
    best_first = sorted(rollouts, key=lambda rollout: -_total(rollout))[:MOST_ANSWERS]
    rows = [_row(rollout) for rollout in best_first]
    more = len(rollouts) - OPEN
    folded = f"<details><summary>{more} more answers</summary>{_table(rows[OPEN:])}</details>" if more > 0 else ""
    return (
        f"<article>{_head(group, rollouts)}<div class='question'>{media_figures(group)}"
        f"<div class='asked'>{_pre(group.get('prompt'))}{_options(_list(group.get('options')))}"
        f"<p class='gold'>gold answer <b>{_gold(group.get('answer'))}</b></p></div></div>"
        f"{_table(rows[:OPEN])}{folded}</article>"
    )


def _head(group: Group, rollouts: Sequence[Group]) -> str:
    facts = [group.get("source"), group.get("modality"), group.get("id")]
    named = " &middot; ".join(_text(fact, SHORT) for fact in facts if fact)
    totals = [total for one in rollouts if math.isfinite(total := as_float(one.get("total")))]
    mean = f"<span class='mean'>mean {number(sum(totals) / len(totals))}</span>" if totals else ""
    out = "<span class='tag'>left out: no signal</span>" if group.get("trained") is False else ""
    step = number(as_float(group.get("step"))) if math.isfinite(as_float(group.get("step"))) else "?"
    return f"<header><h4>step {step}</h4><span class='of'>{named}</span>{out}{mean}</header>"


def _options(options: Sequence[Any]) -> str:
    items = "".join(f"<li>{_text(option)}</li>" for option in options[:MOST_OPTIONS])
    return f"<ol>{items}</ol>" if items else ""


def _gold(answer: Any) -> str:
    return _text(answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False))


def _table(rows: Sequence[str]) -> str:
    return f"<ul class='answers'>{''.join(rows)}</ul>" if rows else ""


def _row(rollout: Group) -> str:
    total = as_float(rollout.get("total"))
    shown = number(total) if math.isfinite(total) else "no score"
    tokens = as_float(rollout.get("tokens"))
    length = f"<span class='part'>{number(tokens)} tokens</span>" if math.isfinite(tokens) else ""
    cut = "<span class='tag bad'>cut off</span>" if rollout.get("finish_reason") == "length" else ""
    error = rollout.get("error")
    failed = f"<span class='tag bad'>reward error: {_text(error, SHORT)}</span>" if error else ""
    return (
        f"<li><span class='score {_grade(total)}'>{shown}</span><div>{_pre(rollout.get('text'))}"
        f"<div class='parts'>{_parts(rollout.get('parts'))}{length}{cut}{failed}</div></div></li>"
    )


def _parts(parts: Any) -> str:
    named = list(parts.items())[:MOST_PARTS] if isinstance(parts, Mapping) else []
    return "".join(
        f"<span class='part'>{_text(name, SHORT)} <b>{number(as_float(value))}</b></span>" for name, value in named
    )


def _grade(total: float) -> str:
    if not math.isfinite(total):
        return "none"
    return "good" if total >= 1 else "look" if total > 0 else "bad"


def _total(rollout: Group) -> float:
    total = as_float(rollout.get("total"))
    return total if math.isfinite(total) else -math.inf


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _pre(value: Any) -> str:
    """A text as it is; <bdi> keeps a text that turns the direction of writing from turning its surroundings."""
    return f"<pre><bdi>{_text(value)}</bdi></pre>"


def _text(value: Any, longest: int = LONGEST) -> str:
    return escape(shortened(value, longest))
