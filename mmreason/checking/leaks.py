"""Does the prompt give the answer away? A model that can copy it learns nothing else."""

from __future__ import annotations

import re

from mmreason.types import Sample

_SHORTEST = 12
"""Characters: a shorter gold may stand in a question by chance ("red", "7", "B")."""
_SAID = r"(?:answer|solution|ground[ _]?truth|label)\b\s*(?:is|:|=)?\s*[\"'(*]*\s*"


def leak(sample: Sample, gold: str, system: str | None) -> str | None:
    """Where the gold answer stands in the text that the model reads, or None. Options are not looked at."""
    wanted = " ".join(gold.split())
    texts = [system or "", *(part for m in sample.messages for part in m.content if isinstance(part, str))]
    for text in map(_plain, texts):
        if found := re.search(rf"<answer>\s*{re.escape(wanted)}\s*</answer>", text, re.IGNORECASE):
            return found[0]
        if found := re.search(rf"\b{_SAID}{re.escape(wanted)}(?![\w.,]*\w)", text, re.IGNORECASE):
            return found[0]
        if sample.task != "mcq" and len(wanted) >= _SHORTEST and wanted.casefold() in text.casefold():
            return wanted
    return None


def _plain(text: str) -> str:
    return " ".join(text.split())
