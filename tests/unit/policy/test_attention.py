"""The formulations of tree attention against a dense mask written out token by token, in float64."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from mmreason.errors import ConfigError
from mmreason.policy.attention import (
    CausalGroup,
    Run,
    TreeLayout,
    bucket,
    dense_attention,
    flex_attention_tree,
    merge_attention,
    tree_attention,
)
from mmreason.types import Span


def random_spans(seed: int, trees: int = 3) -> list[Span]:
    """A row of random trees up to four levels deep, some segments empty, some only children."""
    chance = random.Random(seed)
    lengths: list[int] = []
    parents: list[int] = []

    def grow(parent: int, depth: int) -> None:
        index = len(lengths)
        lengths.append(chance.choice([0, 1, 2, 5, 9, 17] if parent >= 0 else [1, 3, 20]))
        parents.append(parent)
        for _ in range(chance.choice([0, 1, 2, 4]) if depth < 4 else 0):
            grow(index, depth + 1)

    for _ in range(trees):
        grow(-1, 1)
    starts = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    last = [max(j for j in range(len(parents)) if i in ancestors(j, parents)) for i in range(len(parents))]
    return [
        Span(start=starts[i], stop=starts[i + 1], parent=parents[i], subtree_stop=starts[last[i] + 1])
        for i in range(len(parents))
    ]


def ancestors(index: int, parents: list[int]) -> list[int]:
    found = []
    while index >= 0:
        found.append(index)
        index = parents[index]
    return found


def visible(spans: list[Span]) -> Tensor:
    """bool [T, T] from the definition: a token sees earlier tokens of its own segment and of its ancestors."""
    parents = [span.parent for span in spans]
    owner = [i for i, span in enumerate(spans) for _ in range(span.start, span.stop)]
    row = range(len(owner))
    return torch.tensor([[j <= i and owner[j] in ancestors(owner[i], parents) for j in row] for i in row])


def qkv(tokens: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    torch.manual_seed(tokens)
    return [torch.randn(1, 3, tokens, 8, dtype=dtype, requires_grad=True) for _ in range(3)]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("attend", [dense_attention, merge_attention])
def test_output_and_gradients(seed: int, attend: object) -> None:
    spans = random_spans(seed)
    q, k, v = qkv(spans[-1].stop)
    weights = torch.randn(q.shape, dtype=q.dtype)
    expected = scaled_dot_product_attention(q, k, v, attn_mask=visible(spans), scale=0.3)
    expected_grads = torch.autograd.grad((expected * weights).sum(), (q, k, v))
    out = attend(q, k, v, TreeLayout(spans, "merge"), 0.3)  # type: ignore[operator]
    grads = torch.autograd.grad((out * weights).sum(), (q, k, v))
    assert (out - expected).abs().max() < 1e-12
    for ours, theirs in zip(grads, expected_grads, strict=True):
        assert (ours - theirs).abs().max() < 1e-12


def test_long_row_of_answers_with_unequal_lengths() -> None:
    """Lengths past the kernel's block sizes; answers padded side by side."""
    lengths = [600, 70, 64, 61, 58, 300]
    starts = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    spans = [Span(start=0, stop=600, parent=-1, subtree_stop=starts[-1])]
    spans += [Span(start=a, stop=b, parent=0, subtree_stop=b) for a, b in pairwise(starts[1:])]
    layout = TreeLayout(spans, "merge")
    assert sorted(len(group.starts) for group in layout.groups) == [1, 1, 4]
    q, k, v = qkv(spans[-1].stop)
    expected = scaled_dot_product_attention(q, k, v, attn_mask=visible(spans), scale=0.3)
    expected_grads = torch.autograd.grad(expected.square().sum(), (q, k, v))
    out = merge_attention(q, k, v, layout, 0.3)
    grads = torch.autograd.grad(out.square().sum(), (q, k, v))
    assert (out - expected).abs().max() < 1e-12
    assert max((a - b).abs().max() for a, b in zip(grads, expected_grads, strict=True)) < 1e-10


def test_bfloat16_stays_close_to_float32() -> None:
    spans = random_spans(3)
    q, k, v = qkv(spans[-1].stop, torch.bfloat16)
    out = merge_attention(q, k, v, TreeLayout(spans, "merge"), 0.3)
    exact = dense_attention(q.float(), k.float(), v.float(), TreeLayout(spans, "dense"), 0.3)
    assert out.dtype == torch.bfloat16
    assert (out - exact).abs().max() < 0.03


def test_query_and_key_that_autocast_left_in_float32() -> None:
    spans = random_spans(1)
    q, k, v = qkv(spans[-1].stop, torch.float32)
    layout = TreeLayout(tuple(spans), "merge")
    expected, _ = tree_attention(nn.Module(), q.bfloat16(), k.bfloat16(), v.bfloat16(), None, tree_layout=layout)
    found, _ = tree_attention(nn.Module(), q, k, v.bfloat16(), None, tree_layout=layout)
    assert torch.equal(found, expected)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")  # on the CPU it is a reference only
@pytest.mark.parametrize("seed", range(3))
def test_flex_forward(seed: int) -> None:
    spans = random_spans(seed)
    q, k, v = (x.detach().float() for x in qkv(spans[-1].stop))
    expected = scaled_dot_product_attention(q, k, v, attn_mask=visible(spans), scale=0.3)
    out = flex_attention_tree(q, k, v, TreeLayout(spans, "flex"), 0.3)
    assert (out - expected).abs().max() < 1e-5


def test_flex_refuses_to_train_on_the_cpu() -> None:
    q, k, v = qkv(4)
    with pytest.raises(ConfigError, match="use merge"):
        flex_attention_tree(q, k, v, TreeLayout([Span(start=0, stop=4, parent=-1, subtree_stop=4)], "flex"), 1.0)


def test_only_children_make_one_causal_run() -> None:
    spans = [
        Span(start=0, stop=3, parent=-1, subtree_stop=10),
        Span(start=3, stop=5, parent=0, subtree_stop=10),
        Span(start=5, stop=8, parent=1, subtree_stop=8),
        Span(start=8, stop=10, parent=1, subtree_stop=10),
    ]
    assert TreeLayout(spans, "merge").runs == (Run(0, 5, 10), Run(5, 8, 8), Run(8, 10, 10))


def test_equal_neighbours_are_a_view() -> None:
    assert CausalGroup([Run(4, 8, 8), Run(8, 12, 12)]).is_view
    assert not CausalGroup([Run(4, 8, 8), Run(9, 13, 13)]).is_view
    assert not CausalGroup([Run(4, 8, 8), Run(8, 11, 11)]).is_view


BUCKETS = [(1, 128), (128, 128), (129, 256), (300, 384), (1000, 1024), (1030, 1536)]


@pytest.mark.parametrize(("tokens", "expected"), BUCKETS)
def test_bucket(tokens: int, expected: int) -> None:
    assert bucket(tokens) == expected
