"""The rewards and shapers of a config as columns: their names and weights, and which part of an answer each is for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmreason.config.reward_names import labels

if TYPE_CHECKING:
    from mmreason.config.sections import RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One reward, or the bonus of one shaper. Example: `Column(label="format#2", weight=0.5, span="observation")`"""

    label: str
    weight: float
    span: str


def columns_of(config: RunConfig) -> list[Column]:
    """Rewards in order, then shapers; a shaper's bonus of its own weighs 1."""
    names = labels([reward.name for reward in config.rewards] + [shaper.name for shaper in config.shaping])
    parts = [(reward.weight, reward.span) for reward in config.rewards]
    parts += [(1.0, str(shaper.options.get("span", "all"))) for shaper in config.shaping]
    return [Column(label=name, weight=weight, span=span) for name, (weight, span) in zip(names, parts, strict=True)]


def spans_of(config: RunConfig) -> tuple[str, ...]:
    """("all",), or where anything is for a part of an answer: the tags of the blocks, then "rest" if it is rewarded."""
    columns = columns_of(config)
    named = list(dict.fromkeys(column.span for column in columns if column.span not in ("all", "rest")))
    others = {column.span for column in columns[: len(config.rewards)]} | {column.span for column in columns} - {"all"}
    if not named and "rest" not in others:
        return ("all",)
    return (*named, "rest") if others & {"all", "rest"} else tuple(named)


def tags_of(config: RunConfig) -> tuple[str, ...]:
    """The tags of the blocks that are rewarded apart."""
    return tuple(span for span in spans_of(config) if span not in ("all", "rest"))


def span_mistakes(config: RunConfig) -> Iterator[str]:
    """Settings that have no meaning where parts of an answer are rewarded apart, a line each."""
    if spans_of(config) == ("all",):
        return
    grpo = config.grpo
    for key, value, wrong, hint in (
        ("grpo.advantage", grpo.advantage, ("contrast", "gae"), "it is about whole answers; use group"),
        ("grpo.ratio", grpo.ratio, ("sequence",), "one ratio mixes the spans; use token or sequence_token"),
        ("grpo.clip", grpo.clip, ("geometric", "disco_b", "disco", "disco_ratio"), "it scores whole answers; use ppo"),
        ("grpo.kl_in", grpo.kl_in, ("reward",), "the spans have no total to take it off; use loss"),
        ("scoring.combine", config.scoring.combine, ("product", "first"), "a span's rewards are summed; use sum"),
    ):
        if value in wrong:
            yield f"{key}: {value}, but rewards have a span of their own (rewards[].span), and {hint}"
