"""The report's first lines: can this run be trusted? Each check has a value, a verdict, and the rule behind it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from mmreason.reporting.charts import number
from mmreason.reporting.logs import Metrics, Row, as_float

Verdict = Literal["good", "look", "bad"]
RECENT = 10
"""Training steps that "now" means."""
MOST_EVENTS = 20
_SIGN = {"good": "✓", "look": "!", "bad": "✕"}
_ORDER: tuple[Verdict, ...] = ("good", "look", "bad")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the health list. Example: `Check(name="NaN", value="0", verdict="good", rule="...")`"""

    name: str
    value: str
    verdict: Verdict
    rule: str
    """What the verdict means and from which value on."""


def health_section(metrics: Metrics, quarantined: Sequence[Row], torn: int) -> str:
    """The checks that this run has numbers for, worst verdict in the heading; events that were logged."""
    checks = health(metrics, quarantined, torn)
    worst: Verdict = max((check.verdict for check in checks), key=_ORDER.index)
    said = {"good": "nothing to worry about", "look": "worth a look", "bad": "something is wrong"}[worst]
    heading = f"<h2>Health {_pill(worst, said)}</h2>" if len(metrics.steps) else "<h2>Health</h2>"
    shown = "".join(_item(check) for check in checks)
    return f"<section>{heading}<ul class='checks'>{shown}</ul>{_events(metrics.events)}</section>"


def health(metrics: Metrics, quarantined: Sequence[Row], torn: int) -> list[Check]:
    """Every check that has something to say; those of the optimizer and of the data come always."""
    found = [
        _broken(metrics),
        _quarantine(metrics, quarantined),
        _errors(metrics),
        _groups(metrics),
        _truncated(metrics),
        _checkpoints(metrics),
        _torn(torn),
    ]
    return [check for check in found if check is not None]


def skipped_steps(metrics: Metrics) -> set[float]:
    """Steps whose update was left out because the gradient was no number, or whose loss or reward was none."""
    names = [name for name in ("loss", "grad_norm", "reward/mean") if name in metrics.train]
    broken = {step for name in names for step in metrics.train[name].broken_steps()}
    if (skipped := metrics.train.get("skipped")) is not None:
        broken |= {step for step, value in zip(skipped.steps, skipped.values, strict=True) if value}
    return broken


def _broken(metrics: Metrics) -> Check:
    steps = skipped_steps(metrics)
    now = set(metrics.steps[-RECENT:])
    share = len(steps) / max(1, len(metrics.steps))
    rule = f"look: any; bad: over 1 % of the steps, or one of the last {RECENT}. A skipped step changes no weights."
    verdict: Verdict = "good" if not steps else "bad" if share > 0.01 or steps & now else "look"
    where = f", last at {max(steps):g}" if steps else ""
    return Check(name="NaN or skipped steps", value=f"{number(len(steps))}{where}", verdict=verdict, rule=rule)


def _quarantine(metrics: Metrics, quarantined: Sequence[Row]) -> Check:
    count = len(quarantined)
    seen = metrics.train["samples_seen"].values[-1] if "samples_seen" in metrics.train else math.nan
    share = count / seen if seen >= max(1, count) else math.nan
    reasons = Counter(str(row.get("reason", "unknown")) for row in quarantined).most_common(4)
    value = "0" if not count else number(count)
    if math.isfinite(share):
        value = f"{100 * share:.2g} % ({number(count)} of {number(seen)} samples)"
    why = ", ".join(f"{times} {reason}" for reason, times in reasons)
    rule = "look: any; bad: over 5 % of the samples tried. quarantine.jsonl has each file and its reason."
    verdict: Verdict = "good" if not count else "bad" if share > 0.05 else "look"
    return Check(name="quarantined", value=value, verdict=verdict, rule=f"{why}. {rule}" if why else rule)


