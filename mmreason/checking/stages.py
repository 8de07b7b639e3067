"""The stages of a dry run after the config: names, rows, media, prompts, memory, rewards."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmreason.checking.ahead import without_what_is_to_come
from mmreason.checking.files import decode_files
from mmreason.checking.findings import CheckOptions, Findings
from mmreason.checking.rows import Row, read_all, spread, with_media_there
from mmreason.checking.selection import selected
from mmreason.config import (
    DataConfig,
    DataSource,
    GrpoConfig,
    MediaConfig,
    RewardConfig,
    RunConfig,
    ScoringConfig,
    TrainConfig,
)
from mmreason.config.extras import read_deepspeed, require_trackers
from mmreason.config.grpo_terms import NO_DEMOS
from mmreason.config.loading import Earlier
from mmreason.config.reward_names import labels
from mmreason.errors import ConfigError, MMReasonError, ModelError
from mmreason.processors.quarantine import JUDGED_FROM
from mmreason.rewards import FACTS, check_rewards


def check_rest(
    path: str,
    config: RunConfig | None,
    sections: dict[str, Any],
    before: Earlier,
    options: CheckOptions,
    found: Findings,
) -> list[str]:
    """Check everything but the config itself. config: None where it cannot be used; `sections` have what can be.
    before: the stages of the same file before this one.

    Returns lines about what is there.
    """
    tables = _Tables(found.say)
    train = sections.get("train", TrainConfig())
    named = sections.get("data", DataConfig()).train
    _check_names(path, sections, named, train, found)
    config, sections, to_come = without_what_is_to_come(config, sections, before)
    tables.add(to_come)
    data = sections.get("data", DataConfig())
    every, left_out = selected(read_all(data, train.method, found), data, found)
    if data.train == named and data.train and not found.counts["data"] and (why := _too_few(every, options.processes)):
        found.add("data", why)
    if "grpo" in sections and _without_demos(every, sections["grpo"]):
        found.add("data", NO_DEMOS)
    there = with_media_there(every, data.media_root, found)
    tables.add([*_counts(every), *left_out])
    looked_at = spread(there, options.rows)
    if config is None:
        media = sections.get("media", MediaConfig())
        decode_files(spread(_with_media(looked_at), options.decode), media, data.media_root, found)
        tables.add(["not checked, for want of a usable config: the checkpoint, tokens per row, memory"])
    else:
        looked_at = _check_with_model(config, looked_at, options, found, tables)
    _test_rewards(looked_at, sections, data, options, found, tables)
    return tables.lines


class _Tables:
    """Lines about what is there, said as they come."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say, self.lines = say, list[str]()

    def add(self, lines: Sequence[str]) -> None:
        for line in [*lines, ""] if lines else []:
            self.lines.append(line)
            self.say(line)


def _check_names(
    path: str, sections: dict[str, Any], sources: Sequence[DataSource], train: TrainConfig, found: Findings
) -> None:
    """What the config names: rewards with their options, the DeepSpeed file, data files, the run's folder."""
    _look(path, found, check_rewards, sections.get("rewards", ()))
    _look(path, found, require_trackers, train.trackers)
    if train.deepspeed:
        _look(path, found, read_deepspeed, train.deepspeed)
    if not sources:
        found.add("config", f"{path}: data.train: empty; name at least one data file")


def _look(path: str, found: Findings, require: Callable[[Any], object], named: object) -> None:
    """Call `require` with what the config names; a finding for each line of its ConfigError."""
    try:
        require(named)
    except ConfigError as error:
        for line in str(error).splitlines():
            found.add("plug-in", f"{path}: {line}")


def _without_demos(rows: Sequence[Row], grpo: GrpoConfig) -> bool:
    """Whether terms of the loss need demonstrations and there is none."""
    train = [row.sample for row in rows if row.which == "train"]
    return grpo.uses_demos and bool(train) and not any(sample.demos for sample in train)


def _too_few(rows: Sequence[Row], processes: int) -> str:
    """Why there is too little to train on, or ""."""
    count = sum(row.which == "train" for row in rows)
    if count >= processes:
        return ""
    return f"data.train: {count or 'no'} usable rows for {processes} process{'es' if processes > 1 else ''}"


