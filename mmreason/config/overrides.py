"""Overrides put into a config's values, with a note of where each value was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmreason.errors import ConfigError
from mmreason.yaml_file import Place, apply_override


def apply_all(overrides: Sequence[str], values: dict[str, Any], origins: dict[Place, str]) -> list[str]:
    """Put the overrides into `values` and `origins`; those that cannot be applied."""
    wrong: list[str] = []
    for override in overrides:
        try:
            apply_override(values, override)
            place = place_of(override.partition("=")[0])
            for inner in [at for at in origins if at[: len(place)] == place]:
                del origins[inner]  # of what it replaces
            origins[place] = f"override {override!r}"
        except ConfigError as error:
            wrong.append(str(error))
    return wrong


def place_of(key: str) -> Place:
    """ "rewards.0.name" -> ("rewards", 0, "name")."""
    return tuple(int(part) if part.isdecimal() else part for part in key.split("."))


def origin_of(line: str, origins: Mapping[Place, str]) -> str:
    """Where the key that a mistake's line begins with was given, or else the nearest section around it."""
    place = place_of(line.partition(": ")[0])
    return next(origins[place[:end]] for end in range(len(place), -1, -1) if place[:end] in origins)
