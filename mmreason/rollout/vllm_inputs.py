"""Paths of segments as inputs that vLLM's engine takes without processing them again.

vLLM accepts what its own processors would have made: expanded ids, tensors, where they belong, and a hash for its
caches. The trainer has all four. So nothing is decoded, resized or tokenized twice, prompt and pixels are equal by
construction, and an item of many answers is computed once: `MediaTensors.key` is the hash.

What goes over HTTP is made of the same input by vLLM's `token_in_token_out.mm_features.extract_mm_features`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmreason.errors import AlignmentError
from mmreason.policy.engine_fields import EngineField, EngineFields
from mmreason.policy.positions import MediaRules
from mmreason.rollout.base import Context
from mmreason.types import MediaTensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Where an item lies in the ids of a prompt. Example: `Placed(item=image, start=4, stop=10, mask=None)`"""

    item: MediaTensors
    start: int
    stop: int
    mask: Tensor | None
    """bool [stop - start], True where a feature of the item goes; None: everywhere."""


def placed(ids: Tensor, media: Sequence[MediaTensors], rules: MediaRules) -> list[Placed]:
    """The place of every item in expanded ids (int64 [T]).

    A video and its own sound (`joined`) share a place, each with its own mask, and so do the steps of a video that
    stand apart, from the start token of the first step on. Raises AlignmentError where ids and items differ.
    """
    kinds = {token: kind for kind, token in rules.placeholder.items()}
    open_places = [(place, kinds[token]) for place, token in enumerate(ids.tolist()) if token in kinds]
    found: list[Placed] = []
    for group in _groups(media):
        count = sum(item.tokens for item in group)
        taken, open_places = open_places[:count], open_places[count:]
        for item in group:
            if sum(kind == item.kind for _, kind in taken) != item.tokens:
                raise AlignmentError(
                    f"the prompt's placeholders do not fit its {len(media)} media items, first at a {item.kind} of "
                    f"{item.tokens} tokens; ids and media belong to different prompts"
                )
        start, stop = taken[0][0], taken[-1][0] + 1
        if rules.steps_apart and group[0].kind == "video":
            start -= 1
        found += [_place(item, start, ids[start:stop] == rules.placeholder[item.kind]) for item in group]
    if open_places:
        raise AlignmentError(
            f"the prompt has {len(open_places)} placeholders more than its {len(media)} media items fill; ids and "
            "media belong to different prompts"
        )
    return found


def _groups(media: Sequence[MediaTensors]) -> list[list[MediaTensors]]:
    """The items, each video together with its own sound."""
    groups: list[list[MediaTensors]] = []
    for item in media:
        if item.joined:
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def _place(item: MediaTensors, start: int, mask: Tensor) -> Placed:
    return Placed(item=item, start=start, stop=start + len(mask), mask=None if bool(mask.all()) else mask)


def engine_input(context: Context, rules: MediaRules, fields: EngineFields) -> dict[str, Any]:
    """A path of segments as vLLM's `TokensInput` or `MultiModalInput`; `fields` is that of the family's row."""
    ids = torch.cat([segment.ids for segment in context])
    places = placed(ids, [item for segment in context for item in segment.media], rules)
    if not places:
        return {"type": "token", "prompt_token_ids": ids.tolist()}
    from vllm.multimodal.inputs import MultiModalKwargsItem, MultiModalKwargsItems, PlaceholderRange

    by_kind = {kind: [place for place in places if place.item.kind == kind] for kind in fields}
    present = {kind: found for kind, found in by_kind.items() if found}
    items = {
        kind: [MultiModalKwargsItem({f.name: _element(f, place.item) for f in fields[kind]}) for place in found]
        for kind, found in present.items()
    }
    return {
        "type": "multimodal",
        "prompt_token_ids": ids.tolist(),
        "mm_kwargs": MultiModalKwargsItems(items),
        "mm_hashes": {kind: [_hash(place.item) for place in found] for kind, found in present.items()},
        "mm_placeholders": {
            kind: [PlaceholderRange(offset=p.start, length=p.stop - p.start, is_embed=p.mask) for p in found]
            for kind, found in present.items()
        },
    }


def _hash(item: MediaTensors) -> str:
    """What names an item in vLLM's caches, which do not look at the tensors."""
    assert item.key, f"a {item.kind} without a key would be taken for another"
    return f"{item.kind}:{item.key}"


def _element(field: EngineField, item: MediaTensors) -> Any:
    """One tensor of an item, with the rule by which vLLM joins it with those of other items."""
    from vllm.multimodal.inputs import MultiModalBatchedField, MultiModalFieldElem, MultiModalFlatField

    tensor = field.make(item)
    if field.along is None:
        return MultiModalFieldElem(data=tensor, field=MultiModalBatchedField(keep_on_cpu=field.on_cpu))
    own = [*[slice(None)] * field.along, slice(0, tensor.shape[field.along])]
    flat = MultiModalFlatField(keep_on_cpu=field.on_cpu, slices=[own], dim=field.along)
    return MultiModalFieldElem(data=tensor, field=flat)
