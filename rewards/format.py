"""Does the answer have the asked-for shape? 1 or 0.

The named variants are what public trainers match (research notes "rewards" 0.3 and "algorithms" 1):

    default     one think block, then one answer block, each tag exactly once, nothing else but white space
    video_r1    Video-R1, R1-V and most others: a full match of `<think>.*?</think>\\s*<answer>.*?</answer>`. No white
                space around it, but a second answer block passes (the lazy match stretches to the last closing tag)
    mm_eureka   MM-EUREKA: both blocks, not empty, anywhere in the text, and each tag exactly once (weight 0.5 there)
    cosmos      Cosmos-RL: as video_r1, with exactly two newlines between the blocks
    vlm_r1      VLM-R1's REC: both blocks anywhere in the text, and in the answer an object with a box of whole numbers,
                `{..[1, 2, 3, 4]..}`
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mmreason.rewards.base import Regex
from mmreason.types import Rollout, Sample, Score

Variant = Literal["default", "video_r1", "mm_eureka", "cosmos", "vlm_r1"]

_WHOLE_BOX = r"\[\d+,\s*\d+,\s*\d+,\s*\d+\]"


@dataclass(frozen=True, slots=True)
class _Rule:
    around: str
    """Pattern of what may stand before and after the blocks."""
    between: str
    """Pattern of what stands between them."""
    each_tag_once: bool
    content: str = ".*?"
    """Pattern of what a block holds."""


_RULES: dict[str, _Rule] = {
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
    texts = [(f"<{think_tag}>" if prefilled else "") + rollout.text for rollout in rollouts]
    if variant == "vlm_r1" and pattern is None:
        between = rf"{re.escape(f'</{think_tag}>')}\s*{re.escape(f'<{answer_tag}>')}"
        marks = (re.escape(f"<{think_tag}>"), between, r"\{", _WHOLE_BOX, r"\}", re.escape(f"</{answer_tag}>"))
        return [_score(_in_order(text, marks)) for text in texts]
    rule = _RULES["default" if variant == "vlm_r1" else variant]
    return [_score(_matches(text, rule, think_tag, answer_tag, pattern)) for text in texts]


def _in_order(text: str, marks: Sequence[str]) -> bool:
    """Whether the marks stand in the text one after the other: a search for `a.*b.*c` in time linear in the text."""
    place = 0
    for mark in marks:
        found = re.compile(mark).search(text, place)
        if found is None:
            return False
        place = found.end()
    return True


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
