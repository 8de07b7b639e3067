"""Video-R1 and its relatives: one object per question, with `problem_type`.

Sources: the README of the data set Video-R1/Video-R1-data (Video-R1-260k.json and Video-R1-COT-165k.json) and
`sft_video.py` of tulerfeng/Video-R1; `make_omniInstruct_r1_dataset.py` and `grpo.py` of HarryHsing/EchoInk, which adds
pictures with sound, counting and temporal retrieval; `dataset.py` of tulerfeng/OneThinker, which adds math, open-ended,
temporal and spatial grounding. Tracking and segmentation are not read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from mmreason.formats.common import KINDS, Row, answer_text, labels, media_columns, need, with_media
from mmreason.plugins import nearest

TASKS = {
    "multiple choice": "mcq",
    "numerical": "numeric",
    "regression": "regression",
    "counting": "counting",
    "math": "math",
    "ocr": "ocr",
    "free-form": "free_form",
    "open-ended": "free_form",
    "temporal retrieval": "temporal",
    "temporal grounding": "temporal",
    "spatial grounding": "grounding",
}
"""problem_type, in lower case -> task. The spans of `temporal` are in `golds["spans"]`."""

_SPAN = re.compile(r"\[\s*(\d+\.?\d*)\s*,\s*(\d+\.?\d*)\s*\]")
_USED = ("problem", "problem_type", "options", "process", "solution", "path", "data_source", "data_type")


def video_r1(row: Row) -> dict[str, Any]:
    """A row of Video-R1: `process`, the chain of thought, and `solution` together are a demo."""
    kind = need(row, "problem_type", str, f"one of {', '.join(TASKS)}")
    if kind.lower() not in TASKS:
        raise ValueError(f"problem_type: {kind!r}{nearest(kind.lower(), TASKS)}")
    task = TASKS[kind.lower()]
    solution = need(row, "solution", str, "text such as <answer>B</answer>")
    question = {"role": "user", "content": need(row, "problem", str, "the question")}
    native = {
        "messages": with_media([question], _media(row)),
        "task": task,
        "answer": answer_text(solution),
        "demos": _demos(row.get("process"), solution),
        **labels(row, {*_USED, *(f"{kind}s" for kind in KINDS)}),
    }
    if task == "mcq":
        native["options"] = need(row, "options", list, 'the choices, such as ["A. a cat", "B. a dog"]')
    if task in ("temporal", "grounding"):
        native["golds"] = _golds(task, native["answer"])
    return native


def _media(row: Row) -> dict[str, list[dict[str, Any]]]:
    """`path`: one file of the kind that `data_type` says, or {"image": .., "audio": ..}; else columns of media."""
    path, kind = row.get("path"), row.get("data_type")
    if path is None:
        return media_columns(row)
    if isinstance(path, Mapping):
        return media_columns(path)
    if kind not in KINDS:
        raise ValueError(f"data_type: {kind!r}, expected {', '.join(KINDS)}, or a path for each kind")
    return {kind: [{"type": kind, kind: path}]}


def _demos(process: Any, solution: str) -> list[str]:
    if not process:
        return []
    if not isinstance(process, str):
        raise ValueError(f"process: a {type(process).__name__}, expected text")
    think = process if "<think>" in process else f"<think>{process}</think>"
    return [f"{think}\n{solution if '<answer>' in solution else f'<answer>{solution}</answer>'}"]


def _golds(task: str, answer: str) -> dict[str, Any]:
    """Spans in seconds of "[12.0, 19.0]; [24.0, 29.0]" or {"time": [..]}; the box of {"boxes": [..]}."""
    try:
        given = json.loads(answer)
    except ValueError:
        given = None
    if task == "grounding":
        box = given.get("boxes") if isinstance(given, dict) else given
        if not isinstance(box, list) or len(box) != 4:
            raise ValueError(f'solution: {answer[:60]!r}, expected a box such as {{"boxes": [x1, y1, x2, y2]}}')
        return {"box": box}
    spans = [[float(start), float(end)] for start, end in _SPAN.findall(answer)]
    if not spans:
        raise ValueError(f"solution: {answer[:60]!r}, expected spans in seconds such as [12.0, 19.0]; [24.0, 29.0]")
    return {"spans": spans}
