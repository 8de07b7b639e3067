"""The order of the data: what an epoch holds, exactly; pass rates and the filter by them; mistakes in a line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmreason.config import DataConfig
from mmreason.difficulty import gaussian, kept, pass_rates
from mmreason.errors import DataError
from mmreason.order import order_of, quotas
from mmreason.types import Message, Sample

QUESTION = (Message(role="user", content=("?",)),)


def rows(rates: Sequence[float], source: str = "a", first: int = 0) -> list[Sample]:
    return [
        Sample(id=f"{source}{first + i}", messages=QUESTION, source=source, meta={"pass_rate": rate})
        for i, rate in enumerate(rates)
    ]


def sources(samples: Sequence[Sample], order: Sequence[int]) -> Counter[str]:
    return Counter(samples[index].source for index in order)


def test_shuffled_is_what_it_always_was() -> None:
    order = order_of(DataConfig(), rows([0.5] * 7), seed=3)
    assert order.epoch(2) == np.random.default_rng([3, 2]).permutation(7).tolist()


def test_file_order_is_the_same_in_every_epoch() -> None:
    order = order_of(DataConfig(order="file"), rows([0.5] * 5), seed=3)
    assert order.epoch(0) == order.epoch(1) == [0, 1, 2, 3, 4]


def test_the_curriculum_goes_from_rows_that_are_solved_to_those_that_are_not() -> None:
    samples = rows([0.25, 1.0, 0.5, 0.0, 1.0, 0.5, 0.5, 0.25])
    easy = order_of(DataConfig(order="easy_to_hard"), samples, 0)
    by_rate = [samples[index].meta["pass_rate"] for index in easy.epoch(0)]
    assert by_rate == sorted(by_rate, reverse=True)
    hard = order_of(DataConfig(order="hard_to_easy"), samples, 0)
    assert [samples[index].meta["pass_rate"] for index in hard.epoch(0)] == sorted(by_rate)
    orders = [hard.epoch(number) for number in range(4)]
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert len({tuple(order) for order in orders}) > 1, "rows of one rate are shuffled anew"


def test_gaussian_weights_are_time_r1s() -> None:
    assert gaussian([0.3, 0.5, 0.1, 1.0]) == pytest.approx([1, 0.606531, 0.606531, 0.002187], abs=1e-6)
    rates = [0.3] * 4 + [0.5] * 4 + [1.0] * 4
    samples = rows(rates)
    order = order_of(DataConfig(order="gaussian"), samples, 0)
    times = sum((Counter(order.epoch(number)) for number in range(400)), Counter())
    weights = np.array(gaussian(rates))
    expected = weights / weights.sum() * 12 * 400
    assert [times[index] for index in range(12)] == pytest.approx(expected.tolist(), rel=0.05, abs=6)
    single = Counter(order.epoch(0))
    for index, share in enumerate(weights / weights.sum() * 12):
        assert abs(single[index] - share) < 1, "rounded up or down, in every epoch"


MIXED = [*rows([0.5] * 30, "a"), *rows([0.5] * 6, "b"), *rows([0.5] * 9, "c")]


@pytest.mark.parametrize("order", ["shuffled", "file", "easy_to_hard", "gaussian"])
def test_every_epoch_has_the_mixture_exactly_and_every_part_of_it_nearly(order: Any) -> None:
    config = DataConfig(order=order, mix={"a": 1, "b": 1, "c": 0})
    found = order_of(config, MIXED, seed=5)
    assert found.length == 36
    for number in range(5):
        epoch = found.epoch(number)
        assert sources(MIXED, epoch) == {"a": 18, "b": 18}
        for end in range(1, 37):
            assert abs(sources(MIXED, epoch[:end])["a"] - end / 2) <= 1.5


def test_rows_of_a_source_come_equally_often_over_epochs() -> None:
    found = order_of(DataConfig(mix={"a": 1, "b": 1, "c": 0}), MIXED, seed=5)
    times = sum((Counter(found.epoch(number)) for number in range(5)), Counter())  # 90 draws of 30 and of 6 rows
    assert {times[index] for index in range(30)} == {3}
    assert {times[index] for index in range(30, 36)} == {15}


def test_a_source_that_takes_every_second_place_does_not_go_to_one_process() -> None:
    samples = [*rows([0.5] * 200, "a"), *rows([0.5] * 200, "b")]
    for kind in ("shuffled", "file"):
        epoch = order_of(DataConfig(order=kind, mix={"a": 1, "b": 1}), samples, 1).epoch(0)
        for rank in range(2):
            assert 70 < sources(samples, epoch[rank::2])["a"] < 130


def test_a_mixed_curriculum_is_one_in_every_source() -> None:
    samples = [*rows([0.1, 0.9, 0.5, 0.3], "a"), *rows([0.2, 0.8], "b")]
    epoch = order_of(DataConfig(order="easy_to_hard", mix={"a": 2, "b": 1}), samples, 0).epoch(3)
    for source in "ab":
        rates = [samples[index].meta["pass_rate"] for index in epoch if samples[index].source == source]
        assert all(first >= second for first, second in pairwise(rates))
        assert len(rates) == {"a": 4, "b": 2}[source]


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.floats(0.01, 100), min_size=1),
    st.integers(0, 1000),
)
def test_quotas_are_whole_and_no_further_than_one_off(weights: dict[str, float], total: int) -> None:
    counts = quotas(weights, total)
    assert sum(counts.values()) == total
    for name, weight in weights.items():
        assert abs(counts[name] - total * weight / sum(weights.values())) < 1 + 1e-6
    assert quotas({"a": 2, "b": 1}, 10) == {"a": 7, "b": 3}


def test_the_filter_keeps_both_ends() -> None:
    samples = rows([0.0, 0.1, 0.5, 0.9, 1.0])

    def ids(*bounds: float) -> list[str]:
        return [sample.id for sample in kept(DataConfig(pass_rate=(bounds[0], bounds[1])), samples)]

    assert ids(0.1, 0.9) == ["a1", "a2", "a3"]
    assert ids(0, 0) == ["a0"]
    assert kept(DataConfig(), [Sample(id="x", messages=QUESTION)])[0].id == "x"


def test_pass_rates_from_a_file_and_from_another_field(tmp_path: Path) -> None:
    file = tmp_path / "rates.jsonl"
    lines = ['{"id": "a1", "pass_rate": 0.25, "n": 8}', '{"id": "a0", "pass_rate": 1}', '{"id": "z", "pass_rate": 0}']
    file.write_text("\n".join(lines))
    assert pass_rates(rows([0, 0]), str(file)) == {"a0": 1.0, "a1": 0.25}
    assert pass_rates([Sample(id="x", messages=QUESTION, meta={"iou": 0.4})], "iou") == {"x": 0.4}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": "a0"}', 'rates.jsonl:1: expected an object with "id" and "pass_rate"'),
        ('{"id": "a0", "pass_rate": 1.5}', "1.5 for a0, expected a number from 0 to 1"),
        ('{"id": "a0", "pass_rate": true}', "True for a0, expected a number from 0 to 1"),
        ('{"id": "a0", "pass_rate": 1}\n' * 2, "rates.jsonl:2: id 'a0' has a pass_rate already"),
        ('{"id": "b", "pass_rate": 1}', "1 of 1 rows have no line in"),
        ("{", "rates.jsonl:1"),
    ],
)
def test_bad_pass_rates_are_a_line(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "rates.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(DataError) as caught:
        pass_rates(rows([0.5]), str(file))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"pass_rate": (0.9, 1)}, "data.pass_rate: [0.9, 1.0] leaves none of 45 rows; their pass rates are 0.5 to 0.5"),
        ({"order": "easy_to_hard", "difficulty": "hardness"}, "45 of 45 rows have no 'hardness' in meta, first a0"),
        ({"mix": {"a": 1}}, "data.mix: source 'b' (6 rows) is not in it; give it a weight, or 0 to leave it out"),
        ({"mix": {"a": 1, "b": 1, "c": 1, "d": 1}}, "data.mix: no row has the source 'd'; the data has a, b, c"),
        ({"mix": {"a": 1, "b": 1e-9, "c": 0}}, "data.mix: 'b' would get none of an epoch's 36 rows"),
    ],
)
def test_mistakes_are_a_line(config: dict[str, Any], said: str) -> None:
    data = DataConfig(**config)
    with pytest.raises(DataError) as caught:
        order_of(data, kept(data, MIXED), 0)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_as_files_have_them_keep_their_meaning() -> None:
    """A pass rate that came through JSON, e.g. written by another program as an integer."""
    sample = Sample(id="x", messages=QUESTION, meta=json.loads('{"pass_rate": 1}'))
    assert pass_rates([sample], "pass_rate") == {"x": 1.0}
