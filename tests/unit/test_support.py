"""Ragged lists of ids, against lists of lists."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmreason.support import blank, by_row, join, outside, take
from mmreason.types import Support

LISTS = [[5, 2], [], [7], [1, 2, 3], []]


def ragged(lists: Sequence[Sequence[int]]) -> Support:
    ids = [id for some in lists for id in some]
    return Support(counts=torch.tensor([len(some) for some in lists]), ids=torch.tensor(ids, dtype=torch.int32))


def lists_of(support: Support) -> list[list[int]]:
    ids = iter(support.ids.tolist())
    return [[next(ids) for _ in range(count)] for count in support.counts.tolist()]


def test_take_in_any_order() -> None:
    assert lists_of(take(ragged(LISTS), torch.tensor([3, 0, 1, 3]))) == [[1, 2, 3], [5, 2], [], [1, 2, 3]]
    assert lists_of(take(ragged(LISTS), torch.tensor([], dtype=torch.int64))) == []


def test_join_fills_up() -> None:
    joined = join([(None, 2), (ragged(LISTS), 5), (blank(1), 1)])
    assert joined is not None
    assert lists_of(joined) == [[], [], *LISTS, []]
    assert join([(None, 3), (None, 2)]) is None


def test_outside_of_a_run_of_tokens() -> None:
    found = outside(ragged(LISTS), slice(2, 5), 9, torch.device("cpu"))
    assert [(~row).nonzero()[:, 0].tolist() for row in found] == [[7], [1, 2, 3], list(range(9))]
    smaller = outside(ragged(LISTS), slice(0, 4), 5, torch.device("cpu"))
    assert [(~row).nonzero()[:, 0].tolist() for row in smaller] == [[2], list(range(5)), [], [1, 2, 3]]


def test_steps_of_rows_that_leave_become_one_support_per_row() -> None:
    def step(rows: list[int], kept: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        made = ragged(kept)
        return torch.tensor(rows), made.counts, made.ids

    steps = [step([0, 1, 2], [[1], [2, 3], [4]]), step([0, 1, 2], [[5, 6], [7], [8]]), step([0, 2], [[9], [1, 2]])]
    found = by_row(steps, [3, 1, 2])  # row 1 ended with its first token and ran on for one more
    assert [lists_of(one) for one in found] == [[[1], [5, 6], [9]], [[2, 3]], [[4], [8]]]
