"""Rewards of medical recipes: a diagnosis on a taxonomy, several findings at once, a letter with words around it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from mmreason.errors import DataError
from mmreason.rewards.base import extract_answer
from mmreason.rewards.choices import plain as option_text
from mmreason.rewards.choices import read_choice
from mmreason.rewards.golds import bad_gold, block, by_gold, entry, texts
from mmreason.rewards.texts import plain
from mmreason.types import Rollout, Sample, Score

Variant = Literal["sane", "published"]

CHEST_XRAY = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia", "No Finding",
)  # fmt: skip
"""The labels of ChestX-ray14, which Med-R1's multi-label reward knows."""
_CLASSES = ("benign", "precancerous", "malignant")
_CLASS = re.compile(r"\b(benign|precancerous|malignant)\b", re.IGNORECASE)
_CLASS_TAIL = re.compile(
    r"[\s,;:(\[.-]*\b(?:benign|precancerous(?:[ _-]in[ _-]situ)?|malignant)\b.*$", re.I | re.DOTALL
)
_PUBLISHED_LETTER = re.compile(r"[:(\s]*([A-Z])[:)\s]*", re.IGNORECASE)
LONGEST = 2000
"""Characters: a longer answer names no diagnosis."""


class Diagnosis(NamedTuple):
    """What each letter is worth, and the class of the disease where the row has one."""

    scores: Mapping[str, float]
    malignancy: str | None


def hierarchy(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    answer_tag: str = "final diagnosis",
    deepest: float = 0.75,
    class_credit: float = 0.25,
    variant: Variant = "sane",
) -> list[Score]:
    """Credit for an option on the right path of a taxonomy, more the deeper it is, plus one for the class (Skin-R1).

    An option at place i (from 0) of the path is worth (i + 1) / (deepest place on offer + 1) x `deepest`, another one
    0; naming benign, precancerous or malignant as the row does adds `class_credit`. Both are parts. The last block
    `answer_tag` is read: "B: melanoma, malignant".

    Source: l593191569/Skin-R1 model_training/src (commit 6ea8b44), RL_data_construct.py and train_rl_grpo.py; its
    format reward is `format` with the tags "thinking" and "final diagnosis". "published": the first block's first
    letter, whatever it belongs to ("a lesion" is A), and the first class named. "sane": the letter or text of one
    option, and exactly one class, so that "benign or malignant" is neither.
    Gold "hierarchy": {"path": ["skin", .., "melanoma"], "class": "malignant"} with the row's `options`, or {"scores":
    {"A": 0.375, ..}, "class": ..}; "class" may be absent. Range: 0 to deepest + class_credit.
    """

    def grade(rollout: Rollout, gold: Diagnosis) -> Score:
        letter, named = (_published if variant == "published" else _diagnosis)(rollout.text, answer_tag, sample)
        parts = {
            "option": gold.scores.get(letter or "", 0.0),
            "class": class_credit if named and named == gold.malignancy else 0.0,
        }
        best = letter is not None and parts["option"] == max(gold.scores.values())
        return Score(total=sum(parts.values()), parts=parts, flags={"correct": best, "answered": letter is not None})

    return by_gold(sample, rollouts, "hierarchy", lambda given: _gold_diagnosis(given, sample, deepest), grade)


def multi_label(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    variant: Variant = "sane",
    labels: Sequence[str] = CHEST_XRAY,
    no_finding: str = "No Finding",
) -> list[Score]:
    """How well a set of findings agrees with the gold set, 0 to 1: F1 over labels (after Med-R1).

    "sane": the answer is taken apart at commas, semicolons, bars, lines and "and"; each piece is a label or a wrong
    one ("no edema" is not "edema"). "published" (Yuxiang-Lai117/Med-R1 grpo_cls.py): +1 for each gold label that is
    somewhere in the first answer, so up to their number; `no_finding` is worth 0.25, and 0 in all where it is missing;
    any of `labels` that is in the answer and not in the gold's text makes it 0. Labels and `no_finding` are used by
    "published" only. Its math-verify shortcut over the whole completion is left out.
    Gold "multi_label": a list of labels, or one text with bars ("Mass|Nodule").
    """

    def grade(rollout: Rollout, golds: list[str]) -> Score:
        if variant == "published":
            total = _published_labels(rollout.text, golds, labels, no_finding)
            return Score(total=total, flags={"answered": extract_answer(rollout.text) is not None})
        found = read_labels(extract_answer(rollout.text) or "")
        wanted = read_labels("|".join(golds))  # as an answer, which has to be able to say the same
        value = 2 * len(found & wanted) / (len(found) + len(wanted))
        return Score(total=value, flags={"correct": found == wanted, "answered": bool(found)})

    return by_gold(sample, rollouts, "multi_label", _gold_labels, grade)


