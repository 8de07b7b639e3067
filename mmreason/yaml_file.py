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
    except _BROKEN as error:
        raise ConfigError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        found = "is empty" if values is None else f"holds {type(values).__name__}"
        raise ConfigError(f"{file}: {found}, expected keys such as run_dir: and model:")
    return values


Place = tuple[str | int, ...]
"""A key or list item: ("data", "train", 0, "path")."""


def key_lines(file: Path) -> dict[Place, int]:
    """The line, from 1, of every key and list item of a file that `read_yaml` could read."""
    root = yaml.compose(file.read_text(encoding="utf-8"), _Loader)
    found: dict[Place, int] = {}
    waiting: list[tuple[Place, yaml.Node | None]] = [((), root)]
    while waiting:
        place, node = waiting.pop()
        if isinstance(node, yaml.MappingNode):
            inner = [((*place, key.value), key.start_mark, value) for key, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            inner = [((*place, index), value.start_mark, value) for index, value in enumerate(node.value)]
        else:
            continue
        found |= {at: mark.line + 1 for at, mark, _ in inner}
        waiting += [(at, value) for at, _, value in inner]
    return found


def apply_override(values: dict[str, Any], override: str) -> None:
    """Put `a.b=value` into `values`. Raises ConfigError: no key, value not YAML, a way through something else."""
    key, equals, text = override.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise ConfigError(f"override {override!r}: expected dotted.key=value, for example train.steps=100")
    try:
        value = _parse(text)
    except _BROKEN as error:
        why = getattr(error, "problem", None) or " ".join(str(error).split())
        shown = override if len(override) <= 200 else f"{override[:200]}..."
        raise ConfigError(f"override {shown!r}: the value is not valid YAML ({why}); quote it") from error
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
    """YAML as people expect it, and no key twice.

    1e-6 is a number (to plain PyYAML it is text); 010, 1:30 and 2024-01-01 are texts (to it 8, 90 and a date).
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = [key for key, _ in node.value if keys.count(key.value) > 1]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice[-1].value} twice", twice[-1].start_mark)
        return super().construct_mapping(node, deep)


# lm-format-enforcer, which vLLM brings along, has every SafeLoader take timestamps as text.
_timestamp: Any = yaml.SafeLoader.construct_yaml_timestamp
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _timestamp)

_REPLACED = {f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp")}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag not in _REPLACED]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)

_BROKEN = (yaml.YAMLError, ValueError, RecursionError, LookupError, AttributeError)
"""What broken YAML raises; the last two: a tag around what is nothing of that kind (`!!bool maybe`)."""

_NO_TEXT = re.compile("[\\0\ud800-\udfff]")
"""NUL and halves of characters, which YAML can spell."""

_DEEPEST, _MOST = 50, 20_000
"""Levels, and values in all: no config comes near; aliases that hold themselves or each other have no end."""


def _parse(text: str) -> Any:
    value = yaml.load(text, _Loader)  # _Loader is a SafeLoader: it makes no objects
    waiting, count = [(value, 0)], 0
    while waiting:
        item, depth = waiting.pop()
        count += 1
        if depth > _DEEPEST or count > _MOST:
            raise ValueError(
                f"nested more than {_DEEPEST} levels deep, or over {_MOST} values, aliases counted in full"
            )
        if isinstance(item, int) and item.bit_length() > 10_000:  # Python refuses to print it
            raise ValueError("a number of thousands of digits")
        if isinstance(item, str) and _NO_TEXT.search(item):
            raise ValueError(f"{item[:80]!a} holds a character that no path and no prompt can have")
        inner = item.values() if isinstance(item, dict) else item if isinstance(item, list | tuple | set) else ()
        waiting += [(one, depth + 1) for one in inner]
    return value
