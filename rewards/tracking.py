"""Did the model follow the thing? Boxes of one thing at several times."""

from __future__ import annotations

from collections.abc import Sequence

from mmreason.errors import DataError
from mmreason.rewards.base import extract_answer
from mmreason.rewards.boxes import items_of, read_items
from mmreason.rewards.frames import find_gold, for_golds, meant_items, said_items
from mmreason.rewards.grounding import box_iou
from mmreason.types import CoordinateFrame, Rollout, Sample, Score


@for_golds("track", task="tracking")
def tracking(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    frame: CoordinateFrame | None = None,
    gold_frame: CoordinateFrame = "original_pixels",
    media_index: int = 0,
) -> list[Score]:
    """Mean IoU of the answered boxes with those of `golds["track"]`, in their order, 0 to 1 (VideoChat-R1).

    The answer is a list of as many boxes as the gold has, [[x1, y1, x2, y2], ..] or objects with "bbox_2d"; another
    number of boxes is 0, as in VideoChat-R1 (`grpo_tasks.py`: 8 boxes, both sides in the frame "unit"). An inverted box
    adds 0. Flags "correct" (over 0.5) and "answered" (the right number of boxes). Frames and images as in `iou`.
    """
    gold = find_gold(sample, "track", frame=frame, gold_frame=gold_frame, media_index=media_index)
    targets = meant_items(gold, items_of(gold.value), gold.frame)
    if not targets:
        raise DataError(f"gold track {gold.shown}: expected boxes [x1, y1, x2, y2]")
    scores = []
    for rollout in rollouts:
        said = read_items(extract_answer(rollout.text) or "") or []
        answered = len(said) == len(targets)
        pairs = zip(targets, said_items(gold, said, gold.frame), strict=True) if answered else ()
        overlaps = [box_iou(a.box, b.box) for a, b in pairs if a.box is not None and b.box is not None]
        total = sum(overlaps) / len(targets)
        scores.append(Score(total=total, flags={"correct": total > 0.5, "answered": answered}))
    return scores
