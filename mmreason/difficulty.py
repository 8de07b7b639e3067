"""How hard each row is for the model, as measured before this run; and the filter by it.

A pass rate is the share of a row's sampled answers that were right, or their mean reward, in [0, 1]; `mmreason sample`
measures it. torch is not imported here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmreason.config import DataConfig, DataSource
from mmreason.errors import DataError
from mmreason.rows import read_rows
from mmreason.types import Sample

FIELD = "pass_rate"
"""The key of a line of a difficulty file."""


def kept(config: DataConfig, samples: Sequence[Sample]) -> list[Sample]:
    """The samples whose pass rate is within `data.pass_rate`, both ends included; all of them without that key.

    Raises DataError when pass rates are missing or when nothing is left.
    """
    if config.pass_rate is None:
        return list(samples)
    low, high = config.pass_rate
    rates = pass_rates(samples, config.difficulty)
    left = [sample for sample in samples if low <= rates[sample.id] <= high]
    if samples and not left:
        raise DataError(
            f"data.pass_rate: {[low, high]} leaves none of {len(samples)} rows; their pass rates are "
            f"{min(rates.values()):g} to {max(rates.values()):g}"
        )
    return left


def pass_rates(samples: Sequence[Sample], where: str) -> dict[str, float]:
    """Pass rate by id. `where` is `data.difficulty`: a key of `meta`, or a .jsonl file with id and pass_rate.

    Raises DataError when a sample has none, or one that is no number in [0, 1].
    """
    if where.endswith(".jsonl"):
        given: Mapping[str, Any] = _from_file(where)
        place = f"line in {where}"
    else:
        given = {sample.id: sample.meta[where] for sample in samples if where in sample.meta}
        place = f"{where!r} in meta"
    missing = [sample.id for sample in samples if sample.id not in given]
    if missing:
        raise DataError(
            f"data.difficulty: {len(missing)} of {len(samples)} rows have no {place}, first {missing[0]}; "
            "measure them with `mmreason sample`, or take them out"
        )
    return {sample.id: _rate(given[sample.id], sample.id, where) for sample in samples}


def _from_file(path: str) -> dict[str, Any]:
    rates: dict[str, Any] = {}
    for origin, row in read_rows(DataSource(path=path, format="jsonl")):
        if isinstance(row, DataError):
            raise row
        if not isinstance(row, Mapping) or not {"id", FIELD} <= row.keys():
            raise DataError(f'{origin}: expected an object with "id" and "{FIELD}"')
        if str(row["id"]) in rates:
            raise DataError(f"{origin}: id {row['id']!r} has a {FIELD} already; one line each")
        rates[str(row["id"])] = row[FIELD]
    return rates


def _rate(value: Any, id: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DataError(f"data.difficulty: {where}: {value!r} for {id}, expected a number from 0 to 1")
    return float(value)


def gaussian(rates: Iterable[float], centre: float = 0.3, width: float = 0.2) -> list[float]:
    """exp(-(d - 0.3)^2 / (2 0.2^2)): rows that the model can nearly do. Time-R1's weights (d: IoU of the base model).

    Example: d = 0.3 -> 1; 0.5 -> 0.606531; 1 -> 0.002187.
    """
    return [math.exp(-((rate - centre) ** 2) / (2 * width**2)) for rate in rates]
