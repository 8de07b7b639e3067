"""Which sampled answers become the next stage's data. Pure functions of a sample and what was answered to it.

Rejection sampling (RFT, Yuan et al. 2023, arXiv 2308.01825): right answers, different reasonings. Online SFT: one
answer each, no reward needed. Metis-RISE (2506.13056): own right answers where a question is solved sometimes, an
expert's where it never is. Pairs for DPO: ThinkPO's, and right against wrong.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mmreason.config.plans import CRITICAL_WITH
from mmreason.errors import ConfigError
from mmreason.evaluation.rows import EvalAnswer, EvalRow
from mmreason.types import MediaRef, Sample

_STEPS = re.compile(r"\d+(?:\.\d+)?|[-+*/=<>^%]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Example: RFT with at most four answers a question: `Selection(unique="reasoning", per_question=4)`"""

    keep: Literal["correct", "all"] = "correct"
    """Answers that the rewards call correct, or all of them; truncated ones never."""
    unique: Literal["text", "answer", "reasoning"] = "text"
    """Of answers that agree in this the first one is kept. reasoning: the same numbers and operators in a row (RFT
    compares lists of equations; this is OUR choice, for texts that are not only calculations), else the same words."""
    per_question: int | None = None
    inconsistent: bool = False
    """Leave out questions all of whose answers are right."""
    expert: bool = False
    """A question that is never answered right keeps the demonstrations of its own row."""
    every_row: bool = False
    """Also write rows of which no answer is kept (with the demonstrations they had), for their pass rate."""
    pairs: Literal["thinkpo", "right_wrong", "self_refine"] | None = None
    """thinkpo: a demonstration against a shorter right answer; right_wrong: a right answer against the first wrong one
    before it; self_refine: the first wrong answer against what the model makes of it when asked to improve it."""
    critical: int | None = None
    """Only critical tokens of the kept answers get weight (evaluation/critical.py), found among so many per answer,
    evenly spread; 0: among all. Answers without any are left out."""

    def __post_init__(self) -> None:
        if self.critical is not None and (self.critical < 0 or self.pairs or self.keep != "correct"):
            raise ConfigError(f"critical: {self.critical}, {CRITICAL_WITH}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Second:
    """What a second pass over a question found."""

    refined: EvalRow | None = None
    """What was answered when its first wrong answer was shown."""
    critical: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)
    """By the text of an answer, the characters of its critical tokens."""


def selected(sample: Sample, row: EvalRow, selection: Selection, second: Second = Second()) -> dict[str, Any] | None:
    """The row to write, or None. `meta` gets `pass_rate`, where the rewards tell right from wrong, and `sampled`."""
    if not row.answers or (selection.inconsistent and row.status == "scored" and row.right == len(row.answers)):
        return None
    made: dict[str, Any] = {}
    if selection.pairs:
        pairs = list(PAIRS[selection.pairs](sample, row, second))[: selection.per_question]
        made = {"pairs": pairs} if pairs else {}
    elif selection.critical is not None:
        made = _weighed([answer.text for answer in kept(row, selection)], second)
    elif texts := [answer.text for answer in kept(row, selection)]:
        made = {"demos": texts}
    if not made and selection.expert and sample.demos and row.right == 0 and not selection.pairs:
        made = {"demos": list(sample.demos)}
    if not made and not selection.every_row:
        return None
    row_of = as_row(sample)
    if "demos" in made and made["demos"] != row_of.get("demos"):
        row_of.pop("demo_weights", None)  # of the demonstrations that are replaced
    meta = {**sample.meta, "sampled": len(row.answers)}
    if row.status == "scored":
        meta["pass_rate"] = row.right / len(row.answers)
    return {**row_of, **made, "meta": meta}


def _weighed(texts: Sequence[str], second: Second) -> dict[str, Any]:
    """The answers that have critical tokens, and these."""
    found = {text: [[*span, 1.0] for span in second.critical[text]] for text in texts if second.critical.get(text)}
    return {"demos": list(found), "demo_weights": list(found.values())} if found else {}


def first_wrong(row: EvalRow) -> EvalAnswer | None:
    """The first answer that the rewards call wrong and that ended by itself."""
    return next((answer for answer in row.answers if answer.correct is False and not answer.truncated), None)