def letter(sample: Sample, rollouts: Sequence[Rollout], *, with_text: float = 0.5) -> list[Score]:
    """1 for the right letter alone, `with_text` for the right letter with words around it, else 0 (MedVLM-R1).

    For rows of task mcq. What names an option is what `accuracy` understands; MedVLM-R1 (arXiv 2502.19634) has no
    public training code, so that its parser is not known, and the reading is ours. Range: 0 to 1.
    """
    if sample.task != "mcq":
        return [Score(total=None)] * len(rollouts)

    def read(given: Any) -> str:
        gold = read_choice(given, sample.options) if isinstance(given, str) else None
        return gold or bad_gold(given, "one letter that is on offer, or the text of one option")

    def grade(rollout: Rollout, gold: str) -> Score:
        answer = extract_answer(rollout.text) or ""
        named = read_choice(answer, sample.options)
        right = named is not None and named == gold
        value = (1.0 if answer.strip("(). ").upper() == gold else with_text) if right else 0.0
        return Score(total=value, flags={"correct": right, "answered": named is not None})

    return by_gold(sample, rollouts, "mcq", read, grade)


def read_labels(answer: str) -> set[str]:
    """The labels of an answer as `_label` writes them."""
    pieces = re.split(r"[,;|\n]|\band\b", answer)
    return {_label(piece) for piece in pieces if _label(piece)}


def path_scores(path: Sequence[str], options: Sequence[str], deepest: float) -> dict[str, float]:
    """What each letter is worth, by where its option stands on the path; 0 for options beside it.

    Example: a path of four levels that are all on offer is worth .1875, .375, .5625 and .75.
    """
    places = {plain(name): place for place, name in enumerate(path)}
    offered = [places.get(option_text(option, index)) for index, option in enumerate(options)]
    most = max((place for place in offered if place is not None), default=0)
    return {
        chr(ord("A") + index): 0.0 if place is None else (place + 1) / (most + 1) * deepest
        for index, place in enumerate(offered)
    }


def _label(text: str) -> str:
    return plain(text.replace("_", " "))


def _diagnosis(text: str, tag: str, sample: Sample) -> tuple[str | None, str | None]:
    """(letter, class) of the last block."""
    answer = block(text, tag) or ""
    if len(answer) > LONGEST:
        return None, None
    named = {name.lower() for name in _CLASS.findall(answer)}
    option = read_choice(answer, sample.options) or read_choice(_CLASS_TAIL.sub("", answer), sample.options)
    return option, named.pop() if len(named) == 1 else None


def _published(text: str, tag: str, sample: Sample) -> tuple[str | None, str | None]:
    lowered, opening, closing = text.lower(), f"<{tag}>", f"</{tag}>"
    start = lowered.find(opening)
    stop = lowered.find(closing, start + len(opening)) if start >= 0 else -1
    if stop < 0:
        return None, None
    answer = text[start + len(opening) : stop]
    option, named = _PUBLISHED_LETTER.search(answer), _CLASS.search(answer)
    return (option[1].upper() if option else None), (named[1].lower() if named else None)


def _published_labels(text: str, golds: Sequence[str], labels: Sequence[str], no_finding: str) -> float:
    first = re.search(r"<answer>([^\n]*?)</answer>", text)
    answer, gold, total = (first[1].strip() if first else text.strip()), "|".join(golds), 0.0
    for label in golds:
        if no_finding in label:
            if label not in answer:
                return 0.0
            total += 0.25
        else:
            total += label in answer
    return 0.0 if any(label not in gold and label in answer for label in labels) else total


def _gold_diagnosis(given: Any, sample: Sample, deepest: float) -> Diagnosis:
    wants = '{"path": [names from root to leaf]} or {"scores": {"A": 0.75}}, and "class" or none'
    if not isinstance(given, Mapping) or ("path" in given) == ("scores" in given):
        bad_gold(given, wants)
    if "path" in given:
        scores: Mapping[str, Any] = path_scores(texts(given["path"], wants), sample.options, deepest)
    else:
        scores = entry(given, "scores", wants)
        offered = {chr(ord("A") + index) for index in range(len(sample.options) or 26)}
        if not isinstance(scores, Mapping) or not set(scores) <= offered:
            bad_gold(given, f"{wants}, with letters on offer")
    if not all(isinstance(value, (int, float)) for value in scores.values()):
        bad_gold(given, wants)
    if not any(value > 0 for value in scores.values()):
        raise DataError("none of the options is on the path; expected at least one")
    named = given.get("class")
    named = named.lower().removesuffix("_in_situ") if isinstance(named, str) else named
    if named not in (None, *_CLASSES):
        bad_gold(named, f"one of {', '.join(_CLASSES)}")
    return Diagnosis(scores, named)


def _gold_labels(given: Any) -> list[str]:
    labels = texts(given.split("|") if isinstance(given, str) else given, "a list of labels")
    return [label.strip() for label in labels] if read_labels("|".join(labels)) else bad_gold(given, "a list of labels")
