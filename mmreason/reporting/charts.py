"""Line charts as inline SVG: no script, no external resource, colours by CSS class so that both themes work."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape

WIDTH, HEIGHT = 460, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 26
COLOURS = 8
"""How many line colours the page's style sheet has (classes c0, c1, ...)."""
MOST_POINTS = 400
LARGEST = 1e100
"""Values beyond this are not drawn: nothing a run measures comes near, and sums of them would overflow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line. Example: `Series(name="accuracy", points=((1, 0.2), (2, 0.3)))`"""

    name: str
    points: tuple[tuple[float, float], ...]
    """(step, value) in order of steps; values that are not finite, or absurd, leave a gap."""
    marked: bool = False
    """Few points that matter each: drawn as they are, with dots. Others are noisy: a smoothed line over a faint one."""


def line_chart(
    title: str, series: Sequence[Series], *, unit: str = "", bounds: tuple[float, float] | None = None
) -> str:
    """An HTML figure with a legend. `bounds` fixes the value axis; otherwise it fits the values."""
    usable = [replace(one, points=tuple(point for point in one.points if _is_usable(*point))) for one in series]
    drawn = [one for one in usable if one.points]
    left_out = sum(len(one.points) for one in series) - sum(len(one.points) for one in drawn)
    note = f"<p class='hint'>not drawn: {left_out} values that are no usable numbers</p>" if left_out else ""
    heading = escape(title) + (f" <span class='unit'>{escape(unit)}</span>" if unit else "")
    if not drawn:
        return f"<figure><figcaption>{heading}</figcaption><p class='empty'>nothing logged yet</p>{note}</figure>"
    scale = _Scale.fit(drawn, bounds)
    body = [*_grid(scale), *(mark for index, one in enumerate(drawn) for mark in _line(one, index, scale))]
    label = escape(f"{title}: {', '.join(one.name for one in drawn)}", quote=True)
    legend = "".join(
        f"<span class='key'><i class='c{index % COLOURS}'></i>{escape(one.name)} <b>{_last(one)}</b></span>"
        for index, one in enumerate(drawn)
    )
    return (
        f"<figure><figcaption>{heading}</figcaption>"
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label=\"{label}\">{''.join(body)}</svg>"
        f"<div class='legend'>{legend}</div>{note}</figure>"
    )


def as_float(value: object) -> float:
    """A number of a log as a float: NaN for what is no number, infinity for an integer beyond all floats."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _is_usable(step: float, value: float) -> bool:
    return all(math.isfinite(one) and abs(one) <= LARGEST for one in (step, value))


def number(value: float) -> str:
    """A number as a reader wants it: 0.87, 12.3, 1,234, 3.1e-05."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size >= 1e9:
        return f"{value:.2e}"
    if size >= 1000:
        return f"{value:,.0f}"
    if 0 < size < 0.001:
        return f"{value:.1e}"
    return f"{value:.3g}"


@dataclass(frozen=True, slots=True)
class _Scale:
    """From steps and values to places in the picture."""

    first: float
    last: float
    low: float
    high: float

    @staticmethod
    def fit(series: Sequence[Series], bounds: tuple[float, float] | None) -> _Scale:
        steps = [step for one in series for step, _ in one.points]
        values = [value for one in series for _, value in one.points]
        low, high = bounds or (min(0.0, *values, 0.0), max(values))
        if high - low < 1e-100:  # all the same, or so close that no tick would lie between them
            high = low + 1.0
        return _Scale(min(steps), max(steps), low, high)

    def x(self, step: float) -> float:
        share = (step - self.first) / (self.last - self.first) if self.last > self.first else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - min(1.0, max(0.0, share)) * (HEIGHT - TOP - BOTTOM)


def _grid(scale: _Scale) -> Iterator[str]:
    for tick in _ticks(scale.low, scale.high):
        y = scale.y(tick)
        yield f"<line class='grid' x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{y:.1f}' y2='{y:.1f}'/>"
        yield f"<text class='tick' x='{LEFT - 6}' y='{y + 3.5:.1f}' text-anchor='end'>{number(tick)}</text>"
    ticks = [tick for tick in _ticks(scale.first, scale.last) if tick == round(tick)]
    for tick in ticks if scale.last > scale.first else [scale.first]:
        x = scale.x(tick)
        yield f"<text class='tick' x='{x:.1f}' y='{HEIGHT - 8}' text-anchor='middle'>{number(tick)}</text>"


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers between the two."""
    rough = (high - low) / 5
    if rough <= abs(high) * 1e-14:  # closer than floats can tell ticks apart
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _line(series: Series, index: int, scale: _Scale) -> Iterator[str]:
    colour = f"c{index % COLOURS}"
    points = _thinned(series.points)
    if series.marked or len(points) < 8:
        yield f"<path class='line {colour}' d='{_path(points, scale)}'/>"
        for step, value in points:
            place = f"cx='{scale.x(step):.1f}' cy='{scale.y(value):.1f}'"
            what = escape(f"{series.name}, step {step:g}: {number(value)}")
            yield f"<circle class='dot {colour}' r='3' {place}><title>{what}</title></circle>"
        return
    yield f"<path class='line faint {colour}' d='{_path(points, scale)}'/>"
    yield f"<path class='line {colour}' d='{_path(_smoothed(points), scale)}'/>"


def _path(points: Sequence[tuple[float, float]], scale: _Scale) -> str:
    return " ".join(f"{'L' if at else 'M'}{scale.x(s):.1f} {scale.y(v):.1f}" for at, (s, v) in enumerate(points))


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MOST_POINTS of them: means of equal runs of neighbours, so that long runs stay small pages."""
    size = math.ceil(len(points) / MOST_POINTS) or 1
    runs = [points[start : start + size] for start in range(0, len(points), size)]
    return [(run[-1][0], sum(value for _, value in run) / len(run)) for run in runs]


def _smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Mean over a window of about a twentieth of the points, centred; shorter at the ends."""
    half = max(1, len(points) // 40)
    windows = [points[max(0, at - half) : at + half + 1] for at in range(len(points))]
    return [
        (step, sum(value for _, value in window) / len(window))
        for (step, _), window in zip(points, windows, strict=True)
    ]


def _last(series: Series) -> str:
    values = [value for _, value in series.points]
    tail = values[-1:] if series.marked else values[-10:]
    return number(sum(tail) / len(tail))
