"""Rows that `mmreason infer` wrote (`inference/rows.py`): the model's answers become demonstrations."""

from __future__ import annotations

import json
from typing import Any

from mmreason.formats.common import Row

NATIVE = ("id", "messages", "answer", "task", "options", "golds", "source")
NESTED = ("messages", "answers", "score", "answer", "options", "golds", "meta")
"""Columns that are JSON text in Parquet and CSV."""
LEFT = ("text", "thinking", "answers")
"""What the demonstration says already."""


def inferred(row: Row) -> dict[str, Any] | None:
    """The question with `text` as its demo, all else in `meta`; None for an item that has no answer.

    Parquet has nested values as JSON text, which is read.
    """
    if row["status"] != "ok":
        return None
    if isinstance(row["messages"], str):
        row = {key: json.loads(value) if key in NESTED else value for key, value in row.items()}
    other = {key: value for key, value in row.items() if key not in (*NATIVE, *LEFT, "meta")}
    native = {key: row[key] for key in NATIVE if key in row}
    return {**native, "demos": [row["text"]], "meta": {**row.get("meta", {}), **other}}
