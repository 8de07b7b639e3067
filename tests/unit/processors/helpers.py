"""What the tests of this folder share: traits and real HF components of a Qwen2.5-Omni, and short ways to load."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor, WhisperFeatureExtractor

from mmreason.config import MediaConfig
from mmreason.errors import MediaError
from mmreason.processors.base import Decoded, MediaTraits
from mmreason.processors.media import MediaLoader
from mmreason.processors.pipeline import MediaPipeline
from mmreason.types import MediaRef

TRAITS = MediaTraits(frame="resized_pixels", audio_rate=16000, seconds_name="video_second_per_grid")
VISION_TRAITS = MediaTraits(frame="resized_pixels", seconds_name="second_per_grid_ts")


def config(**changes: Any) -> MediaConfig:
    """Decoding in this process, by the decoder that reads everything, videos of any small size."""
    return MediaConfig(**{"workers": 0, "decoder": "pyav", "video_min_pixels": 3136, **changes})


@cache
def components() -> Any:
    """The parts of a Qwen2.5-Omni processor that media go through."""
    return SimpleNamespace(
        image_processor=Qwen2VLImageProcessor(),
        video_processor=Qwen2VLVideoProcessor(),
        feature_extractor=WhisperFeatureExtractor(feature_size=128),
    )


def pipeline(root: str | None = None, **changes: Any) -> MediaPipeline:
    return MediaPipeline(config(**changes), TRAITS, components(), root)


def ref(path: Path, kind: str | None = None, sound: bool = False, **options: Any) -> MediaRef:
    """A reference to a file; its kind by its ending unless given."""
    kinds = {".wav": "audio", ".flac": "audio", ".ogg": "audio", ".mp3": "audio", ".m4a": "audio"}
    films = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif", ".ts", ".h264")
    found = kind or kinds.get(path.suffix) or ("video" if path.suffix in films else "image")
    return MediaRef(kind=found, path=str(path), sound=sound, options=options)


def load(item: MediaRef, root: str | None = None, **changes: Any) -> Decoded:
    """Decode one item; an error is raised."""
    with MediaLoader(config(**changes), TRAITS, root) as loader:
        (decoded,) = loader.load([item])
    if isinstance(decoded, MediaError):
        raise decoded
    return decoded


def reason(item: MediaRef, root: str | None = None, **changes: Any) -> str:
    """Why an item is refused, by the whole pipeline."""
    with pipeline(root, **changes) as media:
        (refused,) = media.tensors([item])
    assert isinstance(refused, MediaError), f"{item.name} was accepted"
    return refused.reason
