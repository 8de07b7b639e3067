"""Conversations that end with the assistant's answer: LLaVA, ShareGPT, LLaMA-Factory, TRL's `messages`.

Sources: `docs/Finetune_Custom_Data.md` of haotian-liu/LLaVA (`image`, `conversations` of from / value); `train.py` of
LLaVA-VL/LLaVA-NeXT (`video`, with <image> in the text); README of om-ai-lab/VLM-R1 (`image` may be a list);
`data/README.md` and `data/mllm_*_demo.json` of hiyouga/LLaMA-Factory (`images`, `videos`, `audios`, `system`,
`messages` of role / content); `docs/source/dataset_formats.md` and `trl/data_utils.py` of huggingface/trl (parts
{"type": "image"} that are filled from `images`).
Tool calls and preference pairs are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmreason.formats.common import (
    MEDIA_KEYS,
    Row,
    checked_gold,
    labels,
    media_columns,
    need,
    refuse,
    spoken_gold,
    with_media,
)

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_REFUSED = {
    "chosen": "preference pairs are not read, expected one answer",
    "rejected": "preference pairs are not read, expected one answer",
    "kto_tag": "rated answers are not read, expected right answers only",
    "tools": "tool calls are not read, expected plain conversations",
}
_USED = ("conversations", "messages", "system", "solution", "answer", "data_source", "source", *MEDIA_KEYS, *_REFUSED)
_NATIVE_ONLY = ("task", "options", "golds", "demos", "meta")


def conversation(row: Row) -> dict[str, Any]:
    """A conversation of from / value or role / content. The last answer is the demo, and the gold where no `solution`
    or `answer` is; earlier ones are context."""
    refuse(row, _REFUSED)
    key = "conversations" if "conversations" in row else "messages"
    given = need(row, key, list, "a list of turns, each with from and value or role and content")
    turns = [_turn(item, f"{key}[{index}]") for index, item in enumerate(given)]
    if row.get("system"):
        turns.insert(0, {"role": "system", "content": row["system"]})
    said = turns.pop()["content"] if turns[-1]["role"] == "assistant" else None
    gold = row.get("solution", row.get("answer"))
    return {
        "messages": with_media(turns, media_columns(row)),
        **({} if said is None else {**spoken_gold(said), "demos": [said_text(said, key)]}),
        **({} if gold is None else checked_gold(gold)),
        **labels(row, _USED),
    }


def is_conversation(row: Row) -> bool:
    """Whether a row with `messages` is one of these, and not of the native schema, which ends with the question."""
    if any(key in row for key in _NATIVE_ONLY):
        return False
    messages = row["messages"]
    last = messages[-1] if isinstance(messages, list) and messages else None
    return any(key in row for key in MEDIA_KEYS) or (isinstance(last, Mapping) and last.get("role") == "assistant")


def said_text(content: Any, where: str) -> str:
    """What an assistant said, as one text. Raises ValueError where it is none."""
    if isinstance(content, list) and all(isinstance(p, Mapping) and p.get("type") == "text" for p in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if isinstance(content, list | int | float):  # VLM-R1 has boxes and numbers as they are
        content = f"<answer>{content}</answer>"
    if not isinstance(content, str) or not content.strip():
        raise ValueError(f"{where}: the last answer is no text, expected what the model should say")
    return content.strip()


def _turn(item: Any, where: str) -> dict[str, Any]:
    if not isinstance(item, Mapping):
        raise ValueError(f"{where}: {item!r:.40}, expected an object with from and value or role and content")
    speaker = item.get("from", item.get("role"))
    if not isinstance(speaker, str) or speaker not in _ROLES:
        raise ValueError(f"{where}: {speaker!r} speaks, expected one of {', '.join(_ROLES)}")
    if "value" not in item and "content" not in item:
        raise ValueError(f"{where}: neither value nor content, expected what was said")
    return {"role": _ROLES[speaker], "content": item.get("value", item.get("content"))}
