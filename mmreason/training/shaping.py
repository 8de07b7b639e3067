"""The config's shapers, loaded and applied in order, with what they did in the metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from mmreason.algorithms.shaping import SHAPING, Change, apply
from mmreason.config import RunConfig
from mmreason.config.columns import columns_of
from mmreason.errors import ConfigError, MMReasonError, PluginError
from mmreason.options import label_mistakes, option_mistakes
from mmreason.plugins import load_symbol
from mmreason.training.tally import Tally
from mmreason.types import RolloutGroup


class Shaper(NamedTuple):
    """One shaper with its options filled in, and what its bonus is called."""

    label: str
    change: Callable[[RolloutGroup], Change]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shaping:
    """All shapers of a config, in order."""

    shapers: tuple[Shaper, ...]
    weights: Mapping[str, float]
    """Of the rewards, by label."""

    def __call__(self, groups: Sequence[RolloutGroup], tally: Tally) -> list[RolloutGroup]:
        """The groups after all shapers. Raises PluginError for a shaper that gives anything but a change of its group.

        Metrics of each: `shaping/<label>/before` and `/after` (mean reward), `/factor`, and `/kept` (share of answers).
        """
        for label, change in self.shapers:
            shaped = []
            for group in groups:
                made = _sound(change(group), label, len(group.scores), self.weights)
                shaped.append(apply(group, made, label, 1.0 if made.into is None else self.weights[made.into]))
                _tally(tally, f"shaping/{label}", group, shaped[-1], made)
            groups = shaped
        return list(groups)


def load_shaping(config: RunConfig) -> Shaping:
    """Raises ConfigError, a line per mistake: an unknown shaper, a wrong option, a reward that the config lacks."""
    columns = columns_of(config)
    rewards, bonuses = columns[: len(config.rewards)], columns[len(config.rewards) :]
    weights = {column.label: column.weight for column in rewards}
    wrong: list[str] = []
    shapers: list[Shaper] = []
    for column, shaper in zip(bonuses, config.shaping, strict=True):
        try:
            function = load_symbol(shaper.name, SHAPING, "mmreason.shaping")
        except MMReasonError as error:
            wrong.append(f"shaping: {error}")
            continue
        options = shaper.options
        mistakes = [*option_mistakes(function, options, skip=1), *label_mistakes(function, options, list(weights))]
        wrong += [f"shaping {column.label}: {line}" for line in mistakes]
        shapers.append(Shaper(column.label, partial(function, **options)))
    if wrong:
        raise ConfigError("\n".join(wrong))
    return Shaping(shapers=tuple(shapers), weights=weights)


def _sound(made: object, label: str, count: int, rewards: Collection[str]) -> Change:
    """What a shaper gave. Raises PluginError where that is no change of such a group, or into no reward."""
    if not isinstance(made, Change):
        raise PluginError(f"shaping {label}: gave a {type(made).__name__}, expected a Change")
    if {len(made.bonus), len(made.keep)} - {0, count}:
        given = f"{len(made.bonus)} bonuses and {len(made.keep)} values of keep"
        raise PluginError(f"shaping {label}: gave {given} for {count} answers; expected one each, or none")
    if not all(map(math.isfinite, (*made.bonus, made.factor))):
        raise PluginError(f"shaping {label}: gave bonus {made.bonus} and factor {made.factor}; expected finite numbers")
    if made.into is not None and made.into not in rewards:
        known = ", ".join(rewards)
        raise PluginError(f"shaping {label}: gave a bonus into {made.into!r}; expected None or one of {known}")
    return made


def _tally(tally: Tally, name: str, before: RolloutGroup, after: RolloutGroup, change: Change) -> None:
    for when, group in (("before", before), ("after", after)):
        for score in group.scores:
            if score.total is not None:
                tally.add(f"{name}/{when}", score.total)
    tally.add(f"{name}/factor", change.factor)
    for stays in change.keep or [True] * len(before.scores):
        tally.add(f"{name}/kept", float(stays))
