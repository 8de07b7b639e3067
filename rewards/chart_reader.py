"""Runs inside of the sandbox, after code that drew with matplotlib: says what the last figure shows.

charts.py reads this file as text; nothing imports it. It leaves in `result`: None without a figure, else

    {"layout": [[rows, columns, top, bottom, left, right] per plot], "picture": [64 x 48 x 3 numbers, 0 white to 255],
     "plots": [{"kinds": ["bar"], "values": [1.0, ..], "texts": {"title": "..", "legend": "..", ..}}]}
"""

from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

MOST_VALUES = 2000
MOST_TEXT = 300
WIDTH, HEIGHT = 64, 48


def _described(figure: Any) -> dict[str, Any]:
    plots = [plot for plot in figure.axes if plot.get_label() != "<colorbar>"]
    return {
        "layout": [_place(plot) for plot in plots],
        "plots": [{"kinds": _kinds(plot), "values": _values(plot), "texts": _texts(plot, figure)} for plot in plots],
        "picture": _picture(figure),
    }


def _place(plot: Any) -> list[int] | None:
    spec = plot.get_subplotspec()
    if spec is None:
        return None
    rows, columns = spec.get_gridspec().get_geometry()
    return [rows, columns, spec.rowspan.start, spec.rowspan.stop, spec.colspan.start, spec.colspan.stop]


def _kinds(plot: Any) -> list[str]:
    found = {"polar"} if plot.name == "polar" else {"3d"} if plot.name == "3d" else set()
    for container in plot.containers:
        name = type(container).__name__
        if name == "BarContainer":
            found.add("barh" if getattr(container, "orientation", None) == "horizontal" else "bar")
        elif name == "ErrorbarContainer":
            found.add("errorbar")
    for line in plot.lines:
        drawn = line.get_linestyle() not in ("None", "none", "", " ")
        found.add("line" if drawn else "scatter")
    names = {type(artist).__name__ for artist in [*plot.collections, *plot.patches, *plot.images]}
    for artist, kind in (
        ("PathCollection", "scatter"), ("Path3DCollection", "scatter"), ("PolyCollection", "area"),
        ("FillBetweenPolyCollection", "area"), ("QuadMesh", "heatmap"), ("AxesImage", "heatmap"), ("Wedge", "pie"),
        ("QuadContourSet", "contour"), ("Quiver", "quiver"),
    ):  # fmt: skip
        if artist in names:
            found.add(kind)
    return sorted(found)


def _values(plot: Any) -> list[float]:
    found: list[Any] = []
    for container in plot.containers:
        if type(container).__name__ == "BarContainer":
            lying = getattr(container, "orientation", None) == "horizontal"
            found += [bar.get_width() if lying else bar.get_height() for bar in container]
    for line in plot.lines:
        found += [*_numbers(line.get_xdata()), *_numbers(line.get_ydata())]
    for artist in plot.patches:
        if type(artist).__name__ == "Wedge":
            found.append((artist.theta2 - artist.theta1) / 360)
    for artist in plot.collections:
        if type(artist).__name__ == "PathCollection":
            found += _numbers(artist.get_offsets())
    for artist in [*plot.images, *(c for c in plot.collections if type(c).__name__ == "QuadMesh")]:
        found += _numbers(artist.get_array())
    return [float(value) for value in found[:MOST_VALUES] if np.isfinite(value)]


def _numbers(data: Any) -> list[float]:
    try:
        array: Any = np.ma.filled(np.ma.asarray(data, dtype=float), np.nan)
        return [float(number) for number in array.ravel()[:MOST_VALUES]]
    except (TypeError, ValueError):
        return []  # names or dates: they show as tick labels


def _texts(plot: Any, figure: Any) -> dict[str, str]:
    legend = plot.get_legend()
    named = {
        "title": plot.get_title(),
        "x": plot.get_xlabel(),
        "y": plot.get_ylabel(),
        "legend": "\n".join(text.get_text() for text in legend.get_texts()) if legend else "",
        "notes": "\n".join(text.get_text() for text in plot.texts),
        "x ticks": "\n".join(_names(plot.get_xticklabels())),
        "y ticks": "\n".join(_names(plot.get_yticklabels())),
        "figure": figure.get_suptitle() if hasattr(figure, "get_suptitle") else "",
    }
    return {name: text[:MOST_TEXT] for name, text in named.items() if text.strip()}


def _names(labels: Any) -> Iterator[str]:
    """Tick labels that are no numbers: those say no more than the values."""
    for label in labels:
        text = label.get_text()
        try:
            float(text.replace("\u2212", "-"))
        except ValueError:
            if text.strip():
                yield text


def _picture(figure: Any) -> list[int]:
    figure.set_dpi(40)
    figure.set_size_inches(6.4, 4.8)
    figure.canvas.draw()
    drawn = 255.0 - np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(float)
    tall, wide = drawn.shape[0] // HEIGHT, drawn.shape[1] // WIDTH
    blocks = drawn[: HEIGHT * tall, : WIDTH * wide].reshape(HEIGHT, tall, WIDTH, wide, 3).mean((1, 3))
    return [int(number) for number in blocks.round().ravel()]


figures = plt.get_fignums()
result = _described(plt.figure(figures[-1])) if figures and plt.figure(figures[-1]).axes else None
