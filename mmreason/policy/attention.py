"""Tree attention: every token of a packed row attends to its own branch up to the root, and to nothing else.

    token j is visible to token i   iff   j <= i  and  i < subtree_stop of the segment of j

A `TreeLayout` says where segments lie; it travels as ONE keyword argument of the model's forward (`tree_layout=`), so
it reaches every attention layer, also when gradient checkpointing runs a layer again. `tree_attention` is registered
with transformers' AttentionInterface as "mmreason_tree" and set on the text config only.

Formulations of the same function, all exact for any depth:
- dense: one boolean mask with SDPA. Reads T x T scores; for short rows, and as the plain reference.
- merge: no mask. Each segment attends causally to itself and each inner segment is attended to, in full, by its
  descendants (contiguous in depth-first order); the parts are joined by their log-sum-exp. Backward runs the kernel's
  backward once per part with the JOINT output and log-sum-exp, as FlashAttention-2 does per block (arXiv 2307.08691,
  section 3). CPU kernels only.
- flex: FlexAttention with a block mask; compiled on GPU, rows padded to a few lengths so that it compiles rarely.
Without a layout (decoding with a cache) the call is transformers' own SDPA. `eager` is not offered: with a boolean mask
it is wrong without a word.

Shapes: B batch (1), H heads, T tokens of the row, D head size, L tokens of a part, N parts side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from mmreason.errors import ConfigError
from mmreason.types import Span

NAME = "mmreason_tree"
"""What transformers' configs call it."""

Formulation = Literal["dense", "merge", "flex"]

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

_PAD_RATIO = 1.25
"""Segments are computed side by side while padding them to one length costs less than this factor."""

_SIDE_BY_SIDE_TOKENS = 512
"""Longer segments fill the kernel by themselves; copying them would cost more than it saves."""


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens [start, stop) that attend causally to themselves; [stop, subtree_stop) attend to all of them."""

    start: int
    stop: int
    subtree_stop: int


class CausalGroup:
    """Runs whose causal attention to themselves is one kernel call: padded at the right to one length L.

    Padding is exact: a padded key is only seen by padded queries, which are thrown away.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self.starts = [run.start for run in runs]
        self.lengths = [run.stop - run.start for run in runs]
        self.longest = max(self.lengths)
        even = list(range(self.starts[0], self.starts[0] + len(runs) * self.longest, self.longest))
        self.is_view = self.starts == even and min(self.lengths) == self.longest

    @cached_property
    def gather(self) -> Tensor:
        """int64 [N * L]: the row's token at each place; padding repeats the run's last token."""
        ends = zip(self.starts, self.lengths, strict=True)
        return torch.cat([torch.arange(self.longest).clamp(max=length - 1) + start for start, length in ends])

    @cached_property
    def real(self) -> Tensor:
        """int64 [M]: the places that hold a token, in order, without the padding."""
        return torch.cat([torch.arange(length) + i * self.longest for i, length in enumerate(self.lengths)])

    def split(self, x_BHTX: Tensor) -> Tensor:
        """Take the runs out of a row: [1, H, T, ..] -> [N, H, L, ..]."""
        if self.is_view:
            taken = x_BHTX[0, :, self.starts[0] : self.starts[0] + len(self.starts) * self.longest]
        else:
            taken = x_BHTX[0].index_select(1, self.gather)
        return taken.reshape(taken.shape[0], len(self.starts), self.longest, *taken.shape[2:]).transpose(0, 1)

    def split_gradient(self, x_BHTX: Tensor) -> Tensor:
        """The same with zeros in the padding: thrown-away queries must give nothing back to keys and values."""
        if self.is_view:
            return self.split(x_BHTX)
        taken = x_BHTX.new_zeros(x_BHTX.shape[1], len(self.gather), x_BHTX.shape[3])
        taken.index_copy_(1, self.real, x_BHTX[0].index_select(1, self.gather[self.real]))
        return taken.reshape(-1, len(self.starts), self.longest, taken.shape[2]).transpose(0, 1)

    def put(self, row_BHTX: Tensor, part_NHLX: Tensor) -> None:
        """Write the runs back into the row, in place, without the padding."""
        part = part_NHLX.transpose(0, 1).flatten(1, 2)
        if self.is_view:
            first = self.starts[0]
            row_BHTX[0, :, first : first + part.shape[1]] = part
        else:
            row_BHTX[0].index_copy_(1, self.gather[self.real], part.index_select(1, self.real))


