"""Does the thinking end with the answer that is given? A rule, where `judge` with prompt consistent asks a model.

VideoP2R (2511.11113) measures that trained models answer otherwise than they think in 16 % of cases and more; the rule
is ours. It reads the last sentence of the thinking: for a choice, the letter or option that it names last; for a
number, its last number; for other tasks, whether the answer's words stand in it in this order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmreason.rewards.base import extract_answer
from mmreason.rewards.choices import plain as plain_option
from mmreason.rewards.choices import read_choice
from mmreason.rewards.numbers import read_number, same_number
from mmreason.rewards.texts import words
from mmreason.types import Rollout, Sample, Score

LONGEST_END = 1000
"""Characters of the thinking that are looked at."""
_SENTENCE_END = re.compile(r"(?<=[.!?\u3002])\s+|(?<=\u3002)|\n+")
_NAMED = re.compile(
    r"(?:answer|option|choice|choose|pick|select|is|be|be:|is:|answer:)\s+[*\"'(]*([A-Z])\b(?!\s+[a-z])|\(([A-Z])\)"
    r"|\b([A-Z])[.)*\"']*$"
)
_NUMBER = re.compile(r"(?<![\w.,])[-+]?\d[\d,]*(?:\.\d+)?(?:/\d+)?\s?%?")
_NUMERIC = ("numeric", "counting", "regression")


def think_answer(sample: Sample, rollouts: Sequence[Rollout], *, think_tag: str = "think") -> list[Score]:
    """1 if the thinking's last sentence states the answer that is given, else 0; right or wrong does not matter.

    An answer, a thinking block or a conclusion that is not there is 0. Flags: "answered"; "concluded" (a conclusion of
    the answer's kind was found). Our rule.
    """
    return [_score(sample, rollout.text, think_tag) for rollout in rollouts]


def _score(sample: Sample, text: str, think_tag: str) -> Score:
    answer, thinking = extract_answer(text), extract_answer(text, think_tag)
    if answer is None or thinking is None:
        return Score(total=0.0, flags={"answered": answer is not None, "concluded": False})
    agrees = _agrees(sample, answer, last_sentence(thinking))
    return Score(total=float(bool(agrees)), flags={"answered": True, "concluded": agrees is not None})


def last_sentence(thinking: str) -> str:
    """The last sentence with a letter or digit in it, of the thinking's last LONGEST_END characters."""
    parts = [part.strip() for part in _SENTENCE_END.split(thinking[-LONGEST_END:]) if re.search(r"\w", part)]
    return parts[-1] if parts else ""


def _agrees(sample: Sample, answer: str, end: str) -> bool | None:
    """Whether the end states the answer; None where it states nothing of its kind."""
    if sample.task == "mcq" or sample.options:
        named, given = _choice_at_end(end, sample.options), read_choice(answer, sample.options)
        return None if named is None else named == given
    if sample.task in _NUMERIC:
        numbers = [read_number(match.strip().rstrip(",")) for match in _NUMBER.findall(end)] or [read_number(end)]
        stated, number = numbers[-1], read_number(answer)
        return None if stated is None else number is not None and same_number(stated, number, 1e-6)
    wanted = words(answer)
    return True if wanted and _spaced(wanted) in _spaced(words(end)) else None


def _choice_at_end(end: str, options: Sequence[str]) -> str | None:
    """The letter that a sentence names last; without one, that of the only option whose words stand in it."""
    whole = read_choice(end, options)
    if whole is not None:
        return whole
    letters: list[str] = [letter for match in _NAMED.findall(end.rstrip(" .!")) for letter in match if letter]
    offered = [letter for letter in letters if not options or ord(letter) - ord("A") < len(options)]
    if offered:
        return offered[-1]
    known = [words(plain_option(option, index)) for index, option in enumerate(options)]
    held = [index for index, option in enumerate(known) if option and _spaced(option) in _spaced(words(end))]
    return chr(ord("A") + held[0]) if len(held) == 1 else None


def _spaced(words: Sequence[str]) -> str:
    """Words with a space around each, so that whole words alone are found in others."""
    return f" {' '.join(words)} "
