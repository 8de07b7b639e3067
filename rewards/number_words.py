"""Numbers in English words: "five", "twenty-five", "one hundred and twenty", "two million".

A number is a run of number words. A run that is no number ("one two", "twenty eleven") is not read in parts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

_SMALL = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen".split()
    )
}
_TENS = {
    word: 10 * value
    for value, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2)
}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_LARGE = ("hundred", *_SCALES)
_WORD = "|".join((*_SMALL, *_TENS, *_LARGE))
RUN = re.compile(
    rf"\b(?:an?\s+(?=(?:{'|'.join(_LARGE)})\b))?(?:{_WORD})\b(?:(?:\s+and\s+|[\s-]+)(?:{_WORD})\b)*", re.IGNORECASE
)
"""Number words side by side, with "and" or hyphens between them."""


def read_words(run: str) -> int | None:
    """The value of a run of number words; None where they are no single number."""
    words = [word if word not in ("a", "an") else "one" for word in re.split(r"[\s-]+", run.casefold())]
    if any(word == "and" and before not in _LARGE for before, word in pairwise(words)):
        return None
    return _value([word for word in words if word != "and"])


def _value(words: Sequence[str]) -> int | None:
    """By the largest scale: what stands before it is multiplied, what stands behind is smaller than it and added."""
    for scale, factor in reversed(_SCALES.items()):
        if scale in words:
            at = words.index(scale)
            high, low = _below_thousand(words[:at]), _value(words[at + 1 :]) if words[at + 1 :] else 0
            return high * factor + low if high and low is not None and low < factor else None
    return _below_thousand(words)


def _below_thousand(words: Sequence[str]) -> int | None:
    """Also "fifteen hundred"."""
    if "hundred" not in words:
        return _below_hundred(words)
    at = words.index("hundred")
    high, low = _below_hundred(words[:at]), _below_hundred(words[at + 1 :]) if words[at + 1 :] else 0
    return high * 100 + low if high and low is not None else None


def _below_hundred(words: Sequence[str]) -> int | None:
    if len(words) == 1:
        return _SMALL.get(words[0], _TENS.get(words[0]))
    if len(words) == 2 and words[0] in _TENS and 0 < _SMALL.get(words[1], 0) < 10:
        return _TENS[words[0]] + _SMALL[words[1]]
    return None
