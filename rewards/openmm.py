"""How OpenMMReasoner grades, kept as it is: EvolvingLMMs-Lab/OpenMMReasoner @67441eb8, lmms_lab_recipe.py.

Total there: 0.9 x accuracy + 0.1 x format; its judge, off by default, is left out. Described in research notes
"algorithms" 6.6; the code is our own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mmreason.rewards.symbolic import parse_marked, same_math
from mmreason.types import Rollout, Sample, Score

LETTERS = "ABCDEFGH"
_PHRASES = re.compile(
    r"(?:the )?(?:correct |best )?answer(?: is)?|(?:the )?correct option is|(?:the )?(?:option|choice) is|"
    r"i (?:choose|select|pick)|my (?:answer|choice) is"
)
_MARKS = ("({})", "{}.", "{}:", "{})", "{} ")
_LATE_MARKS = ("{}-", "{}_", "{}=")
_NUMBER_AT_END = re.compile(r"\b(\d+(?:\.\d+)?)\b\s*\.?\s*$")
_MATH = re.compile(r"[=+\-*/()\[\]\\]")
_SHORT, _PARTIAL = 50, 0.8


def openmm_format(sample: Sample, rollouts: Sequence[Rollout]) -> list[Score]:
    """1 for think and answer blocks or a \\boxed answer, 0.8 for over 50 characters with signs and an answer, else 0.

    OpenMMReasoner's format reward, of weight 0.1 there. Range: 0 to 1; flag "format_ok" from 1 on.
    """
    values = [_format(rollout.text) for rollout in rollouts]
    return [Score(total=value, flags={"format_ok": value == 1.0}) for value in values]


def _format(text: str) -> float:
    if _has_blocks(text) or boxed(text):
        return 1.0
    return _PARTIAL if len(text.strip()) > _SHORT and _MATH.search(text) and read_answer(text) else 0.0


def _has_blocks(text: str) -> bool:
    """A full match of `<think>.*</think>.*<answer>.*</answer>`, in one go over the text."""
    close = text.find("</think>", len("<think>"))
    opening = text.find("<answer>", close)
    whole = text.startswith("<think>") and text.endswith("</answer>")
    return whole and close < opening <= len(text) - len("<answer></answer>")


def grade(completion: str, gold: Any, task: str) -> float:
    """Letters by `choice`, else one text inside the other if 90 % as long, else math-verify."""
    answer, wanted = _plain(read_answer(completion).strip()), _plain(str(gold))
    if wanted and wanted in LETTERS and len(wanted) == 1:
        found = choice(answer) == wanted
    else:
        inside = answer in wanted and len(answer) >= 0.9 * len(wanted)
        found = inside or (wanted in answer and len(wanted) >= 0.9 * len(answer))
    return float(found or same_math(parse_marked(answer), parse_marked(wanted)))


def _plain(text: str) -> str:
    return text.removesuffix(".").strip()


def read_answer(text: str) -> str:
    """The first answer block, else the last \\boxed, else the number that ends a line, the last such one."""
    _, opening, rest = text.partition("<answer>")
    content, closing, _ = rest.partition("</answer>")
    if opening and closing:
        return content
    if found := boxed(text):
        return found
    numbers = (_NUMBER_AT_END.search(line[-400:]) for line in reversed(text.strip().split("\n")))
    return next((number[1] for number in numbers if number), "")


def boxed(text: str) -> str:
    """The content of the last `\\boxed{...}` whose braces close; empty without one."""
    opened: list[int] = []
    found: list[tuple[int, str]] = []
    starts = {match.end() - 1 for match in re.finditer(r"\\boxed\{", text)}
    for index, letter in enumerate(text):
        if letter == "{":
            opened.append(index)
        elif letter == "}" and opened and (start := opened.pop()) in starts:
            found.append((start, text[start + 1 : index]))
    return max(found)[1] if found else ""


def choice(text: str) -> str:
    """The letter A to H that the public parser takes; a word's capital at the start or end of the text counts as one.

    First the text's first letter, its last, "1. A", a letter after words such as "the answer is", then marks.
    """
    text = text.strip()
    for mark in ",.!?;:'\"":
        text = text.strip(mark)
    text = f" {text} "
    bare = text.strip()
    for edge in (bare[:1], bare[-1:]):
        if edge and edge in LETTERS:
            return edge
    numbered = [(text.rfind(f"{n}. {letter}"), letter) for n, letter in enumerate(LETTERS, 1)]
    phrase = _PHRASES.search(text.lower())
    after = [(text.find(letter, phrase.start()), letter) for letter in LETTERS] if phrase else []
    marked = [[(text.rfind(mark.format(letter)), letter) for letter in LETTERS] for mark in _MARKS]
    late = [(text.rfind(mark.format(letter)), letter) for mark in _LATE_MARKS for letter in LETTERS]
    anywhere = [(text.rfind(letter), letter) for letter in LETTERS]
    for places in (numbered, after, *marked, late, anywhere):
        found = [place for place in places if place[0] != -1]
        if found:
            return min(found, key=lambda place: place[0])[1]
    return ""
