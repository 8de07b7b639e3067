"""Values of expressions with + - * / and brackets over whole numbers, exact, without running anything.

sum      = product (("+" | "-") product)*
product  = unit (("*" | "/") unit)*
unit     = whole number | "(" sum ")"
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

LONGEST = 200
"""Characters: a longer text is no expression. It bounds the depth of brackets and the size of numbers."""
_TOKEN = re.compile(r"\s*(\d{1,9}|[-+*/()])")
_SAME = str.maketrans({"\u00d7": "*", "\u00b7": "*", "\u00f7": "/", "\u2212": "-", "[": "(", "]": ")"})


class Expression(NamedTuple):
    """What an expression is worth, and the numbers that stand in it, in order."""

    value: Fraction
    numbers: tuple[int, ...]


def read_expression(text: str) -> Expression | None:
    """The value of "(10 - 4) * 4"; None for what is no expression, too long, or divides by zero."""
    tokens = _tokens(text.translate(_SAME))
    if not tokens:
        return None
    try:
        value, stop = _sum(tokens, 0)
    except (ValueError, IndexError, ZeroDivisionError):
        return None
    numbers = tuple(int(token) for token in tokens if token.isdigit())
    return Expression(value, numbers) if stop == len(tokens) else None


def _tokens(text: str) -> list[str]:
    text, tokens, place = text.strip(), [], 0
    while place < len(text) <= LONGEST:
        match = _TOKEN.match(text, place)
        if match is None:
            return []
        tokens.append(match[1])
        place = match.end()
    return tokens


def _sum(tokens: list[str], place: int) -> tuple[Fraction, int]:
    value, place = _product(tokens, place)
    while place < len(tokens) and tokens[place] in "+-":
        other, after = _product(tokens, place + 1)
        value = value + other if tokens[place] == "+" else value - other
        place = after
    return value, place


def _product(tokens: list[str], place: int) -> tuple[Fraction, int]:
    value, place = _unit(tokens, place)
    while place < len(tokens) and tokens[place] in "*/":
        other, after = _unit(tokens, place + 1)
        value = value * other if tokens[place] == "*" else value / other
        place = after
    return value, place


def _unit(tokens: list[str], place: int) -> tuple[Fraction, int]:
    token = tokens[place]
    if token.isdigit():
        return Fraction(int(token)), place + 1
    if token != "(":
        raise ValueError(f"{token!r} where a number or a bracket should stand")
    value, place = _sum(tokens, place + 1)
    if tokens[place] != ")":
        raise ValueError("a bracket that is not closed")
    return value, place + 1
