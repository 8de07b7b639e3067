"""Decoded video -> what the model's forward takes, through the checkpoint's own video processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mmreason.processors.base import Decoded, MediaTraits
from mmreason.processors.image import image_tokens
from mmreason.types import Geometry, MediaTensors


def video_tensors(decoded: Decoded, processor: Any, traits: MediaTraits) -> MediaTensors:
    """pixel_values_videos [P, D], video_grid_thw [1, 3] and, if the family takes it, seconds per grid step [1].

    processor: the checkpoint's. The frames are sampled and resized already: it does neither again.
    """
    frames = decoded.data
    _, height, width, _ = frames.shape
    assert decoded.original is not None
    batch = processor.video_processor(
        videos=[torch.from_numpy(frames).permute(0, 3, 1, 2)],
        do_sample_frames=False,
        do_resize=False,
        input_data_format="channels_first",
        return_tensors="pt",
        **_quiet(processor.video_processor),
    )
    time, rows, columns = (int(size) for size in batch["video_grid_thw"][0])
    patch = traits.pixel_factor // traits.merge_size
    assert (rows * patch, columns * patch) == (height, width), "the video processor changed the size"
    seconds = seconds_per_grid(decoded.timestamps, traits)
    kwargs = {"pixel_values_videos": batch["pixel_values_videos"], "video_grid_thw": batch["video_grid_thw"]}
    if traits.seconds_name is not None:
        kwargs[traits.seconds_name] = torch.tensor([seconds], dtype=torch.float32)
    return MediaTensors(
        kind="video",
        kwargs=kwargs,
        tokens=video_tokens(len(frames), (width, height), traits),
        grid=(time, rows, columns),
        seconds_per_grid=seconds,
        timestamps=decoded.timestamps,
        stamps=stamp_ids(decoded.timestamps, traits, getattr(processor, "tokenizer", None)),
        geometry=Geometry(original=decoded.original, resized=(width, height), frame=traits.frame),
        key=decoded.key,
    )


def seconds_per_grid(timestamps: tuple[float, ...], traits: MediaTraits) -> float:
    """Seconds between two steps of the time axis: the frames' mean spacing times the frames per step."""
    return (timestamps[-1] - timestamps[0]) / (len(timestamps) - 1) * traits.temporal_patch_size


def stamp_ids(timestamps: Sequence[float], traits: MediaTraits, tokenizer: Any) -> tuple[tuple[int, ...], ...]:
    """Ids of the words that tell each step's time, for families that write it (`traits.time_words`); else ().

    A step is at the mean of its first and last frame's times; where frames are missing to the last step, the last frame
    is repeated (Qwen3VLProcessor's rule, here with the frames' own times).
    """
    if traits.time_words is None:
        return ()
    frames = traits.temporal_patch_size
    steps = [timestamps[start : start + frames] for start in range(0, len(timestamps), frames)]
    times = [(step[0] + step[-1]) / 2 for step in steps]
    return tuple(
        tuple(tokenizer(traits.time_words.format(time), add_special_tokens=False)["input_ids"]) for time in times
    )


def video_tokens(frames: int, size: tuple[int, int], traits: MediaTraits) -> int:
    """Tokens of a video of this many frames of this (width, height)."""
    return -(-frames // traits.temporal_patch_size) * image_tokens(size, traits)


def _quiet(video_processor: Any) -> dict[str, bool]:
    """transformers 5.19 warns that a default about *resizing* will change; nothing is resized here."""
    return {"cap_pixels_per_frame": False} if hasattr(video_processor, "cap_pixels_per_frame") else {}
