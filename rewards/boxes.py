"""Boxes and points with labels and confidences, in whatever way a model or a data set writes them.

    [{"bbox_2d": [10, 20, 30, 40], "label": "cat"}]             Qwen2.5-VL and Qwen3-VL, also with point_2d
    [{'Position': [10, 20, 30, 40], 'Confidence': 0.9}]         Visual-RFT
    <|object_ref_start|>cat<|object_ref_end|><|box_start|>(10,20),(30,40)<|box_end|>        Qwen2-VL
    [[10, 20, 30, 40], [50, 60, 70, 80]]   [10, 20, 30, 40]   (10, 20), (30, 40)            anything

Numbers stay as they were written: frames.py knows what they mean.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmreason.rewards.notation import LONGEST, NUMBER, fenced, read_value

Corners = tuple[float, float, float, float]
"""x1, y1, x2, y2 as they were written."""
Point = tuple[float, float]

LARGEST = 1e9
BOX_KEYS = ("bbox_2d", "bbox", "box_2d", "box", "position")
LABEL_KEYS = ("label", "name", "category", "class")
CONFIDENCE_KEYS = ("confidence", "score")

_N = rf"\s*({NUMBER})\s*"
_BOXES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"\[{_N},{_N},{_N},{_N}\]",
        rf"\({_N},{_N},{_N},{_N}\)",
        rf"\({_N},{_N}\)\s*,?\s*\({_N},{_N}\)",
        rf"\[\s*\[{_N},{_N}\]\s*,\s*\[{_N},{_N}\]\s*\]",
    )
)
_POINT = re.compile(rf"[\[(]{_N},{_N}[\])]")
_NAME = re.compile(r"<\|object_ref_start\|>([^<]*)<\|object_ref_end\|>")
_NONE = re.compile(r"(?:\[\s*\]|\{\s*\}|none|null|no objects?(?: found)?)\.?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing of a list: what of box, points, label and confidence was said in a usable way."""

    box: Corners | None = None
    points: tuple[Point, ...] = ()
    label: str | None = None
    confidence: float | None = None


def read_items(answer: str, *, repair: bool = False, fence: bool = False) -> list[Item] | None:
    """The list that an answer holds; [] for "None", "No Objects" or an empty list; None where there is no list.

    A code fence is looked into, a lone object is a list of one, an element without a usable place is an Item with
    nothing in it. `repair`: of a list that is cut off, the whole elements count (Visual-RFT). `fence`: a list outside
    of a code fence does not count (VLM-R1).
    """
    if len(answer) > LONGEST:
        return None
    inside = fenced(answer)
    text = (inside if inside is not None else answer).strip()
    if _NONE.fullmatch(text):
        return []
    if inside is None and fence:
        return None
    try:
        value, rest = read_value(text, repair=repair)
        if not re.search(r"[\[({]", rest) and "<|" not in text:
            return items_of(value)
    except ValueError:
        pass
    return None if "{" in text else _boxes_in_prose(text)


def items_of(value: Any) -> list[Item]:
    """The same for a value that is read already, such as a gold. Four numbers are one box, two are one point."""
    if isinstance(value, Mapping):
        return _of_mapping(value)
    if (corners := _numbers(value, 4)) is not None:
        return [Item(box=(corners[0], corners[1], corners[2], corners[3]))]
    if (pair := _numbers(value, 2)) is not None:
        return [Item(points=((pair[0], pair[1]),))]
    if not isinstance(value, Sequence) or isinstance(value, str):
        return [Item()]
    return [item for element in value for item in items_of(element)]


def find_boxes(text: str) -> list[Corners]:
    """Every box of four numbers in a text, in its order, however it is written."""
    found = [(match.start(), match.groups()) for pattern in _BOXES for match in pattern.finditer(text)]
    return [(float(a), float(b), float(c), float(d)) for _, (a, b, c, d) in sorted(found)]


def find_points(text: str) -> list[Point]:
    """Every pair (x, y) or [x, y] in a text, in its order."""
    return [(float(x), float(y)) for x, y in _POINT.findall(text)]


def read_points(answer: str) -> list[Point] | None:
    """The points that an answer holds; None where there is none."""
    items = read_items(answer)
    points = [point for item in items or () for point in item.points]
    return points or find_points(answer[:LONGEST]) or None


def is_proper(box: Corners) -> bool:
    """With an area, x1 < x2 and y1 < y2, and of numbers up to LARGEST: areas of others are not finite."""
    return all(abs(n) <= LARGEST for n in box) and box[0] < box[2] and box[1] < box[3]


def _of_mapping(value: Mapping[Any, Any]) -> list[Item]:
    keys = {str(key).lower(): content for key, content in value.items()}
    points = [point for key, content in keys.items() if "point" in key for point in _points(content)]
    box = next((_numbers(keys[name], 4) for name in BOX_KEYS if name in keys), None)
    if len(value) == 1 and _holds_things(only := next(iter(value.values()))):
        return items_of(only)  # {"objects": [...]}
    label = next((keys[name] for name in LABEL_KEYS if isinstance(keys.get(name), str)), None)
    confidence = next((keys[name] for name in CONFIDENCE_KEYS if _is_number(keys.get(name))), None)
    corners = None if box is None else (box[0], box[1], box[2], box[3])
    return [Item(box=corners, points=tuple(points), label=label, confidence=confidence)]


def _holds_things(value: Any) -> bool:
    """Whether it is a list of objects or boxes, and not of numbers, nor of two numbers each."""
    if not isinstance(value, (list, tuple)):
        return False
    return all(isinstance(item, Mapping) or _numbers(item, 4) is not None for item in value)


def _points(value: Any) -> list[Point]:
    pair = _numbers(value, 2)
    if pair is not None:
        return [(pair[0], pair[1])]
    pairs = [_numbers(item, 2) for item in value] if isinstance(value, (list, tuple)) else []
    return [(pair[0], pair[1]) for pair in pairs if pair is not None]


def _boxes_in_prose(text: str) -> list[Item] | None:
    """Boxes between words, with the names that Qwen2-VL puts before them."""
    names = [(match.start(), match[1].strip()) for match in _NAME.finditer(text)]
    found = sorted((match.start(), match.groups()) for pattern in _BOXES for match in pattern.finditer(text))
    items: list[Item] = []
    at = 0
    for place, (a, b, c, d) in found:
        while at < len(names) and names[at][0] < place:
            at += 1
        items.append(Item(box=(float(a), float(b), float(c), float(d)), label=names[at - 1][1] if at else None))
    return items or None


def _numbers(value: Any, count: int) -> Sequence[float] | None:
    usual = isinstance(value, (list, tuple)) and len(value) == count and all(_is_number(item) for item in value)
    return value if usual else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
