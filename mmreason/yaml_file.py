"""Reading a YAML file and putting `dotted.key=value` overrides into it: plain dictionaries, nothing of our keys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from mmreason.errors import ConfigError


def read_yaml(file: Path) -> dict[str, Any]:
    """The keys of a YAML file. Raises ConfigError: unreadable, not text, not YAML (with the line), no keys."""
    try:
        values = _parse(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); give the path of a YAML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: is not text ({error.reason} at byte {error.start}); give a YAML file") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        found = "is empty" if values is None else f"holds {type(values).__name__}"
        raise ConfigError(f"{file}: {found}, expected keys such as run_dir: and model:")
    return values


def apply_override(values: dict[str, Any], override: str) -> None:
    """Put `a.b=value` into `values`. Raises ConfigError: no key, value not YAML, a way through something else."""
    key, equals, text = override.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise ConfigError(f"override {override!r}: expected dotted.key=value, for example train.steps=100")
    try:
        value = _parse(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML ({error.args[2]}); quote it") from error
    place: Any = values
    for part in parts[:-1]:
        # An empty section (`grpo:` with nothing under it) is None, and is made on the way like a missing one.
        if isinstance(place, dict) and place.get(part) is None:
            place[part] = {}
        place = place[_key(place, part, override)]
    place[_key(place, parts[-1], override)] = value


def _key(place: Any, part: str, override: str) -> str | int:
    """`part` as a key of the dictionary, or as a number of the list, that `place` is."""
    if isinstance(place, dict):
        return part
    if not isinstance(place, list):
        raise ConfigError(f"override {override!r}: {part} stands under a value, not under a section")
    if not part.isdecimal() or int(part) >= len(place):
        raise ConfigError(f"override {override!r}: {part} is no item of a list of {len(place)}, counted from 0")
    return int(part)


class _Loader(yaml.SafeLoader):
    """YAML as people expect it: 1e-6 is a number (to plain PyYAML it is text) and no key may stand there twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = [key for key, _ in node.value if keys.count(key.value) > 1]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice[-1].value} twice", twice[-1].start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _parse(text: str) -> Any:
    return yaml.load(text, _Loader)  # _Loader is a SafeLoader: it makes no objects
