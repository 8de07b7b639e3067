"""A key-value cache that grows in place.

transformers' DynamicCache joins old and new keys at every token, which copies the whole cache; here new keys are
written into a buffer with room to spare. Selecting rows works as in DynamicCache.

Shapes: R rows, H heads, K cached tokens, T new tokens, D head size.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import Cache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

_ROOM = 64
"""Places by which a full buffer grows, at least; beyond that by a quarter of its size."""


class GrowingLayer(DynamicLayer):
    """One layer's keys and values; `keys` and `values` are views [R, H, K, D] of the used part of larger buffers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append [R, H, T, D] keys and values; returns all of them."""
        used = self.get_seq_length()
        total = used + key_states.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < total:
            self._grow(key_states, value_states, used, total + max(_ROOM, total // 4))
        assert self._buffers is not None
        keys, values = self._buffers
        keys[:, :, used:total] = key_states
        values[:, :, used:total] = value_states
        self.keys, self.values = keys[:, :, :total], values[:, :, :total]
        return self.keys, self.values

    def _grow(self, key_states: Tensor, value_states: Tensor, used: int, room: int) -> None:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, heads, _, size = key_states.shape
        keys = key_states.new_empty(rows, heads, room, size)
        values = value_states.new_empty(rows, heads, room, value_states.shape[-1])
        if used:
            assert self.keys is not None
            assert self.values is not None
            keys[:, :, :used] = self.keys
            values[:, :, :used] = self.values
        self._buffers = keys, values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep, repeat or reorder rows."""
        super().batch_select_indices(indices)
        self._buffers = None


def growing_cache(text_config: PreTrainedConfig) -> Cache:
    """An empty cache for a language model whose layers are all full attention."""
    assert set(getattr(text_config, "layer_types", ["full_attention"])) == {"full_attention"}, text_config.layer_types
    return Cache(layers=[GrowingLayer() for _ in range(text_config.num_hidden_layers)])
