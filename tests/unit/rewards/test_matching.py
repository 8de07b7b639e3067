"""Assignments and average precision; the latter against pycocotools in test_recorded_places.py."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from mmreason.rewards.boxes import Corners
from mmreason.rewards.matching import COCO_THRESHOLDS, average_precision, best_assignment

A: Corners = (0, 0, 100, 100)
B: Corners = (200, 200, 300, 300)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_no_assignment_is_better(rows: int, columns: int, data: st.DataObject) -> None:
    number = st.integers(0, 3).map(float) | st.floats(-2, 2)
    gains = [[data.draw(number) for _ in range(columns)] for _ in range(rows)]
    pairs = best_assignment(gains)
    assert len(pairs) == min(rows, columns)
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    wide = gains if rows <= columns else [list(row) for row in zip(*gains, strict=True)]
    best = max(
        sum(wide[row][column] for row, column in enumerate(chosen))
        for chosen in itertools.permutations(range(len(wide[0])), len(wide))
    )
    assert sum(gains[row][column] for row, column in pairs) == pytest.approx(best)


def test_assignments_are_those_of_scipy() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        gains = generator.random((12, 15))
        rows, columns = linear_sum_assignment(gains, maximize=True)
        assert best_assignment(gains.tolist()) == list(zip(rows.tolist(), columns.tolist(), strict=True))


def test_nothing_to_assign() -> None:
    assert best_assignment([]) == best_assignment([[], []]) == []


def test_a_large_assignment_takes_no_time() -> None:
    gains = [[float((i * j) % 7) for j in range(120)] for i in range(120)]
    assert len(best_assignment(gains)) == 120


@pytest.mark.parametrize(
    ("found", "precision"),
    [
        ([A, B], 1.0),
        ([A], 51 / 101),  # recall 0.5: the recalls 0, 0.01, ..., 0.5
        ([(500, 500, 600, 600), A, B], 2 / 3),
        ([A, (500, 500, 600, 600), B], (51 + 50 * 2 / 3) / 101),
        ([A, A, B], (51 + 50 * 2 / 3) / 101),
        ([(0, 0, 100, 72)], 0.5 * 51 / 101),  # found at IoU 0.5 to 0.7, five of ten
        ([], 0.0),
        ([(0, 0, 50, 100)], 0.1 * 51 / 101),  # at IoU 0.5 exactly it is found
    ],
)
def test_average_precision(found: list[Corners], precision: float) -> None:
    assert average_precision([A, B], found, COCO_THRESHOLDS) == pytest.approx(precision)
