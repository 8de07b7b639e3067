"""Attention of one new token against a cache, against transformers' own SDPA."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from mmreason.policy.attention import tree_attention


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 2)])
@pytest.mark.parametrize("padded", [False, True])
def test_equals_sdpa(heads: tuple[int, int], padded: bool) -> None:
    random = torch.Generator().manual_seed(0)
    query = torch.randn(3, heads[0], 1, 16, generator=random)
    key, value = (torch.randn(3, heads[1], 40, 16, generator=random)[:, :, :25] for _ in range(2))
    mask = (torch.arange(25) >= torch.tensor([0, 7, 12])[:, None])[:, None, None] if padded else None
    module = nn.Module()
    module.num_key_value_groups, module.is_causal = heads[0] // heads[1], True  # type: ignore[assignment]
    expected, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.3)
    found, _ = tree_attention(module, query, key, value, mask, scaling=0.3)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
