"""From a YAML file and overrides to a config; mistakes are found all at once and said in a line each."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from mmreason.config.combinations import impossible_in
from mmreason.config.overrides import origin_of
from mmreason.config.recipe_files import find_config, nearest_recipe
from mmreason.config.section import Section
from mmreason.config.sections import RunConfig, section_of
from mmreason.config.stages import StageValues, split
from mmreason.errors import ConfigError
from mmreason.yaml_file import Place, key_lines, read_yaml

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


Given = RunConfig | Mapping[str, Any] | str | Path
"""A config however it is given: one that is made already, a dictionary, or the path of a YAML file."""


def load_config(given: Given, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file (or take a dictionary), apply `a.b=value` overrides, validate. All mistakes are in one
    ConfigError, a line each, named with the line of the key, or with the override that made it.

    Items of lists are reached by number: `rewards.0.weight=2`. Values are YAML: `model.freeze=[vision]`. The name of a
    shipped recipe stands for its file, and ":NAME" behind either picks a stage of it; a file with several needs that.
    """
    if isinstance(given, RunConfig) and not overrides:
        return given
    values, origins, wrong = _read(given, overrides)
    return build_config(values, origins, wrong)


def build_config(
    values: dict[str, Any], origin: str | Mapping[Place, str] = "config", wrong: Sequence[str] = ()
) -> RunConfig:
    """Validate a dictionary. Raises ConfigError with one line per mistake, after those already found (`wrong`).

    origin: what the lines start with, or where each key was given, () for the whole.
    """
    origins: Mapping[Place, str] = {(): origin} if isinstance(origin, str) else origin
    lines = list(wrong)
    values = _without_empty_sections(_tuples(values))
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        items = error.errors(include_url=False)
        found = [line for item in items for line in explain(item)]
        if all(item["loc"] for item in items):  # else the combinations are among them
            found += impossible_in(_usable(RunConfig, values, [item["loc"] for item in items]))
        raise ConfigError("\n".join([*lines, *(f"{origin_of(line, origins)}: {line}" for line in found)])) from error
    if lines:
        raise ConfigError("\n".join(lines))
    return config


