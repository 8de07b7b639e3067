"""Reading one number out of a short text: "1,000", "-5.0", "3/4", "\\frac{1}{2}", "2 x 10^3", "50%", "five apples".

Words around the number - units, "about", "There are ..." - are ignored: "5 cm" and "5 mm" are both 5.
Refused on purpose, because they are no single number: "3 or 4", "12:30", "1,5", "1.2.3", "5-6".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
).split()

_PLAIN = r"(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)"
_NUMBER = re.compile(
    rf"(?<![\w.,-])(?P<sign>[-+]?)\s?(?:(?P<whole>\d+)\s+(?=\d+/\d))?(?P<top>{_PLAIN})"
    rf"(?:/(?P<bottom>{_PLAIN})|[eE](?P<exponent>[-+]?\d+)|\s?[x*]\s?10\^\{{?(?P<power>[-+]?\d+)\}}?)?"
    r"\s?(?:(?P<percent>%|percent\b)|(?P<scale>hundred|thousand|million|billion|trillion)\b)?",
    re.IGNORECASE,
)
_CLEAN = (
    (re.compile(r"\\(?:left|right|[,!;: ])"), ""),
    (re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r" \1/\2"),
    (re.compile(r"\\[dt]?frac\s*(\d)\s*(\d)"), r" \1/\2"),
    (re.compile(r"\\(?:times|cdot)"), "x"),
    (re.compile(r"\\(?:boxed|text|mathrm|mathbf)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\?([$%])"), r"\1"),
    (re.compile(r"(mm|cm|km|m|in|ft|yd)\^?\{?[23]\}?(?!\w)"), r"\1"),
    (re.compile(r"\b(?:minus|negative)\s+(?=[\d.])", re.IGNORECASE), "-"),
)
_SCALES = {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_SAME_CHARACTER = str.maketrans(  # minus, en dash, times; no-break, narrow and thin spaces
    {"\u2212": "-", "\u2013": "-", "\u00d7": "x", "\u00a0": " ", "\u202f": " ", "\u2009": " ", "$": " "}
)


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it was written. Example: "50 %" is Number(50.0, percent=True)."""

    value: float
    percent: bool = False


def read_number(value: Any) -> Number | None:
    """The only number of a text (or a plain int or float); None where there is none, or more than one."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return _number(lambda: float(value))
    if not isinstance(value, str):
        return None
    text = value
    for pattern, replacement in _CLEAN:
        text = pattern.sub(replacement, text)
    text = text.translate(_SAME_CHARACTER)
    match = _NUMBER.search(text)
    if match is None:
        return _read_word(text)
    rest = text[: match.start()] + " " + text[match.end() :]
    if re.search(r"\d", rest):
        return None
    return _number(lambda: _value(match), percent=match["percent"] is not None)


def same_number(answer: Number, gold: Number, rel_tol: float) -> bool:
    """Equal up to `rel_tol`. With a percent sign on one side only, "50%" equals both 50 and 0.5."""
    pairs = [(answer.value, gold.value)]
    if answer.percent and not gold.percent:
        pairs.append((answer.value / 100, gold.value))
    if gold.percent and not answer.percent:
        pairs.append((answer.value, gold.value / 100))
    return any(math.isclose(left, right, rel_tol=rel_tol, abs_tol=1e-12) for left, right in pairs)


def _value(match: re.Match[str]) -> float:
    value = float(match["top"].replace(",", ""))
    if match["bottom"]:
        value /= float(match["bottom"].replace(",", ""))
    exponent = match["exponent"] or match["power"]
    if exponent:
        value *= 10.0 ** int(exponent)
    value += float(match["whole"] or 0)
    value *= _SCALES[match["scale"].casefold()] if match["scale"] else 1.0
    return -value if match["sign"] == "-" else value


def _number(read: Callable[[], float], percent: bool = False) -> Number | None:
    try:
        value = read()
    except (OverflowError, ZeroDivisionError, ValueError):
        return None
    return Number(value, percent) if math.isfinite(value) else None


def _read_word(text: str) -> Number | None:
    found = [word for word in re.findall(r"[a-z]+", text.casefold()) if word in _WORDS]
    return Number(float(_WORDS.index(found[0]))) if len(found) == 1 and not re.search(r"\d", text) else None
