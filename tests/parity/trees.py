"""Random prompts, media and trees for parity tests, and the oracle: one padded sequence per answer, plain transformers.

Media are random tensors of the right shapes: what a processor would hand over, without decoding anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mmreason.collate import merge_media
from mmreason.policy.policy import Policy
from mmreason.policy.positions import expand_ids
from mmreason.types import MediaTensors, Segment, Tree

GAPS: dict[str, list[tuple[float, float]]] = {}
"""Family -> (largest difference of a log-prob, largest relative difference of a gradient) of every comparison made."""


class Maker:
    """Makes segments for one policy's family; the same seed makes the same segments."""

    def __init__(self, policy: Policy, seed: int = 0) -> None:
        self.rules, self.traits = policy.rules, policy.family.traits(policy.base.config)
        self.random = torch.Generator().manual_seed(seed)
        self.patch = 3 * self.traits.temporal_patch_size * (self.traits.pixel_factor // self.traits.merge_size) ** 2

    def text(self, length: int) -> Tensor:
        return torch.randint(3, 250, (length,), generator=self.random)

    def image(self, height: int, width: int) -> MediaTensors:
        pixels = torch.randn(height * width, self.patch, generator=self.random)
        kwargs = {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, height, width]])}
        return MediaTensors(kind="image", kwargs=kwargs, tokens=height * width // 4, grid=(1, height, width))

    def video(self, steps: int, height: int, width: int, seconds: float) -> MediaTensors:
        kwargs = {
            "pixel_values_videos": torch.randn(steps * height * width, self.patch, generator=self.random),
            "video_grid_thw": torch.tensor([[steps, height, width]]),
        }
        if self.traits.seconds_name is not None:
            kwargs[self.traits.seconds_name] = torch.tensor([seconds])
        words = range(steps) if self.traits.time_words else ()
        return MediaTensors(
            kind="video",
            kwargs=kwargs,
            tokens=steps * height * width // 4,
            grid=(steps, height, width),
            seconds_per_grid=seconds,
            stamps=tuple(tuple(self.text(3 + step % 3).tolist()) for step in words),
        )

    def audio(self, frames: int, joined: bool = False) -> MediaTensors:
        padded = self.traits.mel_frames or frames
        kwargs = {
            "input_features": torch.randn(1, 128, padded, generator=self.random),
            "feature_attention_mask": (torch.arange(padded) < frames).int()[None],
        }
        tokens = ((frames - 1) // 2 + 1 - 2) // 2 + 1
        return MediaTensors(kind="audio", kwargs=kwargs, tokens=tokens, joined=joined)

    def crop(self, tokens: int) -> MediaTensors:
        """What an observation shows: a piece of an image, or of a sound where the family sees nothing."""
        return self.image(4, tokens) if self.traits.vision else self.audio(4 * tokens)

    def segment(self, policy: Policy, items: Iterable[MediaTensors], parent: int = -1, kind: str = "prompt") -> Segment:
        """Text, then each item in its start and end tokens with text after it."""
        media = tuple(items)
        parts = [self.text(5)]
        for item in media:
            if item.joined:
                continue
            around = self.rules.wrapper.get(item.kind, ())
            parts += [torch.tensor([*around[:1], self.rules.placeholder[item.kind], *around[1:]]), self.text(4)]
        ids = expand_ids(torch.cat(parts), media, policy.rules)
        return Segment(
            kind=kind,  # type: ignore[arg-type]
            parent=parent,
            ids=ids,
            loss_mask=torch.zeros(len(ids), dtype=torch.bool),
            media=media,
        )

    def answer(self, length: int, parent: int = 0) -> Segment:
        ids = self.text(length)
        return Segment(kind="policy", parent=parent, ids=ids, loss_mask=torch.ones(length, dtype=torch.bool))

    def tree(self, policy: Policy, name: str, items: Iterable[MediaTensors], answers: Sequence[int]) -> Tree:
        prompt = self.segment(policy, items)
        return Tree(id=name, segments=(prompt, *(self.answer(length) for length in answers)))


def paths(trees: Sequence[Tree]) -> list[list[Segment]]:
    """Every path from a root to a leaf."""
    found = []
    for tree in trees:
        parents = {segment.parent for segment in tree.segments}
        for leaf in (index for index in range(len(tree.segments)) if index not in parents):
            path: list[Segment] = []
            index = leaf
            while index >= 0:
                path.insert(0, tree.segments[index])
                index = tree.segments[index].parent
            found.append(path)
    return found


def padded_scores(model: PreTrainedModel, policy: Policy, trees: Sequence[Tree], temperature: float = 1.0) -> Tensor:
    """Log-probs of all loss-bearing tokens, in row order, from one padded batch through unmodified transformers.

    A segment on several paths counts on the first one.
    """
    rows = paths(trees)
    ids = [torch.cat([segment.ids for segment in row]) for row in rows]
    masks = _first_time(rows)
    positions = [_path_positions(policy, row) for row in rows]
    longest = max(map(len, ids))
    ids_BT = torch.stack([torch.nn.functional.pad(row, (0, longest - len(row))) for row in ids])
    mask_BT = torch.stack([(torch.arange(longest) < len(row)).long() for row in ids])
    positions_3BT = torch.stack([torch.nn.functional.pad(p, (0, longest - p.shape[1])) for p in positions], dim=1)
    media = merge_media([item for row in rows for segment in row for item in segment.media])
    logits = model(
        input_ids=ids_BT,
        attention_mask=mask_BT,
        position_ids=policy.position_ids(positions_3BT),
        use_cache=False,
        **media,
    ).logits
    logits = logits / temperature
    logits[..., policy.banned] = float("-inf")
    logprobs_BT = torch.log_softmax(logits[:, :-1], -1).gather(-1, ids_BT[:, 1:, None])[..., 0]
    return torch.cat([logprobs_BT[i, : len(row) - 1][masks[i][1:]] for i, row in enumerate(ids)])


def _first_time(rows: Sequence[Sequence[Segment]]) -> list[Tensor]:
    """Loss masks of the paths, each segment's on the first path that it is on."""
    seen: set[int] = set()
    masks = []
    for row in rows:
        masks.append(torch.cat([segment.loss_mask & (id(segment) not in seen) for segment in row]))
        seen |= {id(segment) for segment in row}
    return masks


def _path_positions(policy: Policy, path: Sequence[Segment]) -> Tensor:
    parts, start = [], 0
    for segment in path:
        positions, start = policy.positions(segment, start)
        parts.append(positions)
    return torch.cat(parts, dim=1)


def gradients(model: torch.nn.Module, fixed: Sequence[str]) -> dict[str, Tensor]:
    """Gradients by name, without those of `fixed`; a parameter that took no part counts as zero."""
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if name not in fixed
    }
