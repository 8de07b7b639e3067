"""Which prediction belongs to which gold: assignments, and COCO's average precision on one image."""

from __future__ import annotations

from collections.abc import Sequence

from mmreason.rewards.boxes import Corners
from mmreason.rewards.grounding import box_iou

COCO_THRESHOLDS = (*(0.5 + step * ((0.95 - 0.5) / 9) for step in range(9)), 0.95)
"""IoU from which a box is found: 0.5, 0.55, ..., 0.95, rounded as numpy's linspace, of which COCO's are made."""
_RECALLS = tuple(step * 0.01 for step in range(101))
MOST = 100
"""Detections per label that COCO looks at."""


def best_assignment(gains: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """Pairs (row, column), each at most once and as many as possible, with the largest sum of gains.

    The Hungarian method by shortest augmenting paths (Jonker and Volgenant 1987), O(rows x rows x columns).
    """
    if not gains or not gains[0]:
        return []
    if len(gains) > len(gains[0]):
        return sorted((row, column) for column, row in best_assignment(list(zip(*gains, strict=True))))
    owner = [-1] * len(gains[0])
    row_price, column_price = [0.0] * len(gains), [0.0] * len(gains[0])
    for row in range(len(gains)):
        _augment(row, gains, owner, row_price, column_price)
    return sorted((row, column) for column, row in enumerate(owner) if row >= 0)


def _augment(
    start: int, gains: Sequence[Sequence[float]], owner: list[int], row_price: list[float], column_price: list[float]
) -> None:
    """Give row `start` a column along the cheapest alternating path, and move the prices along."""
    free = list(range(len(owner)))
    cost = [float("inf")] * len(owner)
    before = [-1] * len(owner)  # the column from which a path reaches this one
    reached: list[int] = []
    row, last, length = start, -1, 0.0
    while True:
        for column in free:
            through = length - gains[row][column] - row_price[row] - column_price[column]
            if through < cost[column]:
                cost[column], before[column] = through, last
        last = min(free, key=cost.__getitem__)
        length = cost[last]
        if owner[last] < 0:
            break
        free.remove(last)
        reached.append(last)
        row = owner[last]
    row_price[start] += length
    for column in reached:
        row_price[owner[column]] += length - cost[column]
        column_price[column] -= length - cost[column]
    while last >= 0:
        owner[last] = start if before[last] < 0 else owner[before[last]]
        last = before[last]


def average_precision(golds: Sequence[Corners], found: Sequence[Corners], thresholds: Sequence[float]) -> float:
    """COCO's average precision of boxes of one label on one image, mean over IoU thresholds, 0 to 1.

    `found` stands in falling confidence; the first MOST count. Precision is interpolated at 101 recalls. As
    pycocotools has it (`cocoeval.py`), without its size classes and crowds.
    """
    assert golds, "precision of a label that is not there is not defined"
    overlaps = [[box_iou(gold, box) for gold in golds] for box in found[:MOST]]
    return sum(_precision_at(overlaps, len(golds), threshold) for threshold in thresholds) / len(thresholds)


def _precision_at(overlaps: Sequence[Sequence[float]], golds: int, threshold: float) -> float:
    precisions, recalls, hits = [], [], 0
    for count, hit in enumerate(_hits(overlaps, golds, threshold), 1):
        hits += hit
        precisions.append(hits / count)
        recalls.append(hits / golds)
    for place in range(len(precisions) - 1, 0, -1):  # at every recall the best precision at that recall or above
        precisions[place - 1] = max(precisions[place - 1], precisions[place])
    total, place = 0.0, 0
    for recall in _RECALLS:
        while place < len(recalls) and recalls[place] < recall:
            place += 1
        total += precisions[place] if place < len(recalls) else 0.0
    return total / len(_RECALLS)


def _hits(overlaps: Sequence[Sequence[float]], golds: int, threshold: float) -> list[bool]:
    """For each detection whether it takes a gold: the free one that it overlaps most, the last of equals."""
    free, hits = set(range(golds)), []
    for row in overlaps:
        able = [(row[gold], gold) for gold in free if row[gold] >= min(threshold, 1.0 - 1e-10)]
        if able:
            free.remove(max(able)[1])
        hits.append(bool(able))
    return hits