def inspect_config(given: Given, overrides: Sequence[str] = ()) -> tuple[RunConfig | None, dict[str, Any], str]:
    """For a dry run: the config, or None; its usable sections by name; and its mistakes, a line each.

    In the sections wrong keys have their defaults, and list items that are wrong are left out. Raises ConfigError for
    a file that cannot be read at all.
    """
    values, origins, wrong = _read(given, overrides)
    sections = {name: _usable_section(name, values[name]) for name in values if name in RunConfig.model_fields}
    try:
        return build_config(values, origins, wrong), sections, ""
    except ConfigError as error:
        return None, sections, str(error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """What a stage of a file finds once those before it have run. Example: `Earlier(folders={"runs/x/sft": "sft"},
    model="Qwen/Qwen2.5-VL-3B-Instruct")`"""

    folders: Mapping[str, str]
    """run_dir of each stage before it -> the stage's name."""
    model: str | None
    """What the first of the stages begins with whose models lead to this one's; None: its own model is given."""


def earlier(given: Given, overrides: Sequence[str] = ()) -> Earlier:
    """The stages before the one that is asked for. Raises ConfigError as `inspect_config`."""
    values, origins, wanted = read_given(given)
    stages, _ = split(values, origins, overrides)
    asked = pick(stages, wanted, origins[()])
    folders = {str(stage.values.get("run_dir")): stage.name for stage in stages[: stages.index(asked)]}
    by_name = {stage.name: stage for stage in stages}
    first = asked
    while first.after is not None:
        first = by_name[first.after]
    model = first.values.get("model")
    path = model.get("path") if first is not asked and isinstance(model, Mapping) else None
    return Earlier(folders=folders, model=path if isinstance(path, str) else None)


def read_given(given: Given) -> tuple[dict[str, Any], dict[Place, str], str | None]:
    """The values, where each was given, and the stage that was asked for. Raises ConfigError as `read_yaml`."""
    if isinstance(given, RunConfig):
        return given.model_dump(mode="json"), {(): "config"}, None
    if isinstance(given, Mapping):
        return copy.deepcopy(dict(given)), {(): "config"}, None
    file, stage = find_config(given)
    try:
        values = read_yaml(file)
    except ConfigError as error:
        raise ConfigError(f"{error}{nearest_recipe(file)}") from error
    return values, {(): str(file)} | {at: f"{file}:{line}" for at, line in key_lines(file).items()}, stage


def pick(stages: Sequence[StageValues], wanted: str | None, where: str) -> StageValues:
    """The stage of that name; without a name, the only one. Raises ConfigError where that cannot be."""
    names = [stage.name for stage in stages]
    if wanted in names or (wanted is None and len(stages) == 1):
        return stages[names.index(wanted) if wanted in names else 0]
    if wanted is None:
        raise ConfigError(f"{where}: holds the stages {', '.join(names)}; name one, as in {where}:{names[0]}")
    raise ConfigError(f"{where}: no stage {wanted!r}; there is {', '.join(names) if names[0] else 'only one, unnamed'}")


def _read(given: Given, overrides: Sequence[str]) -> tuple[dict[str, Any], dict[Place, str], list[str]]:
    """The values of a config, or of one stage, where each was given, and what is wrong already."""
    values, origins, wanted = read_given(given)
    stages, wrong = split(values, origins, overrides)
    if wrong:
        raise ConfigError("\n".join(wrong))
    stage = pick(stages, wanted, origins[()])
    return stage.values, stage.origins, stage.wrong


def _usable_section(name: str, given: Any) -> Any:
    """A section of the config with what is usable of it."""
    adapter: TypeAdapter[Any] = TypeAdapter(RunConfig.model_fields[name].annotation or Any)
    holder = {name: copy.deepcopy(given)}
    for _ in range(1000):  # each round takes out at least one value
        try:
            return adapter.validate_python(_tuples(holder.get(name)))
        except ValidationError as error:
            for item in error.errors(include_url=False):
                loc = item["loc"][:-1] if item["type"] == "missing" else item["loc"]
                _take_out(holder, (name, *(part for part in loc if part != "[key]")))
            if holder.get(name) is None:
                break
    return RunConfig.model_fields[name].get_default(call_default_factory=True)


def _take_out(values: Any, place: Place) -> None:
    """Remove a key of a dictionary; an item of a list becomes None, which is taken out in the next round."""
    *way, last = place
    for part in way:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(values, dict):
        values.pop(last, None)
    elif isinstance(values, list) and isinstance(last, int) and last < len(values):
        values.pop(last)


def leaf_values(config: RunConfig) -> dict[str, Any]:
    """Every value by its dotted key, e.g. {"rewards.0.name": "iou"}. An empty section or list is a value."""
    return _flat(config.model_dump(mode="json"), "")


def _flat(value: Any, key: str) -> dict[str, Any]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    inner = {k: v for name, item in items for k, v in _flat(item, f"{key}.{name}" if key else str(name)).items()}
    return inner or {key: value}


def leaf_keys(section: type[BaseModel] = RunConfig, prefix: str = "") -> list[str]:
    """Every dotted key there is, e.g. "train.steps". List items are shown once, as "rewards[].name"."""
    keys: list[str] = []
    for name, info in section.model_fields.items():
        inner, repeated = section_of(info.annotation)
        if inner is None:
            keys.append(prefix + name)
        else:
            keys += leaf_keys(inner, f"{prefix}{name}{'[]' if repeated else ''}.")
    return keys


def _usable(
    section: type[Section], values: dict[str, Any], bad: Sequence[tuple[int | str, ...]], at: tuple[int | str, ...] = ()
) -> SimpleNamespace:
    """A section with its usable keys only, given or default; `bad` are the places of those that are not."""
    found = SimpleNamespace()
    for name, info in section.model_fields.items():
        where = (*at, name)
        value = values[name] if name in values else info.get_default(call_default_factory=True)
        inner, repeated = section_of(info.annotation)
        if inner and not repeated and isinstance(value, dict):
            setattr(found, name, _usable(inner, value, bad, where))
        elif not any(loc[: len(where)] == where for loc in bad):
            setattr(found, name, value)
    return found


def _without_empty_sections(values: dict[str, Any]) -> dict[str, Any]:
    """`media:` with nothing, or only comments, under it is a section of defaults."""
    fields = RunConfig.model_fields
    empty = {name for name, value in values.items() if value is None and name in fields}
    return {name: values[name] for name in values if not (name in empty and isinstance(fields[name].default, Section))}


def _tuples(value: Any) -> Any:
    """YAML has lists where frozen sections have tuples. A reward's `options` are its own and stay as written."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: item if key == "options" else _tuples(item) for key, item in value.items()}
    return value


def explain(item: ErrorDetails, root: type[Section] = RunConfig) -> list[str]:
    """One pydantic error of a `root` section as lines: key, what was given, what was expected, the nearest key."""
    loc = tuple(part for part in item["loc"] if part != "[key]")
    where, kind = ".".join(str(part) for part in loc), item["type"]
    if kind == "extra_forbidden":
        return [f"{where}: unknown key; {_nearest_key(loc, root)}"]
    if kind == "value_error" and not loc:
        return str(item["ctx"]["error"]).split("\n")
    if kind == "missing":
        return [f"{where}: required, but not given"]
    if kind == "model_type":
        return [f"{where}: got {_short(item['input'])}; expected a section with keys {', '.join(_known(loc, root))}"]
    expected = item["msg"].removeprefix("Value error, ")
    expected = expected.replace("valid tuple", "list, as in [a, b]").replace("Tuple", "The list")
    return [f"{where}: got {_short(item['input'])}; {expected[0].lower()}{expected[1:]}"]


def _nearest_key(loc: tuple[str | int, ...], root: type[Section]) -> str:
    """The closest key of the same section, else the same key of another section, else all keys of the section."""
    name, known = str(loc[-1]), _known(loc[:-1], root)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    elsewhere = [key for key in leaf_keys(root) if key.split(".")[-1] == name]
    if close or elsewhere:
        return f"did you mean {(close or elsewhere)[0]!r}?"
    return f"known here: {', '.join(known)}"


def _known(loc: tuple[str | int, ...], root: type[Section]) -> list[str]:
    """The keys of the section at `loc`."""
    section = root
    for part in loc:
        if isinstance(part, str):
            inner, _ = section_of(section.model_fields[part].annotation)
            assert inner is not None, loc
            section = inner
    return list(section.model_fields)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
