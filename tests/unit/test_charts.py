"""Charts: every value where it belongs, whatever the values are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from mmreason.reporting.charts import BOTTOM, HEIGHT, MOST_POINTS, TOP, Axis, Series, line_chart, number, stacked_chart
from mmreason.reporting.logs import Column
from tests.unit.test_reporting import Page


def series(points: Iterable[tuple[float, float]], name: str = "a", **options: Any) -> Series:
    """As the report makes them: what no chart can show is left out."""
    column = Column()
    for step, value in points:
        column.add(step, value)
    steps, values = column.usable()
    return Series(name=name, steps=steps, values=values, **options)


def heights(svg: str, kind: str = "line") -> list[float]:
    """The y of every point of the first path of this class."""
    found = re.search(rf"<path class='{kind} c0' d='([^']*)'", svg)
    assert found
    return [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", found[1])]


def test_every_value_stands_where_it_belongs() -> None:
    svg = line_chart("Accuracy", [series([(0, 0.0), (10, 1.0)], marked=True)], Axis(bounds=(0.0, 1.0)))
    dots = re.findall(r"<circle[^>]*cx='([\d.]+)' cy='([\d.]+)'", svg)
    (x0, y0), (x1, y1) = [(float(x), float(y)) for x, y in dots]
    assert x0 < x1
    assert (y0, y1) == (HEIGHT - BOTTOM, TOP)


def test_steps_out_of_order_are_put_in_order() -> None:
    svg = line_chart("x", [series([(2, 0.0), (1, 1.0)])])
    assert heights(svg) == [TOP, HEIGHT - BOTTOM]


def test_values_can_be_read_by_resting_on_them() -> None:
    svg = line_chart("x", [series([(step, 5.0 if step <= 20 else 7.0) for step in range(1, 41)])])
    titles = re.findall(r"<rect class='band'[^>]*><title>([^<]*)</title>", svg)
    assert len(titles) == 40
    assert "a: 5" in titles[0]
    assert "a: 7" in titles[-1]


def test_skipped_steps_are_marked() -> None:
    svg = line_chart("x", [series((step, 1.0) for step in range(20))], Axis(marks=(3.0, 7.0, 900.0)))
    assert re.findall(r"step (\d+): skipped", svg) == ["3", "7"]


def test_a_flat_line_off_zero_stays_flat() -> None:
    svg = line_chart("Ratio", [series((step, 1 + 1e-9 * (-1) ** step) for step in range(50))], Axis(zero=False))
    drawn = heights(svg)
    assert max(drawn) - min(drawn) <= 0.1


def test_series_that_are_not_drawn_are_named() -> None:
    page = Page(line_chart("x", [series([(1, 1.0)])], rest=[series([(1, 0.25)], name="<b>rare</b>")]))
    assert "1 more<b>rare</b> 0.25" in page.text


def test_stages_are_stacked_and_a_missing_value_counts_as_nothing() -> None:
    parts = [series([(1, 1.0), (2, 1.0)]), series([(2, 3.0)], name="b")]
    svg = stacked_chart("Time", parts)
    Page(svg)
    top = re.findall(r"<path class='area c1' d='M([^Z]*)Z'", svg)[0].split(" L")[:2]
    first, last = (float(place.split()[1]) for place in top)
    assert last < first, "1 + 3 stands above 1 + 0"


@pytest.mark.parametrize("values", [[float("nan")] * 3, [1.0], [2.0] * 20, [float("inf"), 1.0, -1.0] * 9])
def test_any_values(values: list[float]) -> None:
    for chart in (line_chart, stacked_chart):
        svg = chart("x", [series((float(i), value) for i, value in enumerate(values))])
        Page(svg)
        assert "nan" not in svg


@pytest.mark.parametrize(
    "values",
    [[1e308, -1e308] * 10, [0.0, 5e-324] * 10, [5e-324], [1.0, 1e200, 2.0], [1e99, -1e99], [1e-310, -1e-310],
     [float("inf"), 1.0]],
)  # fmt: skip
def test_values_from_end_to_end(values: list[float]) -> None:
    for axis in (Axis(), Axis(zero=False), Axis(bounds=(0.0, 1.0))):
        svg = line_chart("x", [series((float(step), value) for step, value in enumerate(values))], axis)
        Page(svg)
        assert not re.search(r"\b(?:nan|inf)\b", svg)


def test_steps_without_end_make_a_chart_too() -> None:
    for steps in [(1e16, 1e16 + 2), (0.0, 1e99), (1e308, 1.0), (-1e308, 1e308)]:
        Page(line_chart("x", [series((step, 1.0) for step in steps)]))
        Page(line_chart("x", [series((step, 1.0) for step in steps for _ in range(9))]))


def test_long_runs_give_small_charts() -> None:
    svg = line_chart("x", [series((float(step), float(step % 7)) for step in range(100_000))])
    assert len(svg) < 30_000
    assert len(heights(svg)) <= MOST_POINTS
    assert np.allclose(heights(svg), heights(svg)[0], atol=1), "means of 0 to 6"


@pytest.mark.parametrize(
    ("value", "text"), [(0.875, "0.875"), (12.34, "12.3"), (1234.5, "1,234"), (0.00003, "3.0e-05"), (0.0, "0")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text
