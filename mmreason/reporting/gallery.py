"""The report's gallery: a few groups with their media, the gold answer, and every sampled answer with its score."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from mmreason.reporting.charts import as_float, number
from mmreason.reporting.media import show_media

SHOWN = 8
"""Groups on the page."""
LONGEST = 4000
"""Characters of a text that are shown; what was cut is said."""


def gallery_section(groups: Sequence[Mapping[str, Any]]) -> str:
    """The newest group of each source first; then older ones, newest first."""
    chosen = choose(groups)
    if not chosen:
        return "<section><h2>Groups</h2><p class='empty'>no group kept yet</p></section>"
    cards = "".join(_card(group, media) for group, media in zip(chosen, show_media(chosen), strict=True))
    return f"<section><h2>Groups</h2>{cards}</section>"


def choose(groups: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """At most SHOWN groups, every source among them while there is room."""
    newest_first = list(reversed(groups))
    seen: set[Any] = set()
    first: list[Mapping[str, Any]] = []
    rest: list[Mapping[str, Any]] = []
    for group in newest_first:
        source = group.get("source") or group.get("modality")
        (rest if source in seen else first).append(group)
        seen.add(source)
    return [*first, *rest][:SHOWN]


def _card(group: Mapping[str, Any], media: str) -> str:
    facts = [group.get("source"), group.get("modality"), f"step {group.get('step', '?')}", group.get("id")]
    head = " &middot; ".join(escape(str(fact)) for fact in facts if fact)
    answer = group.get("answer")
    gold = answer if isinstance(answer, str) else json.dumps(answer)
    rollouts = list(group.get("rollouts") or ())
    best_first = sorted(rollouts, key=lambda rollout: -_total(rollout))
    return (
        f"<article><h3>{head}</h3><div class='question'>{media}<div><pre>{_text(group.get('prompt'))}</pre>"
        f"{_options(group.get('options') or ())}"
        f"<p class='gold'>gold answer <b>{_text(gold)}</b></p></div></div>"
        f"<table class='answers'><tbody>{''.join(_row(rollout) for rollout in best_first)}</tbody></table></article>"
    )


def _options(options: Sequence[str]) -> str:
    return f"<ol>{''.join(f'<li>{_text(option)}</li>' for option in options)}</ol>" if options else ""


def _row(rollout: Mapping[str, Any]) -> str:
    total = rollout.get("total")
    parts = rollout.get("parts") or {}
    named = ", ".join(f"{name} {number(as_float(value))}" for name, value in parts.items())
    cut = "<span class='cut'>cut off</span>" if rollout.get("finish_reason") == "length" else ""
    shown = "no score" if total is None else number(as_float(total))
    return (
        f"<tr><td class='score {_grade(total)}' title=\"{escape(named, quote=True)}\">{shown}</td>"
        f"<td><pre>{_text(rollout.get('text'))}</pre>{cut}</td><td class='parts'>{escape(named)}</td></tr>"
    )


def _grade(total: float | None) -> str:
    if total is None:
        return "none"
    return "good" if total >= 1 else "some" if total > 0 else "zero"


def _total(rollout: Mapping[str, Any]) -> float:
    total = rollout.get("total")
    return float("-inf") if total is None else as_float(total)


def _text(value: Any) -> str:
    text = "" if value is None else str(value)
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}\n[{len(text) - LONGEST} more characters]"
    return escape(text)
