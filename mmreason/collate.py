"""Trees into packed rows: whole trees side by side, media merged per kind in row order, every column aligned.

A tree over the row budget is split by its branches into trees that repeat the trunk; that is exact, because a loss is
a sum over tokens and each loss-bearing token keeps its loss in one copy only. Nothing is ever cut: a single path over
the budget is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from mmreason.errors import DataError
from mmreason.support import blank, join
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


KIND_OF = {"pixel_values": "image", "pixel_values_videos": "video", "input_features": "audio"}
"""Which kind of media a keyword argument of the forward carries."""

SOUND = ("input_features", "feature_attention_mask")
"""Keyword arguments whose last dimension is time, of a length that differs between items."""


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
        support=join([(segment.support, segment.ids.shape[0]) for segment in segments]),
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
    return _join_media([item.kwargs for item in items])


def _join_media(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    names = dict.fromkeys(name for part in parts for name in part)
    tensors = {name: [part[name] for part in parts if name in part] for name in names}
    return {name: torch.cat(_padded(found) if name in SOUND else found) for name, found in tensors.items()}


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
    assert batch.support is None or batch.support.counts.shape == (tokens,), f"support for {tokens} tokens"
    assert not batch.loss_mask[batch.source < 0].any(), "the first token of a tree has no context, so it has no loss"


class DummyMaker(Protocol):
    """What `equalize` needs from the policy."""

    def positions(self, segment: Segment, start: int) -> tuple[Tensor, int]: ...

    def dummy_tree(self, kinds: Sequence[str]) -> Tree:
        """A tree with one smallest item of each kind and no loss."""
        ...

    def tower_kinds(self) -> list[tuple[str, ...]]:
        """Per tower with trained parameters, the kinds of media that use it."""
        ...


def equalize(rows: Sequence[Batch], policy: DummyMaker, gather: Callable[[Any], list[Any]]) -> list[Batch]:
    """Give every process the same number of rows, and each row the same modalities on all of them.

    Towers that run on one process and not on another would leave their collectives waiting for each other. So a row
    that lacks a modality gets a dummy tree with the smallest such item and no loss, and a process that lacks a row
    gets a row of nothing else. With several processes every row also uses every tower that is trained: DDP waits for
    the gradients of all trained parameters. `gather(value)` returns the value of every process, in order; called once.
    """
    everyone: list[list[set[str]]] = gather([_kinds(row) for row in rows])
    towers = policy.tower_kinds() if len(everyone) > 1 else []
    equal = []
    for index in range(max(map(len, everyone))):
        wanted = set().union(*(kinds[index] for kinds in everyone if index < len(kinds)))
        wanted |= {kinds[0] for kinds in towers if wanted.isdisjoint(kinds)}
        present = _kinds(rows[index]) if index < len(rows) else set()
        missing = sorted(wanted - present)
        if index >= len(rows):
            equal.append(build_row([Piece(policy.dummy_tree(missing))], policy.positions))
        elif missing:
            equal.append(_append(rows[index], build_row([Piece(policy.dummy_tree(missing))], policy.positions)))
        else:
            equal.append(rows[index])
    return equal


def _kinds(row: Batch) -> set[str]:
    return {KIND_OF[name] for name in row.media if name in KIND_OF}


def _append(row: Batch, more: Batch) -> Batch:
    """Two rows as one, side by side; `more` has no columns of its own."""
    tokens, segments = row.ids.shape[0], len(row.spans)
    shifted = [
        Span(
            start=span.start + tokens,
            stop=span.stop + tokens,
            parent=span.parent + segments if span.parent >= 0 else -1,
            subtree_stop=span.subtree_stop + tokens,
        )
        for span in more.spans
    ]
    joined = Batch(
        ids=torch.cat([row.ids, more.ids]),
        positions=torch.cat([row.positions, more.positions], dim=1),
        spans=(*row.spans, *shifted),
        source=torch.cat([row.source, torch.where(more.source < 0, -1, more.source + tokens)]),
        loss_mask=torch.cat([row.loss_mask, more.loss_mask]),
        columns={name: pad(column, (0, more.ids.shape[0])) for name, column in row.columns.items()},
        media=_join_media([row.media, more.media]),
        trees=(*row.trees, *more.trees),
        support=row.support and join([(row.support, tokens), (blank(more.ids.shape[0]), more.ids.shape[0])]),
        repeated_tokens=row.repeated_tokens,
    )
    _check_aligned(joined)
    return joined


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
