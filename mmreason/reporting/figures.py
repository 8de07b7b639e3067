"""Previews (`reporting.previews`) as HTML. What gallery.jsonl holds is checked: anyone may have written it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from mmreason.reporting.logs import as_float

_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_TYPES = ("png", "webp")
_MOST_BYTES = 40_000
"""Of one encoded picture in base64; longer ones were not made by us."""
_SMALL = 120
"""Pixels: pictures with shorter sides are enlarged by whole factors."""
_MOST_BARS = 400
_MOST_PICTURES = 12
_MOST_ITEMS = 8
_LONGEST = 300
"""Characters of a file's name that are shown."""


def media_figures(group: Mapping[str, Any]) -> str:
    """All media of a gallery record that have a preview; those that have none are named or counted."""
    items = group.get("media")
    found = [item for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []
    more = as_float(group.get("more_media"))
    hidden = max(0, len(found) - _MOST_ITEMS) + (int(more) if 0 < more < 1e6 else 0)
    note = f"<div class='media missing'><small>and {hidden} more</small></div>" if hidden else ""
    shown = "".join(_figure(item) for item in found[:_MOST_ITEMS]) + note
    return f"<div class='items'>{shown}</div>" if shown else ""


def _figure(item: Mapping[str, Any]) -> str:
    name = str(item.get("name") or item.get("path") or item.get("kind"))[:_LONGEST]
    pictures = _pictures(item, name)
    pitch = _picture(item.get("spectrogram"), f"spectrogram of {name}", enlarge=False)
    sound = _wave(item.get("wave")) + pitch
    if not pictures and not sound:
        problem = str(item.get("problem") or "no preview was kept")[:_LONGEST]
        return f"<div class='media missing'><small>{escape(name)}: cannot be shown: {escape(problem)}</small></div>"
    facts = [f"{len(pictures)} frames in order"] if len(pictures) > 1 else []
    if sound:
        facts.append(f"{as_float(item.get('seconds')):.2f} s of sound: loudness{', and pitch over time' * bool(pitch)}")
    film = f"<div class='film'>{''.join(pictures)}</div>" if pictures else ""
    return f"<div class='media'>{film}{sound}<small>{escape(', '.join([name, *facts]))}</small></div>"


def _pictures(item: Mapping[str, Any], name: str) -> list[str]:
    pictures = item.get("pictures")
    shown = []
    for one in pictures[:_MOST_PICTURES] if isinstance(pictures, list) else []:
        at = as_float(one.get("at")) if isinstance(one, Mapping) else math.nan
        shown.append(_picture(one, f"{name} at {at:.2f} s" if math.isfinite(at) else name, enlarge=True))
    return [one for one in shown if one]


def _picture(value: object, name: str, *, enlarge: bool) -> str:
    """An `img` whose source is the picture itself, or nothing when the value is no preview."""
    if not isinstance(value, Mapping):
        return ""
    data, kind, size = value.get("data"), value.get("type"), value.get("size")
    if kind not in _TYPES or not isinstance(data, str) or len(data) > _MOST_BYTES or not _BASE64.fullmatch(data):
        return ""
    width, height = _size(size)
    factor = max(1, _SMALL // max(width, height)) if enlarge else 1
    shape = f"width='{width * factor}' height='{height * factor}'" + " class='pixels'" * (factor > 1)
    name = escape(name, quote=True)
    return f"<img src='data:image/{kind};base64,{data}' {shape} alt=\"{name}\" title=\"{name}\" decoding='async'>"


def _size(value: object) -> tuple[int, int]:
    sides = [as_float(one) for one in value] if isinstance(value, Sequence) and not isinstance(value, str) else []
    if len(sides) != 2 or not all(1 <= side <= 4000 for side in sides):
        return _SMALL, _SMALL
    return int(sides[0]), int(sides[1])


def _wave(bars: object) -> str:
    """Highest and lowest values, -100 to 100, as a drawing."""
    pairs = [bar for bar in bars if isinstance(bar, list) and len(bar) == 2] if isinstance(bars, list) else []
    places = []
    for index, (top, bottom) in enumerate(pairs[:_MOST_BARS]):
        ends = [40 - 0.36 * as_float(end) for end in (top, bottom)]
        if all(0 <= end <= 80 for end in ends):
            places.append(f"M{2 * index + 1} {ends[0] - 0.5:.1f}V{ends[1] + 0.5:.1f}")
    if not places:
        return ""
    box = f"viewBox='0 0 {2 * len(pairs)} 80' preserveAspectRatio='none' role='img' aria-label='waveform'"
    return f"<svg class='wave' {box}><path d='{''.join(places)}'/></svg>"
