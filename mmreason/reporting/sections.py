"""The report's parts that come from numbers: health, evaluations, curves."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any

from mmreason.reporting.charts import Series, as_float, line_chart, number

Row = dict[str, Any]

_NOT_PARTS = ("mean", "errors", "source", "modality")
"""Names under "reward/" that are not parts of the reward."""


def health_section(metrics: Sequence[Row], quarantined: Sequence[Row], torn: int) -> str:
    """One line of facts that say whether the run can be trusted; the worrying ones are marked."""
    train = [row for row in metrics if row.get("kind") == "train"]
    broken = sum(not all(_finite(row, name) for name in ("loss", "grad_norm", "reward/mean")) for row in train)
    skipped = sum(_value(row, "skipped") for row in train)
    reasons = Counter(str(row.get("reason", "unknown")) for row in quarantined)
    last = train[-1] if train else {}
    facts = [
        _fact("steps", number(len(train)), bad=False),
        _fact("steps with NaN", number(broken), bad=broken > 0),
        _fact("steps skipped", number(skipped), bad=skipped > 0),
        _fact("samples quarantined", _counted(len(quarantined), reasons), bad=len(quarantined) > 0),
        _fact("reward errors", _share(train, "reward/errors"), bad=_mean(train, "reward/errors") > 0),
        _fact("answers truncated", _share(train[-10:], "truncated"), bad=_mean(train[-10:], "truncated") > 0.1),
        _fact("groups with a signal", _share(train[-10:], "groups/useful"), bad=False),
    ]
    if "tokens_per_second" in last:
        facts.append(_fact("tokens per second", number(_mean(train[-10:], "tokens_per_second")), bad=False))
    if torn:
        facts.append(_fact("unreadable log lines", number(torn), bad=True))
    return f"<section><h2>Health</h2><dl class='facts'>{''.join(facts)}</dl>{_events(metrics)}</section>"


def evaluation_section(metrics: Sequence[Row]) -> str:
    """Held-out accuracy of the first and the last evaluation, with 95 % intervals where they were logged."""
    evals = [row for row in metrics if row.get("kind") == "eval"]
    if not evals:
        return "<section><h2>Held-out accuracy</h2><p class='empty'>no evaluation yet</p></section>"
    first, last = evals[0], evals[-1]
    names = [name for name in _accuracies(last) if "source:" not in name and "task:" not in name]
    names += [name for name in _accuracies(last) if "source:" in name]
    lines = "".join(
        f"<tr><th>{escape(_short(name))}</th><td>{_percent(first, name)}</td><td>{_percent(last, name)}</td>"
        f"<td>{_change(first, last, name)}</td></tr>"
        for name in names
    )
    return (
        "<section><h2>Held-out accuracy</h2><table class='numbers'><thead><tr><th></th>"
        f"<th>step {number(as_float(first['step']))}</th><th>step {number(as_float(last['step']))}</th>"
        "<th>change</th></tr></thead>"
        f"<tbody>{lines}</tbody></table><p class='hint'>Greedy answers, %. 95 % intervals in brackets. "
        "mean: of the modalities, each counting the same.</p></section>"
    )


def curves_section(metrics: Sequence[Row]) -> str:
    """One chart per question that a person asks of a run."""
    train = [row for row in metrics if row.get("kind") == "train"]
    evals = [row for row in metrics if row.get("kind") == "eval"]
    held_out = [name for name in _names(evals, "accuracy/") if name.count("/") == 1 and ":" not in name]
    parts = [name for name in _names(train, "reward/") if name.split("/")[1] not in _NOT_PARTS]
    stages = [name for name in _names(train, "time/") if name != "time/step"]
    charts = [
        line_chart("Held-out accuracy", _lines(evals, held_out, marked=True), bounds=(0.0, 1.0)),
        line_chart("Reward", _lines(train, ["reward/mean", *parts])) if _names(train, "reward/") else "",
        line_chart("Reward by source", _lines(train, _names(train, "reward/source/")))
        if _names(train, "reward/source/")
        else "",
        line_chart("Entropy of the answers", _lines(train, ["entropy"]), unit="nats per token"),
        line_chart("Loss", _lines(train, _present(train, "nll", "loss"))),
        line_chart("KL to the reference", _lines(train, ["kl"])) if _names(train, "kl") else "",
        line_chart("Length of answers", _lines(train, ["length/mean"]), unit="tokens")
        if _names(train, "length/")
        else "",
        line_chart("Gradient norm", _lines(train, ["grad_norm"])),
        line_chart("Groups", _lines(train, _names(train, "groups/", without=("sampled", "kept"))), bounds=(0.0, 1.0))
        if _names(train, "groups/")
        else "",
        line_chart("Time of a step", _lines(train, stages), unit="seconds"),
    ]
    return f"<section><h2>Curves</h2><div class='charts'>{''.join(charts)}</div></section>"


def _lines(rows: Sequence[Row], names: Sequence[str], *, marked: bool = False) -> list[Series]:
    return [
        Series(
            name=_short(name),
            points=tuple((as_float(row["step"]), as_float(row[name])) for row in rows if _is_number(row.get(name))),
            marked=marked,
        )
        for name in names
    ]


def _names(rows: Sequence[Row], prefix: str, without: Sequence[str] = ()) -> list[str]:
    """Names of numbers that start with `prefix`, in the order of the alphabet."""
    found = {name for row in rows for name, value in row.items() if name.startswith(prefix) and _is_number(value)}
    return sorted(name for name in found if name.split("/")[-1] not in without)


def _present(rows: Sequence[Row], *names: str) -> list[str]:
    return [name for name in names if any(name in row for row in rows)]


def _accuracies(row: Row) -> list[str]:
    names = [name for name in row if name.startswith("accuracy/") and name.split("/")[-1] not in ("low", "high", "of")]
    return sorted(names, key=lambda name: (name != "accuracy/mean", name != "accuracy/all", name))


def _short(name: str) -> str:
    """The last word: colour, for reward/source/colour and for accuracy/source:colour."""
    return name.split("/")[-1].split(":")[-1]


def _percent(row: Row, name: str) -> str:
    if name not in row:
        return "-"
    text = f"{100 * as_float(row[name]):.1f}"
    if f"{name}/low" in row:
        low, high = (100 * as_float(row.get(f"{name}/{end}")) for end in ("low", "high"))
        text += f" <small>[{low:.0f}-{high:.0f}]</small>"
    return text


def _change(first: Row, last: Row, name: str) -> str:
    if name not in first or first is last:
        return "-"
    return f"{100 * (as_float(last[name]) - as_float(first[name])):+.1f}"


def _fact(name: str, value: str, *, bad: bool) -> str:
    mark = " class='bad'" if bad else ""
    return f"<div{mark}><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"


def _counted(total: int, reasons: Counter[str]) -> str:
    if not total:
        return "0"
    return f"{number(total)} ({', '.join(f'{count} {reason}' for reason, count in reasons.most_common(4))})"


def _events(metrics: Sequence[Row]) -> str:
    rows = [row for row in metrics if row.get("kind") == "event"]
    items = []
    for row in rows[-10:]:
        what = ", ".join(f"{value}" for key, value in row.items() if key not in ("step", "kind", "time"))
        items.append(f"<li>step {escape(str(row['step']))}: {escape(what)}</li>")
    return f"<ul class='events'>{''.join(items)}</ul>" if items else ""


def _share(rows: Sequence[Row], name: str) -> str:
    return f"{100 * _mean(rows, name):.1f} %" if any(name in row for row in rows) else "-"


def _mean(rows: Sequence[Row], name: str) -> float:
    values = [_value(row, name) for row in rows if name in row]
    return sum(values) / len(values) if values else 0.0


def _value(row: Row, name: str) -> float:
    value = as_float(row.get(name))
    return value if math.isfinite(value) else 0.0


def _finite(row: Row, name: str) -> bool:
    return name not in row or math.isfinite(as_float(row[name]))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
