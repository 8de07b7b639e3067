"""How published trainers grade answers, kept as they are, oddities included, to compare with their numbers.

Each grader takes (completion, gold, task) and gives a value. Described from research notes "algorithms" section 1 and
"rewards" sections 2.1, 2.3 and 4.7, which name the commits; the code here is our own. One difference on purpose: where
these trainers give 0 or 1 for a gold that cannot be read, ours is an error before any grader is called.

    video_r1    first `<answer>`; letters as identical text ("A." is not "A"); 5 is not 5.0; free-form answers have no
                words but those of a to z and 0 to 9; tasks beyond its five are 0
    r1_v        R1-V, R1-AQA: math-verify over the whole completion, thoughts included; else identical text
    visual_rft  classification: math-verify over the whole completion; else one text inside the other, spaces and
                underscores removed - so "A or B or C" and an empty answer are right
    cosmos      the same text but for case
    visual_thinker  VisualThinker-R1-Zero: as r1_v; else the last letter from A to H that stands alone ("A or B" is B)
    boxed       RL-with-Cold-Start, EasyR1: what is in the last \\boxed{}, tags unread
    openmm      OpenMMReasoner (openmm.py): a letter found in many ways, a text inside the other, or math-verify
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from mmreason.rewards import openmm
from mmreason.rewards.symbolic import parse_marked, parse_math, same_math
from mmreason.rewards.texts import rouge_mean, word_accuracy

_LONE_LETTER = re.compile(r"(?:^|[\s\[(])([A-H])(?:[\s\])]|$)")


def _first_answer(completion: str) -> str | None:
    """Content of the first `<answer>` up to the next closing tag, stripped; not a regular expression, which is
    quadratic in repeated opening tags."""
    _, opening, rest = completion.partition("<answer>")
    content, closing, _ = rest.partition("</answer>")
    return content.strip() if opening and closing else None


def video_r1(completion: str, gold: Any, task: str) -> float:
    """Video-R1's reward table; a counting question is one of its numerical ones."""
    answer, gold = _first_answer(completion) or "", str(gold)
    if task == "mcq":
        return float(answer.strip() == gold.strip())
    if task in ("numeric", "counting"):
        return _same_to_two_decimals(answer, gold)
    if task == "ocr":
        return word_accuracy(answer, gold, every_script=False)
    if task == "free_form":
        return rouge_mean(answer, gold, every_script=False)
    return _relative_error(answer, gold) if task == "regression" else 0.0


def _same_to_two_decimals(answer: str, gold: str) -> float:
    if any(mark in answer for mark in ".,") != any(mark in gold for mark in ".,"):
        return 0.0
    given, wanted = _float(answer), _float(gold)
    return float(given is not None and wanted is not None and round(given, 2) == round(wanted, 2))


def _relative_error(answer: str, gold: str) -> float:
    """With 1e-9 added above and below: predicting 0 for a gold of 0 gives 0."""
    given, wanted = _float(answer), _float(gold)
    if given is None or wanted is None:
        return 0.0
    return 1.0 - min(1.0, (abs(given - wanted) + 1e-9) / (abs(wanted) + 1e-9))


def _float(text: str) -> float | None:
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None  # NaN compares false as well


def r1_v(completion: str, gold: Any, task: str) -> float:
    """R1-V: any match of math-verify in the whole completion, else the same text in the answer block, which counts only
    where it stands on one line; without one the whole completion is the answer."""
    answer = next((found for line in completion.split("\n") if (found := _first_answer(line)) is not None), None)
    return float(_verified(completion, gold) or (completion.strip() if answer is None else answer) == str(gold).strip())


def visual_rft(completion: str, gold: Any, task: str) -> float:
    """Visual-RFT's classification reward: containment in either direction."""
    answer, wanted = (re.sub(r"[\s_]", "", text).lower() for text in (_content(completion), str(gold)))
    return float(_verified(completion, gold) or answer in wanted or wanted in answer)


def cosmos(completion: str, gold: Any, task: str) -> float:
    """Cosmos-Reason1's single-choice reward."""
    return float((_first_answer(completion) or "").strip().lower() == str(gold).strip().lower())


def visual_thinker(completion: str, gold: Any, task: str) -> float:
    """VisualThinker-R1-Zero on SAT: R1-V's reward, or the last lone letter."""
    letters = _LONE_LETTER.findall(_content(completion))
    return float(bool(r1_v(completion, gold, task)) or letters[-1:] == [str(gold).strip()])


def boxed(completion: str, gold: Any, task: str) -> float:
    """RL-with-Cold-Start, EasyR1's math: the last \\boxed{...}, the same text or by math-verify (there: mathruler)."""
    answer, wanted = openmm.boxed(completion).strip(), str(gold).strip()
    if not answer:
        return 0.0
    return float(answer == wanted or same_math(parse_math(answer), parse_math(wanted)))


def _content(completion: str) -> str:
    answer = _first_answer(completion)
    return completion.strip() if answer is None else answer


def _verified(completion: str, gold: Any) -> bool:
    """math-verify with the completion in the place of the gold, as these trainers call it."""
    return same_math(parse_marked(str(gold)), parse_marked(completion))


GRADERS: dict[str, Callable[[str, Any, str], float]] = {
    "video_r1": video_r1,
    "r1_v": r1_v,
    "visual_rft": visual_rft,
    "cosmos": cosmos,
    "visual_thinker": visual_thinker,
    "openmm": openmm.grade,
    "boxed": boxed,
}
