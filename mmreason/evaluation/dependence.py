"""How much of the accuracy comes from the media: accuracy with them minus accuracy in another view of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from mmreason.evaluation.rows import EvalResult, EvalRow
from mmreason.evaluation.statistics import Z95
from mmreason.types import View


def dependence(shown: EvalResult, changed: Mapping[View, EvalResult]) -> dict[str, float]:
    """Per view and modality: "dependence/<view>/<modality>" and "dependence/<view>/all", each also with "/low" and
    "/high" (95 %) and "/of".

    Over the questions that were scored in both, each with itself: accuracy as it is minus accuracy in the view, -1 to
    1. The interval is the normal one of a mean of paired differences; of one question it is -1 to 1.
    """
    rows = {row.id: row for row in shown.rows if row.status == "scored"}
    values: dict[str, float] = {}
    for view, result in changed.items():
        pairs = [(rows[row.id], row) for row in result.rows if row.status == "scored" and row.id in rows]
        for group in ["all", *sorted({row.modality for row, _ in pairs})] if pairs else []:
            chosen = [pair for pair in pairs if group in ("all", pair[0].modality)]
            values |= _estimate(f"dependence/{view}/{group}", [_share(one) - _share(other) for one, other in chosen])
    return values


def dependence_lines(values: Mapping[str, float]) -> Iterator[str]:
    """A line per view: "accuracy as it is minus in view shuffled: all +31.2 [20 to 42] of 60, video ..."."""
    views = dict.fromkeys(name.split("/")[1] for name in values)
    for view in views:
        start = f"dependence/{view}/"
        groups = [name for name in values if name.startswith(start) and name.count("/") == 2]
        cells = (
            f"{name[len(start) :]} {100 * values[name]:+.1f} "
            f"[{100 * values[f'{name}/low']:.0f} to {100 * values[f'{name}/high']:.0f}] of {values[f'{name}/of']:.0f}"
            for name in groups
        )
        yield f"accuracy as it is minus in view {view}: {', '.join(cells)}"


def _share(row: EvalRow) -> float:
    return row.right / len(row.answers)


def _estimate(name: str, differences: Sequence[float]) -> dict[str, float]:
    count = len(differences)
    mean = math.fsum(differences) / count
    half = 2.0
    if count > 1:
        variance = math.fsum((value - mean) ** 2 for value in differences) / (count - 1)
        half = Z95 * math.sqrt(variance / count)
    low, high = max(-1.0, mean - half), min(1.0, mean + half)
    return {name: mean, f"{name}/low": low, f"{name}/high": high, f"{name}/of": count}
