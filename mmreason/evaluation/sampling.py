"""`mmreason sample`: answers to `data.train`, and the chosen ones as rows for the next stage.

Answers are made and kept as `mmreason eval` does it (in FILE.answers/, one line per question as they come), so that a
killed run goes on; what is chosen from them is decided afterwards, and can be decided again without a model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from mmreason.config import RunConfig
from mmreason.data import load_all
from mmreason.errors import ConfigError, DataError
from mmreason.evaluation.selection import Selection, counts, selected
from mmreason.evaluation.verb import evaluate_config


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
    found = evaluate_config(asked, model=model, out=folder, fresh=fresh, sampled=True)
    samples = load_all(config.data, "train")
    made = [selected(sample, row, selection) for sample, row in zip(samples, found.result.rows, strict=True)]
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


def _write(out: Path, lines: list[str]) -> None:
    partial = out.with_name(f".{out.name}.partial")
    try:
        partial.write_text("".join(lines), encoding="utf-8")
        partial.replace(out)
    except OSError as error:
        raise DataError(f"--out {out}: cannot be written ({error.strerror})") from error
