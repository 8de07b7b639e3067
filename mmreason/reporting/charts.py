"""Charts as inline SVG: no script, no external resource, colours by CSS class so that both themes work.

Values can be read without a script, too: resting on a chart shows the values of that stretch of steps (SVG titles).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 360, 170
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 8, 22
COLOURS = 8
"""How many colours the page's style sheet has (classes c0, c1, ...)."""
MOST_POINTS = 300
BANDS = 40
"""Stretches of steps whose values can be read by resting on them."""
FEW = 8
"""Fewer points than these are drawn as they are, with dots."""

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line. Example: `Series(name="accuracy", steps=np.array([1, 2]), values=np.array([0.2, 0.3]))`"""

    name: str
    steps: Values
    values: Values
    """Usable numbers only (`Column.usable`)."""
    marked: bool = False
    """Few points that matter each: drawn as they are, with dots. Others are noisy: a smoothed line over a faint one."""

    @property
    def latest(self) -> float:
        """The last value; of a noisy series, the mean of its last ten."""
        return float(self.values[-1 if self.marked else -10 :].mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What the value axis shows, and what is said about it."""

    unit: str = ""
    bounds: tuple[float, float] | None = None
    """Fixed ends; None fits the values."""
    zero: bool = True
    """Whether an axis that fits the values reaches to 0."""
    marks: Sequence[float] = ()
    """Steps to mark with a line from top to bottom: those that were skipped."""
    hint: str = ""


PLAIN = Axis()


def line_chart(title: str, series: Sequence[Series], axis: Axis = PLAIN, rest: Sequence[Series] = ()) -> str:
    """An HTML figure with a legend. `rest`: series that are named with their latest value, but not drawn."""
    drawn = [thinned(one) for one in series if len(one.values)]
    if not drawn:
        return _figure(title, axis, "<p class='empty'>nothing logged yet</p>")
    scale = _Scale.fit(drawn, axis)
    few = all(one.marked or len(one.values) < FEW for one in drawn)
    body = [*_grid(scale), *_marks(axis.marks, scale)]
    for index, one in enumerate(drawn):
        body += _line(one, index, scale, faint=len(drawn) <= 3)
    body += [] if few else _bands(drawn, scale)
    return _figure(title, axis, _svg(title, drawn, body) + _legend(series, rest))


def stacked_chart(title: str, series: Sequence[Series], axis: Axis = PLAIN) -> str:
    """An HTML figure of areas on top of one another, the first at the bottom; a missing value counts as 0."""
    present = [one for one in series if len(one.values)]
    if not present:
        return _figure(title, axis, "<p class='empty'>nothing logged yet</p>")
    joined = [replace(one, values=_smoothed(one.values)) for one in _on_common_steps(present)]
    tops = np.cumsum([one.values for one in joined], axis=0)
    edges = [np.zeros_like(tops[0]), *tops]
    scale = _Scale.fit([Series(name="", steps=joined[0].steps, values=tops[-1])], axis)
    body = list(_grid(scale))
    for index, one in enumerate(joined):
        below, above = _places(one.steps, edges[index], scale), _places(one.steps, edges[index + 1], scale)
        body.append(f"<path class='area c{index % COLOURS}' d='M{' L'.join([*above, *below[::-1]])}Z'/>")
    body += _bands(joined, scale)
    return _figure(title, axis, _svg(title, joined, body) + _legend(joined, ()))


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


def thinned(series: Series) -> Series:
    """At most MOST_POINTS points in the order of steps: means of equal runs of neighbours, at the run's last step."""
    order = np.argsort(series.steps, kind="stable")
    steps, values = series.steps[order], series.values[order]
    size = math.ceil(len(values) / MOST_POINTS)
    starts = np.arange(0, len(values), size)
    ends = np.minimum(starts + size, len(values))
    means = np.add.reduceat(values, starts) / (ends - starts)
    return Series(name=series.name, steps=steps[ends - 1], values=means, marked=series.marked)


def _on_common_steps(series: Sequence[Series]) -> list[Series]:
    """The same steps for all, thinned together; 0 where a series has no value."""
    steps = np.unique(np.concatenate([one.steps for one in series]))
    whole = []
    for one in series:
        values = np.zeros(len(steps))
        values[np.searchsorted(steps, one.steps)] = one.values
        whole.append(thinned(Series(name=one.name, steps=steps, values=values)))
    return whole


@dataclass(frozen=True, slots=True)
class _Scale:
    """From steps and values to places in the picture."""

    first: float
    last: float
    low: float
    high: float

    @staticmethod
    def fit(series: Sequence[Series], axis: Axis) -> _Scale:
        values = np.concatenate([one.values for one in series])
        ends = [float(end) for one in series for end in (one.steps[0], one.steps[-1])]
        low, high = axis.bounds or (float(values.min()), float(values.max()))
        if axis.zero and axis.bounds is None:
            low, high = min(low, 0.0), max(high, 0.0)
        if not axis.zero:  # a flat line must not look like a wild one
            margin = max(0.0, 0.01 * max(abs(low), abs(high), 0.01) - (high - low)) / 2
            low, high = low - margin, high + margin
        if high - low < 1e-100:  # all the same, or so close that no tick would lie between them
            high = low + 1.0
        return _Scale(min(ends), max(ends), low, high)

    def x(self, step: float) -> float:
        share = (step - self.first) / (self.last - self.first) if self.last > self.first else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - min(1.0, max(0.0, share)) * (HEIGHT - TOP - BOTTOM)


