"""Trees into packed rows: whole trees side by side, media merged per kind in row order, every column aligned.

A tree over the row budget is split by its branches into trees that repeat the trunk; that is exact, because a loss is
a sum over tokens and each loss-bearing token keeps its loss in one copy only. Nothing is ever cut: a single path over
the budget is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from mmreason.errors import DataError
from mmreason.types import Batch, MediaTensors, Segment, Span, Tree

Positions = Callable[[Segment, int], tuple[Tensor, int]]
"""(segment, first position) -> positions int64 [3, T] of its tokens, and the next free position."""


def pack(trees: Sequence[Tree], row_tokens: int, positions: Positions) -> list[Batch]:
    """Pack trees into rows of at most `row_tokens` tokens: first-fit decreasing, original order within each row.

    Raises DataError when one path from root to leaf is longer than a row, AlignmentError where ids and media differ.
    """
    pieces = [piece for tree in trees for piece in split_tree(tree, row_tokens)]
    rows = _first_fit([piece.tree.tokens for piece in pieces], row_tokens)
    return [build_row([pieces[index] for index in row], positions) for row in rows]


@dataclass(frozen=True, slots=True)
class Piece:
    """A tree that fits in a row. `repeated` tokens of it also stand, with their loss, in an earlier piece."""

    tree: Tree
    repeated: int = 0


def split_tree(tree: Tree, row_tokens: int) -> list[Piece]:
    """The tree itself where it fits, else sub-trees by branches, each with the path from the root."""
    if tree.tokens <= row_tokens:
        return [Piece(tree)]
    lengths = [segment.ids.shape[0] for segment in tree.segments]
    parents = {segment.parent for segment in tree.segments}
    kept: list[set[int]] = []
    for leaf in (index for index in range(len(lengths)) if index not in parents):
        path = _path(tree, leaf)
        needed = sum(lengths[index] for index in path)
        if needed > row_tokens:
            raise DataError(
                f"{tree.id}: one path of {needed} tokens (prompt and answer) does not fit in a row of {row_tokens}; "
                "raise train.row_tokens, or lower data.max_prompt_tokens or rollout.max_new_tokens"
            )
        if kept and sum(lengths[index] for index in kept[-1] | path) <= row_tokens:
            kept[-1] |= path
        else:
            kept.append(path)
    seen: set[int] = set()
    pieces = []
    for members in kept:
        pieces.append(_sub_tree(tree, sorted(members), seen))
        seen |= members
    return pieces


def _path(tree: Tree, index: int) -> set[int]:
    path = set()
    while index >= 0:
        path.add(index)
        index = tree.segments[index].parent
    return path


def _sub_tree(tree: Tree, members: list[int], seen: set[int]) -> Piece:
    """The members as a tree; those seen in an earlier piece keep no loss."""
    new_index = {old: new for new, old in enumerate(members)}
    segments = []
    for old in members:
        segment = replace(tree.segments[old], parent=new_index.get(tree.segments[old].parent, -1))
        if old in seen:
            segment = replace(segment, loss_mask=torch.zeros_like(segment.loss_mask))
        segments.append(segment)
    repeated = sum(tree.segments[old].ids.shape[0] for old in members if old in seen)
    return Piece(Tree(id=tree.id, segments=tuple(segments)), repeated)


def _first_fit(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """First-fit decreasing; rows are ordered by their first member, members by their index. Deterministic."""
    rows: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        row = next((row for row, room in enumerate(free) if room >= lengths[index]), None)
        if row is None:
            rows.append([])
            free.append(budget)
            row = len(rows) - 1
        rows[row].append(index)
        free[row] -= lengths[index]
    return sorted(sorted(row) for row in rows)


def build_row(pieces: Sequence[Piece], positions: Positions) -> Batch:
    """One packed row of these trees, in this order."""
    spans: list[Span] = []
    row_positions: list[Tensor] = []
    sources: list[Tensor] = []
    for piece in pieces:
        offset = spans[-1].stop if spans else 0
        tree_spans = _spans(piece.tree, offset, len(spans))
        row_positions += _tree_positions(piece.tree, positions)
        sources += _sources(piece.tree, tree_spans, len(spans))
        spans += tree_spans
    segments = [segment for piece in pieces for segment in piece.tree.segments]
    batch = Batch(
        ids=torch.cat([segment.ids for segment in segments]),
        positions=torch.cat(row_positions, dim=1),
        spans=tuple(spans),
        source=torch.cat(sources),
        loss_mask=torch.cat([segment.loss_mask for segment in segments]),
        columns=_columns(segments),
        media=merge_media([item for segment in segments for item in segment.media]),
        trees=tuple(piece.tree.id for piece in pieces),
        repeated_tokens=sum(piece.repeated for piece in pieces),
    )
    _check_aligned(batch)
    return batch


def _spans(tree: Tree, offset: int, first: int) -> list[Span]:
    """Spans of a tree whose first token is `offset` and whose first segment is number `first` of the row."""
    starts = [offset]
    for segment in tree.segments:
        starts.append(starts[-1] + segment.ids.shape[0])
    subtree_stops = starts[1:]
    for index in range(len(tree.segments) - 1, 0, -1):  # children stand after their parent
        parent = tree.segments[index].parent
        subtree_stops[parent] = max(subtree_stops[parent], subtree_stops[index])
    return [
        Span(
            start=starts[index],
            stop=starts[index + 1],
            parent=first + segment.parent if segment.parent >= 0 else -1,
            subtree_stop=subtree_stops[index],
        )
        for index, segment in enumerate(tree.segments)
    ]


def _tree_positions(tree: Tree, positions: Positions) -> list[Tensor]:
    """Positions per segment: siblings restart at the position after their parent's last token."""
    found: list[Tensor] = []
    following: list[int] = []
    for segment in tree.segments:
        start = following[segment.parent] if segment.parent >= 0 else 0
        segment_positions, after = positions(segment, start)
        found.append(segment_positions)
        following.append(after)
    return found


