"""report.html: what a run did, on one page that opens anywhere.

Self-contained: no script, no request to anywhere (a Content-Security-Policy forbids both), media embedded as small
data URIs. Everything that comes from data or from a model is escaped. It is made from metrics.jsonl, gallery.jsonl
and quarantine.jsonl alone, so it works for a run that has just begun, was killed, or is still going on.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from mmreason.errors import DataError
from mmreason.reporting.charts import as_float, number
from mmreason.reporting.gallery import gallery_section
from mmreason.reporting.sections import curves_section, evaluation_section, health_section

REPORT = "report.html"


def write_report(run_dir: Path, *, title: str) -> Path:
    """Write `run_dir`/report.html and return its path. Raises OSError when it cannot be written.

    Values that are no usable numbers are left out of the curves, and halves of surrogate pairs are shown as \\udXXX.
    Missing logs give an empty section, unreadable lines are counted on the page, and media that cannot be decoded
    are named in their place.
    """
    lines, torn_metrics = read_lines(run_dir / "metrics.jsonl")
    metrics = [row for row in lines if math.isfinite(as_float(row.get("step")))]
    torn_metrics += len(lines) - len(metrics)
    groups, torn_groups = read_lines(run_dir / "gallery.jsonl")
    quarantined, torn_quarantine = read_lines(run_dir / "quarantine.jsonl")
    torn = torn_metrics + torn_groups + torn_quarantine
    sections = [
        health_section(metrics, quarantined, torn),
        evaluation_section(metrics),
        curves_section(metrics),
        gallery_section(groups),
    ]
    path = run_dir / REPORT
    partial = path.with_suffix(".html.partial")
    page = _page(title, _subtitle(run_dir, metrics), sections)
    partial.write_text(page, encoding="utf-8", errors="backslashreplace")
    os.replace(partial, path)
    return path


def require_run(folder: Path) -> None:
    """Raises DataError for a folder in which no run has begun."""
    if not any((folder / name).is_file() for name in ("metrics.jsonl", "config.yaml")):
        what = "holds neither metrics.jsonl nor config.yaml" if folder.is_dir() else "is no folder"
        raise DataError(f"{folder}: {what}; give the run_dir of a run")


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The JSON objects of a file, one per line, and how many lines were not one. No file: no lines.

    Lines end at b"\\n" only: texts may hold U+2028 and U+0085. A last line without its end is still being written.
    """
    if not path.exists():
        return [], 0
    rows: list[dict[str, Any]] = []
    torn = 0
    *whole, _ = path.read_bytes().split(b"\n")
    for line in whole:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            torn += 1
    return rows, torn


def _subtitle(run_dir: Path, metrics: Sequence[dict[str, Any]]) -> str:
    if not metrics:
        return f"{run_dir.resolve().name}: nothing logged yet"
    seconds = as_float(metrics[-1].get("time")) - as_float(metrics[0].get("time"))
    length = f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
    step = number(max(as_float(row["step"]) for row in metrics))
    return f"{run_dir.resolve().name}: step {step}, {length} from first to last log line"


def _page(title: str, subtitle: str, sections: Sequence[str]) -> str:
    style = files("mmreason.reporting").joinpath("style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{style}</style></head>\n<body><main>"
        f"<header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p></header>\n"
        + "\n".join(sections)
        + "\n</main></body></html>\n"
    )
