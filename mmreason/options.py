"""Options of plug-ins: keyword arguments of a function, checked against its annotations before anything runs."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NewType

from mmreason.plugins import nearest

Regex = NewType("Regex", str)
"""Annotation of an option that is a regular expression: it is compiled when the plug-in is loaded."""

RewardLabel = Annotated[str, "label of a reward"]
"""Annotation of an option that names a reward of the config, as metrics do ("accuracy", "iou#2")."""


def parameters(function: Callable[..., Any], *, skip: int) -> list[inspect.Parameter]:
    """The parameters after the first `skip`, which are no options."""
    return list(inspect.signature(function).parameters.values())[skip:]


def option_mistakes(function: Callable[..., Any], options: Mapping[str, Any], *, skip: int) -> Iterator[str]:
    """A line for each option that `function` does not take, that has another type, or that is missing."""
    taken = parameters(function, skip=skip)
    known = {p.name: p for p in taken if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in taken)
    hints = type_hints(function)
    for name, value in options.items():
        if name not in known:
            if not takes_any:
                yield f"unknown option {name!r}{nearest(name, known) if known else '; it has none'}"
        elif not _fits(value, hints.get(name, Any)):
            yield f"option {name}: got {value!r}, expected {_shown(hints[name])}"
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in options:
            yield f"option {name!r} is required, but not given"


def type_hints(function: Callable[..., Any], *, include_extras: bool = False) -> dict[str, Any]:
    """Annotations as types; a plug-in whose annotations cannot be resolved is simply not checked.

    Choices in a signature that we made (rewards/foreign.py) win over those of the function that it stands for.
    """
    taken = inspect.signature(function).parameters.values()
    made = {p.name: p.annotation for p in taken if typing.get_origin(p.annotation) is Literal}
    try:
        return {**typing.get_type_hints(inspect.unwrap(function), include_extras=include_extras), **made}
    except (NameError, TypeError):
        return made


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from a config suits an annotation. Annotations other than plain ones are not checked."""
    origin = typing.get_origin(hint)
    if hint is Regex:
        return isinstance(value, str) and _compiles(value)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in typing.get_args(hint))
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, choice) for choice in typing.get_args(hint))
    if origin is Sequence:
        return isinstance(value, (list, tuple)) and all(_fits(item, typing.get_args(hint)[0]) for item in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, bool, types.NoneType):
        return isinstance(value, hint)
    return True


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def _shown(hint: Any) -> str:
    """An annotation in words: "one of 'plain', 'vlmr1'", "float", "str or None"."""
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in typing.get_args(hint))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_shown(choice) for choice in typing.get_args(hint))
    if typing.get_origin(hint) is Sequence:
        return f"a list of {_shown(typing.get_args(hint)[0])}"
    if hint is Regex:
        return "a regular expression that Python can compile"
    return "None" if hint is types.NoneType else getattr(hint, "__name__", str(hint))


def label_mistakes(function: Callable[..., Any], options: Mapping[str, Any], labels: Sequence[str]) -> Iterator[str]:
    """A line for each option annotated `RewardLabel`, given or by default, that is none of the config's `labels`."""
    hints = type_hints(function, include_extras=True)
    for parameter in inspect.signature(function).parameters.values():
        hint = hints.get(parameter.name)
        if hint is not RewardLabel and RewardLabel not in typing.get_args(hint):
            continue
        value = options.get(parameter.name, parameter.default)
        if value is not None and value is not parameter.empty and value not in labels:
            yield f"option {parameter.name}: {value!r} is no reward of this config{nearest(str(value), labels)}"
