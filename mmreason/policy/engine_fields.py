"""What vLLM's models call the tensors of a media item, and how it joins those of several items.

The tensors themselves are those of the trainer's forward (`MediaTensors.kwargs`), only named and cut differently.
Names and layouts are those of the processors in vLLM's model files (`_get_mm_fields_config`, vLLM 0.32).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mmreason.policy.positions import MediaRules, step_times
from mmreason.types import MediaTensors

Maker = Callable[[MediaTensors, MediaRules], Tensor]
"""Makes one tensor of an item for the engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineField:
    """One tensor of an item. Example: `EngineField(name="pixel_values", make=whole("pixel_values"), along=0)`"""

    name: str
    make: Maker
    along: int | None = None
    """The dimension along which items are joined; None: they are stacked."""
    on_cpu: bool = True
    """It stays on the CPU: sizes and times, of which positions are computed."""


EngineFields = Mapping[str, tuple[EngineField, ...]]
"""Kind of media -> the fields of an item."""


def whole(name: str) -> Maker:
    """The item's tensor as it is."""
    return lambda item, rules: item.kwargs[name]


def first(name: str) -> Maker:
    """The item's tensor without its first dimension, which counts items."""
    return lambda item, rules: item.kwargs[name][0]


def frames(item: MediaTensors, rules: MediaRules) -> Tensor:
    """int64 []: mel frames that are sound."""
    return item.kwargs["feature_attention_mask"][0].sum()


def heard(item: MediaTensors, rules: MediaRules) -> Tensor:
    """[mel, frames]: the mel frames that are sound."""
    return item.kwargs["input_features"][0][:, : int(frames(item, rules))]


def seconds(item: MediaTensors, rules: MediaRules) -> Tensor:
    """float64 []: seconds per step of a video that make vLLM's time positions those of the trainer.

    Both truncate step x seconds x positions per second, transformers in float32 and vLLM in float64, so at whole
    numbers they differ by one: 2 steps of 3.3 s at 25 a second are at 165 or at 164. The seconds returned are the
    middle of those that truncate, in float64, to what the trainer has; where float32 rounds some steps up and others
    down, there are none, and one of them stays off by one.
    """
    assert rules.positions_per_second is not None
    places = step_times(item, rules).long().tolist()
    low = max((place / step for step, place in enumerate(places) if step), default=0.0)
    high = min(((place + 1) / step for step, place in enumerate(places) if step), default=2 * low + 1)
    return torch.tensor((low + high) / 2 / rules.positions_per_second, dtype=torch.float64)


_IMAGE = (
    EngineField(name="pixel_values", make=whole("pixel_values"), along=0, on_cpu=False),
    EngineField(name="image_grid_thw", make=first("image_grid_thw")),
)
_VIDEO = (
    EngineField(name="pixel_values_videos", make=whole("pixel_values_videos"), along=0, on_cpu=False),
    EngineField(name="video_grid_thw", make=first("video_grid_thw")),
)


_TIMED = (*_VIDEO, EngineField(name="second_per_grid_ts", make=seconds))

QWEN2_VL: EngineFields = {"image": _IMAGE, "video": _VIDEO}
QWEN2_5_VL: EngineFields = {"image": _IMAGE, "video": _TIMED}
QWEN3_VL: EngineFields = QWEN2_VL  # it reads the times as words
QWEN2_AUDIO: EngineFields = {
    "audio": (
        EngineField(name="input_features", make=first("input_features"), on_cpu=False),
        EngineField(name="feature_attention_mask", make=first("feature_attention_mask"), on_cpu=False),
    )
}
QWEN2_5_OMNI: EngineFields = {
    "image": _IMAGE,
    "video": (
        *_TIMED,
        EngineField(name="use_audio_in_video", make=lambda item, rules: torch.tensor(False)),
    ),
    "audio": (
        EngineField(name="input_audio_features", make=heard, along=1, on_cpu=False),
        EngineField(name="feature_attention_mask", make=first("feature_attention_mask")),
        EngineField(name="audio_feature_lengths", make=frames),
    ),
}
