"""A file with several stages, as one config's values per stage.

    run_dir: runs/x                 the common part: keys of every stage
    model: {path: ...}
    stages:
      - name: cold_start            run_dir/cold_start; its own keys are merged over the common part's
        train: {method: sft}
      - name: rl                    begins with the model of the stage before it ...
        from: base                  ... unless it says otherwise: base is model.path, else the name of an earlier stage
        grpo: null                  null takes the common part's value away
        data: {train: [{path: "{rft}/rows.jsonl"}]}     {NAME} is the folder of an earlier stage
      - name: rft                   answers of that model to data.train are written to run_dir/rft/rows.jsonl
        sample: {unique: reasoning} as `mmreason sample`; the stage after it begins with the same model

Sections are merged key by key, lists are replaced. The common part's `shaping` and the keys of its `grpo` are for the
stages whose method reads them; where a stage itself gives one that it does not read, or no stage reads it, it is
refused. An override `train.steps=5` is for every stage, and wins over what the stage says; `rl.train.steps=5` is for
that stage only.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmreason.config.grpo_options import READ_BY
from mmreason.config.overrides import apply_all
from mmreason.config.sections import GrpoConfig, RunConfig
from mmreason.yaml_file import Place

BASE = "base"
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_OWN_KEYS = ("name", "from", "sample")
_NOT_COMMON = ("recipe", "stages")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageValues:
    """A stage before its values are checked. Example: name "rl", after "cold_start", values {"run_dir": "x/rl", ...}"""

    name: str
    """Empty for a file without stages."""
    after: str | None
    """The earlier stage whose model it begins with; None: model.path as given."""
    values: dict[str, Any]
    origins: dict[Place, str]
    """Where each key was given; () for the file."""
    wrong: list[str] = field(default_factory=list)
    sample: Any = None
    """Options of `mmreason sample`, where it samples instead of training."""


def split(
    values: dict[str, Any], origins: Mapping[Place, str], overrides: Sequence[str]
) -> tuple[list[StageValues], list[str]]:
    """The stages of a file, at least one, in order; and what is wrong with the list of stages itself."""
    common = {key: value for key, value in values.items() if key not in _NOT_COMMON}
    around = {at: origin for at, origin in origins.items() if at[:1] not in [(key,) for key in _NOT_COMMON]}
    if "stages" not in values:
        wrong = apply_all(overrides, common, around)
        return [StageValues(name="", after=None, values=common, origins=around, wrong=wrong)], []
    wrong = [f"{_nearest(at, origins)}: {line}" for at, line in _mistakes(values["stages"])]
    if wrong:
        return [], wrong
    names = [stage["name"] for stage in values["stages"]]
    shared = [text for text in overrides if _key(text) in ("run_dir", "model.path")]
    wrong = apply_all(shared, common, around)
    stages: list[StageValues] = []
    for index, given in enumerate(values["stages"]):
        mine = [text for text in overrides if text not in shared and _key(text).split(".")[0] not in names]
        prefix = f"{given['name']}."
        mine += [text.removeprefix(prefix) for text in overrides if text.startswith(prefix)]
        stages.append(_stage(given, index, common, around, origins, mine, stages))
    for given, stage in zip(values["stages"], stages, strict=True):
        own = [_key(text) for text in overrides if text.startswith(f"{stage.name}.grpo.")]
        own = [*_section(given, "grpo"), *(key.split(".")[2] for key in own), *(given.keys() & {"shaping"})]
        _leave_to_others(stage, stages, own)
    return stages, wrong


def _key(override: str) -> str:
    return override.partition("=")[0]


def _stage(
    given: Mapping[str, Any],
    index: int,
    common: Mapping[str, Any],
    around: Mapping[Place, str],
    origins: Mapping[Place, str],
    overrides: Sequence[str],
    earlier: Sequence[StageValues],
) -> StageValues:
    name = given["name"]
    own = {key: value for key, value in given.items() if key not in _OWN_KEYS}
    values = merged(common, own)
    here: Place = ("stages", index)
    places = dict(around) | {
        at[2:]: origin for at, origin in origins.items() if at[:2] == here and at[2:3] not in [(k,) for k in _OWN_KEYS]
    }
    places[()] = origins[()]
    folder = common.get("run_dir")
    trained = [stage.name for stage in earlier if stage.sample is None]
    after = given.get("from") or (trained[-1] if trained else BASE)
    if isinstance(folder, str):
        values["run_dir"] = f"{folder}/{name}"
        for stage in earlier:
            values["data"] = _with_folder(values.get("data"), stage.name, f"{folder}/{stage.name}")
        if after != BASE and not _names_a_model(own):
            values["model"] = {**(values.get("model") or {}), "path": f"{folder}/{after}/model"}
    if _names_a_model(own) or any(_key(text) == "model.path" for text in overrides):
        after = BASE
    wrong = apply_all(overrides, values, places)
    return StageValues(
        name=name,
        after=None if after == BASE else after,
        values=values,
        origins=places,
        wrong=wrong,
        sample=given.get("sample"),
    )


def _leave_to_others(stage: StageValues, stages: Sequence[StageValues], own: Collection[str]) -> None:
    """Take the common part's `shaping` and `grpo` keys away that this stage's method does not read and another's does.

    A stage's `own` keys stay, and are refused where they are not read; so are those that no stage reads.
    """
    read_by_any = {key for other in stages if other.sample is None for key in _read(other)}
    left = read_by_any - _read(stage) - set(own)
    for key in set(_section(stage.values, "grpo")) & left:
        del stage.values["grpo"][key]
    if "shaping" in left:
        stage.values.pop("shaping", None)


def _read(stage: StageValues) -> set[str]:
    """The keys of `grpo` that a stage's method reads, and "shaping" where it reads that."""
    method = str(_section(stage.values, "train").get("method", "grpo"))
    return set(READ_BY.get(method, (*GrpoConfig.model_fields, "shaping")))


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = values.get(name)
    return section if isinstance(section, Mapping) else {}


