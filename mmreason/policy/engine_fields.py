"""What vLLM's models call the tensors of a media item, and how it joins those of several items.

The tensors themselves are those of the trainer's forward (`MediaTensors.kwargs`), only named and cut differently.
Names and layouts are those of the processors in vLLM's model files (`_get_mm_fields_config`, vLLM 0.32).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from mmreason.types import MediaTensors

Maker = Callable[[MediaTensors], Tensor]
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
    return lambda item: item.kwargs[name]


def first(name: str) -> Maker:
    """The item's tensor without its first dimension, which counts items."""
    return lambda item: item.kwargs[name][0]


def frames(item: MediaTensors) -> Tensor:
    """int64 []: mel frames that are sound."""
    return item.kwargs["feature_attention_mask"][0].sum()


def heard(item: MediaTensors) -> Tensor:
    """[mel, frames]: the mel frames that are sound."""
    return item.kwargs["input_features"][0][:, : int(frames(item))]


_IMAGE = (
    EngineField(name="pixel_values", make=whole("pixel_values"), along=0, on_cpu=False),
    EngineField(name="image_grid_thw", make=first("image_grid_thw")),
)
_VIDEO = (
    EngineField(name="pixel_values_videos", make=whole("pixel_values_videos"), along=0, on_cpu=False),
    EngineField(name="video_grid_thw", make=first("video_grid_thw")),
)


def _timed(name: str) -> tuple[EngineField, ...]:
    """A video with its seconds per step of the time axis, which the trainer's forward calls `name`."""
    return (*_VIDEO, EngineField(name="second_per_grid_ts", make=first(name)))


QWEN2_VL: EngineFields = {"image": _IMAGE, "video": _VIDEO}
QWEN2_5_VL: EngineFields = {"image": _IMAGE, "video": _timed("second_per_grid_ts")}
QWEN3_VL: EngineFields = QWEN2_VL  # it reads the times as words
QWEN2_AUDIO: EngineFields = {
    "audio": (
        EngineField(name="input_features", make=first("input_features"), on_cpu=False),
        EngineField(name="feature_attention_mask", make=first("feature_attention_mask"), on_cpu=False),
    )
}
QWEN2_5_OMNI: EngineFields = {
    "image": _IMAGE,
    "video": _timed("video_second_per_grid"),
    "audio": (
        EngineField(name="input_audio_features", make=heard, along=1, on_cpu=False),
        EngineField(name="feature_attention_mask", make=first("feature_attention_mask")),
        EngineField(name="audio_feature_lengths", make=frames),
    ),
}
