"""What `mmreason infer` writes: one JSON object per item and line.

    {"id": "birds/7.png",                       path inside the folder or archive; the id of a row of questions
     "status": "ok",                            or "error", with the reason in one line
     "reason": null,
     "messages": [{"role": "user", "content": [{"type": "image", "image": "birds/7.png"},
                                               {"type": "text", "text": "What bird is this?"}]}],
     "text": "<think>..</think><answer>owl</answer>", "thinking": "..", "parsed": "owl",
     "tokens": 21, "prompt_tokens": 310, "truncated": false, "seconds": 0.4,
     "answers": [..], "votes": 3,               several answers: all of them; `text` is that of the majority's first
     "score": {"total": 1.0, "parts": {..}, "error": null},                            where rewards were asked for
     "answer": .., "task": .., "options": .., "golds": .., "meta": ..,                 as the row of questions had them
     "source": "photos", "model": "runs/a/model", "engine": "hf", "settings": "9f.."}

Keys that say nothing (`answers` of one answer, `answer` of a folder's file) are left out; "status" to "settings" above
without a condition are always there. `messages`, `answer`, `task`, ... are those of the native schema (data.py), with
paths relative to the root that is named beside the file (`settings_file`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from mmreason.rewards.base import extract_answer
from mmreason.types import MediaRef, Sample, Score

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One finished answer. Example: `Answer(text="<answer>owl</answer>", parsed="owl", tokens=7)`"""

    text: str
    parsed: str | None = None
    """What the last answer block holds; None where there is none."""
    thinking: str | None = None
    """The same of the block of thoughts."""
    tokens: int = 0
    truncated: bool = False
    """The token budget ended it."""
    vote: int | None = None
    """Index of the first answer to this item that is the same; None where it has no vote."""


def answer_of(text: str, tokens: int, truncated: bool, tags: tuple[str, str] = ("think", "answer")) -> Answer:
    """A text taken apart by the tags of thoughts and answer."""
    thinking, parsed = (extract_answer(text, tag) for tag in tags)
    return Answer(text=text, parsed=parsed, thinking=thinking, tokens=tokens, truncated=truncated)


def majority(votes: Sequence[int | None]) -> tuple[int, int]:
    """(index of the answer that is shown, how many agree with it).

    Most votes win; of several with as many, the one that was given first. Without any vote the first answer is shown.
    Example: `majority([0, 1, None, 1]) == (1, 2)`
    """
    counts: dict[int, int] = {}
    for vote in votes:
        if vote is not None:
            counts[vote] = counts.get(vote, 0) + 1
    if not counts:
        return 0, 0
    most = max(counts.values())
    return min(vote for vote, count in counts.items() if count == most), most


def answered(
    base: Mapping[str, Any],
    answers: Sequence[Answer],
    *,
    prompt_tokens: int,
    seconds: float,
    scores: Sequence[Score] = (),
) -> Row:
    """The row of an item that was answered. `base`: what `described` made of it. scores: one per answer, or none."""
    index, votes = majority([answer.vote for answer in answers])
    shown = answers[index]
    row = dict(base) | {
        "status": "ok",
        "reason": None,
        "text": shown.text,
        "thinking": shown.thinking,
        "parsed": shown.parsed,
        "tokens": sum(answer.tokens for answer in answers),
        "prompt_tokens": prompt_tokens,
        "truncated": shown.truncated,
        "seconds": round(seconds, 3),
    }
    totals = [{"score": score.total} for score in scores] or [{}] * len(answers)
    if len(answers) > 1:
        row |= {"answers": [asdict(a) | total for a, total in zip(answers, totals, strict=True)], "votes": votes}
    if scores:
        score = scores[index]
        row["score"] = {"total": score.total, "parts": dict(score.parts), "error": score.error}
    return row


def failed(base: Mapping[str, Any], reason: str, seconds: float = 0.0) -> Row:
    """The row of an item without an answer."""
    nothing: Row = {"text": None, "thinking": None, "parsed": None, "tokens": 0, "prompt_tokens": 0}
    return {
        **base,
        "status": "error",
        "reason": " ".join(reason.split()),
        **nothing,
        "truncated": False,
        "seconds": round(seconds, 3),
    }


def described(id: str, sample: Sample | None, names: Sequence[str], stamp: Mapping[str, Any]) -> Row:
    """What a row says of its item, before any answer.

    names: what the sample's media are called in the row, in order: their paths relative to the root. stamp: what all
    rows of a run share (source, model, engine, settings).
    """
    row: Row = {"id": id, "messages": []}
    if sample is not None:
        left = iter(names)
        row["messages"] = [
            {"role": message.role, "content": [_part(part, left) for part in message.content]}
            for message in sample.messages
        ]
        given = {"answer": sample.answer, "options": list(sample.options), "golds": dict(sample.golds)}
        row |= {key: value for key, value in given.items() if value not in (None, [], {})}
        if sample.task != "exact":
            row["task"] = sample.task
        if sample.meta:
            row["meta"] = _plain(sample.meta)
    return row | dict(stamp)


def _plain(value: Any) -> Any:
    """A value of metadata as JSON has it: dates and the like, which Parquet has, as text; NaN as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def _part(part: str | MediaRef, names: Iterator[str]) -> Row:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    sound = {"sound": True} if part.sound else {}
    return {"type": part.kind, part.kind: next(names), **sound, **part.options}
