"""A sample's question and reference as one text each, for models that judge answers."""

from __future__ import annotations

from mmreason.rewards.base import extract_answer
from mmreason.types import MediaRef, Sample


def question_of(sample: Sample, *, name_media: bool = False) -> str:
    """The users' messages and the options; with `name_media`, "[image]" where a medium stands."""
    parts = [part for message in sample.messages if message.role == "user" for part in message.content]
    words = [
        f"[{part.kind}]" if isinstance(part, MediaRef) else part
        for part in parts
        if name_media or isinstance(part, str)
    ]
    options = [f"{chr(ord('A') + index)}. {option}" for index, option in enumerate(sample.options)]
    return "\n".join([*words, *options]).strip()


def references_of(sample: Sample) -> list[str]:
    """The gold answer's alternatives as text, without answer tags; empty where there is none."""
    values = sample.answer if isinstance(sample.answer, (list, tuple)) else [sample.answer]
    texts = [str(value).strip() for value in values if value is not None]
    return [extract_answer(text) or text for text in texts if text]
