"""Reading lists and objects that a model wrote: JSON, Python's notation, and what lies between.

Models quote with ' or ", write tuples for lists, leave a comma at the end, put everything into a code fence. One small
parser takes it all; it needs time in proportion to the text, whatever the text is, and never looks deeper than DEPTH.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

LONGEST = 50_000
"""Characters: nothing is read of a longer text."""
DEPTH = 8
NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"

_TOKEN = re.compile(
    rf"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<number>{NUMBER})|(?P<word>\w+)|(?P<mark>[\[\](){{}},:]))""",
    re.DOTALL,
)
_CLOSING = {"[": "]", "(": ")", "{": "}"}
_WORDS = {"none": None, "null": None, "true": True, "false": False}


class CutOff(ValueError):
    """The text ends before the value does."""


def read_value(text: str, *, repair: bool = False) -> tuple[Any, str]:
    """The list or object that begins at the first bracket of the text, and the text that follows it.

    Tuples are lists; numbers are floats. `repair`: of an outermost list that is cut off, the elements that are whole.
    Raises ValueError where there is no such value.
    """
    start = re.search(r"[\[{(]", text)
    if start is None or len(text) > LONGEST:
        raise ValueError("no list or object")
    reader = _Reader(text, start.start(), repair)
    value = reader.value(0)
    return value, text[reader.place :]


def fenced(text: str) -> str | None:
    """Content of the last code fence, without the name of its language; None where there is none that is closed."""
    pieces = text.split("```")
    if len(pieces) < 3:
        return None
    return re.sub(r"^[A-Za-z]+\s*(?=[\[{(\n])", "", pieces[-2 if len(pieces) % 2 else -3])


class _Reader:
    """One pass over the text."""

    def __init__(self, text: str, place: int, repair: bool) -> None:
        self.text, self.place, self.repair = text, place, repair

    def token(self) -> tuple[str, str]:
        """(kind, text) of the next token."""
        found = _TOKEN.match(self.text, self.place)
        if found is None:
            rest = self.text[self.place :].strip()
            # a quotation mark that starts no string: its end is missing
            raise CutOff("cut off") if not rest or rest[0] in "\"'" else ValueError(f"unexpected {rest[:10]!r}")
        self.place = found.end()
        assert found.lastgroup is not None
        return found.lastgroup, found[found.lastgroup]

    def value(self, depth: int) -> Any:
        return self.value_of(*self.token(), depth)

    def value_of(self, kind: str, token: str, depth: int) -> Any:
        if kind == "text":
            return re.sub(r"\\(.)", r"\1", token[1:-1], flags=re.DOTALL)
        if kind == "number":
            return float(token)
        if kind == "word":
            if token.lower() not in _WORDS:
                raise ValueError(f"unexpected {token[:10]!r}")
            return _WORDS[token.lower()]
        if token not in _CLOSING or depth >= DEPTH:
            raise ValueError(f"unexpected {token!r}")
        items = self.elements(token, depth)
        return dict(items) if token == "{" else list(items)

    def elements(self, opening: str, depth: int) -> Iterator[Any]:
        """What stands between brackets: elements, or pairs of key and value."""
        try:
            while True:
                kind, token = self.token()
                if token == _CLOSING[opening] and kind == "mark":
                    return
                if opening == "{":
                    yield self.key(kind, token), self.value(depth + 1)
                else:
                    yield self.value_of(kind, token, depth + 1)
                kind, token = self.token()
                if kind == "mark" and token == _CLOSING[opening]:
                    return
                if token != ",":
                    raise ValueError(f"unexpected {token[:10]!r}")
        except CutOff:
            if not (self.repair and depth == 0 and opening == "["):
                raise

    def key(self, kind: str, token: str) -> str:
        if kind not in ("text", "word") or self.token()[1] != ":":
            raise ValueError(f"{token[:10]!r} is no key")
        return token.strip("\"'")