class TreeLayout:
    """Where the segments of one row lie, and what each formulation derives from that (once per row, not per layer)."""

    def __init__(self, spans: Sequence[Span], formulation: Formulation) -> None:
        assert spans, "a row has at least one segment"
        self.spans = tuple(spans)
        self.formulation = formulation
        self.tokens = spans[-1].stop
        self._masks: dict[torch.device, Tensor] = {}
        self._block_masks: dict[tuple[int, torch.device], BlockMask] = {}

    @cached_property
    def visible_until(self) -> Tensor:
        """int64 [T]: the row index just after the last token that may see this one."""
        return torch.cat([torch.full((span.stop - span.start,), span.subtree_stop) for span in self.spans])

    def mask(self, device: torch.device) -> Tensor:
        """bool [1, 1, T, T], True where the row's token may see the column's."""
        if device not in self._masks:
            index = torch.arange(self.tokens, device=device)
            until = self.visible_until.to(device)
            self._masks[device] = ((index[None] <= index[:, None]) & (index[:, None] < until[None]))[None, None]
        return self._masks[device]

    def block_mask(self, padded: int, device: torch.device) -> BlockMask:
        """The same for FlexAttention on `padded` tokens; those past the row see only themselves."""
        if (padded, device) not in self._block_masks:
            until = torch.cat([self.visible_until, torch.arange(self.tokens, padded) + 1]).to(device)

            def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
                return (key <= query) & (query < until[key])

            made = create_block_mask(visible, None, None, padded, padded, device=str(device))
            self._block_masks[padded, device] = made
        return self._block_masks[padded, device]

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """The spans, with every only child joined to its parent: together they are one causal run."""
        parents = [span.parent for span in self.spans]
        joined: list[Run] = []
        for span in self.spans:
            if span.parent >= 0 and parents.count(span.parent) == 1:
                joined[-1] = Run(joined[-1].start, span.stop, span.subtree_stop)
            else:
                joined.append(Run(span.start, span.stop, span.subtree_stop))
        return tuple(run for run in joined if run.stop > run.start)

    @cached_property
    def inner(self) -> tuple[Run, ...]:
        """Runs that have descendants."""
        return tuple(run for run in self.runs if run.subtree_stop > run.stop)

    @cached_property
    def groups(self) -> tuple[CausalGroup, ...]:
        """All runs, short ones of similar length side by side."""
        groups: list[list[Run]] = []
        for run in sorted(self.runs, key=lambda run: run.stop - run.start):
            length = run.stop - run.start
            beside = groups[-1] if groups else []
            real = sum(member.stop - member.start for member in beside) + length
            if beside and length <= _SIDE_BY_SIDE_TOKENS and (len(beside) + 1) * length <= _PAD_RATIO * real:
                beside.append(run)
            else:
                groups.append([run])
        return tuple(CausalGroup(sorted(group, key=lambda run: run.start)) for group in groups)