def _check_with_model(
    config: RunConfig, rows: list[Row], options: CheckOptions, found: Findings, tables: _Tables
) -> list[Row]:
    """Everything that needs the checkpoint's front. Returns the rows that training could use, with their geometry."""
    from mmreason.checking.engines import check_engine
    from mmreason.checking.memory import forecast  # torch, which a config with mistakes need not wait for
    from mmreason.checking.prompts import encode_some, measure, open_front
    from mmreason.training.credit import advantage_rule
    from mmreason.training.shaping import load_shaping

    _check_folder(config, found)
    _look("config", found, load_shaping, config)
    _look("config", found, advantage_rule, config)
    try:
        front = open_front(config)
    except MMReasonError as error:
        found.add("model", str(error))
        decode_files(spread(_with_media(rows), options.decode), config.media, config.data.media_root, found)
        return rows
    with front.pipeline:
        usable, lengths = measure(front, config, rows, found)
        decoded = encode_some(front, spread(_with_media(usable), options.decode), found)
    tables.add(lengths.table())
    if lengths.dropped:
        tables.add([f"{len(lengths.dropped)} of {len(rows)} rows would be dropped:", *lengths.dropped[:10]])
    if why := _too_many_dropped(rows, usable, config.data.max_bad_fraction):
        found.add("data", why)
    tables.add([f"{decoded} media items decoded"])
    tables.add(check_engine(config, usable, lengths.longest, found))
    try:
        tables.add(forecast(front.family, front.model_config, config, lengths.longest, options.processes).table())
    except ConfigError as error:
        if not str(error).startswith("train.deepspeed"):  # which was said already
            found.add("config", str(error))
    except ModelError as error:
        found.add("model", str(error))
    return usable


def _too_many_dropped(rows: Sequence[Row], usable: Sequence[Row], limit: float) -> str:
    """Why training would stop for want of rows that it can use, or ""."""
    before, after = (sum(row.which == "train" for row in some) for some in (rows, usable))
    judged = before >= JUDGED_FROM and before - after > limit * before
    if not before or (after and not judged):
        return ""
    return (
        f"data.train: {before - after} of {before} rows cannot be used with this model and these budgets; training "
        f"would stop (data.max_bad_fraction {limit:g})"
    )


def _check_folder(config: RunConfig, found: Findings) -> None:
    folder = Path(config.run_dir)
    nearest = folder
    try:
        nearest = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        os.rmdir(tempfile.mkdtemp(dir=nearest))
    except OSError as error:
        found.add("config", f"run_dir: {folder}: no folder can be made there ({nearest}: {error.strerror})")


def _test_rewards(
    rows: Sequence[Row],
    sections: dict[str, Any],
    data: DataConfig,
    options: CheckOptions,
    found: Findings,
    tables: _Tables,
) -> None:
    if not rows:
        return
    from mmreason.checking.answers import shape_of  # with rows only: a config's mistakes are to be there at once
    from mmreason.checking.selftest import self_test

    rewards: Sequence[RewardConfig] = sections.get("rewards") or (RewardConfig(name="accuracy"),)
    try:
        check_rewards(rewards)
        shape = shape_of(rewards, options.answer_format)
    except ConfigError as error:
        if "rewards" in sections and str(error).startswith(("reward format: pattern", "--answer")):
            found.add("reward", str(error))
        return
    rewards, asking = _without_models(rewards)
    tables.add([f"reward {name}: asks a model elsewhere, so it is left out of the self-test" for name in asking])
    if not rewards:
        return
    scoring = sections.get("scoring", ScoringConfig())
    method = sections.get("train", TrainConfig()).method
    needing = [row for row in rows if method == "grpo" or row.which == "eval"]
    tables.add(self_test(rows, rewards, scoring, shape, data.system, found, needing))


def _without_models(rewards: Sequence[RewardConfig]) -> tuple[list[RewardConfig], list[str]]:
    """Rewards that ask no server, and the names of those that do; gates by these stand open."""
    names = labels([reward.name for reward in rewards])
    asking = [name for name, reward in zip(names, rewards, strict=True) if reward.name in FACTS]
    kept = [reward for reward in rewards if reward.name not in FACTS]
    return [r.model_copy(update={"gate": None}) if r.gate in asking else r for r in kept], asking


def _with_media(rows: Sequence[Row]) -> list[Row]:
    """Rows with media; the others have nothing to decode."""
    return [row for row in rows if row.sample.media]


def _counts(rows: Sequence[Row]) -> list[str]:
    """Rows by what they are for and by modality."""
    counted = Counter((row.which, row.sample.modality) for row in rows)
    return [f"{which:8}{modality:16}{count:>8} rows" for (which, modality), count in sorted(counted.items())]