def _names_a_model(own: Mapping[str, Any]) -> bool:
    return isinstance(own.get("model"), Mapping) and "path" in own["model"]


def merged(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`own` over `common`: sections key by key, anything else replaced, null taken away. Both stay as they are."""
    result = copy.deepcopy(dict(common))
    for key, value in own.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def _with_folder(value: Any, name: str, folder: str) -> Any:
    """`{name}` at the start of texts replaced by a stage's folder."""
    if isinstance(value, dict):
        return {key: _with_folder(item, name, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_folder(item, name, folder) for item in value]
    mark = f"{{{name}}}"
    return folder + value.removeprefix(mark) if isinstance(value, str) and value.startswith(mark) else value


def _mistakes(stages: Any) -> list[tuple[Place, str]]:
    """What is wrong with the list itself: (place, line)."""
    if not isinstance(stages, list) or not stages:
        return [(("stages",), "stages: expected a list of stages, each with a name and what differs from the rest")]
    found: list[tuple[Place, str]] = []
    names: list[str] = []  # of those that a later one can begin with
    for index, stage in enumerate(stages):
        at: Place = ("stages", index)
        if not isinstance(stage, dict) or not isinstance(stage.get("name"), str):
            found.append((at, f"stages.{index}: expected keys, with a name among them, as in {{name: rl, ...}}"))
            continue
        earlier = [other.get("name") for other in stages[:index] if isinstance(other, dict)]
        found += [((*at, "name"), line) for line in _name_mistakes(stage["name"], earlier)]
        start = stage.get("from")
        if start is not None and start not in [BASE, *names]:
            known = ", ".join([BASE, *names])
            found.append(((*at, "from"), f"stage {stage['name']}: from: {start!r}, expected one of {known}"))
        if start is not None and _names_a_model(stage):
            found.append(((*at, "from"), f"stage {stage['name']}: from and model.path given, expected one of them"))
        if "run_dir" in stage:
            found.append(((*at, "run_dir"), f"stage {stage['name']}: run_dir: its folder is run_dir/NAME; drop it"))
        if "sample" not in stage:
            names.append(stage["name"])
    return found


def _name_mistakes(name: str, earlier: Sequence[Any]) -> list[str]:
    if not _NAME.fullmatch(name) or name == BASE or name in RunConfig.model_fields:
        return [f"stage {name}: no possible name; use small letters, digits and _, and no section's name"]
    return [f"stage {name}: a second stage of that name"] if name in earlier else []


def _nearest(at: Place, origins: Mapping[Place, str]) -> str:
    return next(origins[at[:end]] for end in range(len(at), -1, -1) if at[:end] in origins)
