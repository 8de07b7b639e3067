"""Which row of the training data comes when: `data.order` and `data.mix` as a pure function of seed and epoch.

Nothing is remembered from one epoch to the next, and nothing depends on how many processes share an epoch, so that a
position in the data is two numbers (epoch, index). torch is not imported here.
"""

from __future__ import annotations

import difflib
import math
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmreason.config import DataConfig
from mmreason.difficulty import gaussian, pass_rates
from mmreason.errors import DataError
from mmreason.types import Sample

BY_DIFFICULTY = ("easy_to_hard", "hard_to_easy", "gaussian")
"""Values of `data.order` that need pass rates."""

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Rows that are drawn together: all of them, or those of one source.

    Example: 5 rows of the source "maps", 8 draws of them in every epoch: `Stream(rows=[..5], count=8, salt=(7, ))`
    """

    rows: Rows
    count: int
    salt: tuple[int, ...] = ()
    """Tells its random numbers from those of other streams."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The order of every epoch. Made by `order_of`.

    Example: `Order(kind="shuffled", seed=0, streams=(Stream(rows=np.arange(5), count=5),)).epoch(0)` -> 5 indices
    """

    kind: str
    """A value of `data.order`."""
    seed: int
    streams: tuple[Stream, ...]
    rates: NDArray[np.float64] | None = None
    """Pass rate by row, where the order goes by it."""

    @property
    def length(self) -> int:
        """Rows of an epoch, over all processes."""
        return sum(stream.count for stream in self.streams)

    def epoch(self, number: int) -> list[int]:
        """Indices of the rows of an epoch, in order. A row may be in it several times, or not at all (see `Stream`)."""
        drawn = [self._arranged(self._drawn(stream, number)) for stream in self.streams]
        if len(drawn) == 1:
            order: list[int] = drawn[0].tolist()
            return order
        return _interleaved(drawn, np.random.default_rng([self.seed, number, 0]))

    def _drawn(self, stream: Stream, epoch: int) -> Rows:
        """The rows of a stream for an epoch, in the order in which they are drawn."""
        if self.kind == "gaussian":
            assert self.rates is not None
            weights = np.array(gaussian(self.rates[stream.rows].tolist()))
            random = np.random.default_rng([self.seed, epoch, *stream.salt])
            return random.permutation(stream.rows[_systematic(weights, stream.count, float(random.random()))])
        # Round and round: draws go on where those of the epoch before ended, so every row comes equally often.
        size, first = len(stream.rows), epoch * stream.count
        rounds = range(first // size, (first + stream.count - 1) // size + 1)
        endless = np.concatenate([self._round(stream, number) for number in rounds])
        return endless[first - rounds.start * size :][: stream.count]

    def _round(self, stream: Stream, number: int) -> Rows:
        if self.kind == "file":
            return stream.rows
        return np.random.default_rng([self.seed, number, *stream.salt]).permutation(stream.rows)

    def _arranged(self, drawn: Rows) -> Rows:
        """Sorted by pass rate where the order says so; rows of the same rate stay as they were drawn."""
        if self.kind not in ("easy_to_hard", "hard_to_easy"):
            return drawn
        assert self.rates is not None
        rates = self.rates[drawn]
        return drawn[np.argsort(-rates if self.kind == "easy_to_hard" else rates, kind="stable")]


def order_of(config: DataConfig, samples: Sequence[Sample], seed: int) -> Order:
    """The order that a config asks for. Raises DataError: pass rates are missing, or sources and `data.mix` differ."""
    streams = _mixed(config.mix, samples) if config.mix else (Stream(rows=np.arange(len(samples)), count=len(samples)),)
    rates = None
    if config.order in BY_DIFFICULTY:
        by_id = pass_rates(samples, config.difficulty)
        rates = np.array([by_id[sample.id] for sample in samples], dtype=np.float64)
    return Order(kind=config.order, seed=seed, streams=streams, rates=rates)


def _mixed(mix: Mapping[str, float], samples: Sequence[Sample]) -> tuple[Stream, ...]:
    """One stream per source of a positive weight. An epoch has as many rows as these sources together."""
    sizes = Counter(sample.source for sample in samples)
    if unnamed := sorted(sizes.keys() - mix.keys()):
        raise DataError(
            f"data.mix: source {unnamed[0]!r} ({sizes[unnamed[0]]} rows) is not in it; give it a weight, or 0 to leave "
            "it out"
        )
    wanted = {source: weight for source, weight in mix.items() if weight > 0}
    for source in wanted:
        if source not in sizes:
            close = difflib.get_close_matches(source, sorted(sizes), n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"the data has {', '.join(sorted(sizes))}"
            raise DataError(f"data.mix: no row has the source {source!r}; {hint}")
    counts = quotas(wanted, sum(sizes[source] for source in wanted))
    for source, count in counts.items():
        if not count:
            total = sum(counts.values())
            raise DataError(f"data.mix: {source!r} would get none of an epoch's {total} rows; raise its weight")
    rows = {source: [index for index, sample in enumerate(samples) if sample.source == source] for source in wanted}
    return tuple(
        Stream(rows=np.array(rows[source]), count=counts[source], salt=(1 + zlib.crc32(source.encode()),))
        for source in sorted(wanted)
    )


def quotas(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """`total` divided by weight in whole numbers, none further than 1 from its share (largest remainders first).

    Example: {"a": 2, "b": 1} of 10: 7 and 3.
    """
    whole = sum(weights.values())
    shares = {name: total * weight / whole for name, weight in weights.items()}
    counts = {name: math.floor(share) for name, share in shares.items()}
    for name in sorted(shares, key=lambda name: (counts[name] - shares[name], name))[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def _systematic(weights: NDArray[np.float64], count: int, offset: float) -> Rows:
    """`count` indices, each as often as its share of the weights says, rounded up or down (systematic sampling)."""
    edges = np.cumsum(weights) / weights.sum() * count
    return np.minimum(np.searchsorted(edges, offset + np.arange(count), side="right"), len(weights) - 1)


def _interleaved(streams: Sequence[Rows], random: np.random.Generator) -> list[int]:
    """Streams as one list: each keeps its order and is spread over all of it, so that every part has the mixture.

    Draw j of n gets a random place in the j-th n-th of the list. Regular places would give a process that takes every
    second row one source only.
    """
    places = np.concatenate([(np.arange(len(rows)) + random.random(len(rows))) / len(rows) for rows in streams])
    order: list[int] = np.concatenate(streams)[np.argsort(places, kind="stable")].tolist()
    return order
