"""Which option of a multiple-choice question an answer names.

Understood: "B", "b", "(B)", "B.", "B) green", "B. green", "B: green", "Answer: B", "The correct option is (B).",
"B is correct", "\\boxed{B}", "**B**", and an option's own text ("green").
No answer: nothing, several letters ("A or B", "A, C"), a letter that is not offered, a letter with another option's
text ("B. red" where A is red), any longer prose, and a text of more than LONGEST characters. Options after the 26th
have no letter; they are named by their text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

LONGEST = 2000
"""Characters: a longer text names no option."""
_LEAD = re.compile(
    r"(?:the|my|final|correct|right|best|answer|option|choice|letter|is|it|i|think|believe|should\s+be|would\s+be|so|"
    r"therefore|thus)\b[\s:=,*_]*",
    re.IGNORECASE,
)
_TAIL = re.compile(
    r"\s+(?:is|seems|looks)\s+(?:the\s+)?(?:correct|right|best)(?:\s+(?:answer|option|choice))?$", re.IGNORECASE
)
_LETTER_ALONE = re.compile(r"\(?\s*([A-Za-z])\s*\)?")
_LETTER_FIRST = re.compile(r"(?:\(\s*([A-Za-z])\s*\)\s*[.:,]?|([A-Za-z])\s*[).:,;-])\s*(.*)", re.DOTALL)
_LETTER_WORD = re.compile(r"([A-Z])\s+(.*)", re.DOTALL)
_AROUND = " *_`$\"'"
# A capital that stands alone names an option, but "A" before a lower-case word is the article.
_NAMED = re.compile(r"\b([B-Z]|A(?!\s+(?!(?:or|and)\b)[a-z]))\b")


def read_choice(text: str, options: Sequence[str]) -> str | None:
    """The capital letter that the text names, or None. Without options, any letter from A to Z is on offer.

    Options after the 26th are named by the characters that follow Z; no text that spells those names them.
    """
    if len(text) > LONGEST:
        return None
    known = [plain(option, index) for index, option in enumerate(options)]
    rest = _trim(text)
    while True:
        letter = _read(rest, known)
        lead = _LEAD.match(rest)
        if letter is not None or lead is None:
            return letter
        rest = rest[lead.end() :]


def _read(text: str, known: Sequence[str]) -> str | None:
    """A letter, a letter with something behind it, or an option's text. A lone letter is a letter first."""
    text = _TAIL.sub("", text.rstrip(" .!")).strip(_AROUND)
    if match := _LETTER_ALONE.fullmatch(text):
        return _offered(match[1], known) or _by_text(text, known)
    if letter := _by_text(text, known):
        return letter
    if match := _LETTER_FIRST.fullmatch(text):
        return _letter_with_rest(match[1] or match[2], match[3], known)
    match = _LETTER_WORD.fullmatch(text)
    return match[1] if match and _by_text(match[2], known) == match[1] else None


def plain(option: str, index: int) -> str:
    """An option's text without its own letter: "B. green" at index 1 is "green"."""
    letter = re.escape(chr(ord("A") + index))
    return _key(re.sub(rf"^\s*\(?{letter}[).:]\s*", "", option))


def _trim(text: str) -> str:
    wrapped = ""
    while text != wrapped:  # \boxed{\text{B}}, from the inside out
        wrapped, text = text, re.sub(r"\\(?:boxed|text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", text)
    return " ".join(text.split()).strip(_AROUND)


def _key(text: str) -> str:
    return " ".join(text.split()).strip(" .,;:*_`\"'").casefold()


def _offered(letter: str, known: Sequence[str]) -> str | None:
    letter = letter.upper()
    return letter if not known or ord(letter) - ord("A") < len(known) else None


def _by_text(text: str, known: Sequence[str]) -> str | None:
    """The letter of the only option with this text."""
    found = [index for index, option in enumerate(known) if option and option == _key(text)]
    return chr(ord("A") + found[0]) if len(found) == 1 else None


def _letter_with_rest(letter: str, rest: str, known: Sequence[str]) -> str | None:
    """For "B) green": the letter stands unless the rest is another option's text or names another letter."""
    letter = letter.upper()
    if _offered(letter, known) is None:
        return None
    named = _by_text(rest, known)
    if named is not None:
        return letter if named == letter else None
    others = {other for other in _NAMED.findall(rest) if other != letter and _offered(other, known)}
    return None if others else letter
