"""Decoded image -> what the model's forward takes, through the checkpoint's own image processor."""

from __future__ import annotations

from typing import Any

from mmreason.processors.base import Decoded, MediaTraits
from mmreason.types import Geometry, MediaTensors


def image_tensors(decoded: Decoded, image_processor: Any, traits: MediaTraits) -> MediaTensors:
    """pixel_values [P, D] and image_grid_thw [1, 3]. The image has its final size: nothing is resized again."""
    height, width = decoded.data.shape[:2]
    assert decoded.original is not None
    batch = image_processor(
        images=[decoded.data], do_resize=False, input_data_format="channels_last", return_tensors="pt"
    )
    time, rows, columns = (int(size) for size in batch["image_grid_thw"][0])
    patch = traits.pixel_factor // traits.merge_size
    assert (rows * patch, columns * patch) == (height, width), "the image processor changed the size"
    return MediaTensors(
        kind="image",
        kwargs={"pixel_values": batch["pixel_values"], "image_grid_thw": batch["image_grid_thw"]},
        tokens=image_tokens((width, height), traits),
        grid=(time, rows, columns),
        geometry=Geometry(original=decoded.original, resized=(width, height), frame=traits.frame),
        key=decoded.key,
    )


def image_tokens(size: tuple[int, int], traits: MediaTraits) -> int:
    """Tokens of an image of this (width, height), or of one time step of a video."""
    width, height = size
    return (width // traits.pixel_factor) * (height // traits.pixel_factor)
