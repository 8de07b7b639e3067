"""What the adapters share: media at their tags, gold answers, and the rest of a row."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from mmreason.rewards.base import extract_answer
from mmreason.rewards.boxes import read_items
from mmreason.row_checks import kind_of

Row = Mapping[str, Any]
"""A row as the data file has it, without nulls."""

KINDS = ("image", "video", "audio")
_TAGS = re.compile(r"(<image>|<video>|<audio>)")
_LETTER = re.compile(r"\(?[A-Z]\)?\.?")
_NUMBER = re.compile(r"[-+]?(\d[\d,]*\.?\d*|\.\d+)\s*%?")
_FORMULA = re.compile(r"[\d\\$^=+*/{}<>]")


def need(row: Row, key: str, kind: type, expected: str) -> Any:
    """`row[key]`, which must be of this type and not empty. Raises ValueError."""
    value = row.get(key)
    if not isinstance(value, kind) or not value:
        raise ValueError(f"{key}: {kind_of(value)}, expected {expected}")
    return value


def refuse(row: Row, reasons: Mapping[str, str]) -> None:
    """Raise ValueError when the row has something under a key that no adapter understands."""
    for key, reason in reasons.items():
        if row.get(key) not in (None, "", [], {}):
            raise ValueError(f"{key}: {reason}")


def labels(row: Row, used: Collection[str]) -> dict[str, Any]:
    """`source` from data_source or source, and every key that was not used in `meta`, where rewards find it.

    An id goes there as well: in these data sets ids repeat, and file:line does not.
    """
    source = row.get("data_source", row.get("source"))
    found: dict[str, Any] = {"meta": {key: value for key, value in row.items() if key not in used}}
    return {**found, "source": source} if isinstance(source, str) and source else found


# ---- media


def media_columns(row: Row) -> dict[str, list[dict[str, Any]]]:
    """Kind -> media parts of the columns image(s), video(s) and audio(s), each a value or a list."""
    found = {}
    for kind in KINDS:
        names = [name for name in (kind, f"{kind}s") if row.get(name, []) != []]
        if len(names) == 2:
            raise ValueError(f"{kind} and {kind}s are both given, expected one of them")
        if names:
            value = row[names[0]]
            found[kind] = [media_part(kind, item) for item in (value if isinstance(value, list) else [value])]
    return found


MEDIA_KEYS = tuple(name for kind in KINDS for name in (kind, f"{kind}s"))


def media_part(kind: str, item: Any) -> dict[str, Any]:
    """A path or {bytes, path} as a typed part; {"video": path, "fps": ..} keeps its options."""
    return {**item, "type": kind} if isinstance(item, Mapping) and kind in item else {"type": kind, kind: item}


def with_media(messages: list[dict[str, Any]], media: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The messages with media in the place of <image>, <video> and <audio>, or of parts such as {"type": "image"}.

    Media of a kind without any such place go before the text of the first user message. Raises ValueError where
    media and places differ in number.
    """
    messages = [{**message, "content": _split(message.get("content"))} for message in messages]
    places = {kind: [part for part in _parts(messages) if part == {"type": kind}] for kind in KINDS}
    if _says_image_for_video(places, media):
        for part in places["image"]:
            part["type"] = "video"
        places = {**places, "video": places["image"], "image": []}
    front = []
    for kind in KINDS:
        items = media.get(kind, [])
        if not places[kind]:
            front += items
        elif len(items) != len(places[kind]):
            raise ValueError(f"{kind}: {len(items)} given for {len(places[kind])} places in the text, expected as many")
        else:
            for part, item in zip(places[kind], items, strict=True):
                part.update(item)
    return _in_front(messages, front)


def _split(content: Any) -> Any:
    """Text with tags as a list of parts; parts are copied, because the places among them are filled in."""
    if isinstance(content, list):
        return [dict(part) if isinstance(part, Mapping) else part for part in content]
    if not isinstance(content, str) or not _TAGS.search(content):
        return content
    pieces = [piece for piece in _TAGS.split(content) if piece]
    return [{"type": p[1:-1]} if _TAGS.fullmatch(p) else {"type": "text", "text": p} for p in pieces]


def _parts(messages: list[dict[str, Any]]) -> list[Any]:
    return [part for message in messages if isinstance(message["content"], list) for part in message["content"]]


def _says_image_for_video(places: Mapping[str, list[Any]], media: Mapping[str, list[Any]]) -> bool:
    """LLaVA-NeXT writes <image> where its videos stand."""
    videos, images = media.get("video", []), media.get("image", [])
    return bool(videos) and not images and not places["video"] and len(places["image"]) == len(videos)


def _in_front(messages: list[dict[str, Any]], front: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not front:
        return messages
    first = next((message for message in messages if message.get("role") == "user"), None)
    if first is None:
        raise ValueError("no message of the user, expected one that the media belong to")
    content = first["content"]
    if isinstance(content, str):
        first["content"] = [*front, {"type": "text", "text": content}]
    elif isinstance(content, list):
        first["content"] = front + content
    return messages  # without content the native parser refuses it


# ---- gold answers


def answer_text(value: Any) -> Any:
    """What stands in the last <answer>...</answer>, or the whole text without white space around it."""
    return (extract_answer(value) or value.strip()) if isinstance(value, str) else value


def checked_gold(value: Any) -> dict[str, Any]:
    """answer, task and golds for the gold of a data set with verifiable answers.

    A capital letter alone is `mcq`; text with a digit or a formula's signs is `math`, as its trainers grade it; plain
    words are `exact`; true and false are `yes_no`, other numbers `numeric`. Four numbers are a box; an object goes to
    `golds`, for a reward that knows it. Text with a list of objects with boxes is `detection`.
    """
    value = answer_text(value)
    if isinstance(value, str):
        if _holds_boxes(value):
            return {"answer": value, "task": "detection"}
        task = "mcq" if _LETTER.fullmatch(value) else "math" if _FORMULA.search(value) else "exact"
        return {"answer": value, "task": task}
    if isinstance(value, bool):
        return {"answer": "yes" if value else "no", "task": "yes_no"}
    if isinstance(value, int | float):
        return {"answer": value, "task": "numeric"}
    if isinstance(value, list) and len(value) == 4 and all(isinstance(item, int | float) for item in value):
        return {"golds": {"box": value}, "task": "grounding"}
    return {"golds": dict(value)} if isinstance(value, Mapping) else {"answer": value}


def spoken_gold(value: Any) -> dict[str, Any]:
    """The same for what an assistant said: a letter, a number, yes or no, a word, or a text that is compared word by
    word."""
    value = answer_text(value)
    if not isinstance(value, str):
        return checked_gold(value)
    return {"answer": value, "task": _spoken_task(value)}


def _holds_boxes(text: str) -> bool:
    """Whether it is a list of objects, each with a box, as in the data of Visual-RFT and VLM-R1."""
    items = read_items(text) if "{" in text else None
    return bool(items) and all(item.box is not None for item in items or ())


def _spoken_task(text: str) -> str:
    if _holds_boxes(text):
        return "detection"
    if _LETTER.fullmatch(text):
        return "mcq"
    if _NUMBER.fullmatch(text):
        return "numeric"
    if text.lower().rstrip(".") in ("yes", "no"):
        return "yes_no"
    return "free_form" if len(text.split()) > 1 else "exact"  # a word alone has no ROUGE-2
