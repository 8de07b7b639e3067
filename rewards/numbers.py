"""Reading one number out of a short text: "1,000", "-5.0", "3/4", "\\frac{1}{2}", "2 x 10^3", "50%", "five apples".

Words around the number - units, "about", "There are ..." - are ignored: "5 cm" and "5 mm" are both 5.
Refused on purpose, because they are no single number: "3 or 4", "12:30", "1,5", "1.2.3", "5-6"; because they are
another number than the one that stands there: "5k", "2x", "3!", "sqrt(2)", "log 2", "two thirds"; and "not 2".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmreason.rewards.number_words import RUN, read_words

LONGEST = 2000
"""Characters: a longer text is no number."""
_PLAIN = r"(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)"
_NUMBER = re.compile(
    rf"(?<![\w.,-])(?P<sign>[-+]?)\s?(?:(?P<whole>\d+)\s+(?=\d+/\d))?(?P<top>{_PLAIN})"
    rf"(?:/(?P<bottom>{_PLAIN})|[eE](?P<exponent>[-+]?\d+)|\s?[x*]\s?10\^\{{?(?P<power>[-+]?\d+)\}}?)?"
    r"(?:\s?(?:(?P<percent>%|percent\b)|(?P<scale>hundred|thousand|million|billion|trillion)\b))?",
    re.IGNORECASE,
)
_CLEAN = (
    (re.compile(r"\\(?:left|right|[,!;: ])"), ""),
    (re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r" \1/\2"),
    (re.compile(r"\\[dt]?frac\s*(\d)\s*(\d)"), r" \1/\2"),
    (re.compile(r"\\(?:times|cdot)"), "x"),
    (re.compile(r"\\(?:boxed|text|mathrm|mathbf)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\?([$%])"), r"\1"),
    (re.compile(r"\^?\{?\\(?:circ|degree)\}?"), "\u00b0"),
    (re.compile(r"(mm|cm|km|m|in|ft|yd)\^?\{?[23]\}?(?!\w)"), r"\1"),
    (re.compile(r"\b(?:minus|negative)\s+(?=[\d.])", re.IGNORECASE), "-"),
)
_CHANGED_BEFORE = re.compile(
    r"(?:\b(?:sqrt|log|ln|lg|exp|sin|cos|tan|cot|sec|csc|root\s+of)(?:_\w*)?[\s({]*"  # sqrt(2)
    r"|\b[a-z]\s*[-+*/^(]\s*[({]*"  # x + 2, f(2)
    r"|[\^\u221a\u00b1]\s*[({]*"  # a power, a root, plus-minus
    r"|\b(?:half|third|quarter|twice|double|triple)\s+(?:of\s+)?"
    r"|\b(?:not|never|neither|nor|\w+n['\u2019]t)(?:\s+\w+){0,3}?\s+"  # is not 2, isn't equal to 2
    r"|\bno\s+)$",
    re.IGNORECASE,
)
_CHANGED_AFTER = re.compile(
    r"\s*(?:[\^!]|\+\s*[a-z]|/\s*[a-z]\b|\\(?:sqrt|pi|log))|\s+\*\s*[a-z]|\*[a-z]|\([a-z]\b"  # 5!, 5/x, 5(x + 1)
    r"|\s*[\u5341\u767e\u5343\u4e07\u842c\u4ebf\u5104\u5146]"  # tens to trillions in Chinese and Japanese
    r"|\s+(?:(?-i:[kxyzn])|bn|mn|pi|\u03c0|squared|cubed|factorial|dozens?|hundreds|(?:thou|mill|bill|trill)\w*s)\b"
    r"|[\s-]+(?:half|halves|thirds?|quarters?|(?:four|fif|six|seven|eigh|nin|ten)ths?)\b"
    r"|\s+and\s+(?:an?|one|two|three)\s+(?:half|third|quarter|fourth|fifth)",
    re.IGNORECASE,
)
_UNITS = set(
    "nm um \u00b5m \u03bcm mm cm dm km in ft yd mi mg kg lb lbs oz ml cl dl ms sec secs second seconds min mins minute "
    "minutes hr hrs hour hours day days px pt pts dpi fps hz khz mhz ghz kb mb gb tb kw mw kwh mv kv ma mah ohm ohms "
    "pa kpa hpa mpa bar psi atm kj cal kcal mol rad deg mph kph kmh rpm am pm st nd rd th usd eur gbp rmb".split()
)
_ONE_LETTER_UNITS = set("mgshlLVAWNJCF")
"""As they are written: "5M" is no length, and "5K" is more often thousands than a temperature."""
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
    if len(value) > LONGEST:
        return None
    text = value
    for pattern, replacement in _CLEAN:
        text = pattern.sub(replacement, text)
    text = text.translate(_SAME_CHARACTER)
    match = _NUMBER.search(text)
    return _read_word(text) if match is None else _read_digits(text, match)


def _read_digits(text: str, match: re.Match[str]) -> Number | None:
    before, after = text[: match.start()], text[match.end() :]
    if re.search(r"\d", before + " " + after) or _is_changed(text[: match.start("top")], after):
        return None
    number = _number(lambda: _value(match), percent=match["percent"] is not None)
    said = [run for run in RUN.findall(before + "  " + after) if run.casefold() != "one"]  # "one" is a pronoun, too
    return number if number and all(read_words(run) == number.value for run in said) else None  # "5 (five)"


def _is_changed(before: str, after: str) -> bool:
    """Whether what stands beside a number makes it another one, or denies it."""
    letters = re.match(r"[A-Za-z\u0370-\u03ff\u00b5]+", after)
    is_unit = letters is None or letters[0] in _ONE_LETTER_UNITS or letters[0].casefold() in _UNITS
    changed = _CHANGED_BEFORE.search(before[-80:]) or _CHANGED_AFTER.match(after)
    return not is_unit or changed is not None


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
    """The only number in words, where no digit stands in the text."""
    runs = list(RUN.finditer(text))
    if len(runs) != 1 or re.search(r"\d", text):
        return None
    before, after = text[: runs[0].start()], text[runs[0].end() :]
    value = read_words(runs[0][0])
    if value is None or _is_changed(before, after) or re.match(r"-\w|\s+point\b", after):  # five-star, two point
        return None
    sign = -1 if re.search(r"\b(?:minus|negative)\s+$", before, re.IGNORECASE) else 1
    return Number(float(sign * value), percent=re.match(r"\s*(?:%|percent\b)", after, re.IGNORECASE) is not None)
