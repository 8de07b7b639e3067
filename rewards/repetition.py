"""A penalty for saying the same again."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

from mmreason.errors import RewardError
from mmreason.types import Rollout, Sample, Score

_VLM_R1_WORDS = 6
_BOXES = re.compile(r"\[\s*\{")


def repetition(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    variant: Literal["sparse", "vlmr1", "dense"] = "sparse",
    n: int = 6,
    penalty: float | None = None,
    unit: Literal["words", "tokens"] = "words",
) -> list[Score]:
    """A penalty for repeated n-grams: the share of them that was there before, or so much per repeated word.

    sparse: `penalty` (-1) x (1 - different n-grams / all n-grams), over lower-case words; an answer shorter than `n`
    has none. Range [penalty, 0]. Source: eddycmu/demystify-long-cot @e90cf9b, reward/repetition.py, which divides by 0
    there. vlmr1: the same over the boxes with labels of a JSON list in the answer, one by one, where there is one, else
    over 6 words (om-ai-lab/VLM-R1 @90052f4; it repairs broken JSON, which is read as words here).
    dense: `penalty` (-0.05) for every word that is part of an n-gram that was there before; the source penalises each
    token where it stands, with a discount of its own (0.99, against 1 for correctness). An answer has ONE reward here,
    so this is the sum over its tokens, without a discount: how much, not where. Range [penalty x words, 0].
    `unit` tokens: of sparse and dense, where answers are sampled.
    """
    if n < 1 or (penalty or 0) > 0:
        raise RewardError(f"n {n}, penalty {penalty}: expected n of at least 1 and a penalty of at most 0")
    factor = penalty if penalty is not None else (-0.05 if variant == "dense" else -1.0)
    if variant == "vlmr1":
        return [Score(total=factor * _share(*_of_vlm_r1(rollout.text))) for rollout in rollouts]
    measure = _repeated_places if variant == "dense" else _share
    return [Score(total=factor * measure(_items(rollout, unit), n)) for rollout in rollouts]


def _items(rollout: Rollout, unit: str) -> Sequence[Hashable]:
    if unit == "words":
        return rollout.text.lower().split()
    ids: Sequence[int] = getattr(rollout, "token_ids", ())
    if rollout.text and not ids:
        raise RewardError("counts tokens, and a text alone has none; set the option unit to words")
    return ids


def _share(items: Sequence[Hashable], n: int) -> float:
    """1 - different n-grams / all n-grams; 0 where there are none."""
    grams = [tuple(items[start : start + n]) for start in range(len(items) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _repeated_places(items: Sequence[Hashable], n: int) -> int:
    """How many items are in an n-gram that was there before. Example: n 2, [1, 2, 3, 1, 2, 4] -> 2."""
    seen: set[tuple[Hashable, ...]] = set()
    places = reach = 0
    for start in range(len(items) - n + 1):
        gram = tuple(items[start : start + n])
        if gram in seen:
            places += start + n - max(start, reach)
            reach = start + n
        seen.add(gram)
    return places


def _of_vlm_r1(text: str) -> tuple[Sequence[Hashable], int]:
    """What VLM-R1 counts, and by how many."""
    data = _json_list(text)
    if data is None:
        return text.lower().split(), _VLM_R1_WORDS
    boxes = [item for item in data if isinstance(item, Mapping) and "bbox_2d" in item and "label" in item]
    return [f"{item['bbox_2d']}_{item['label']}" for item in boxes], 1


def _json_list(text: str) -> list[Any] | None:
    """The list in the first ```json fence, else in the first fence, else where a list of objects begins."""
    fenced = _between(text, "```json", "```")
    fenced = _between(text, "```", "```") if fenced is None else fenced
    start = _BOXES.search(text)
    try:
        if fenced:
            data: Any = json.loads(fenced.strip())
        elif start:
            data, _ = json.JSONDecoder().raw_decode(text, start.start())
        else:
            return None
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, list) and data else None


def _between(text: str, opening: str, closing: str) -> str | None:
    _, found, rest = text.partition(opening)
    inner, closed, _ = rest.partition(closing)
    return inner if found and closed else None
