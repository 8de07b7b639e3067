"""Pointing a config at a user's own model, data and folder: options of the command line as overrides."""

from __future__ import annotations

import json
from collections.abc import Sequence

from mmreason.config.loading import Given, read_given
from mmreason.config.stages import split
from mmreason.errors import ConfigError


def pointed(given: Given, *, model: str | None, data: Sequence[str], run_dir: str | None) -> list[str]:
    """The overrides that stand for `--model`, `--data` and `--run-dir`.

    `data`: files for every stage that reads files (a stage that reads what an earlier one writes keeps that), or
    "STAGE=FILE" for one stage. Raises ConfigError for a stage that is not there.
    """
    overrides = [f"model.path={json.dumps(model)}"] if model else []
    overrides += [f"run_dir={json.dumps(run_dir)}"] if run_dir else []
    if not data:
        return overrides
    values, origins, _ = read_given(given)
    stages, _ = split(values, origins, overrides)
    names = [stage.name for stage in stages if stage.name]
    files: dict[str, list[str]] = {}
    for text in data:
        stage, equals, file = text.partition("=")
        if equals and names and stage not in names:
            raise ConfigError(f"--data {text}: no stage {stage!r}; there is {', '.join(names)}")
        if equals and names:
            files.setdefault(stage, []).append(file)
        else:
            for name in [one.name for one in stages if not _reads_earlier(one.values, values)]:
                files.setdefault(name, []).append(text)
    for name, paths in files.items():
        sources = json.dumps([{"path": path} for path in paths])
        overrides.append(f"{name}.data.train={sources}" if name else f"data.train={sources}")
    return overrides


def _reads_earlier(stage: dict[str, object], whole: dict[str, object]) -> bool:
    """Whether a stage's data lie in the run's folder."""
    data = stage.get("data")
    sources = data.get("train") if isinstance(data, dict) else None
    paths = [source.get("path") for source in sources or () if isinstance(source, dict)]
    folder = str(stage.get("run_dir")).rpartition("/")[0]
    return "stages" in whole and any(isinstance(path, str) and path.startswith(f"{folder}/") for path in paths)
