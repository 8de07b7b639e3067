"""A config file as what it asks for in all: its stages, checked, in order, and what a recipe says about itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from mmreason.config.loading import Given, build_config, explain, pick, read_given
from mmreason.config.overrides import origin_of
from mmreason.config.recipe_files import RecipeHeader
from mmreason.config.section import Section
from mmreason.config.sections import RunConfig
from mmreason.config.stages import StageValues, split
from mmreason.errors import ConfigError
from mmreason.yaml_file import Place

CRITICAL_WITH = "expected 0 (all tokens) or more, with keep correct and without pairs"


class SampleOptions(Section):
    """The key `sample` of a stage: which answers are kept (mmreason/evaluation/selection.py says more)."""

    keep: Literal["correct", "all"] = "correct"
    """Right answers, or all."""
    unique: Literal["text", "answer", "reasoning"] = "text"
    """Of answers that agree in this the first one is kept."""
    per_question: int | None = Field(None, ge=1)
    """At most so many answers per question."""
    inconsistent: bool = False
    """Leave out questions that are always answered right."""
    expert: bool = False
    """A question that is never answered right keeps its own demonstrations."""
    every_row: bool = False
    """Also rows of which no answer is kept."""
    pairs: Literal["thinkpo", "right_wrong", "self_refine"] | None = None
    """Write pairs, for DPO, instead of demonstrations."""
    critical: int | None = Field(None, ge=0)
    """Weight only tokens without which an answer goes wrong, of so many tried per answer (0: all)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One run of a plan. Example: the second of two: `Stage(name="rl", after="cold_start", config=...)`"""

    name: str
    """Empty in a file without stages."""
    after: str | None
    """The earlier stage whose model it begins with."""
    config: RunConfig
    sample: SampleOptions | None = None
    """It samples instead of training, and writes rows.jsonl to its folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that a config file asks for. Example: of a plain config, one stage without a name."""

    stages: tuple[Stage, ...]
    header: RecipeHeader | None = None


def load_plan(given: Given, overrides: Sequence[str] = ()) -> Plan:
    """Read a file, or a shipped recipe by its name, with all its stages, or with the one that ":NAME" picks.

    Raises ConfigError with all mistakes, a line each: with the file's line of the key, and the stage.
    """
    if isinstance(given, RunConfig) and not overrides:
        return Plan(stages=(Stage(name="", after=None, config=given),))
    values, origins, wanted = read_given(given)
    header, lines = _header(values.get("recipe"), origins)
    split_up, wrong = split(values, origins, overrides)
    if wanted is not None and split_up:
        split_up = [pick(split_up, wanted, origins[()])]
    stages, mistakes = _built(split_up)
    if lines or wrong or mistakes:
        raise ConfigError("\n".join([*lines, *wrong, *mistakes]))
    return Plan(stages=tuple(stages), header=header)


def read_header(file: Path) -> RecipeHeader | None:
    """What a recipe says about itself; None of a plain config. Raises ConfigError."""
    values, origins, _ = read_given(file)
    header, lines = _header(values.get("recipe"), origins)
    if lines:
        raise ConfigError("\n".join(lines))
    return header


def _header(given: Any, origins: Mapping[Place, str]) -> tuple[RecipeHeader | None, list[str]]:
    if given is None:
        return None, []
    items = given.items() if isinstance(given, dict) else ()
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in items}
    try:
        return RecipeHeader.model_validate(values), []
    except ValidationError as error:
        lines = [line for item in error.errors(include_url=False) for line in explain(item, RecipeHeader)]
        return None, [f"{origin_of(f'recipe.{line}', origins)}: recipe.{line}" for line in lines]


def _sample_options(given: Any, origins: Mapping[Place, str]) -> SampleOptions:
    """Raises ConfigError; the lines of these keys are those of the stage's."""
    try:
        options = SampleOptions.model_validate(given)
    except ValidationError as error:
        lines = [line for item in error.errors(include_url=False) for line in explain(item, SampleOptions)]
        raise ConfigError("\n".join(f"{origins[()]}: sample.{line}" for line in lines)) from error
    if options.critical is not None and (options.pairs or options.keep != "correct"):
        raise ConfigError(f"{origins[()]}: sample.critical: {options.critical}, {CRITICAL_WITH}")
    return options


def _built(split_up: Sequence[StageValues]) -> tuple[list[Stage], list[str]]:
    """The stages, and the lines of those that cannot be: a line of all stages once, others with their stage."""
    stages: list[Stage] = []
    found: dict[str, list[str]] = {}
    for stage in split_up:
        try:
            options = None if stage.sample is None else _sample_options(stage.sample, stage.origins)
            config = build_config(stage.values, stage.origins, stage.wrong)
            stages.append(Stage(name=stage.name, after=stage.after, config=config, sample=options))
        except ConfigError as error:
            for line in str(error).splitlines():
                found.setdefault(line, []).append(stage.name)
    everywhere = [stage.name for stage in split_up]
    lines = [
        line if names == everywhere != [names[0]] or not names[0] else f"{line} (stage {', '.join(names)})"
        for line, names in found.items()
    ]
    return stages, lines
