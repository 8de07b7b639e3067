"""Reading a run's logs, however long, torn or odd they are."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = dict[str, Any]
LARGEST = 1e100
"""Values beyond this are not drawn: nothing a run measures comes near, and sums of them would overflow."""


@dataclass(slots=True)
class Column:
    """The values of one metric, in the order of the log. Compact: a week's run has hundreds of thousands of lines."""

    steps: array[float] = field(default_factory=lambda: array("d"))
    values: array[float] = field(default_factory=lambda: array("d"))

    def add(self, step: float, value: float) -> None:
        self.steps.append(step)
        self.values.append(value)

    def broken_steps(self) -> set[float]:
        """Steps at which it was no finite number."""
        values_N = np.frombuffer(self.values)
        return set(np.frombuffer(self.steps)[~np.isfinite(values_N)].tolist())

    def usable(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Steps and values, without those that no chart can show."""
        steps_N, values_N = np.array(self.steps), np.array(self.values)
        fine_N = (np.abs(values_N) <= LARGEST) & (np.abs(steps_N) <= LARGEST)  # False for NaN
        return steps_N[fine_N], values_N[fine_N]

    def mean(self, last: int | None = None) -> float:
        """Mean of the usable ones among the (last) values; NaN when there is none."""
        return _mean(self.usable()[1][-last if last else None :])

    def first_mean(self, first: int) -> float:
        """Mean of the usable ones among the first values; NaN when there is none."""
        return _mean(self.usable()[1][:first])


@dataclass(slots=True)
class Metrics:
    """metrics.jsonl: one column per number of the training steps; evaluations and events as they were written."""

    train: dict[str, Column] = field(default_factory=dict)
    steps: array[float] = field(default_factory=lambda: array("d"))
    """Steps of the training lines."""
    evals: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)
    times: tuple[float, float] = (math.nan, math.nan)
    """When the first and the last line were written, in seconds since 1970."""
    torn: int = 0
    """Lines that could not be read."""

    @property
    def last_step(self) -> float:
        """NaN before the first line."""
        return max([*self.steps[-1:], *(as_float(row["step"]) for row in self.evals[-1:])], default=math.nan)

    def names(self, prefix: str, without: Sequence[str] = ()) -> list[str]:
        """Names of the training metrics below "prefix/", in the order of the alphabet."""
        found = sorted(name for name in self.train if name.startswith(f"{prefix}/"))
        return [name for name in found if name.removeprefix(f"{prefix}/") not in without]

    def mean(self, name: str, last: int | None = None) -> float:
        """Mean over the (last) steps that have it; NaN where none has."""
        return self.train[name].mean(last) if name in self.train else math.nan

    def add(self, row: Row) -> None:
        """One line of the log."""
        step = as_float(row.get("step"))
        if not math.isfinite(step):
            self.torn += 1
            return
        at = as_float(row.get("time"))
        self.times = (self.times[0] if math.isfinite(self.times[0]) else at, at if math.isfinite(at) else self.times[1])
        if row.get("kind") == "train":
            self.steps.append(step)
            for name, value in row.items():
                if isinstance(value, float) or value is None or is_number(value):
                    column = self.train.get(name) or self.train.setdefault(name, Column())
                    column.steps.append(step)
                    column.values.append(value if isinstance(value, float) else as_float(value))
        elif row.get("kind") == "eval":
            self.evals.append(row)
        elif row.get("kind") == "event":
            self.events.append(row)


def read_metrics(path: Path) -> Metrics:
    """Line by line, so that memory holds numbers only. No file: nothing logged."""
    metrics = Metrics()
    for row in lines(path):
        if row is None:
            metrics.torn += 1
        else:
            metrics.add(row)
    return metrics


def read_lines(path: Path) -> tuple[list[Row], int]:
    """The JSON objects of a file, one per line, and how many lines were not one. No file: no lines."""
    rows = list(lines(path))
    found = [row for row in rows if row is not None]
    return found, len(rows) - len(found)


def lines(path: Path) -> Iterator[Row | None]:
    """Every whole line of a file: its JSON object, or None.

    Lines end at b"\\n" only: texts may hold U+2028 and U+0085. A last line without its end is still being written.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            yield row if isinstance(row, dict) else None


def is_number(value: object) -> bool:
    """Whether a JSON value is a number (true and false are none)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_float(value: object) -> float:
    """A number of a log as a float: NaN for what is no number, infinity for an integer beyond all floats."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _mean(values_N: NDArray[np.float64]) -> float:
    return float(values_N.mean()) if len(values_N) else math.nan
