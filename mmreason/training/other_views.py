"""The same answers below other prompts, or seen by another model: columns that terms of the loss need.

One pass without gradient over trees that differ in their prompts only. What it finds goes back onto the tokens by their
`place`, a number of their own, so that it does not matter how either kind of tree was packed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmreason.errors import MMReasonError
from mmreason.policy.policy import Policy
from mmreason.processors.masking import PIXELS, black_patch, masked
from mmreason.training.collect import seed_of
from mmreason.training.run import Run
from mmreason.training.update import rows_of
from mmreason.types import Batch, MediaTensors, RolloutGroup, Segment, Tree

Prompts = Mapping[int, Segment]
"""Number of a group (its place among this process's groups) -> another prompt; groups without one take no part."""


def numbered(trees: Sequence[Tree]) -> tuple[list[Tree], int]:
    """Give every trained token of a rollout its `place`, from 1; and how many there are."""
    count = 0

    def placed(segment: Segment) -> Segment:
        nonlocal count
        if "demo" in segment.columns or not segment.loss_mask.any():
            return segment
        first, count = count + 1, count + len(segment.ids)
        return segment.with_columns(place=torch.arange(first, count + 1).float())

    return [replace(tree, segments=tuple(placed(segment) for segment in tree.segments)) for tree in trees], count


def group_of(tree: Tree, n: int) -> int:
    """Which of this process's groups a tree is of."""
    return next(int(segment.columns["answer"][0]) - 1 for segment in tree.segments if "answer" in segment.columns) // n


def seen_otherwise(
    run: Run,
    policy: Policy,
    trees: Sequence[Tree],
    prompts: Prompts,
    chosen: Callable[[Segment], bool],
    score: Callable[[Batch], Tensor],
) -> tuple[Tensor, Tensor]:
    """What `score` gives for the `chosen` rollouts below other prompts, by place: (values [M + 1, ...], bool [M + 1]).

    Every process calls this at the same time: rows are made equal, and models may be split over processes.
    """
    others = [
        _below(tree, prompts[place], chosen)
        for tree in trees
        if (place := group_of(tree, run.config.rollout.n)) in prompts
    ]
    places, values = [torch.zeros(0, dtype=torch.int64)], []
    for row in rows_of(run, [tree for tree in others if len(tree.segments) > 1], policy):
        found, trained = score(row).cpu(), row.loss_mask
        values.append(found[trained])
        places.append(row.columns["place"][trained].long() if "place" in row.columns else trained.nonzero()[:0, 0])
    return _by_place(torch.cat(places), values, sum(len(segment.ids) for tree in trees for segment in tree.segments))


def _by_place(places: Tensor, values: Sequence[Tensor], most: int) -> tuple[Tensor, Tensor]:
    shape = values[0].shape[1:] if values else torch.Size([])
    table = torch.zeros(most + 1, *shape, dtype=values[0].dtype if values else torch.float32)
    known = torch.zeros(most + 1, dtype=torch.bool)
    if values:
        table[places], known[places] = torch.cat(list(values)), True
    return table, known


def _below(tree: Tree, prompt: Segment, chosen: Callable[[Segment], bool]) -> Tree:
    """The chosen rollouts of a tree below another prompt. Paths stay whole: a path's segments have one answer."""
    kept = [0, *(index for index, segment in enumerate(tree.segments) if index and _wanted(segment, chosen))]
    new_index = {old: new for new, old in enumerate(kept)}
    answers = [replace(tree.segments[old], parent=new_index[tree.segments[old].parent]) for old in kept[1:]]
    return Tree(id=tree.id, segments=(prompt, *answers))


def _wanted(segment: Segment, chosen: Callable[[Segment], bool]) -> bool:
    return "demo" not in segment.columns and chosen(segment)


def with_column(trees: Sequence[Tree], name: str, values: Tensor) -> list[Tree]:
    """A column of every token that has a place, looked up by it; 0 for what was not seen."""

    def looked_up(segment: Segment) -> Segment:
        if "place" not in segment.columns:
            return segment
        column = values[segment.columns["place"].long()].float()
        return replace(segment, columns={**segment.columns, name: column})

    return [replace(tree, segments=tuple(looked_up(segment) for segment in tree.segments)) for tree in trees]


# ---- prompts


def without_media(run: Run, groups: Sequence[RolloutGroup]) -> dict[int, Segment]:
    """The prompts of the groups with their media taken out."""
    found: dict[int, Segment] = {}
    for place, result in enumerate(run.encoder.prompts([group.sample for group in groups], view="none")):
        if isinstance(result, MMReasonError):
            run.announce(f"without its media: {result}", f"sample {groups[place].sample.id}")
        else:
            found[place] = result[1]
    return found


def with_masked_pictures(run: Run, groups: Sequence[RolloutGroup], ratio: float, step: int) -> dict[int, Segment]:
    """The prompts of those groups that have pictures, patches blackened: one mask per prompt and step."""
    found = {}
    for place, group in enumerate(groups):
        if any(item.kind in PIXELS for item in group.prompt.media):
            seed = seed_of(run.config.seed, step, group.sample.id, "masked")
            media = tuple(
                masked(item, _black(run, item), ratio, seed_of(seed, index)) if item.kind in PIXELS else item
                for index, item in enumerate(group.prompt.media)
            )
            found[place] = replace(group.prompt, media=media)
    return found


def _black(run: Run, item: MediaTensors) -> Tensor:
    processor = run.policy.processor
    part = processor.image_processor if item.kind == "image" else processor.video_processor
    return black_patch(part.image_mean, part.image_std, item.kwargs[PIXELS[item.kind]].shape[1])
