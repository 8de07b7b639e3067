"""The growing cache is transformers' DynamicCache with less copying."""

from __future__ import annotations

import torch
from transformers.cache_utils import DynamicLayer

from mmreason.rollout.cache import GrowingLayer


def test_equals_the_dynamic_layer_through_growth_and_selection() -> None:
    random = torch.Generator().manual_seed(0)
    ours, theirs = GrowingLayer(), DynamicLayer()
    rows, homes = 2, set()
    for step in range(300):
        width = 5 if step == 0 else 1
        keys, values = (torch.randn(rows, 2, width, 4, generator=random) for _ in range(2))
        for mine, theirs_ in zip(ours.update(keys, values), theirs.update(keys, values), strict=True):
            assert torch.equal(mine, theirs_)
        if step in (0, 50, 120):
            index = torch.tensor({0: [0, 0, 1, 1, 1], 50: [3, 0], 120: [0]}[step])
            rows = len(index)
            ours.batch_select_indices(index)
            theirs.batch_select_indices(index)
        assert ours.keys is not None
        homes.add(ours.keys.data_ptr())
    assert ours.get_seq_length() == theirs.get_seq_length() == 304
    assert len(homes) < 12  # one buffer after another, not one per token
