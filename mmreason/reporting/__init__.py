"""report.html: what a run did, in one file that opens anywhere.

The file is self-contained: health, curves, and the newest groups of every source, with pictures inside. No script, no
request to anywhere (a Content-Security-Policy forbids both), and everything that comes from data or a model is escaped.
It is what a person copies off a cluster or gets by mail, so it stays small, however long the run.

All groups that the run kept are on pages beside it, in the folder report/, each bounded in bytes. Not all in the one
file: 500 groups with answers of reasoning length are tens of megabytes, and hiding them until a script unfolds them
would not make them smaller. Plain links need no script, work from a folder, a web server or an archive, and page
numbers count from the oldest group, so that a link still leads to the same groups when the run has gone on.

Everything is made from metrics.jsonl, gallery.jsonl and quarantine.jsonl alone - pictures of media are made when a
group is logged - so it works for a run that has just begun, was killed, is going on, or was copied without its data.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

from mmreason.errors import DataError
from mmreason.reporting.charts import number
from mmreason.reporting.gallery import Card, cards_of, choose, pages, steps_of
from mmreason.reporting.health import health_section
from mmreason.reporting.logs import Metrics, read_lines, read_metrics
from mmreason.reporting.page import page, write_page
from mmreason.reporting.sections import curves_section, evaluation_section, summary_section

REPORT = "report.html"
PAGES = "report"
"""Folder of the further pages."""


def write_report(run_dir: Path, *, title: str) -> Path:
    """Write `run_dir`/report.html and the pages in `run_dir`/report; return the first. Raises OSError.

    Values that are no usable numbers are left out of the curves, and halves of surrogate pairs are shown as \\udXXX.
    Missing logs give an empty section, unreadable lines are counted on the page.
    """
    metrics = read_metrics(run_dir / "metrics.jsonl")
    groups, torn_groups = read_lines(run_dir / "gallery.jsonl")
    quarantined, torn_quarantine = read_lines(run_dir / "quarantine.jsonl")
    cards = cards_of(groups)
    chosen = choose(cards)
    names = _write_pages(run_dir, title, pages(cards) if len(cards) > len(chosen) else [])
    sections = [
        summary_section(metrics),
        health_section(metrics, quarantined, metrics.torn + torn_groups + torn_quarantine),
        evaluation_section(metrics),
        curves_section(metrics),
        _groups_section(chosen, len(cards), names),
    ]
    path = run_dir / REPORT
    write_page(path, page(title, _subtitle(run_dir, metrics), sections))
    return path


def require_run(folder: Path) -> None:
    """Raises DataError for a folder in which no run has begun."""
    if not any((folder / name).is_file() for name in ("metrics.jsonl", "config.yaml")):
        what = "holds neither metrics.jsonl nor config.yaml" if folder.is_dir() else "is no folder"
        raise DataError(f"{folder}: {what}; give the run_dir of a run")


def _write_pages(run_dir: Path, title: str, parts: Sequence[Sequence[Card]]) -> list[tuple[str, str]]:
    """Write the further pages before the one that links to them; (file name, what is on it) of each, oldest first."""
    folder = run_dir / PAGES
    names = [(f"groups-{index:04d}.html", steps_of(part)) for index, part in enumerate(parts, start=1)]
    if parts:
        folder.mkdir(exist_ok=True)
    for index, part in enumerate(parts):
        links = f"<nav class='pager'><a href='../{REPORT}'>Report</a>{_neighbours(names, index)}</nav>"
        subtitle = f"groups of {names[index][1]}, page {index + 1} of {len(parts)}, newest first"
        cards = "".join(card.html for card in reversed(part))
        write_page(folder / names[index][0], page(title, subtitle, [links, cards, links]))
    kept = {name for name, _ in names}
    for old in folder.glob("groups-*.html"):  # of a longer gallery: the run was resumed from before
        if old.name not in kept:
            old.unlink()
    return names


def _neighbours(names: Sequence[tuple[str, str]], index: int) -> str:
    newer, older = names[index + 1 : index + 2], names[index - 1 : index] if index else []
    links = [f"<a href='{name}'>Newer: {what}</a>" for name, what in newer]
    links += [f"<a href='{name}'>Older: {what}</a>" for name, what in older]
    return "".join(links)


def _groups_section(chosen: Sequence[Card], total: int, names: Sequence[tuple[str, str]]) -> str:
    if not chosen:
        return "<section><h2>Groups</h2><p class='empty'>no group kept yet</p></section>"
    links = "".join(f"<a href='{PAGES}/{name}'>{what}</a>" for name, what in reversed(names))
    hint = "The newest of every modality and source first."
    if names:
        hint += f" All {total} are on the pages below, in the folder {PAGES}/ beside this file: copy it as well."
    pager = f"<nav class='pager'>{links}</nav>" if names else ""
    cards = "".join(card.html for card in chosen)
    shown = f"<small>{len(chosen)} of {total}</small>"
    return f"<section><h2>Groups {shown}</h2><p class='hint'>{hint}</p>{pager}{cards}{pager}</section>"


def _subtitle(run_dir: Path, metrics: Metrics) -> str:
    name = run_dir.resolve().name
    if not math.isfinite(metrics.last_step):
        return f"{name}: nothing logged yet"
    begin, end = metrics.times
    if not (math.isfinite(begin) and 0 <= end < 1e11):
        return f"{name}: step {number(metrics.last_step)}"
    seconds = end - begin
    length = f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
    clock = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(end))
    return f"{name}: step {number(metrics.last_step)}, {length} from first to last log line, the last one at {clock}"
