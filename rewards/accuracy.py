"""Is the answer right? Chosen by what kind of answer the sample's task wants.

    mcq         the letter of an option, or its text (choices.py says what is understood)             0 or 1
    numeric     equal numbers: 5 = 5.0 = "5 cm", 1,000 = 1000, 1/2 = 0.5 (numbers.py)                 0 or 1
    counting    the same whole number; "five" is 5, "twenty-five" is 25                               0 or 1
    math        equal by math-verify                                                                  0 or 1
    exact       the same text, but for case, white space and a closing full stop; a gold that the
                data file has as a number is compared as a number                                     0 or 1
    yes_no      yes / no (true / false)                                                               0 or 1
    free_form   mean of ROUGE-1, ROUGE-2, ROUGE-L over words of any script (texts.py)                 0 to 1
    ocr         1 - word error rate, at least 0; characters count as words where a script has no
                spaces (Chinese, Japanese, Thai, ...)                                                 0 to 1
    regression  1 - relative error, at least 0                                                        0 to 1

Only the last `<answer>...</answer>` is read. A gold list holds alternatives: the best counts. A gold that cannot be
read is an error for the whole group, never a score. `variant=` takes the behaviour of a published trainer instead
(published.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mmreason.plugins import nearest
from mmreason.rewards.base import BAD_GOLD, extract_answer, one_line
from mmreason.rewards.choices import read_choice
from mmreason.rewards.golds import KINDS
from mmreason.rewards.numbers import Number, read_number, same_number
from mmreason.rewards.published import GRADERS
from mmreason.rewards.symbolic import parse_math, same_math
from mmreason.rewards.texts import plain, rouge_mean, word_accuracy, words
from mmreason.types import Rollout, Sample, Score

Variant = Literal["sane", "video_r1", "r1_v", "visual_rft", "cosmos", "visual_thinker", "openmm", "boxed"]

PLACES_AND_TIMES = ("grounding", "detection", "pointing", "tracking", "temporal")
OTHERS = (*PLACES_AND_TIMES, *KINDS)
_YES_NO = {"yes": True, "true": True, "no": False, "false": False}


@dataclass(frozen=True, slots=True)
class Task:
    """How one kind of answer is graded."""

    gold: Callable[[Any, Sample], Any]
    """What the gold says; None where it cannot be read."""
    grade: Callable[[str, Any, Sample, float], float | None]
    """(answer, gold, sample, rel_tol) -> 0..1; None where the text is no answer."""
    wants: str
    """What a gold must be, for error messages."""


def accuracy(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    task: str | None = None,
    variant: Variant = "sane",
    require_tags: bool = True,
    rel_tol: float = 1e-6,
    correct_at: float = 0.5,
    skip_tasks: Sequence[str] | None = None,
) -> list[Score]:
    """How right the answer is, 0 to 1, by the sample's task; flags "correct" and "answered".

    `task`: grade every sample as this task, whatever the data says. `variant`: "sane", or a published trainer's rules.
    `require_tags`: without `<answer>` there is no answer; if false, the text after the last `</think>` is one.
    `rel_tol`: relative tolerance of numeric. `correct_at`: value from which "correct" is set (tasks from 0 to 1).
    `skip_tasks`: tasks that other rewards score, by default those with a reward of their own (`iou`, `rerank`, ..).
    `require_tags` and `rel_tol` apply to "sane" only.
    """
    kind = task or sample.task
    if kind in (OTHERS if skip_tasks is None else skip_tasks):
        return [Score(total=None)] * len(rollouts)
    if kind not in TASKS:
        error = f"{sample.id}: unknown task {kind!r}{nearest(kind, TASKS)}; or list it in the option skip_tasks"
        return [Score(total=None, error=error, flags={BAD_GOLD: True})] * len(rollouts)
    golds = _golds(sample, TASKS[kind])
    if isinstance(golds, str):
        return [Score(total=None, error=golds, flags={BAD_GOLD: True})] * len(rollouts)
    if variant != "sane":
        texts = _gold_texts(sample)
        values = [max(GRADERS[variant](rollout.text, gold, kind) for gold in texts) for rollout in rollouts]
        return [_score(value, extract_answer(r.text), correct_at) for value, r in zip(values, rollouts, strict=True)]
    return [_sane(rollout.text, golds, sample, TASKS[kind], require_tags, rel_tol, correct_at) for rollout in rollouts]


def answer_of(text: str, require_tags: bool = True) -> str | None:
    """What the last `<answer>` of a text holds; without tags, where they are not required, all after `</think>`."""
    answer = extract_answer(text)
    if answer is None and not require_tags and "<answer>" not in text:
        answer = text.rpartition("</think>")[2].strip() or None
    return answer


def _sane(
    text: str, golds: Sequence[Any], sample: Sample, task: Task, require_tags: bool, rel_tol: float, correct_at: float
) -> Score:
    answer = answer_of(text, require_tags)
    if answer is None:
        return _score(0.0, None, correct_at)
    grades = [task.grade(answer, gold, sample, rel_tol) for gold in golds]
    known = [grade for grade in grades if grade is not None]
    return _score(max(known, default=0.0), answer if known else None, correct_at)


def _score(value: float, answer: str | None, correct_at: float) -> Score:
    return Score(total=value, flags={"correct": value >= correct_at, "answered": answer is not None})


def _golds(sample: Sample, task: Task) -> list[Any] | str:
    """Every alternative of the gold as the task reads it, or why one cannot be read."""
    given = _gold_texts(sample)
    golds = [task.gold(value, sample) for value in given]
    if not golds or any(gold is None for gold in golds):
        shown = one_line(repr(sample.answer), limit=80)
        return f"{sample.id}: the gold answer {shown} cannot be scored; expected {task.wants}"
    return golds


def _gold_texts(sample: Sample) -> list[Any]:
    """The gold's alternatives; the content of `<answer>` where a gold text comes in tags, as in Video-R1's data."""
    values = list(sample.answer) if isinstance(sample.answer, (list, tuple)) else [sample.answer]
    return [(extract_answer(v) or "") if isinstance(v, str) and "<answer>" in v else v for v in values]


def _text_gold(value: Any, sample: Sample) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _words_gold(value: Any, sample: Sample) -> str | None:
    return value if isinstance(value, str) and words(value) else None


def _choice_gold(value: Any, sample: Sample) -> str | None:
    several = isinstance(sample.answer, (list, tuple)) and len(sample.answer) > 1
    return read_choice(value, sample.options) if isinstance(value, str) and not several else None


def _choice(answer: str, gold: str, sample: Sample, rel_tol: float) -> float | None:
    letter = read_choice(answer, sample.options)
    return None if letter is None else float(letter == gold)


def _number_gold(value: Any, sample: Sample) -> Number | None:
    return read_number(value)


def _numeric(answer: str, gold: Number, sample: Sample, rel_tol: float) -> float | None:
    number = read_number(answer)
    return None if number is None else float(same_number(number, gold, rel_tol))


def _count_gold(value: Any, sample: Sample) -> Number | None:
    number = read_number(value)
    return number if number is not None and number.value.is_integer() and number.value >= 0 else None


def _count(answer: str, gold: Number, sample: Sample, rel_tol: float) -> float | None:
    number = read_number(answer)
    return None if number is None else float(number.value == gold.value and not number.percent)


def _regression(answer: str, gold: Number, sample: Sample, rel_tol: float) -> float | None:
    number = read_number(answer)
    if number is None:
        return None
    if gold.value == 0:
        return float(number.value == 0)
    return 1.0 - min(1.0, abs(number.value - gold.value) / abs(gold.value))


def _math_gold(value: Any, sample: Sample) -> list[Any] | None:
    readable = isinstance(value, (str, int, float)) and not isinstance(value, bool)
    return (parse_math(str(value)) or None) if readable else None


def _math(answer: str, gold: list[Any], sample: Sample, rel_tol: float) -> float | None:
    expressions = parse_math(answer)
    return float(same_math(expressions, gold)) if expressions else None


def _exact_gold(value: Any, sample: Sample) -> str | Number | None:
    return _text_gold(value, sample) or (None if isinstance(value, str) else read_number(value))


def _exact(answer: str, gold: str | Number, sample: Sample, rel_tol: float) -> float | None:
    if isinstance(gold, Number):
        return _numeric(answer, gold, sample, rel_tol)
    return float(plain(answer) == plain(gold))


def _yes_no_gold(value: Any, sample: Sample) -> bool | None:
    return value if isinstance(value, bool) else _yes_or_no(value) if isinstance(value, str) else None


def _yes_no(answer: str, gold: bool, sample: Sample, rel_tol: float) -> float | None:
    said = _yes_or_no(answer)
    return None if said is None else float(said == gold)


def _yes_or_no(text: str) -> bool | None:
    """By the first word ("Yes, it is."), unless the text says both."""
    words = [word.strip(" .,;:!*()\"'").casefold() for word in text.split()]
    said = {_YES_NO[word] for word in words if word in _YES_NO}
    return said.pop() if len(said) == 1 and words[0] in _YES_NO else None


TASKS: dict[str, Task] = {
    "mcq": Task(_choice_gold, _choice, "one letter that is on offer, or the text of one option"),
    "numeric": Task(_number_gold, _numeric, "one number"),
    "counting": Task(_count_gold, _count, "one whole number from 0"),
    "math": Task(_math_gold, _math, "a formula or number that math-verify can parse"),
    "exact": Task(_exact_gold, _exact, "text or a number"),
    "yes_no": Task(_yes_no_gold, _yes_no, "yes or no"),
    "free_form": Task(_words_gold, lambda answer, gold, *_: rouge_mean(answer, gold), "text with a word in it"),
    "ocr": Task(_text_gold, lambda answer, gold, *_: word_accuracy(answer, gold), "text"),
    "regression": Task(_number_gold, _regression, "one number"),
}
