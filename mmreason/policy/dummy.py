"""The smallest media that a model's towers take: for trees that only keep processes in step, without any loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmreason.policy.positions import MediaRules, expand_ids
from mmreason.processors.base import MediaTraits
from mmreason.types import MediaTensors, Segment, Tree


def dummy_tree(kinds: Sequence[str], config: Any, rules: MediaRules, traits: MediaTraits) -> Tree:
    """A tree of one prompt that holds one smallest item of each kind and no loss. `kinds` may be empty.

    config: the model's transformers config.
    """
    media = tuple(_ITEMS[kind](config, traits) for kind in kinds)
    around = [(rules.wrapper.get(kind, ()), rules.placeholder[kind]) for kind in kinds]
    engine_ids = torch.tensor([0, *(token for pair, inner in around for token in (*pair[:1], inner, *pair[1:]))])
    ids = expand_ids(engine_ids, media, rules)
    prompt = Segment(kind="prompt", ids=ids, loss_mask=torch.zeros(len(ids), dtype=torch.bool), media=media)
    return Tree(id="dummy", segments=(prompt,))


def _pixels(config: Any, traits: MediaTraits) -> Tensor:
    """Gray patches of one merged token."""
    vision = config.vision_config
    size = vision.in_channels * traits.temporal_patch_size * vision.patch_size**2
    return torch.zeros(traits.merge_size**2, size)


def _image(config: Any, traits: MediaTraits) -> MediaTensors:
    grid = (1, traits.merge_size, traits.merge_size)
    kwargs = {"pixel_values": _pixels(config, traits), "image_grid_thw": torch.tensor([grid])}
    return MediaTensors(kind="image", kwargs=kwargs, tokens=1, grid=grid)


def _video(config: Any, traits: MediaTraits) -> MediaTensors:
    grid = (1, traits.merge_size, traits.merge_size)
    kwargs = {"pixel_values_videos": _pixels(config, traits), "video_grid_thw": torch.tensor([grid])}
    if traits.seconds_name is not None:
        kwargs[traits.seconds_name] = torch.ones(1)
    stamps = ((0,),) if traits.time_words else ()
    return MediaTensors(kind="video", kwargs=kwargs, tokens=1, grid=grid, seconds_per_grid=1.0, stamps=stamps)


def _audio(config: Any, traits: MediaTraits) -> MediaTensors:
    tokens = traits.audio_min_tokens
    frames = 4 * tokens  # two strides of 2
    padded = traits.mel_frames or frames
    kwargs = {
        "input_features": torch.zeros(1, config.audio_config.num_mel_bins, padded),
        "feature_attention_mask": (torch.arange(padded) < frames).long()[None],
    }
    return MediaTensors(kind="audio", kwargs=kwargs, tokens=tokens)


_ITEMS = {"image": _image, "video": _video, "audio": _audio}
