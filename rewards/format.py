"""Does the answer have the asked-for shape? 1 or 0.

The named variants are what public trainers match (research notes "rewards" 0.3 and "algorithms" 1):

    default     one think block, then one answer block, each tag exactly once, nothing else but white space
    video_r1    Video-R1, R1-V and most others: a full match of `<think>.*?</think>\\s*<answer>.*?</answer>`. No white
                space around it, but a second answer block passes (the lazy match stretches to the last closing tag)
    mm_eureka   MM-EUREKA: both blocks, not empty, anywhere in the text, and each tag exactly once (weight 0.5 there)
    cosmos      Cosmos-RL: as video_r1, with exactly two newlines between the blocks
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mmreason.rewards.base import Regex
from mmreason.types import Rollout, Sample, Score

Variant = Literal["default", "video_r1", "mm_eureka", "cosmos"]


@dataclass(frozen=True, slots=True)
class _Rule:
    around: str
    """Pattern of what may stand before and after the blocks."""
    between: str
    """Pattern of what stands between them."""
    each_tag_once: bool
    content: str = ".*?"
    """Pattern of what a block holds."""


_RULES: dict[Variant, _Rule] = {
    "default": _Rule(around=r"\s*", between=r"\s*", each_tag_once=True),
    "video_r1": _Rule(around="", between=r"\s*", each_tag_once=False),
    "mm_eureka": _Rule(around=".*", between=r"\s*", each_tag_once=True, content=".+?"),
    "cosmos": _Rule(around="", between=r"\n\n", each_tag_once=False),
}


def format(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    variant: Variant = "default",
    think_tag: str = "think",
    answer_tag: str = "answer",
    pattern: Regex | None = None,
    prefilled: bool = False,
) -> list[Score]:
    """1 if the text is a think block followed by an answer block, else 0.

    `think_tag`, `answer_tag`: other names for the blocks, e.g. "thinking" and "final diagnosis" (Skin-R1).
    `pattern`: a regular expression of your own, matched in full with "." matching newlines; replaces everything else.
    `prefilled`: the prompt already ends with the opening think tag, so the answer does not repeat it.
    """
    opening = f"<{think_tag}>" if prefilled else ""
    return [
        _score(_matches(opening + rollout.text, _RULES[variant], think_tag, answer_tag, pattern))
        for rollout in rollouts
    ]


def _matches(text: str, rule: _Rule, think: str, answer: str, pattern: str | None) -> bool:
    if pattern is not None:
        return re.fullmatch(pattern, text, re.DOTALL) is not None
    if rule.each_tag_once and any(text.count(tag) != 1 for name in (think, answer) for tag in _tags(name)):
        return False
    tags = (_tags(think), _tags(answer))
    blocks = (f"{re.escape(opening)}{rule.content}{re.escape(closing)}" for opening, closing in tags)
    return re.fullmatch(rule.around + rule.between.join(blocks) + rule.around, text, re.DOTALL) is not None


def _tags(name: str) -> tuple[str, str]:
    return f"<{name}>", f"</{name}>"


def _score(matched: bool) -> Score:
    return Score(total=float(matched), flags={"format_ok": matched})