def _figure(title: str, axis: Axis, content: str) -> str:
    unit = f" <span class='unit'>{escape(axis.unit)}</span>" if axis.unit else ""
    hint = f"<p class='hint'>{escape(axis.hint)}</p>" if axis.hint else ""
    return f"<figure><figcaption>{escape(title)}{unit}</figcaption>{content}{hint}</figure>"


def _svg(title: str, series: Sequence[Series], body: Sequence[str]) -> str:
    label = escape(f"{title}: {', '.join(one.name for one in series)}", quote=True)
    return f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label=\"{label}\">{''.join(body)}</svg>"


def _legend(series: Sequence[Series], rest: Sequence[Series]) -> str:
    drawn = [one for one in series if len(one.values)]
    keys = "".join(
        f"<span class='key'><i class='c{index % COLOURS}'></i>{escape(one.name)} <b>{number(one.latest)}</b></span>"
        for index, one in enumerate(drawn)
    )
    named = "".join(
        f"<span class='key'>{escape(one.name)} <b>{number(one.latest)}</b></span>" for one in rest if len(one.values)
    )
    more = f"<details><summary>{len(rest)} more</summary><div class='legend'>{named}</div></details>" if named else ""
    return f"<div class='legend'>{keys}</div>{more}"


def _grid(scale: _Scale) -> Iterator[str]:
    for tick in _ticks(scale.low, scale.high):
        y = scale.y(tick)
        yield f"<line class='grid' x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{y:.1f}' y2='{y:.1f}'/>"
        yield f"<text class='tick' x='{LEFT - 6}' y='{y + 3.5:.1f}' text-anchor='end'>{_tick(tick)}</text>"
    ticks = [tick for tick in _ticks(scale.first, scale.last) if tick == round(tick)]
    for tick in ticks if scale.last > scale.first else [scale.first]:
        x = scale.x(tick)
        anchor = "end" if x > WIDTH - RIGHT - 16 else "middle"
        yield f"<text class='tick' x='{x:.1f}' y='{HEIGHT - 7}' text-anchor='{anchor}'>{_tick(tick)}</text>"


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers between the two."""
    rough = (high - low) / 5
    if rough <= abs(high) * 1e-14:  # closer than floats can tell ticks apart
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _tick(value: float) -> str:
    """As short as it goes, because there is little room: 0.25, 2.5k, 5e-4."""
    if 0 < abs(value) < 0.001:
        digits, power = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(power)}"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size <= abs(value) < 1e12:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"


def _marks(steps: Sequence[float], scale: _Scale) -> Iterator[str]:
    """At most MOST_POINTS of them: each is a line of the picture."""
    inside = [step for step in steps if scale.first <= step <= scale.last]
    for step in inside[:: math.ceil(len(inside) / MOST_POINTS) or 1]:
        place = f"x1='{scale.x(step):.1f}' x2='{scale.x(step):.1f}' y1='{TOP}' y2='{HEIGHT - BOTTOM}'"
        yield f"<line class='mark' {place}><title>step {step:g}: skipped</title></line>"


def _line(series: Series, index: int, scale: _Scale, *, faint: bool) -> Iterator[str]:
    colour = f"c{index % COLOURS}"
    path = _path(series.steps, series.values, scale)
    if series.marked or len(series.values) < FEW:
        yield f"<path class='line {colour}' d='{path}'/>"
        for step, value in zip(series.steps.tolist(), series.values.tolist(), strict=True):
            place = f"cx='{scale.x(step):.1f}' cy='{scale.y(value):.1f}'"
            what = escape(f"{series.name}, step {step:g}: {number(value)}")
            yield f"<circle class='dot {colour}' r='3' {place}><title>{what}</title></circle>"
        return
    if faint:
        yield f"<path class='line faint {colour}' d='{path}'/>"
    yield f"<path class='line {colour}' d='{_path(series.steps, _smoothed(series.values), scale)}'/>"


def _bands(series: Sequence[Series], scale: _Scale) -> Iterator[str]:
    """Invisible columns; resting on one shows the mean of each series over its steps."""
    if scale.last <= scale.first:
        return
    edges = np.linspace(scale.first, scale.last, BANDS + 1)
    width = (WIDTH - LEFT - RIGHT) / BANDS
    for index, (begin, end) in enumerate(pairwise(edges.tolist())):
        found = [(one.name, one.values[_inside(one.steps, begin, end)]) for one in series]
        told = [f"{name}: {number(float(values.mean()))}" for name, values in found if len(values)]
        if told:
            title = escape("\n".join([f"steps {begin:.0f} to {end:.0f}", *told]))
            place = f"x='{LEFT + index * width:.1f}' y='{TOP}' width='{width:.1f}' height='{HEIGHT - TOP - BOTTOM}'"
            yield f"<rect class='band' {place}><title>{title}</title></rect>"


def _inside(steps: Values, begin: float, end: float) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = (steps >= begin) & (steps <= end)
    return inside


def _path(steps: Values, values: Values, scale: _Scale) -> str:
    return "M" + " L".join(_places(steps, values, scale))


def _places(steps: Values, values: Values, scale: _Scale) -> list[str]:
    return [f"{scale.x(s):.1f} {scale.y(v):.1f}" for s, v in zip(steps.tolist(), values.tolist(), strict=True)]


def _smoothed(values: Values) -> Values:
    """Mean over a window of about a twentieth of the points, centred; shorter at the ends. Few stay as they are."""
    if len(values) < FEW:
        return values
    half = max(1, len(values) // 40)
    return np.array([values[max(0, at - half) : at + half + 1].mean() for at in range(len(values))])
