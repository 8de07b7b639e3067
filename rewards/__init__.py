"""Rewards: what an answer is worth. base.py says what a reward is; `REWARDS` is all that is built in.

A config names a reward by its name here, by `pkg.mod:attr`, `file.py:attr`, or an entry point of the group
"mmreason.rewards".
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from mmreason.errors import ConfigError, PluginError
from mmreason.options import option_mistakes, parameters
from mmreason.plugins import load_symbol
from mmreason.rewards.base import RewardFn, lift
from mmreason.rewards.foreign import as_native
from mmreason.types import Rollout, Sample, Score

if TYPE_CHECKING:
    from mmreason.config import RewardConfig

Attribute = TypeVar("Attribute")


class BuiltIns(Mapping[str, Attribute]):
    """What is built in by its name. A module is imported when something in it is first asked for.

    So a run pays for the rewards that it names only, and `mmreason check` answers before most of them are read.
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        """places: name -> "module:attribute", the module below mmreason.rewards."""
        self._places = places

    def __getitem__(self, name: str) -> Attribute:
        module, _, attribute = self._places[name].partition(":")
        found: Attribute = getattr(import_module(f"{__name__}.{module}"), attribute)
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


REWARDS: Mapping[str, RewardFn] = BuiltIns(
    {
        "accuracy": "accuracy:accuracy",
        "format": "format:format",
        # places and times
        "det_ap": "detection:det_ap",
        "det_confidence": "detection:det_confidence",
        "det_iou": "detection:det_iou",
        "det_miou": "detection:det_miou",
        "det_weighted": "detection:det_weighted",
        "giou": "grounding:giou",
        "openmm_format": "openmm:openmm_format",
        "iou": "grounding:iou",
        "point": "points:point",
        "seg_zero": "objects:seg_zero",
        "set_f1": "detection:set_f1",
        "tiou": "temporal:tiou",
        "tracking": "tracking:tracking",
        "vision_reasoner": "objects:vision_reasoner",
        # models elsewhere
        "judge": "judge:judge",
        "reconstruction": "reconstruction:reconstruction",
        "rm_relative": "reward_models:rm_relative",
        "semantic": "semantic:semantic",
        "service": "service:service",
        "think_answer": "consistency:think_answer",
        # space and robots
        "triplets": "triplets:triplets",
        "calls": "triplets:calls",
        "numeric_band": "bands:numeric_band",
        "refer_steps": "referring:refer_steps",
        "trace": "referring:trace",
        "plan_prefix": "plans:plan_prefix",
        "maze_path": "plans:maze_path",
        "ego_grounding": "ego:ego_grounding",
        "length_bonus": "lengths:length_bonus",
        # domains
        "rerank": "ranking:rerank",
        "rerank_format": "ranking:rerank_format",
        "ranked_list": "ranking:ranked_list",
        "hierarchy": "diagnosis:hierarchy",
        "multi_label": "diagnosis:multi_label",
        "letter": "diagnosis:letter",
        "length_limit": "lengths:length_limit",
        "table_answer": "tables:table_answer",
        "table_number": "tables:table_number",
        "table_sentence": "tables:table_sentence",
        "table_evidence": "tables:table_evidence",
        "guard": "safety:guard",
        "tars": "safety:tars",
        "chart_code": "charts:chart_code",
        "judge_pair": "judging:judge_pair",
        "step_labels": "judging:step_labels",
        "expression": "puzzles:expression",
        "grid": "puzzles:grid",
        # length and words
        "length_budget": "length_curves:length_budget",
        "length_cosine": "length_curves:length_cosine",
        "length_group": "length_curves:length_group",
        "length_overlong": "length_curves:length_overlong",
        "partial_credit": "likeness:partial_credit",
        "repetition": "repetition:repetition",
        "substring": "likeness:substring",
    }
)

OPTION_CHECKS: Mapping[str, Callable[[Mapping[str, Any]], Iterator[str]]] = BuiltIns(
    {
        "judge": "judge:mistakes",
        "chart_code": "charts:obstacles",
        "det_weighted": "detection:weight_mistakes",
        "reconstruction": "reconstruction:mistakes",
        "rm_relative": "reward_models:mistakes",
        "semantic": "service:mistakes",
        "service": "service:mistakes",
    }
)
"""What can be wrong with options whose types are right, or with this machine, a line each."""

FACTS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, str]]] = BuiltIns(
    {
        "judge": "judge:facts",
        "reconstruction": "reconstruction:facts",
        "rm_relative": "service:facts",
        "semantic": "service:facts",
        "service": "service:facts",
    }
)
"""What a reward asks and whom, where that is no function of ours: noted in the run's events."""

BoundReward = Callable[[Sample, Sequence[Rollout]], Sequence[Score]]
"""A reward with its options filled in."""


class RewardInfo(NamedTuple):
    """One line of `mmreason rewards`: `options` maps each option to its default as Python would write it."""

    name: str
    help: str
    options: Mapping[str, str]


def load_reward(config: RewardConfig) -> BoundReward:
    """Find a reward and fill in its options.

    Raises PluginError (no such reward, or no such signature) and ConfigError (unknown option, with the nearest known;
    missing option; value of the wrong type), all mistakes in the options at once.
    """
    return bind(config.name, config.options)


def check_rewards(configs: Sequence[RewardConfig]) -> None:
    """Load every reward once, in this process, to find mistakes before anything that takes long begins.

    Raises ConfigError with the mistakes of all of them, a line each.
    """
    wrong: list[str] = []
    for config in configs:
        try:
            load_reward(config)
        except (ConfigError, PluginError) as error:
            wrong.append(str(error))
    if wrong:
        raise ConfigError("\n".join(wrong))


def bind(name: str, options: Mapping[str, Any]) -> BoundReward:
    """`load_reward` without the config section."""
    symbol = load_symbol(name, REWARDS, "mmreason.rewards")
    function = lift(as_native(symbol, name, options), name)
    wrong = list(option_mistakes(function, options, skip=2))
    if not wrong and name in OPTION_CHECKS:
        wrong = list(OPTION_CHECKS[name](options))
    if wrong:
        raise ConfigError("\n".join(f"reward {name}: {line}" for line in wrong))
    return partial(function, **options)


def facts(configs: Sequence[RewardConfig]) -> list[dict[str, str]]:
    """For each reward that asks a model somewhere: its name, that model, its prompt and the prompt's hash."""
    return [{"reward": config.name, **FACTS[config.name](config.options)} for config in configs if config.name in FACTS]


def describe() -> list[RewardInfo]:
    """The built-in rewards with a line of help and their options."""
    return [
        RewardInfo(
            name=name,
            help=(inspect.getdoc(function) or "").partition("\n")[0],
            options={option.name: repr(option.default) for option in parameters(function, skip=2)},
        )
        for name, function in sorted(REWARDS.items())
    ]
