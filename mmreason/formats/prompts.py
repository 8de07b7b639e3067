"""A prompt with a gold answer in a column of its own: EasyR1, verl, TRL.

Sources: `verl/utils/dataset.py` and `examples/config.yaml` of hiyouga/EasyR1, and its data set hiyouga/geometry3k
(`problem`, `answer`, `images`); `docs/preparation/prepare_data.rst`, `examples/data_preprocess/geo3k.py` and
`verl/utils/dataset/rl_dataset.py` of volcengine/verl; `docs/source/dataset_formats.md`, `trl/data_utils.py` and
`trl/trainer/grpo_trainer.py` (`image` or `images`) of huggingface/trl.
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
from mmreason.formats.conversations import conversation, said_text

_REFUSED = {
    "label": "rated answers are not read, expected right answers only",
    "completions": "stepwise supervision is not read, expected prompt and completion",
    "tools": "tool calls are not read, expected plain conversations",
}

_PAIR = ("chosen", "rejected")


def easyr1(row: Row) -> dict[str, Any]:
    """`problem` with <image> or <video>, `images` or `videos`, `answer`."""
    question = {"role": "user", "content": need(row, "problem", str, "the question")}
    if row.get("answer") in (None, ""):
        raise ValueError("answer: missing, expected the gold answer")
    return {
        "messages": with_media([question], media_columns(row)),
        **checked_gold(row["answer"]),
        **labels(row, ("problem", "answer", "data_source", "source", *MEDIA_KEYS)),
    }


def verl(row: Row) -> dict[str, Any]:
    """`prompt` as messages (or text), media at their tags, the gold in `reward_model.ground_truth`."""
    gold = need(row, "reward_model", Mapping, 'an object such as {"style": "rule", "ground_truth": "5"}')
    if gold.get("ground_truth") in (None, ""):
        raise ValueError("reward_model.ground_truth: missing, expected the gold answer")
    return {
        "messages": with_media(_prompt(row), media_columns(row)),
        **checked_gold(gold["ground_truth"]),
        **labels(row, ("prompt", "reward_model", "data_source", *MEDIA_KEYS)),
    }


def trl(row: Row) -> dict[str, Any]:
    """`prompt`, with `completion` (a demo), `chosen` and `rejected` (a pair), or `solution` / `answer` (the gold), or
    none of them; or `messages`."""
    refuse(row, _REFUSED)
    if "messages" in row:
        return conversation(row)
    native: dict[str, Any] = {"messages": with_media(_prompt(row), media_columns(row))}
    if "completion" in row:
        said = _completion(row["completion"])
        native |= {**spoken_gold(said), "demos": [said]}
    if "chosen" in row or "rejected" in row:
        native["pairs"] = [{side: _completion(row.get(side), side) for side in _PAIR}]
    gold = row.get("solution", row.get("answer"))
    native |= {} if gold is None else checked_gold(gold)
    return native | labels(
        row, ("prompt", "completion", *_PAIR, "solution", "answer", "data_source", "source", *MEDIA_KEYS, *_REFUSED)
    )


def _prompt(row: Row) -> list[dict[str, Any]]:
    prompt = row.get("prompt")
    if isinstance(prompt, str) and prompt.strip():
        return [{"role": "user", "content": prompt}]
    messages: list[Any] = need(row, "prompt", list, "text or a list of messages with role and content")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise ValueError(f"prompt[{index}]: {message!r:.40}, expected an object with role and content")
    return [dict(message) for message in messages]


def _completion(given: Any, name: str = "completion") -> str:
    if isinstance(given, list):
        if len(given) != 1 or not isinstance(given[0], Mapping) or given[0].get("role") != "assistant":
            raise ValueError(f"{name}: expected exactly one message, the assistant's")
        given = given[0].get("content")
    return said_text(given, name)
