"""Patches of images and videos blackened at random: what PAPO compares the whole picture with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmreason.types import MediaTensors

PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}
"""Keyword of the forward that holds a kind's patches, a row each."""


def masked(item: MediaTensors, black: Tensor, ratio: float, seed: int) -> MediaTensors:
    """The item with each patch black with probability `ratio`, by itself; a sound as it is.

    black: float [D], a black patch after normalising. A patch of a video covers the frames that the processor joins
    (two). Wang et al. 2025 (PAPO, arXiv 2507.06448): random patches of 14 pixels, ratio .6; theirs are of the picture
    before it is resized, these of what the model reads.
    """
    name = PIXELS.get(item.kind)
    if name is None:
        return item
    patches_PD = item.kwargs[name]
    chosen_P1 = torch.rand(len(patches_PD), 1, generator=torch.Generator().manual_seed(seed)) < ratio
    changed = torch.where(chosen_P1, black.to(patches_PD.dtype), patches_PD)
    return replace(item, kwargs={**item.kwargs, name: changed}, key=f"{item.key}:masked:{ratio}:{seed}")


def black_patch(mean: Sequence[float], deviation: Sequence[float], size: int) -> Tensor:
    """float32 [size]: a black patch as Qwen's processors flatten it, channel by channel."""
    channels = -torch.tensor(mean) / torch.tensor(deviation)
    return channels.repeat_interleave(size // len(channels))
