"""Did the model find the time? Overlap of answered spans of seconds with `golds["spans"]`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from mmreason.errors import DataError
from mmreason.rewards.base import extract_answer, one_line
from mmreason.rewards.frames import for_golds
from mmreason.types import Rollout, Sample, Score

Spans = list[tuple[float, float]]
Kind = Literal["merged", "last", "pairwise", "pairwise_published"]

LONGEST = 10_000
"""Characters: a longer answer holds no spans."""
LAST = 1e9
"""Seconds: later times are no times."""

_TIME = r"[-+]?(?:\d+:){0,2}\d+(?:\.\d*)?"
_UNIT = r"\s*(?:(?:seconds?|secs?|s)\s*)?"
_SPAN = re.compile(
    rf"[\[(]\s*(?P<a>{_TIME}){_UNIT},\s*(?P<b>{_TIME}){_UNIT}[\])]"
    rf"|(?<![\d.:])(?P<c>{_TIME}){_UNIT}(?:\b(?:to|and|until)\b|-|\u2013|\u2014)\s*(?P<d>{_TIME})",
    re.IGNORECASE,
)
_NONE = re.compile(r"(?:\[\s*\]|\(\s*\)|none)\.?", re.IGNORECASE)


@for_golds("spans", task="temporal")
def tiou(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    kind: Kind = "merged",
    duration_weighted: bool = False,
    tag: str = "answer",
) -> list[Score]:
    """Overlap of the answered time spans with `golds["spans"]` over their union, 0 to 1 (temporal IoU).

    Golds and answers are spans [start, end] in seconds: "12.5 to 20", "[12, 19]; [24, 29]", "(0:12, 0:19)". `kind`:
    "merged" overlapping spans of either side are merged first, then length of the intersection over length of the union
    (VideoChat-R1's glue reward; with one span each the IoU of TimeZero, VideoChat-R1 and Time-R1); nothing where there
    is nothing is 1. "last" the last answered span alone, as those three read it. "pairwise" the sum over pairs of
    spans, unmerged, at most 1. "pairwise_published" is EchoInk's code, without a bound: the same right span said many
    times is worth more and more. `tag`: where the spans are said ("glue" in VideoChat-R1's grounded questions).

    `duration_weighted`: times (1 - |start - start'| / D) (1 - |end - end'| / D), each at least 0, with D of
    `golds["duration"]` or `meta["duration"]` and the first start and last end of each side (Time-R1, `main.py`, which
    has one span, and no floor). A span that ends before it starts makes the answer no answer. Flag "correct": over 0.5.
    """
    golds = _gold_spans(sample)
    duration = _duration(sample) if duration_weighted else None
    if not golds and duration is not None:
        raise DataError("no gold span to weight by the duration")
    scores = []
    for rollout in rollouts:
        spans = read_spans(extract_answer(rollout.text, tag) or "")
        if spans and kind == "last":
            spans = spans[-1:]
        total = 0.0 if spans is None else _overlap(spans, golds, kind)
        if spans and duration is not None:
            total *= nearness(spans, golds, duration)
        scores.append(Score(total=total, flags={"correct": total > 0.5, "answered": spans is not None}))
    return scores


def _overlap(spans: Spans, golds: Spans, kind: Kind) -> float:
    if kind in ("merged", "last"):
        return merged_iou(spans, golds)
    overlap = pairwise_iou(spans, golds)
    return overlap if kind == "pairwise_published" else min(1.0, overlap)


def read_spans(text: str) -> Spans | None:
    """All spans of a text, in its order; [] for "[]" or "None"; None where there are none, or one runs backwards."""
    if len(text) > LONGEST:
        return None
    if _NONE.fullmatch(text.strip()):
        return []
    spans = [(_seconds(m["a"] or m["c"]), _seconds(m["b"] or m["d"])) for m in _SPAN.finditer(text)]
    usable = all(start <= end and max(abs(start), abs(end)) <= LAST for start, end in spans)
    return spans if spans and usable else None


def merged(spans: Sequence[tuple[float, float]]) -> Spans:
    """The same times as spans that do not touch, in order."""
    result: Spans = []
    for start, end in sorted(spans):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(result[-1][1], end))
        else:
            result.append((start, end))
    return result


def merged_iou(spans: Sequence[tuple[float, float]], golds: Sequence[tuple[float, float]]) -> float:
    """Length of the times in both over length of the times in either, 0 to 1; without any length, 1 for the same spans.

    Example: none and none -> 1; [(5, 5)] and none -> 0, for something was said to be there.
    """
    ours, theirs = merged(spans), merged(golds)
    shared = _shared(ours, theirs)
    union = _length(ours) + _length(theirs) - shared
    return shared / union if union > 0 else float(ours == theirs)


def pairwise_iou(spans: Sequence[tuple[float, float]], golds: Sequence[tuple[float, float]]) -> float:
    """EchoInk's: intersections of all pairs over both lengths less these; 0 where that is nothing or less.

    Not bounded: [(0, 10)] twice with [(0, 10)] is 20 / 10.
    """
    shared = _shared(spans, golds)
    union = _length(spans) + _length(golds) - shared
    return shared / union if spans and golds and union > 0 else 0.0


def nearness(spans: Sequence[tuple[float, float]], golds: Sequence[tuple[float, float]], duration: float) -> float:
    """Time-R1's factor for the distance of starts and of ends, as part of the video's length, 0 to 1."""
    start = abs(min(span[0] for span in spans) - min(span[0] for span in golds)) / duration
    end = abs(max(span[1] for span in spans) - max(span[1] for span in golds)) / duration
    return max(0.0, 1.0 - start) * max(0.0, 1.0 - end)


def _shared(spans: Sequence[tuple[float, float]], golds: Sequence[tuple[float, float]]) -> float:
    return sum(max(0.0, min(end, stop) - max(start, begin)) for start, end in spans for begin, stop in golds)


def _length(spans: Sequence[tuple[float, float]]) -> float:
    return sum(end - start for start, end in spans)


def _seconds(text: str) -> float:
    """Of "75", "75.5", "1:15" or "0:01:15"."""
    sign = -1.0 if text.startswith("-") else 1.0
    total = 0.0
    for part in text.lstrip("+-").split(":"):
        total = 60.0 * total + float(part)
    return sign * total


def _gold_spans(sample: Sample) -> Spans:
    given: Any = sample.golds.get("spans", sample.answer)
    shown = one_line(repr(given), limit=80)
    if isinstance(given, str):
        given = read_spans(extract_answer(given) or given)
    if isinstance(given, (list, tuple)) and len(given) == 2 and all(_is_time(time) for time in given):
        given = [given]
    if not isinstance(given, (list, tuple)) or not all(_is_span(span) for span in given):
        raise DataError(f"gold spans {shown}: expected [[start, end], ..] in seconds")
    if given and _length(given) == 0:
        raise DataError(f"gold spans {shown} have no length")
    return [(float(start), float(end)) for start, end in given]


def _is_span(value: Any) -> bool:
    pair = isinstance(value, (list, tuple)) and len(value) == 2 and all(_is_time(time) for time in value)
    return pair and value[0] <= value[1]


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LAST


def _duration(sample: Sample) -> float:
    given = sample.golds.get("duration", sample.meta.get("duration"))
    if not _is_time(given) or given <= 0:
        raise DataError(f"golds.duration {one_line(repr(given), limit=80)}: expected the video's length in seconds")
    return float(given)
