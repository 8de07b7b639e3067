"""A dry run: everything about a config that can be found out without weights and without a GPU.

In this order: the config, what it names (plug-ins, DeepSpeed file, run folder), every row of the data, every media file,
the checkpoint's front (config, tokenizer, processor), tokens per row, some rows in full, the rewards on the golds, and
the memory that training will need. What is wrong is said at once, a line each, with file and line. A config that cannot
be used does not hide what is wrong with the data: the rest is then checked as far as it goes without torch.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmreason.checking.answers import shape_of
from mmreason.checking.files import decode_files
from mmreason.checking.findings import Finding, Findings
from mmreason.checking.rows import Row, read_all, spread, with_media_there
from mmreason.checking.selftest import self_test
from mmreason.config import (
    DataConfig,
    MediaConfig,
    RewardConfig,
    RunConfig,
    ScoringConfig,
    TrainConfig,
    inspect_config,
)
from mmreason.errors import ConfigError, MMReasonError
from mmreason.rewards import check_rewards


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What `check` found: nothing in `findings` means that training can start."""

    findings: tuple[Finding, ...]
    tables: tuple[str, ...]
    """Lines about what is there: rows, tokens, memory, rewards on golds."""

    @property
    def ok(self) -> bool:
        return not self.findings

    def __str__(self) -> str:
        return "\n".join([*(finding.line for finding in self.findings), *self.tables])


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much of the data is looked at more closely than row by row; None is all of it."""

    rows: int | None = 2000
    """Rows whose media headers are read, whose tokens are counted and whose golds are scored."""
    decode: int | None = 100
    """Rows among them that are encoded in full."""


def check(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    extent: Extent = Extent(),
    processes: int = 1,
    answer_format: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> CheckReport:
    """Check a run without starting it; `say` gets each line as soon as it is known.

    processes: devices for the memory forecast. answer_format: how an answer is written, with {answer} in it, where the
    config's `format` reward does not say. Raises ConfigError for a config file that cannot be read at all.
    """
    config, sections, mistakes = inspect_config(path, overrides)
    found, tables = Findings(say), _Tables(say)
    for line in mistakes.splitlines():
        found.add("config", line)
    data = sections.get("data", DataConfig())
    train = sections.get("train", TrainConfig())
    _check_names(str(path), sections, data, train, found)
    every = read_all(data, train.method, found)
    there = with_media_there(every, data.media_root, found)
    tables.add(_counts(every))
    looked_at = spread(there, extent.rows)
    if config is None:
        media = sections.get("media", MediaConfig())
        decode_files(spread(_with_media(looked_at), extent.decode), media, data.media_root, found)
        tables.add(["not checked, for want of a usable config: the checkpoint, tokens per row, memory"])
    else:
        looked_at = _check_with_model(config, looked_at, extent, processes, found, tables)
    _test_rewards(looked_at, sections, data, answer_format, found, tables)
    found.tell_rest()
    return CheckReport(findings=tuple(found.all), tables=tuple(tables.lines))


class _Tables:
    """Lines about what is there, said as they come."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say, self.lines = say, list[str]()

    def add(self, lines: Sequence[str]) -> None:
        for line in [*lines, ""] if lines else []:
            self.lines.append(line)
            self.say(line)


def _check_names(path: str, sections: dict[str, Any], data: DataConfig, train: TrainConfig, found: Findings) -> None:
    """What the config names: rewards with their options, the DeepSpeed file, data files, the run's folder."""
    try:
        check_rewards(sections.get("rewards", ()))
    except ConfigError as error:
        for line in str(error).splitlines():
            found.add("plug-in", f"{path}: {line}")
    if not data.train:
        found.add("config", f"{path}: data.train: empty; name at least one data file")
    if train.deepspeed is not None:
        try:
            json.loads(Path(train.deepspeed).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            found.add("plug-in", f"{path}: train.deepspeed: {train.deepspeed} cannot be read as JSON ({error})")


def _check_with_model(
    config: RunConfig, rows: list[Row], extent: Extent, processes: int, found: Findings, tables: _Tables
) -> list[Row]:
    """Everything that needs the checkpoint's front. Returns the rows that training could use, with their geometry."""
    from mmreason.checking.memory import forecast  # torch, which a config with mistakes need not wait for
    from mmreason.checking.prompts import encode_some, measure, open_front

    _check_folder(config, found)
    try:
        front = open_front(config)
    except MMReasonError as error:
        found.add("model", str(error))
        decode_files(spread(_with_media(rows), extent.decode), config.media, config.data.media_root, found)
        return rows
    with front.pipeline:
        usable, lengths = measure(front, config, rows, found)
        decoded = encode_some(front, spread(_with_media(usable), extent.decode), found)
    tables.add(lengths.table())
    if lengths.dropped:
        tables.add([f"{len(lengths.dropped)} of {len(rows)} rows would be dropped:", *lengths.dropped[:10]])
    tables.add([f"{decoded} media items of {min(len(usable), extent.decode or len(usable))} rows decoded"])
    tables.add(forecast(front.family, front.model_config, config, lengths.longest, processes).table())
    return usable


def _check_folder(config: RunConfig, found: Findings) -> None:
    folder = Path(config.run_dir)
    nearest = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        found.add("config", f"run_dir: {folder}: no folder can be made there ({nearest} is no writable folder)")


def _test_rewards(
    rows: Sequence[Row],
    sections: dict[str, Any],
    data: DataConfig,
    answer_format: str | None,
    found: Findings,
    tables: _Tables,
) -> None:
    rewards: Sequence[RewardConfig] = sections.get("rewards") or (RewardConfig(name="accuracy"),)
    try:
        check_rewards(rewards)
        shape = shape_of(rewards, answer_format)
    except ConfigError as error:
        if "rewards" in sections and str(error).startswith(("reward format: pattern", "--answer")):
            found.add("reward", str(error))
        return
    scoring = sections.get("scoring", ScoringConfig())
    tables.add(self_test(rows, rewards, scoring, shape, data.system, found))


def _with_media(rows: Sequence[Row]) -> list[Row]:
    """Rows with media; the others have nothing to decode."""
    return [row for row in rows if row.sample.media]


def _counts(rows: Sequence[Row]) -> list[str]:
    """Rows by what they are for and by modality."""
    counted = Counter((row.which, row.sample.modality) for row in rows)
    return [f"{which:8}{modality:16}{count:>8} rows" for (which, modality), count in sorted(counted.items())]