class _Merge(torch.autograd.Function):
    """Tree attention by parts. q, k, v: [1, H, T, D] with as many key heads as query heads."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: TreeLayout, scale: float) -> Tensor:
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        lse_type = torch.float64 if q.dtype == torch.float64 else torch.float32
        lse = torch.empty(q.shape[:3], dtype=lse_type)
        for group in layout.groups:
            part, part_lse = _flash(group.split(q), group.split(k), group.split(v), 0.0, True, scale=scale)
            group.put(out, part)
            group.put(lse, part_lse)
        for run in layout.inner:
            keys, below = slice(run.start, run.stop), slice(run.stop, run.subtree_stop)
            part, part_lse = _flash(q[:, :, below], k[:, :, keys], v[:, :, keys], 0.0, False, scale=scale)
            _join(out[:, :, below], lse[:, :, below], part, part_lse)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        grad = grads[0].contiguous()
        dq, dk, dv = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
        for group in ctx.layout.groups:
            inputs = [group.split(x) for x in (q, k, v, out, lse)]
            parts = _flash_backward(group.split_gradient(grad), *inputs, 0.0, True, scale=ctx.scale)
            for row, part in zip((dq, dk, dv), parts, strict=True):
                group.put(row, part)
        for run in ctx.layout.inner:
            keys, below = slice(run.start, run.stop), slice(run.stop, run.subtree_stop)
            inputs = [x[:, :, part] for x, part in ((q, below), (k, keys), (v, keys), (out, below), (lse, below))]
            part_q, part_k, part_v = _flash_backward(grad[:, :, below], *inputs, 0.0, False, scale=ctx.scale)
            dq[:, :, below] += part_q
            dk[:, :, keys] += part_k
            dv[:, :, keys] += part_v
        return dq, dk, dv, None, None


def _join(out: Tensor, lse: Tensor, part: Tensor, part_lse: Tensor) -> None:
    """Join two softmax parts over different keys, in place: weights are exp(lse of the part - joint lse)."""
    joint = torch.logaddexp(lse, part_lse)
    out.mul_((lse - joint).exp_().unsqueeze(-1)).add_(part * (part_lse - joint).exp_().unsqueeze(-1))
    lse.copy_(joint)


def merge_attention(q: Tensor, k: Tensor, v: Tensor, layout: TreeLayout, scale: float) -> Tensor:
    """Tree attention without a mask, [1, H, T, D] each. Raises ConfigError off the CPU: its kernels are CPU kernels."""
    if q.device.type != "cpu":
        raise ConfigError(f"model.attention: merge runs on the CPU only, not on {q.device}; use flex or dense")
    out: Tensor = _Merge.apply(q, k, v, layout, scale)  # type: ignore[no-untyped-call]
    return out


def dense_attention(q: Tensor, k: Tensor, v: Tensor, layout: TreeLayout, scale: float) -> Tensor:
    """Tree attention with a T x T mask, [1, H, T, D] each."""
    return scaled_dot_product_attention(q, k, v, attn_mask=layout.mask(q.device), scale=scale)


def bucket(tokens: int) -> int:
    """Length to which flex pads a row: a multiple of 128 with at most two significant bits (128, 256, 384, 512, 768..).

    Few lengths, so that a run compiles a handful of kernels; at most half of a row more.
    """
    blocks = -(-tokens // 128)
    power = 1 << (blocks.bit_length() - 1)
    return 128 * next(size for size in (power, power * 3 // 2, power * 2) if size >= blocks and size > 0)


def flex_attention_tree(q: Tensor, k: Tensor, v: Tensor, layout: TreeLayout, scale: float) -> Tensor:
    """Tree attention by FlexAttention, [1, H, T, D] each; compiled on GPU. On the CPU forward only, uncompiled: slow.

    Raises ConfigError where a gradient is needed on the CPU.
    """
    if q.device.type == "cpu" and q.requires_grad:
        raise ConfigError("model.attention: flex cannot be trained on the CPU (it has no backward there); use merge")
    tokens, padded = layout.tokens, bucket(layout.tokens)
    q, k, v = (nn.functional.pad(x, (0, 0, 0, padded - tokens)) for x in (q, k, v))
    run = _compiled_flex() if q.device.type == "cuda" else _eager_flex
    out = run(q, k, v, block_mask=layout.block_mask(padded, q.device), scale=scale)
    return out[:, :, :tokens]


_eager_flex: Callable[..., Tensor] = flex_attention


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    """fullgraph: reaching the recompile limit is an error, not a silent fall to a path that materialises all scores."""
    compiled: Callable[..., Tensor] = torch.compile(flex_attention, dynamic=False, fullgraph=True)
    return compiled


_FORMULATIONS = {"dense": dense_attention, "merge": merge_attention, "flex": flex_attention_tree}


def decode_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """One new token per row, [R, H, 1, D], against a cache [R, H', K, D]; mask bool [R, 1, 1, K] or None.

    The query heads that share a key head stand side by side as its queries. transformers' SDPA repeats keys and values
    per query head instead, which copies the whole cache at every token wherever there is a mask.
    """
    rows, heads, _, size = q.shape
    grouped = q.reshape(rows, k.shape[1], heads // k.shape[1], size)
    return scaled_dot_product_attention(grouped, k, v, attn_mask=mask, scale=scale).reshape(rows, heads, 1, size)


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    tree_layout: TreeLayout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls. query [B, H, T, D], key and value [B, H', T, D].

    Returns [B, T, H, D] as transformers expects. Without `tree_layout` it is SDPA with the mask given.
    """
    if tree_layout is None:
        if query.shape[2] == 1 and not dropout:
            return decode_attention(query, key, value, attention_mask, scaling).transpose(1, 2), None
        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return out, None
    if dropout:
        raise ConfigError(f"attention_dropout is {dropout} in the checkpoint's text config; tree attention needs 0")
    assert query.shape[0] == 1, f"a tree row has batch size 1, got {tuple(query.shape)}"
    assert query.shape[2] == key.shape[2] == tree_layout.tokens, f"{tuple(key.shape)} for {tree_layout.tokens} tokens"
    query, key = query.to(value.dtype), key.to(value.dtype)  # under autocast the rotary leaves them in float32
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = _FORMULATIONS[tree_layout.formulation](query, key, value, tree_layout, scale)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, tree_attention)