def _sources(tree: Tree, spans: list[Span], first: int) -> list[Tensor]:
    """For every token the row index that predicts it; a segment's first token is predicted by its parent's last."""
    found: list[Tensor] = []
    last: list[int] = []
    for segment, span in zip(tree.segments, spans, strict=True):
        before = last[segment.parent] if segment.parent >= 0 else -1
        source = torch.arange(span.start - 1, span.stop - 1)
        if span.stop > span.start:
            source[0] = before
        found.append(source)
        last.append(span.stop - 1 if span.stop > span.start else before)
    return found


def _columns(segments: Sequence[Segment]) -> dict[str, Tensor]:
    names = dict.fromkeys(name for segment in segments for name in segment.columns)
    blank = [torch.zeros(segment.ids.shape[0]) for segment in segments]
    return {
        name: torch.cat([segment.columns.get(name, zeros) for segment, zeros in zip(segments, blank, strict=True)])
        for name in names
    }


def merge_media(items: Sequence[MediaTensors]) -> dict[str, Tensor]:
    """Keyword arguments of the forward for all items of a row: joined along dimension 0 per name, in row order.

    Sounds of different lengths are padded at the right to the longest; their feature mask is padded with zeros.
    """
    parts: dict[str, list[Tensor]] = {}
    for item in items:
        for name, tensor in item.kwargs.items():
            parts.setdefault(name, []).append(tensor)
    sound = {name for item in items if item.kind == "audio" for name in item.kwargs}
    return {name: torch.cat(_padded(tensors) if name in sound else tensors) for name, tensors in parts.items()}


def _padded(tensors: list[Tensor]) -> list[Tensor]:
    longest = max(tensor.shape[-1] for tensor in tensors)
    return [pad(tensor, (0, longest - tensor.shape[-1])) for tensor in tensors]


def _check_aligned(batch: Batch) -> None:
    tokens = batch.ids.shape[0]
    assert batch.spans[-1].stop == tokens, f"spans end at {batch.spans[-1].stop}, row has {tokens} tokens"
    assert batch.positions.shape == (3, tokens), f"positions {tuple(batch.positions.shape)} for {tokens} tokens"
    per_token: Mapping[str, Tensor] = {"source": batch.source, "loss_mask": batch.loss_mask, **batch.columns}
    for name, column in per_token.items():
        assert column.shape == (tokens,), f"{name} {tuple(column.shape)} for {tokens} tokens"
    assert not batch.loss_mask[batch.source < 0].any(), "the first token of a tree has no context, so it has no loss"


def to_device(batch: Batch, device: torch.device | str) -> Batch:
    """The same row with its tensors on `device`."""
    return replace(
        batch,
        ids=batch.ids.to(device),
        positions=batch.positions.to(device),
        source=batch.source.to(device),
        loss_mask=batch.loss_mask.to(device),
        columns={name: column.to(device) for name, column in batch.columns.items()},
        media={name: tensor.to(device) for name, tensor in batch.media.items()},
    )
