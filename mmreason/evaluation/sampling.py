"""`mmreason sample`: answers to `data.train`, and the chosen ones as rows for the next stage.

Answers are made and kept as `mmreason eval` does it (in FILE.answers/, one line per question as they come), so that a
killed run goes on; what is chosen from them is decided afterwards, and can be decided again without a model. Critical
tokens and self-refinement need the model a second time; what they find is kept beside the answers as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmreason.config import RunConfig
from mmreason.data import load_all
from mmreason.errors import ConfigError, DataError
from mmreason.evaluation.critical import Answered, Spans, find_critical, name_of
from mmreason.evaluation.file import digest, settings_of
from mmreason.evaluation.refining import to_refine
from mmreason.evaluation.selection import Second, Selection, counts, kept, selected
from mmreason.evaluation.verb import Evaluation, evaluate_config, with_model
from mmreason.types import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """What was written. Example: `Sampled(file=Path("next.jsonl"), questions=100, rows=70, demos=240, pairs=0, ...)`"""

    file: Path
    questions: int
    rows: int
    demos: int
    pairs: int
    unanswered: int
    """Questions without any answer: their media or prompt cannot be used."""
    is_main: bool

    def __str__(self) -> str:
        what = f"{self.pairs} pairs" if self.pairs else f"{self.demos} answers"
        return f"{self.rows} of {self.questions} questions, {what}; {self.unanswered} without an answer\n{self.file}"


def sample_config(
    config: RunConfig, out: Path, selection: Selection, *, model: str | Path | None = None, fresh: bool = False
) -> Sampled:
    """Sample `rollout.n` answers to every row of `data.train`; write what `selection` chooses to `out`, all or nothing.

    Raises ConfigError (no training data; other answers in FILE.answers/ and not `fresh`), DataError, ModelError,
    RewardError.
    """
    if not config.data.train:
        raise ConfigError("data.train: empty; name at least one data file")
    asked = config.model_copy(
        update={
            "data": config.data.model_copy(update={"eval": config.data.train}),
            "eval": config.eval.model_copy(update={"n": config.rollout.n, "temperature": config.rollout.temperature}),
        }
    )
    folder = out.with_name(f"{out.name}.answers")
    samples = load_all(config.data, "train")
    found = evaluate_config(asked, model=model, out=folder, fresh=fresh, sampled=True, samples=samples)
    seconds = SECOND[_second_pass(selection)](_FirstPass(asked, samples, found, selection, model, folder, fresh))
    answered = zip(samples, found.result.rows, strict=True)
    made = [selected(sample, row, selection, seconds.get(sample.id, Second())) for sample, row in answered]
    rows = [row for row in made if row is not None]
    if found.is_main:
        _write(out, [json.dumps(row, ensure_ascii=False) + "\n" for row in rows])
    demos, pairs = counts(rows)
    unanswered = sum(not row.answers for row in found.result.rows)
    return Sampled(
        file=out,
        questions=len(samples),
        rows=len(rows),
        demos=demos,
        pairs=pairs,
        unanswered=unanswered,
        is_main=found.is_main,
    )


# ---- what needs a second pass over the questions, by sample id


@dataclass(frozen=True, slots=True)
class _FirstPass:
    asked: RunConfig
    samples: Sequence[Sample]
    found: Evaluation
    selection: Selection
    model: str | Path | None
    folder: Path
    fresh: bool


def _second_pass(selection: Selection) -> str:
    return "critical" if selection.critical is not None else selection.pairs or ""


def _refined(first: _FirstPass) -> dict[str, Second]:
    """Wrong answers shown again; what is made of them is kept in the folder's `refined`."""
    samples = to_refine(first.samples, first.found.result.rows)
    if not samples:
        return {}
    out = first.folder / "refined"
    again = evaluate_config(first.asked, model=first.model, out=out, fresh=first.fresh, sampled=True, samples=samples)
    return {row.id: Second(refined=row) for row in again.result.rows}


def _critical(first: _FirstPass) -> dict[str, Second]:
    """Critical tokens of the kept answers, kept in the folder's critical.jsonl."""
    most = first.selection.critical
    assert most is not None
    config = with_model(first.asked, first.model)
    file = first.folder / "critical.jsonl"
    if first.fresh and first.found.is_main:
        file.unlink(missing_ok=True)
    rows = first.found.result.rows
    texts = {row.id: [answer.text for answer in kept(row, first.selection)] for row in rows}
    answers = [Answered(sample=sample, text=text) for sample in first.samples for text in texts[sample.id]]
    key = digest([json.dumps([settings_of(config, first.samples), most], sort_keys=True)])
    spans = find_critical(config, answers, file, most, key)
    found: dict[str, dict[str, Spans]] = {}
    for answered in answers:
        found.setdefault(answered.sample.id, {})[answered.text] = spans[name_of(answered)]
    return {id: Second(critical=of_texts) for id, of_texts in found.items()}


SECOND: dict[str, Callable[[_FirstPass], dict[str, Second]]] = {
    "critical": _critical,
    "self_refine": _refined,
    **dict.fromkeys(("", "thinkpo", "right_wrong"), lambda first: {}),
}


def _write(out: Path, lines: list[str]) -> None:
    partial = out.with_name(f".{out.name}.partial")
    try:
        partial.write_text("".join(lines), encoding="utf-8")
        partial.replace(out)
    except OSError as error:
        raise DataError(f"--out {out}: cannot be written ({error.strerror})") from error