def kept(row: EvalRow, selection: Selection) -> list[EvalAnswer]:
    """The answers to imitate, in the order in which they were sampled."""
    signature = SIGNATURES[selection.unique]
    found: dict[str, EvalAnswer] = {}
    for answer in row.answers:
        if not answer.truncated and (selection.keep == "all" or answer.correct):
            found.setdefault(signature(answer), answer)
    return list(found.values())[: selection.per_question]


def reasoning_signature(text: str) -> str:
    """Numbers and operators of the reasoning in their order; its words where there are none.

    Example: "2 + 3 = 5, so 5" -> "2+3=55".
    """
    reasoning = re.sub(r"</?\w+>", " ", text.rpartition("<answer>")[0] or text)
    return "".join(_STEPS.findall(reasoning)) or " ".join(re.findall(r"\w+", reasoning.casefold()))


def _answer_signature(answer: EvalAnswer) -> str:
    return str(answer.vote) if answer.vote is not None else f"={answer.answer}"


SIGNATURES: dict[str, Callable[[EvalAnswer], str]] = {
    "text": lambda answer: " ".join(answer.text.split()),
    "answer": _answer_signature,
    "reasoning": lambda answer: reasoning_signature(answer.text),
}


def _thinkpo(sample: Sample, row: EvalRow, second: Second) -> Iterator[dict[str, str]]:
    """ThinkPO: chosen is a long demonstration, rejected a short answer that is right, so that style is what differs."""
    short = [answer.text for answer in row.answers if answer.correct and not answer.truncated]
    for demo in sample.demos:
        if rejected := next((text for text in short if len(text) < len(demo)), None):
            yield {"chosen": demo, "rejected": rejected}


def _right_wrong(sample: Sample, row: EvalRow, second: Second) -> Iterator[dict[str, str]]:
    """A right answer against the first wrong one that was sampled before it."""
    wrong: EvalAnswer | None = None
    for answer in row.answers:
        if answer.correct is False and not answer.truncated:
            wrong = wrong or answer
        elif answer.correct and not answer.truncated and wrong:
            yield {"chosen": answer.text, "rejected": wrong.text}
            wrong = None


def _self_refine(sample: Sample, row: EvalRow, second: Second) -> Iterator[dict[str, str]]:
    """The first right improvement of the first wrong answer against that answer."""
    wrong, answers = first_wrong(row), second.refined.answers if second.refined else ()
    right = next((answer.text for answer in answers if answer.correct and not answer.truncated), None)
    if wrong and right is not None:
        yield {"chosen": right, "rejected": wrong.text}


PAIRS: dict[str, Callable[[Sample, EvalRow, Second], Iterator[dict[str, str]]]] = {
    "thinkpo": _thinkpo,
    "right_wrong": _right_wrong,
    "self_refine": _self_refine,
}


# ---- a sample as a row of the native schema


def as_row(sample: Sample) -> dict[str, Any]:
    """What `data.sample_from_row` reads back, without empty keys; media by absolute paths, or as `data:` URLs."""
    messages = [
        {"role": message.role, "content": [_part(part) for part in message.content]} for message in sample.messages
    ]
    row = {
        "id": sample.id,
        "messages": messages,
        "answer": sample.answer,
        "task": sample.task,
        "options": list(sample.options),
        "golds": dict(sample.golds),
        "demos": list(sample.demos),
        "demo_weights": [[list(span) for span in spans] for spans in sample.demo_weights],
        "pairs": [{"chosen": pair.chosen, "rejected": pair.rejected} for pair in sample.pairs],
        "source": sample.source,
        "meta": dict(sample.meta),
    }
    return {key: value for key, value in row.items() if value not in (None, "", [], {})}


def _part(part: str | MediaRef) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    place = part.path
    if place is None:
        place = f"data:application/octet-stream;base64,{base64.b64encode(part.data or b'').decode()}"
    sound = {"sound": True} if part.sound else {}
    return {"type": part.kind, part.kind: place, **part.options, **sound}


def counts(rows: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """How many demonstrations and pairs there are in rows."""
    return sum(len(row.get("demos", [])) for row in rows), sum(len(row.get("pairs", [])) for row in rows)
