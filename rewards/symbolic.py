"""Mathematical answers, through math-verify (https://github.com/huggingface/Math-Verify).

math-verify's own time-out uses SIGALRM, which works in a main thread only; it is switched off here, and the deadline
of the reward worker takes its place. A few patterns of formulas that sympy would work on for ever (9^{9^9},
99999999!) are not read at all, so that one such answer does not cost its group.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from mmreason.rewards.base import slow_import

_FUNCTIONS = {"sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "sqrt", "max", "min", "lim", "det", "mod", "gcd"}
_MARKED = re.compile(r"\$|\\\(|\\\[|\\boxed|\\begin")
_ENDLESS = re.compile(
    r"\d\s*\^\s*\{?\s*\d+\s*\^"  # a tower of numbers
    r"|\^\s*\{?\s*[-+]?\d{5,}"  # a power from 10000
    r"|[)}]\s*\^\s*\{?\s*\d{4,}"  # a bracket to a power from 1000
    r"|\d{5,}\s*!"
)
LONGEST = 2000
"""Characters: a longer text is no formula."""
_TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|mathbf|operatorname)\s*\{[^{}]*\}|\\[A-Za-z]+")


def parse_math(text: str) -> list[Any]:
    """The expressions that math-verify reads in the text; empty where it reads none.

    Text without $ or \\boxed is taken as one formula, "2\\sqrt{3}" or "x^2+1", unless it is prose ("There are 5").
    """
    if len(text) > LONGEST or _ENDLESS.search(text):
        return []
    if not (_MARKED.search(text) or _is_prose(text)):
        text = f"${text}$"
    return parse_marked(text)


def parse_marked(text: str) -> list[Any]:
    """As math-verify reads it with its own defaults: formulas in $ or \\boxed, else numbers."""
    expressions = _math_verify().parse(text, parsing_timeout=None)
    return list(expressions) if any(not isinstance(item, str) for item in expressions) else []


def same_math(answer: list[Any], gold: list[Any]) -> bool:
    """Whether the two are equal as math-verify judges it: 1/2 = 0.5 = 50%, x=5 is 5, {1,2} = {2,1}."""
    return bool(_math_verify().verify(gold, answer, timeout_seconds=None))


def _is_prose(text: str) -> bool:
    words = re.findall(r"[A-Za-z]{3,}", _TEXT_COMMAND.sub(" ", text))
    return len([word for word in words if word.lower() not in _FUNCTIONS]) >= 2


def _math_verify() -> Any:
    module = slow_import("math_verify")
    for name in ("math_verify", "math_verify.parser", "math_verify.grader"):
        # It warns of the missing time-out, and logs each expression that sympy cannot compare.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return module