def _errors(metrics: Metrics) -> Check | None:
    if "reward/errors" not in metrics.train:
        return None
    share, now = metrics.mean("reward/errors"), metrics.mean("reward/errors", RECENT)
    verdict: Verdict = "good" if share <= 0 else "bad" if max(share, now) > 0.01 else "look"
    rule = "look: any; bad: over 1 % of the answers. A reward that raised, hung or returned no number."
    return Check(name="reward errors", value=_percent(share), verdict=verdict, rule=rule)


def _groups(metrics: Metrics) -> Check | None:
    """Whether groups still teach: a group whose answers all score the same does not."""
    signal = metrics.mean("groups/signal" if "groups/signal" in metrics.train else "groups/useful", RECENT)
    if not math.isfinite(signal):
        return None
    right, wrong = metrics.mean("groups/all_right", RECENT), metrics.mean("groups/all_wrong", RECENT)
    verdict: Verdict = "good"
    rule = f"last {RECENT} steps. look: under 20 % with a signal; bad: under 5 %, and most groups not all right"
    if signal < 0.2:
        verdict = "bad" if signal < 0.05 and not right > 0.5 else "look"
        if right > wrong:
            rule = "most groups are all right already: harder data would teach more"
        elif wrong > right:
            rule = "most groups are all wrong: easier data, a cold start, or a look at the reward would help"
    shares = [(f"{_percent(signal)} with a signal", signal), (f"{_percent(right)} all right", right)]
    shares.append((f"{_percent(wrong)} all wrong", wrong))
    value = " · ".join(text for text, share in shares if math.isfinite(share))
    return Check(name="groups of answers", value=value, verdict=verdict, rule=rule)


def _truncated(metrics: Metrics) -> Check | None:
    share = metrics.mean("truncated", RECENT)
    if not math.isfinite(share):
        return None
    verdict: Verdict = "good" if share <= 0.05 else "bad" if share > 0.2 else "look"
    rule = f"last {RECENT} steps. look: over 5 %; bad: over 20 %: raise rollout.max_new_tokens, or reward short answers"
    return Check(name="answers cut off", value=_percent(share), verdict=verdict, rule=rule)


def _checkpoints(metrics: Metrics) -> Check | None:
    failed = [row for row in metrics.events if str(row.get("event", "")).startswith("checkpoint not saved")]
    if not failed:
        return None
    still = as_float(failed[-1]["step"]) >= metrics.last_step
    rule = "bad: the last try failed too. A run that is killed now goes on from its last complete checkpoint."
    value = f"{number(len(failed))} not saved, last at step {number(as_float(failed[-1]['step']))}"
    return Check(name="checkpoints", value=value, verdict="bad" if still else "look", rule=rule)


def _torn(torn: int) -> Check | None:
    if not torn:
        return None
    rule = "lines of metrics, gallery or quarantine that are no JSON object: a full disk, or an edited file"
    return Check(name="unreadable log lines", value=number(torn), verdict="look", rule=rule)


def _item(check: Check) -> str:
    return (
        f"<li class='check'>{_pill(check.verdict)}<span>{escape(check.name)}</span><b>{escape(check.value)}</b>"
        f"<small>{escape(check.rule)}</small></li>"
    )


def _pill(verdict: Verdict, text: str = "") -> str:
    return f"<span class='pill {verdict}'>{_SIGN[verdict]} {escape(text or verdict)}</span>"


def _events(events: Sequence[Row]) -> str:
    items = []
    for row in events[-MOST_EVENTS:]:
        what = ", ".join(f"{value}"[:1000] for key, value in row.items() if key not in ("step", "kind", "time"))
        items.append(f"<li>step {escape(number(as_float(row['step'])))}: {escape(what)}</li>")
    if not items:
        return ""
    more = f", the last {MOST_EVENTS} of {len(events)}" if len(events) > MOST_EVENTS else ""
    return f"<details class='events'><summary>Events{more}</summary><ul>{''.join(items)}</ul></details>"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if math.isfinite(share) else "-"
