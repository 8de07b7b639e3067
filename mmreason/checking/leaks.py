"""Does the prompt give the answer away? A model that can copy it learns nothing else."""

from __future__ import annotations

import re

from mmreason.types import Sample

_SHORTEST = 12
"""Characters: a shorter gold may stand in a question by chance ("red", "7", "B")."""
_EXAMPLE = re.compile(r"(?:e\.g\.|example|such as|like)[,:]?\s*[\"'(]*$", re.IGNORECASE)
_CHOICE_BEFORE = re.compile(r"\bor\s+$", re.IGNORECASE)
_CHOICE_AFTER = re.compile(r"[\"')*]*\s*(?:,?\s*or\b|/|\||,\s*[^,.]{1,40}(?:,|\bor\b))", re.IGNORECASE)
"""A choice is offered: "Answer yes or no", "Answer A, B, C or D", "an apple tree or a cherry tree"."""
_SAID = r"(?:answer|solution|ground[ _]?truth|label)\b\s*(?:is|:|=)?\s*[\"'(*]*\s*"


def leak(sample: Sample, gold: str, system: str | None) -> str | None:
    """Where the gold answer stands in the text that the model reads, or None. Options are not looked at."""
    wanted = " ".join(gold.split())
    texts = [system or "", *(part for m in sample.messages for part in m.content if isinstance(part, str))]
    gold = re.escape(wanted)
    patterns = [rf"<answer>\s*{gold}\s*</answer>", rf"\b{_SAID}{gold}(?![\w.,]*\w)"]
    if sample.task != "mcq" and len(wanted) >= _SHORTEST:
        patterns.append(gold)
    for text in map(_plain, texts):
        for pattern in patterns:
            for found in re.finditer(pattern, text, re.IGNORECASE):
                if not _offered(text, *found.span()):
                    return found[0]
    return None


def _offered(text: str, start: int, end: int) -> bool:
    """Whether what stands there is an example, or one of several things to choose from."""
    before, after = text[max(0, start - 30) : start], text[end : end + 60]
    return bool(_EXAMPLE.search(before) or _CHOICE_BEFORE.search(before) or _CHOICE_AFTER.match(after))


def _plain(text: str) -> str:
    return " ".join(text.split())
