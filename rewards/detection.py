"""Did the model find all the things, and nothing else? Rewards of lists of boxes.

The gold is `golds["boxes"]`: boxes or objects with "bbox_2d" (or "Position", "box", ...) and "label" in `gold_frame`,
or {"value": [..], "frame": .., "image": ..}; an empty list says that there is nothing to find. Without it, the text of
`answer` is read as an answer would be ("No Objects" too). Answers are read from the last `<answer>`; boxes.py says how.
A thing without a usable box counts as one that was found wrongly; no readable list is no answer, and 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from mmreason.errors import DataError
from mmreason.geometry import Size
from mmreason.rewards.base import extract_answer
from mmreason.rewards.boxes import Corners, Item, items_of, read_items
from mmreason.rewards.frames import Gold, find_gold, for_golds, meant_items, said_items
from mmreason.rewards.grounding import Variant, box_iou
from mmreason.rewards.matching import COCO_THRESHOLDS, average_precision
from mmreason.rewards.texts import plain
from mmreason.types import CoordinateFrame, Rollout, Sample, Score

Items = Sequence[Item]
Grade = float | tuple[float, dict[str, float]]
"""A total, or a total and its parts."""


@for_golds("boxes", task="detection")
def det_iou(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    repair: bool = False,
    frame: CoordinateFrame | None = None,
    gold_frame: CoordinateFrame = "original_pixels",
    media_index: int = 0,
) -> list[Score]:
    """Overlap of found with gold boxes over the larger number of the two, 0 to 1 (Visual-RFT's R_iou).

    sum of IoU / max(golds, found): boxes are matched in falling confidence, each with the free gold that it overlaps
    most; an IoU up to 0.5 is none. Of boxes that are said twice the first counts. Visual-RFT `grpo.py`, the form that
    its code calls V2. `repair`: of a list that is cut off, the whole elements count, as there.
    """
    gold, targets = _gold_items(sample, frame, gold_frame, media_index)

    def grade(found: Items) -> Grade:
        if not targets or not found:
            return float(not targets and not found)
        return sum(overlap for overlap, _ in _by_confidence(targets, found)) / max(len(targets), len(_unique(found)))

    return _scores(rollouts, gold, grade, repair=repair)


@for_golds("boxes", task="detection")
def det_confidence(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    repair: bool = False,
    frame: CoordinateFrame | None = None,
    gold_frame: CoordinateFrame = "original_pixels",
    media_index: int = 0,
) -> list[Score]:
    """Mean over found boxes of c where the box is right and 1 - c where it is wrong (Visual-RFT's R_conf), 0 to 1.

    c is the "Confidence" that the answer gives; a box without one, or with one outside of 0 to 1, adds 0. Right is what
    `det_iou` matches. Golds that were not found do not count. Nothing found is 1 where there is nothing, else 0. There
    is no flag "correct": a wrong box without confidence is worth 1.
    """
    gold, targets = _gold_items(sample, frame, gold_frame, media_index)

    def grade(found: Items) -> Grade:
        if not found:
            return float(not targets)
        pairs = _by_confidence(targets, found)
        values = [(c if overlap > 0 else 1.0 - c) if c is not None and 0 <= c <= 1 else 0.0 for overlap, c in pairs]
        return sum(values) / len(values)

    return _scores(rollouts, gold, grade, repair=repair, judges=False)


@for_golds("boxes", task="detection")
def det_ap(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    at: Literal["coco", "50"] = "coco",
    length: bool = True,
    confidences: bool = False,
    fence: bool = False,
    frame: CoordinateFrame | None = None,
    gold_frame: CoordinateFrame = "original_pixels",
    media_index: int = 0,
) -> list[Score]:
    """COCO's average precision of labelled boxes on one image, less for too many boxes, 0 to 1 (VLM-R1's odLength).

    Mean of the precision per gold label, at IoU 0.5 to 0.95 (`at` "coco") or 0.5 ("50"). `length`: times golds / found
    where more are found than there are. VLM-R1 (`grpo_jsonl.py`): odLength is the default, od_ap `length: false`,
    od_ap50 `at: "50"` with it; `fence: true` wants the list in a code fence. `confidences`: rank by what the answer
    gives as "Confidence" or "score"; else in the order of the answer, as there. Labels are compared without case.
    Parts: "ap", "length".
    """
    gold, targets = _gold_items(sample, frame, gold_frame, media_index)
    thresholds = COCO_THRESHOLDS if at == "coco" else (0.5,)

    def grade(found: Items) -> Grade:
        if not targets or not found:
            return float(not targets and not found)
        ranked = sorted(found, key=_confidence, reverse=True) if confidences else found
        factor = min(1.0, len(targets) / len(found)) if length else 1.0
        precision = mean_precision(targets, ranked, thresholds)
        return precision * factor, {"ap": precision, "length": factor}

    return _scores(rollouts, gold, grade, fence=fence)


@for_golds("boxes", task="detection")
def det_weighted(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    position: float = 0.7,
    label: float = 0.0,
    completeness: float = 0.3,
    threshold: float = 0.5,
    variant: Variant = "plain",
    fence: bool = False,
    frame: CoordinateFrame | None = None,
    gold_frame: CoordinateFrame = "original_pixels",
    media_index: int = 0,
) -> list[Score]:
    """Weighted mean of position, label and completeness of labelled boxes, 0 to 1 (VLM-R1's weighted_sum).

    Boxes are matched one to one, best overlap first, down to `threshold`. Position: sum of the IoU of matches with the
    right label / golds; label: matches with the right label / golds; completeness: 1 - (golds without a match / golds
    + found without a match / found) / 2. A match with the wrong label has no position, but completes. VLM-R1
    `grpo_jsonl.py`, detection_score, has `variant: vlmr1` (IoU as in `iou`) and `fence: true`. Parts: the three.
    Weights are 0 or more, and not all 0.
    """
    gold, targets = _gold_items(sample, frame, gold_frame, media_index, _pixels(variant))
    weights = {"position": position, "label": label, "completeness": completeness}

    def grade(found: Items) -> Grade:
        if not targets or not found:
            return float(not targets and not found)
        pairs = _best_first(targets, found, threshold, variant)
        right = [overlap for overlap, i, j in pairs if _same_label(targets[i], found[j])]
        missed, extra = len(targets) - len(pairs), len(found) - len(pairs)
        parts = {
            "position": sum(right) / len(targets),
            "label": len(right) / len(targets),
            "completeness": 1.0 - (missed / len(targets) + extra / len(found)) / 2.0,
        }
        return sum(weights[name] * part for name, part in parts.items()) / sum(weights.values()), parts

    return _scores(rollouts, gold, grade, fence=fence, to=_pixels(variant))


@for_golds("boxes", task="detection")
def set_f1(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    frame: CoordinateFrame | None = None,
    gold_frame: CoordinateFrame = "original_pixels",
    media_index: int = 0,
) -> list[Score]:
    """F1 of the set of boxes that were chosen, each exactly as it is written in the prompt, 0 to 1 (Rex-Thinker).

    Boxes are equal where no number differs by more than half of the last place that models write (half a unit, half a
    thousandth in the frame "unit"): the gold may be in another frame. Saying a box twice is 0; none where there is
    none is 1. Rex-Thinker (`reward_func.py`) has weights 0.9 and 0.1 (format), and reads boxes in the thoughts as well.
    """
    gold, targets = _gold_items(sample, frame, gold_frame, media_index, to="spoken")
    half = 0.5005e-3 if gold.spoken == "unit" else 0.5005

    def grade(found: Items) -> Grade:
        boxes = [item.box for item in found]
        if not targets or not found or len(set(boxes)) < len(boxes):
            return float(not targets and not found)
        open_targets = [target.box for target in targets]
        for box in boxes:
            match = next((target for target in open_targets if target and box and _equal(target, box, half)), None)
            if match is not None:
                open_targets.remove(match)
        return 2.0 * (len(targets) - len(open_targets)) / (len(targets) + len(boxes))

    return _scores(rollouts, gold, grade, to=gold.spoken)


@for_golds("boxes", task="detection")
def det_miou(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    recall: bool = True,
    frame: CoordinateFrame | None = None,
    gold_frame: CoordinateFrame = "original_pixels",
    media_index: int = 0,
) -> list[Score]:
    """Mean over boxes of the best overlap on the other side, 0 to 1 (SpaceTools' MIoU).

    SpaceTools (2512.04069) takes the mean over found boxes of max IoU with a gold (`recall: false`): golds that are not
    found cost nothing. With `recall`, our addition, the smaller of this and the mean over golds.
    """
    gold, targets = _gold_items(sample, frame, gold_frame, media_index)

    def grade(found: Items) -> Grade:
        if not targets or not found:
            return float(not targets and not found)
        means = [_mean_best(found, targets), _mean_best(targets, found)]
        return min(means) if recall else means[0]

    return _scores(rollouts, gold, grade)


def weight_mistakes(options: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the weights of `det_weighted`, in a line."""
    weights = {"position": 0.7, "label": 0.0, "completeness": 0.3}
    weights |= {name: options[name] for name in weights if isinstance(options.get(name), int | float)}
    if min(weights.values()) < 0 or not sum(weights.values()) > 0:
        shown = ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
        yield f"weights {shown}; expected numbers from 0, and not all 0"


def mean_precision(targets: Items, ranked: Items, thresholds: Sequence[float]) -> float:
    """`average_precision` per gold label, and the mean of them. Detections of other labels do not count."""
    first = {_label(item): item for item in targets}
    values = [
        average_precision(
            [item.box for item in targets if _label(item) == label and item.box is not None],
            [item.box for item in ranked if _same_label(target, item) and item.box is not None],
            thresholds,
        )
        for label, target in first.items()
    ]
    return sum(values) / len(values)


def gold_items(
    sample: Sample, frame: CoordinateFrame | None, gold_frame: CoordinateFrame, media_index: int
) -> tuple[Gold, list[Item]]:
    """`golds["boxes"]`, or the answer's text, as items in their own frame. Raises DataError."""
    gold = find_gold(sample, "boxes", frame=frame, gold_frame=gold_frame, media_index=media_index)
    if gold.value is None and sample.answer is not None:
        gold = replace(gold, value=sample.answer)
    if not isinstance(gold.value, str):
        return gold, items_of(gold.value)
    items = read_items(extract_answer(gold.value) or gold.value)
    if items is None:
        raise DataError(f"gold {gold.shown}: expected a list of boxes")
    return gold, items


# ---- what they share


def _gold_items(
    sample: Sample,
    frame: CoordinateFrame | None,
    gold_frame: CoordinateFrame,
    media_index: int,
    to: CoordinateFrame | Literal["spoken"] | Size | None = None,
) -> tuple[Gold, list[Item]]:
    gold, items = gold_items(sample, frame, gold_frame, media_index)
    return gold, meant_items(gold, items, gold.spoken if to == "spoken" else to or gold.frame)


def _scores(
    rollouts: Sequence[Rollout],
    gold: Gold,
    grade: Callable[[Items], Grade],
    *,
    to: CoordinateFrame | None = None,
    repair: bool = False,
    fence: bool = False,
    judges: bool = True,
) -> list[Score]:
    """A score per rollout; "answered" where there is a list, and where the total `judges` "correct" above 0.5."""
    scores = []
    for rollout in rollouts:
        items = read_items(extract_answer(rollout.text) or "", repair=repair, fence=fence)
        found = said_items(gold, items or [], to or gold.frame)
        graded = grade(found) if items is not None else 0.0
        total, parts = graded if isinstance(graded, tuple) else (graded, {})
        flags = {"correct": total > 0.5} if judges else {}
        flags["answered"] = items is not None
        scores.append(Score(total=total, parts=parts, flags=flags))
    return scores


def _pixels(variant: Variant) -> CoordinateFrame | None:
    return None if variant == "plain" else "original_pixels"


def _confidence(item: Item) -> float:
    return -1.0 if item.confidence is None else item.confidence


def _unique(found: Items) -> list[Item]:
    """Without repetitions of a box; what has no usable box stays."""
    boxes: dict[object, Item] = {}
    for index, item in enumerate(found):
        boxes.setdefault(index if item.box is None else item.box, item)
    return list(boxes.values())


def _by_confidence(targets: Items, found: Items) -> list[tuple[float, float | None]]:
    """(IoU, confidence) of each found box in falling confidence; IoU 0 where it is not over 0.5."""
    free = [target.box for target in targets]
    results: list[tuple[float, float | None]] = []
    for item in sorted(_unique(found), key=_confidence, reverse=True):
        overlaps = [_overlap(item.box, box) for box in free]
        best = max(overlaps, default=0.0)
        if best > 0.5:
            free.pop(overlaps.index(best))
        results.append((best if best > 0.5 else 0.0, item.confidence))
    return results


def _best_first(targets: Items, found: Items, threshold: float, variant: Variant) -> list[tuple[float, int, int]]:
    """(IoU, gold, found), one to one, largest IoU first."""
    able = [
        (-overlap, j, i)
        for j, item in enumerate(found)
        for i, target in enumerate(targets)
        if (overlap := _overlap(item.box, target.box, variant)) >= threshold
    ]
    pairs: list[tuple[float, int, int]] = []
    used: tuple[set[int], set[int]] = set(), set()
    for overlap, j, i in sorted(able):
        if i not in used[0] and j not in used[1]:
            used[0].add(i)
            used[1].add(j)
            pairs.append((-overlap, i, j))
    return pairs


def _mean_best(items: Items, others: Items) -> float:
    return sum(max(_overlap(item.box, other.box) for other in others) for item in items) / len(items)


def _overlap(a: Corners | None, b: Corners | None, variant: Variant = "plain") -> float:
    return 0.0 if a is None or b is None else box_iou(a, b, variant)


def _label(item: Item) -> str:
    return plain(item.label or "")


def _same_label(target: Item, found: Item) -> bool:
    """A gold without a label takes any."""
    return _label(target) in ("", _label(found))


def _equal(a: Corners, b: Corners, within: float) -> bool:
    return all(abs(one - other) <= within for one, other in zip(a, b, strict=True))
