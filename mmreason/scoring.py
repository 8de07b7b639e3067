"""Scores finished texts with the rewards of training, without a model or media (`mmreason score`).

In, one JSON object per line: the keys of a sample (data.py; `messages` may be absent) and `completions`, a list of
texts. Out, one line per line in: {"id": "q7", "scores": [{"total": 1.1, "parts": {"accuracy": 1.0, "format": 0.1},
"error": null}, ...]}, a score per completion.

A rollout here has its text and nothing else: no tokens (`tokens` is 0), no geometry, and media are never opened.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from mmreason.config import DataSource, RewardConfig, RunConfig, ScoringConfig, load_config
from mmreason.data import read_rows, sample_from_row
from mmreason.errors import ConfigError, DataError
from mmreason.rewards import facts
from mmreason.rewards.base import keep_mask
from mmreason.rewards.pool import RewardPool
from mmreason.types import Rollout, Sample, Score
from mmreason.yaml_file import apply_override

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
    facts: list[dict[str, str]] = field(default_factory=list)
    """Which models rewards asked elsewhere, and what (`mmreason.rewards.facts`)."""
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


def score_with(
    file: str | Path,
    rewards: Sequence[str],
    config: RunConfig | Mapping[str, Any] | str | Path | None,
    out: str | Path | None,
) -> ScoreSummary:
    """`score_file` by rewards as `parse_reward` reads them, or by those of a config. Raises ConfigError for neither."""
    if bool(rewards) == (config is not None):
        raise ConfigError("score: give either --reward (`mmreason rewards` lists them) or --config")
    if config is None:
        return score_file(file, [parse_reward(text) for text in rewards], out)
    run = load_config(config)
    named = run.rewards or [parse_reward("accuracy")]  # as SFT, whose evaluations need one
    return score_file(file, named, out, run.scoring, run.data.media_root)


def parse_reward(text: str) -> RewardConfig:
    """`NAME [option=value ...]` as a reward of a config. Values are YAML; quote those with spaces in them.

    Raises ConfigError: no name, or an option without a value.
    """
    try:
        name, *options = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"--reward {text!r}: expected NAME [option=value ...] ({error})") from error
    values: dict[str, object] = {}
    for option in options:
        apply_override(values, option)
    return RewardConfig(name=name, options=values)


def score_file(
    path: str | Path,
    rewards: Sequence[RewardConfig],
    out: str | Path | None = None,
    scoring: ScoringConfig | None = None,
    media_root: str | Path | None = None,
) -> ScoreSummary:
    """Score every completion of a JSONL file; write to `out` (complete or not at all), else to standard output.

    All lines are read once before the first is scored, so that a bad line costs no scoring. With `media_root`, media
    paths are read and checked as in training; without it, any path will do. An `out` that is a pipe, a device or a
    link is written as it stands. Raises DataError (bad line, with file and number; unreadable or unwritable file),
    PluginError and ConfigError (rewards), RewardError (only with scoring.on_error "stop").
    """
    scoring = scoring or ScoringConfig()
    path, root = Path(path), None if media_root is None else Path(media_root)
    summary = ScoreSummary(facts=facts(rewards))
    with _readable_twice(path) as file:
        for _ in _lines(path, file, root):
            pass
        with RewardPool(rewards, scoring) as pool, _output(path, out) as write:
            every = _lines(path, file, root)
            while lines := list(islice(every, LINES_AT_ONCE)):
                write(list(_scored(lines, pool, scoring, summary)))
            summary.errors = +pool.errors
    return summary


def _scored(
    lines: Sequence[tuple[Sample, list[Rollout]]], pool: RewardPool, scoring: ScoringConfig, summary: ScoreSummary
) -> Iterator[str]:
    """The line to write for each line read; `summary` counts them."""
    for (sample, _), scores in zip(lines, pool.score(lines), strict=True):
        if scoring.on_error == "stop":
            keep_mask(scores, "stop")
        summary.add(scores)
        yield json.dumps({"id": sample.id, "scores": [_as_json(score) for score in scores]}) + "\n"


def _as_json(score: Score) -> dict[str, Any]:
    return {"total": score.total, "parts": dict(score.parts), "error": score.error}


@contextmanager
def _readable_twice(path: Path) -> Iterator[Path]:
    """The file itself, or a copy of what a pipe gives only once."""
    try:
        given_once = path.exists() and not path.is_file() and not path.is_dir()
    except OSError:  # a name that is too long, say; reading it says what is wrong, as for a folder or nothing
        given_once = False
    if not given_once:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="mmreason-score-") as folder:
        copy = Path(folder) / "lines.jsonl"
        try:
            with open(path, "rb") as pipe, open(copy, "wb") as file:
                shutil.copyfileobj(pipe, file)
        except OSError as error:
            raise DataError(f"{path}: cannot be read or copied to {folder} ({error.strerror})") from error
        yield copy


def _lines(path: Path, file: Path, root: Path | None) -> Iterator[tuple[Sample, list[Rollout]]]:
    """Sample and completions of every line; blank lines are passed over. `path` is what messages call the `file`."""
    for place, row in read_rows(DataSource(path=str(file), format="jsonl")):
        origin = f"{path}:{place.rpartition(':')[2]}"
        if isinstance(row, DataError):
            raise DataError(str(row).replace(place, origin, 1))
        if not isinstance(row, Mapping):
            raise DataError(f"{origin}: not an object with keys such as answer, task, completions")
        fields = dict(row)
        texts = fields.pop("completions", None)
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{origin}: completions: expected a list of texts, got {_short(texts)}")
        if root is None and "messages" in fields:
            try:
                fields["messages"] = _with_absolute_paths(fields["messages"], path.parent.absolute())
            except RecursionError as error:
                raise DataError(f"{origin}: messages: nested without end") from error
        sample = sample_from_row(fields, origin, root or Path("/"), messages_required=False)
        yield sample, [Rollout(text=text) for text in texts]


def _with_absolute_paths(part: Any, folder: Path, media: bool = False) -> Any:
    """Messages whose media paths lie under the root of the file system, as all do.

    The texts of a media part (its type is not "text") are the type, paths and URLs; all else in it is numbers.
    """
    if isinstance(part, list):
        return [_with_absolute_paths(item, folder) for item in part]
    if isinstance(part, Mapping):
        media = media or part.get("type", "text") != "text"
        return {key: item if key == "type" else _with_absolute_paths(item, folder, media) for key, item in part.items()}
    is_path = media and isinstance(part, str) and part and not re.match(r"[A-Za-z][\w+.-]*:", part)
    return str(folder / part) if is_path else part


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


@contextmanager
def _output(path: Path, out: str | Path | None) -> Iterator[Callable[[list[str]], None]]:
    """Writes lines to standard output; to a pipe, device or link as it stands; or to a file that has its name only
    when all is written. What goes wrong with it is a DataError that names it."""
    if out is None:
        yield _writer(sys.stdout, "standard output")
        return
    with _blamed_on(out):
        target = _checked_target(Path(out), path)
        as_it_stands = target.is_symlink() or (target.exists() and not target.is_file())
        written = target if as_it_stands else target.with_name(f".{target.name}.{os.getpid()}.tmp")
        file = written.open("w", encoding="utf-8")
    try:
        yield _writer(file, out)
        with _blamed_on(out):
            file.close()
            if not as_it_stands:
                written.replace(target)
    finally:
        with suppress(OSError):  # what could not be written is still in its buffer
            file.close()
        if not as_it_stands:
            written.unlink(missing_ok=True)


def _writer(file: TextIO, name: str | Path) -> Callable[[list[str]], None]:
    def write(lines: list[str]) -> None:
        with _blamed_on(name):
            file.writelines(lines)
            file.flush()

    return write


@contextmanager
def _blamed_on(name: str | Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # the reader has seen enough: the command line knows what to do
        raise
    except OSError as error:
        raise DataError(f"{name}: cannot be written ({error.strerror})") from error


def _checked_target(out: Path, path: Path) -> Path:
    if out.is_dir():
        raise DataError(f"{out}: is a folder; give --out the name of a file")
    if out.is_file() and out.samefile(path):
        raise DataError(f"{out}: is the input file itself; give another --out")
    return out
