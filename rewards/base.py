"""What a reward is, and the few things that every reward needs.

A reward has one of two signatures; options are keyword arguments with or without defaults:

    A   def reward(sample: Sample, rollouts: Sequence[Rollout], **options) -> list[Score]
    B   def reward(sample: Sample, text: str, **options) -> float | bool | dict[str, float] | None

A sees the whole group, B one answer. The rule: the second positional parameter is named `rollouts` -> A; anything
else -> B, which is lifted to A. None means that the reward does not apply to this sample. What is written for TRL,
verl, EasyR1 or ms-swift is made A in foreign.py.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from types import ModuleType
from typing import Any, Literal

from mmreason.errors import PluginError, RewardError
from mmreason.options import Regex as Regex
from mmreason.types import Rollout, Sample, Score

RewardFn = Callable[..., Sequence[Score]]
"""Signature A."""

BAD_GOLD = "bad_gold"
"""Flag of a score without a total whose sample can never be scored: training puts that sample into quarantine."""


@functools.cache
def _block(tag: str) -> re.Pattern[str]:
    name = re.escape(tag)
    return re.compile(rf"<{name}>((?:(?!</?{name}>).)*)</{name}>", re.DOTALL)


def extract_answer(text: str, tag: str = "answer") -> str | None:
    """Content of the last complete `<answer>...</answer>`, stripped. None where there is none or it is empty."""
    blocks: list[str] = _block(tag).findall(text)
    return (blocks[-1].strip() or None) if blocks else None


def lift(function: Callable[..., Any], name: str = "") -> RewardFn:
    """Signature A for a function of either signature (rule in the module's docstring).

    What a B function returns: a number or bool is the total; a dict gives named parts whose sum is the total, unless
    it has a key "total"; None means that the reward does not apply. Raises PluginError for what is no such function.
    """
    name = name or getattr(function, "__name__", repr(function))
    if inspect.isclass(function) or not callable(function):
        kind = "a class" if inspect.isclass(function) else type(function).__name__
        raise PluginError(f"{name}: is {kind}, expected a function (sample, rollouts) or (sample, text)")
    positional = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if len(positional) < 2:
        raise PluginError(
            f"{name}: takes {positional}, expected at least (sample, rollouts) or (sample, text), or a reward of "
            "another trainer (docs/rewards.md)"
        )
    if positional[1] == "rollouts":
        return function

    @functools.wraps(function)
    def lifted(sample: Sample, rollouts: Sequence[Rollout], **options: Any) -> list[Score]:
        return [_as_score(function(sample, rollout.text, **options)) for rollout in rollouts]

    return lifted


def _as_score(value: Any) -> Score:
    if isinstance(value, Score):
        return value
    if value is None:
        return Score(total=None)
    if isinstance(value, Real):
        return Score(total=float(value))
    if isinstance(value, Mapping):
        parts = {key: part for key, part in value.items() if key != "total"}
        return Score(total=value["total"] if "total" in value else sum(parts.values()), parts=parts)
    raise RewardError(f"returned {type(value).__name__}, expected a number, a dict of numbers or None")


def checked(scores: Any, count: int) -> list[Score]:
    """What a reward returned, as `count` scores of plain finite floats. Raises RewardError for anything else."""
    if not isinstance(scores, (list, tuple)):
        raise RewardError(f"returned {type(scores).__name__}, expected a list of {count} scores")
    if len(scores) != count:
        raise RewardError(f"returned {len(scores)} scores for {count} rollouts")
    return [_checked_one(score) for score in scores]


def _checked_one(score: Any) -> Score:
    if not isinstance(score, Score):
        raise RewardError(f"returned a list with {type(score).__name__} in it, expected Score")
    if not all(isinstance(name, str) for name in [*score.parts, *score.flags]):
        raise RewardError("returned a Score whose parts or flags are not named by text")
    return Score(
        total=None if score.total is None else _finite("total", score.total),
        parts={name: _finite(name, value) for name, value in score.parts.items()},
        flags={name: bool(value) for name, value in score.flags.items()},
        error=None if score.error is None else one_line(str(score.error)),
    )


def _finite(name: str, value: Any) -> float:
    if not isinstance(value, Real):
        raise RewardError(f"returned {type(value).__name__} as {name}, expected a number")
    if not math.isfinite(value):
        raise RewardError(f"returned {float(value)} as {name}")
    return float(value)


def one_line(text: str, limit: int = 400) -> str:
    """The text with all white space as single spaces, cut to `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRollout(Rollout):
    """A rollout as reward workers get it: without tensors, `tokens` kept as a number."""

    token_count: int = 0
    token_ids: tuple[int, ...] = ()
    """What was sampled; empty where a text is scored that nobody sampled."""

    @property
    def tokens(self) -> int:
        return self.token_count


def without_tensors(rollout: Rollout) -> TextRollout:
    """Everything a reward may ask of a rollout, and nothing heavy."""
    return TextRollout(
        text=rollout.text,
        finish_reason=rollout.finish_reason,
        view=rollout.view,
        seed=rollout.seed,
        token_count=rollout.tokens,
        token_ids=tuple(
            token for segment in rollout.segments if segment.kind == "policy" for token in segment.ids.tolist()
        ),
    )


def keep_mask(scores: Sequence[Score], on_error: Literal["drop_group", "drop_rollout", "stop"]) -> list[bool]:
    """Which rollouts of one group are left to train on, by `scoring.on_error`. Raises RewardError for "stop"."""
    failed = [score.total is None for score in scores]
    if on_error == "stop" and any(failed):
        error = next(score.error for score in scores if score.total is None)
        raise RewardError(f"{error or 'a rollout has no score'} (scoring.on_error is stop)")
    if on_error == "drop_group":
        return [not any(failed)] * len(scores)
    return [not missing for missing in failed]


_import_listeners: list[Callable[[bool], None]] = []
"""Told True before and False after a slow import: reward workers stop a job's clock meanwhile."""


def on_slow_import(listener: Callable[[bool], None]) -> None:
    """Have `listener` called with True before and False after each slow import."""
    _import_listeners.append(listener)


_time_listeners: list[Callable[[float], None]] = []
"""Told how many seconds a job asks for: reward workers pass it on to the pool."""


def on_more_time(listener: Callable[[float], None]) -> None:
    """Have `listener` called with the seconds that a reward asks for."""
    _time_listeners.append(listener)


def ask_for_time(seconds: float) -> None:
    """Give the job at hand this many seconds from now, instead of what `scoring.deadline_s` leaves it.

    For rewards that wait for another machine and keep a deadline of their own, which must be a little earlier.
    """
    for listener in _time_listeners:
        listener(seconds)


def slow_import(name: str) -> ModuleType:
    """Import a library that takes seconds, when it is first needed, without that counting as the reward's time."""
    if name in sys.modules:
        return sys.modules[name]
    for listener in _import_listeners:
        listener(True)
    module = importlib.import_module(name)
    for listener in _import_listeners:
        listener(False)
    return module
