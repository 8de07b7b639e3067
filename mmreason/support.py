"""Ragged lists of the tokens that each token was chosen among: joined for a row, taken for some of its tokens.

T tokens, M ids over all of them, R rows that are decoded side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from mmreason.types import Support

Step = tuple[Tensor, Tensor, Tensor]
"""Of one decoded token each: which rows, int64 [R']; how many ids each, int64 [R']; the ids, int32 [M']."""


def blank(length: int) -> Support:
    """Of `length` tokens that were chosen among all."""
    return Support(counts=torch.zeros(length, dtype=torch.int64), ids=torch.zeros(0, dtype=torch.int32))


def join(parts: Sequence[tuple[Support | None, int]]) -> Support | None:
    """One after the other, each with its length; None where none of them has a support."""
    if all(support is None for support, _ in parts):
        return None
    whole = [support or blank(length) for support, length in parts]
    return Support(
        counts=torch.cat([support.counts for support in whole]), ids=torch.cat([support.ids for support in whole])
    )


def take(support: Support, places: Tensor) -> Support:
    """The support of some tokens; `places` is int64, in any order."""
    counts = support.counts[places]
    starts = (support.counts.cumsum(0) - support.counts)[places]
    within = torch.arange(int(counts.sum())) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return Support(counts=counts, ids=support.ids[starts.repeat_interleave(counts) + within])


def outside(support: Support, tokens: slice, vocabulary: int, device: torch.device) -> Tensor:
    """bool [C, V] for a run of C tokens: True where an id could not be chosen.

    Ids past the vocabulary are passed over: a teacher's head may be smaller than that of the policy that sampled.
    """
    counts = support.counts[tokens]
    first = int(support.counts[: tokens.start].sum())
    ids = support.ids[first : first + int(counts.sum())].to(device)
    outside_CV = torch.ones(len(counts), vocabulary, dtype=torch.bool, device=device)
    outside_CV[(counts == 0).to(device)] = False
    rows, known = torch.arange(len(counts)).repeat_interleave(counts).to(device), ids < vocabulary
    outside_CV[rows[known], ids[known].long()] = False
    return outside_CV


def by_row(steps: Sequence[Step], lengths: Sequence[int]) -> list[Support]:
    """What was kept step by step as one support per row, cut to the row's length."""
    rows = torch.cat([row.repeat_interleave(counts) for row, counts, _ in steps]).cpu()
    ids = torch.cat([ids for _, _, ids in steps]).cpu()[rows.argsort(stable=True)]
    counts_RN = torch.zeros(len(lengths), len(steps), dtype=torch.int64)
    for number, (row, counts, _) in enumerate(steps):
        counts_RN[row.cpu(), number] = counts.cpu()
    edges = [0, *counts_RN.sum(1).cumsum(0).tolist()]
    found = []
    for (start, _), length, counts in zip(pairwise(edges), lengths, counts_RN, strict=True):
        own = counts[:length]
        found.append(Support(counts=own.clone(), ids=ids[start : start + int(own.sum())].clone()))
    return found
