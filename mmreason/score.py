"""Scores finished texts with the rewards of training, without a model or media (`mmreason score`).

In, one JSON object per line: the keys of a sample (data.py; `messages` may be absent) and `completions`, a list of
texts. Out, one line per line in: {"id": "q7", "scores": [{"total": 1.1, "parts": {"accuracy": 1.0, "format": 0.1},
"error": null}, ...]}, a score per completion.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from mmreason.config import DataSource, RewardConfig, ScoringConfig
from mmreason.data import read_rows, sample_from_row
from mmreason.errors import DataError
from mmreason.rewards.base import keep_mask
from mmreason.rewards.pool import RewardPool
from mmreason.types import Rollout, Sample, Score

LINES_AT_ONCE = 256
"""Lines that are scored, and held in memory, together."""


@dataclass(slots=True)
class ScoreSummary:
    """What `score_file` did: `means` of the total ("total") and of each part over the completions that have it."""

    lines: int = 0
    completions: int = 0
    failed: int = 0
    """Completions without a total."""
    errors: Counter[str] = field(default_factory=Counter)
    """Failures per reward."""
    first_error: str | None = None
    sums: dict[str, float] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def means(self) -> dict[str, float]:
        return {name: self.sums[name] / count for name, count in self.counts.items()}

    def add(self, scores: Sequence[Score]) -> None:
        """Count one line."""
        self.lines += 1
        self.completions += len(scores)
        for score in scores:
            self.failed += score.total is None
            self.first_error = self.first_error or score.error
            for name, value in {"total": score.total, **score.parts}.items():
                if value is not None:
                    self.sums[name] = self.sums.get(name, 0.0) + value
                    self.counts[name] += 1


def score_file(
    path: str | Path,
    rewards: Sequence[RewardConfig],
    out: str | Path | None = None,
    scoring: ScoringConfig | None = None,
    media_root: str | Path | None = None,
) -> ScoreSummary:
    """Score every completion of a JSONL file; write to `out` (complete or not at all), else to standard output.

    All lines are read once before the first is scored, so that a bad line costs no scoring. Raises DataError (bad
    line, with file and number; unreadable or unwritable file), PluginError and ConfigError (rewards), RewardError
    (only with scoring.on_error "stop").
    """
    scoring = scoring or ScoringConfig()
    path, root = Path(path), Path(media_root or Path(path).parent)
    for _ in _lines(path, root):
        pass
    summary = ScoreSummary()
    with RewardPool(rewards, scoring) as pool, _output(path, out) as file:
        every = _lines(path, root)
        while lines := list(islice(every, LINES_AT_ONCE)):
            for (sample, _), scores in zip(lines, pool.score(lines), strict=True):
                if scoring.on_error == "stop":
                    keep_mask(scores, "stop")
                summary.add(scores)
                file.write(json.dumps({"id": sample.id, "scores": [_as_json(score) for score in scores]}) + "\n")
            file.flush()
        summary.errors = +pool.errors
    return summary


def _as_json(score: Score) -> dict[str, Any]:
    return {"total": score.total, "parts": dict(score.parts), "error": score.error}


def _lines(path: Path, root: Path) -> Iterator[tuple[Sample, list[Rollout]]]:
    """Sample and completions of every line; blank lines are passed over."""
    for origin, row in read_rows(DataSource(path=str(path), format="jsonl")):
        if isinstance(row, DataError):
            raise row
        if not isinstance(row, Mapping):
            raise DataError(f"{origin}: not an object with keys such as answer, task, completions")
        fields = dict(row)
        texts = fields.pop("completions", None)
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{origin}: completions: expected a list of texts, got {_short(texts)}")
        sample = sample_from_row(fields, origin, root, messages_required=False)
        yield sample, [Rollout(text=text) for text in texts]


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


@contextmanager
def _output(path: Path, out: str | Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that appears under its name only when all is written."""
    if out is None:
        yield sys.stdout
        return
    out = Path(out)
    if out.exists() and out.samefile(path):
        raise DataError(f"{out}: is the input file itself; give another --out")
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            yield file
        temporary.replace(out)
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror})") from error
    finally:
        temporary.unlink(missing_ok=True)
