"""The report's parts that come from numbers: what was reached, evaluations, curves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import escape

import numpy as np

from mmreason.reporting.charts import PLAIN, Axis, Series, line_chart, number, stacked_chart
from mmreason.reporting.health import RECENT, skipped_steps
from mmreason.reporting.logs import LARGEST, Column, Metrics, Row, as_float, is_number

_NOT_PARTS = ("mean", "errors")
"""Names under "reward/" that are not parts of the reward."""
_GROUPS = ("groups/signal", "groups/all_right", "groups/all_wrong")
MOST_LINES = 7
"""Of a chart whose number of lines the data decides; the others are named."""
MOST_ROWS = 60
"""Of the table of evaluations."""


def summary_section(metrics: Metrics) -> str:
    """The few numbers that one asks for first."""
    facts = [("steps", number(metrics.last_step), "") if math.isfinite(metrics.last_step) else None]
    if evals := [row for row in metrics.evals if is_number(row.get("accuracy/mean"))]:
        first, last = (100 * as_float(row["accuracy/mean"]) for row in (evals[0], evals[-1]))
        facts.append(("held-out accuracy", f"{last:.1f} %", f"from {first:.1f} %" if len(evals) > 1 else ""))
    if "reward/mean" in metrics.train:
        reward = metrics.train["reward/mean"]
        facts.append(("reward now", number(reward.mean(RECENT)), f"from {number(reward.first_mean(RECENT))}"))
    if "nll" in metrics.train:
        nll = metrics.train["nll"]
        facts.append(("loss now", number(nll.mean(RECENT)), f"from {number(nll.first_mean(RECENT))}"))
    if "tokens_per_second" in metrics.train:
        facts.append(("tokens per second", number(metrics.mean("tokens_per_second", RECENT)), ""))
    if "time/step" in metrics.train:
        facts.append(("seconds per step", number(metrics.mean("time/step", RECENT)), ""))
    tiles = "".join(
        f"<div><dt>{escape(fact[0])}</dt><dd>{escape(fact[1])} <small>{escape(fact[2])}</small></dd></div>"
        for fact in facts
        if fact is not None
    )
    return f"<dl class='facts'>{tiles}</dl>" if tiles else ""


def evaluation_section(metrics: Metrics) -> str:
    """Held-out accuracy of the first and the last evaluation, with 95 % intervals where they were logged."""
    evals = metrics.evals
    if not evals:
        return "<section><h2>Held-out accuracy</h2><p class='empty'>no evaluation yet</p></section>"
    first, last = evals[0], evals[-1]
    names = _accuracies(last)
    whole = _table(first, last, [name for name in names if ":" not in name])
    chart = line_chart("By evaluation", list(_held_out(evals)), Axis(bounds=(0.0, 1.0)))
    sources = [name for name in names if "source:" in name]
    folded = f"<summary>By source ({len(sources)})</summary>{_table(first, last, sources)}"
    return (
        f"<section><h2>Held-out accuracy</h2><div class='beside'><div>{whole}<p class='hint'>Greedy answers, %. "
        "95 % intervals in brackets. mean: of the modalities, each counting the same.</p>"
        f"{f'<details>{folded}</details>' if sources else ''}</div>{chart}</div></section>"
    )


def _table(first: Row, last: Row, names: Sequence[str]) -> str:
    lines = "".join(
        f"<tr><th>{escape(_short(name))}</th><td>{_percent(first, name)}</td><td>{_percent(last, name)}</td>"
        f"<td>{_change(first, last, name)}</td></tr>"
        for name in names[:MOST_ROWS]
    )
    more = len(names) - MOST_ROWS
    rest = f"<p class='hint'>{more} more rows are in metrics.jsonl.</p>" if more > 0 else ""
    return (
        "<div class='wide'><table class='numbers'><thead><tr><th></th>"
        f"<th>step {number(as_float(first['step']))}</th><th>step {number(as_float(last['step']))}</th>"
        f"<th>change</th></tr></thead><tbody>{lines}</tbody></table></div>{rest}"
    )


def curves_section(metrics: Metrics) -> str:
    """Charts by the question that a person asks of a run; those without a number in the log are left out."""
    rows = [
        ("Does it learn?", _learning(metrics)),
        ("How does it answer?", _answers(metrics)),
        ("Is the optimizer calm?", _optimizer(metrics)),
        ("Where does the time go?", _speed(metrics)),
    ]
    shown = []
    for question, charts in rows:
        found = [chart for chart in charts if chart]
        kind = "charts pairs" if len(found) in (2, 4) else "charts"  # three to a line would leave a hole
        shown.append(f"<h3>{question}</h3><div class='{kind}'>{''.join(found)}</div>" if found else "")
    nothing = "<p class='empty'>nothing logged yet</p>"
    return f"<section class='curves'><h2>Curves</h2>{''.join(shown) or nothing}</section>"


def _learning(metrics: Metrics) -> Iterator[str]:
    parts = [name for name in metrics.names("reward", _NOT_PARTS) if name.count("/") == 1]
    if "nll" in metrics.train:  # of SFT; what a policy-gradient method calls loss says nothing about its progress
        yield _lines(metrics, "Loss", ["nll"])
    yield _lines(metrics, "Reward", ["reward/mean", *parts])
    yield _lines(metrics, "Reward by modality", metrics.names("reward/modality"))
    yield _lines(metrics, "Reward by source", metrics.names("reward/source"))


def _answers(metrics: Metrics) -> Iterator[str]:
    yield _lines(metrics, "Groups", _GROUPS, Axis(unit="share of groups", bounds=(0.0, 1.0)))
    yield _lines(metrics, "Length", metrics.names("length"), Axis(unit="tokens"))
    yield _lines(metrics, "Cut off", ["truncated"], Axis(unit="share of answers", bounds=(0.0, 1.0)))
    if metrics.mean("reward/errors") > 0:
        yield _lines(metrics, "Reward errors", ["reward/errors"], Axis(unit="share of answers"))


def _optimizer(metrics: Metrics) -> Iterator[str]:
    yield _lines(metrics, "Entropy", ["entropy"], Axis(unit="nats per token"))
    skipped = sorted(skipped_steps(metrics))
    marked = Axis(marks=skipped, hint=f"{len(skipped)} skipped steps are marked" if skipped else "")
    yield _lines(metrics, "Gradient norm", ["grad_norm"], marked)
    yield _lines(metrics, "KL", ["kl", "kl_old"], Axis(hint="kl: to the reference; kl old: to the sampling policy"))
    yield _lines(metrics, "Clipped", ["clip_fraction", *metrics.names("clip_fraction")], Axis(unit="share of tokens"))
    yield _lines(metrics, "Ratio to the sampling policy", ["ratio"], Axis(unit="mean over tokens", zero=False))
    yield _lines(metrics, "Learning rate", ["learning_rate"])


def _speed(metrics: Metrics) -> Iterator[str]:
    stages = sorted(metrics.names("time", ("step",)), key=lambda name: -metrics.train[name].usable()[1].sum())
    series = [_series(name, metrics.train[name]) for name in stages]
    if series:
        yield stacked_chart("Time of a step, by stage", _joined(series), Axis(unit="seconds"))
    yield _lines(metrics, "Speed", ["tokens_per_second"], Axis(unit="tokens per second"))
    if metrics.mean("quarantined") > 0:
        yield _lines(metrics, "Quarantined", ["quarantined"], Axis(unit="samples so far"))


def _lines(metrics: Metrics, title: str, names: Sequence[str], axis: Axis = PLAIN) -> str:
    """A chart of those metrics that were logged, or nothing. Of many, the ones with the most values are drawn."""
    found = [name for name in names if name in metrics.train]
    if not found:
        return ""
    series = {name: _series(name, metrics.train[name]) for name in found}
    most_first = sorted(found, key=lambda name: -len(series[name].values))  # stable: the order given breaks ties
    drawn = most_first[:MOST_LINES] if len(found) > MOST_LINES + 1 else most_first
    left_out = sum(_unusable(metrics.train[name]) for name in found)
    note = f"{axis.hint}. " * bool(axis.hint) + f"not drawn: {left_out} values that are no usable numbers"
    axis = replace(axis, hint=note) if left_out else axis
    keep = [series[name] for name in found if name in drawn]
    return line_chart(title, keep, axis, [series[name] for name in found if name not in drawn])


def _series(name: str, column: Column) -> Series:
    steps, values = column.usable()
    label = name if name.startswith("reward/") else name.replace("_", " ")  # theirs as they are, ours as words
    return Series(name=_short(label), steps=steps, values=values)


def _unusable(column: Column) -> int:
    return len(column.values) - len(column.usable()[1])


def _joined(stages: Sequence[Series]) -> list[Series]:
    """At most MOST_LINES stages, longest first; the others in one, so that the sum stays right."""
    if len(stages) <= MOST_LINES + 1:
        return list(stages)
    rest = stages[MOST_LINES:]
    steps = np.unique(np.concatenate([one.steps for one in rest]))
    values = np.zeros(len(steps))
    for one in rest:
        values[np.searchsorted(steps, one.steps)] += one.values
    return [*stages[:MOST_LINES], Series(name=f"{len(rest)} others", steps=steps, values=values)]


def _held_out(evals: Sequence[Row]) -> Iterator[Series]:
    """Accuracy of all and by modality, at every evaluation."""
    columns: dict[str, Column] = {}
    for row in evals:
        for name in _accuracies(row):
            if ":" not in name and is_number(row[name]) and abs(as_float(row[name])) <= LARGEST:
                columns.setdefault(name, Column()).add(as_float(row["step"]), as_float(row[name]))
    for name in sorted(columns, key=lambda name: (name != "accuracy/mean", name))[: MOST_LINES + 1]:
        steps, values = columns[name].usable()
        yield Series(name=_short(name), steps=steps, values=values, marked=len(values) <= 100)


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
