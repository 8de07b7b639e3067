"""What the decoders hand over, what a model family says about its media, and why a file may be refused.

Nothing here imports torch: decoding workers load this module and start in about a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmreason.types import CoordinateFrame

if TYPE_CHECKING:
    from numpy import ndarray

MISSING = "missing"
UNREADABLE = "unreadable"
OUTSIDE_ROOT = "outside media root"
REMOTE = "remote media not allowed"
EMPTY = "empty"
WRONG_TYPE = "wrong type"
CORRUPT = "corrupt"
TRUNCATED = "truncated"
TOO_LARGE = "too large"
TOO_LONG = "too long"
TOO_SHORT = "too short"
ASPECT_RATIO = "aspect ratio"
NO_FRAMES = "no frames"
ONE_FRAME = "one frame"
ZERO_FPS = "zero fps"
NAN_SAMPLES = "NaN samples"
NO_SOUND = "no sound track"
BAD_OPTIONS = "bad options"
UNSUPPORTED = "not supported by the model"
TIMEOUT = "timeout"
CRASHED = "decoder crashed"
UNKNOWN_TO_DECODER = "not readable by this decoder"

REASONS: dict[str, str] = {
    MISSING: "there is no such file",
    UNREADABLE: "not a regular file, or no permission to read it",
    OUTSIDE_ROOT: "the path, with symbolic links followed, leaves the media root",
    REMOTE: "a URL; media are local files",
    EMPTY: "the file has no bytes",
    WRONG_TYPE: "the content is another kind of thing than the data file says, whatever its name",
    CORRUPT: "the content cannot be decoded",
    TRUNCATED: "the file ends before its header says",
    TOO_LARGE: "more pixels than media.image_max_source_pixels, or more memory than a worker may use",
    TOO_LONG: "longer than media.video_max_seconds, media.audio_max_seconds or the model's audio window",
    TOO_SHORT: "gives no token, or fewer than two frames between start and end",
    ASPECT_RATIO: "more than 200 times longer than wide (or wide than long)",
    NO_FRAMES: "a video without a decodable frame",
    ONE_FRAME: "a video with a single frame",
    ZERO_FPS: "a video whose frames all carry the same time",
    NAN_SAMPLES: "samples or pixels that are not numbers",
    NO_SOUND: "sound was asked for and the video has none",
    BAD_OPTIONS: "the item's sampling options are unknown, of the wrong type or contradict each other",
    UNSUPPORTED: "the model family has no input for this kind",
    TIMEOUT: "decoding took longer than media.deadline_s",
    CRASHED: "the decoding process died on this file",
    UNKNOWN_TO_DECODER: "the decoder that media.decoder forces cannot read such files; pyav can",
}
"""Every `MediaError.reason` that this package gives, with what it means."""


class Refusal(Exception):
    """Raised inside decoders, which do not know what the user calls the file; becomes a MediaError with its name."""

    def __init__(self, reason: str, detail: str = "") -> None:
        assert reason in REASONS, reason
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is refused by its header, before any decoding. From `MediaConfig`."""

    pixels: int
    """Pixels of an image or of one frame."""
    video_seconds: float
    audio_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a file's bytes and headers say, without decoding more than one frame."""

    digest: str
    """SHA-256 of the bytes."""
    format: str
    """Name of the format, as in "PNG" or "MP4"."""
    size: tuple[int, int] = (0, 0)
    """Images and videos: (width, height) as shown, rotation applied."""
    rotation: int = 0
    """Videos: degrees counter-clockwise by which the stored frames are turned to be shown."""
    seconds: float = 0.0
    """Length of a sound; of a video, from its first frame to its last."""
    first: float = 0.0
    """Videos: when the first frame is shown, by the container's clock."""
    times: ndarray[Any, Any] | None = None
    """Videos: float64 [n], when each frame is shown, from the first one."""
    keyframes: ndarray[Any, Any] | None = None
    """Videos: float64 [k], those times at which decoding can start; before 0 where an edit list hides the frame."""
    rate: float = 0.0
    """Videos: frames per second, as the container says; 0 where it does not."""
    hidden: int = 0
    """Videos: frames that the file holds and its edit list hides, as a cut without encoding leaves them."""
    sound_seconds: float | None = None
    """Videos: length of the sound track; None without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to make of a file: every sampling parameter, resolved. Made by `sampling.plan`."""

    size: tuple[int, int] = (0, 0)
    """Images and videos: (width, height) to resize to."""
    indices: tuple[int, ...] = ()
    """Videos: which of `Facts.times` to show, ascending."""
    sound: bool = False
    """Videos: decode the sound track too."""
    start: float = 0.0
    """Sounds: first second, from the beginning of the file (for the sound of a video: from its first frame)."""
    end: float | None = None
    """Sounds: second at which to stop; None is the end of the file."""
    rate: int | None = None
    """Sounds: samples per second to resample to."""
    decoder: str = "pyav"
    """Videos: "torchcodec", "pyav" or "decord"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """One media item after decoding, resizing and resampling, before the model's own normalisation.

    Example: a clip of 4 frames: `Decoded(kind="video", data=uint8 [4, 56, 84, 3], original=(640, 480),
    timestamps=(0.0, 0.5, 1.0, 1.5), key="3f..")`
    """

    kind: str
    """"image", "video" or "audio"."""
    data: ndarray[Any, Any]
    """image uint8 [H, W, 3]; video uint8 [F, H, W, 3]; audio float32 [N], mono. Never written to."""
    original: tuple[int, int] | None = None
    """Images and videos: (width, height) as shown, before resizing (orientation applied)."""
    timestamps: tuple[float, ...] = ()
    """Videos: seconds from the first frame of the file to each sampled frame, ascending."""
    rate: int | None = None
    """Audio: samples per second."""
    sound: Decoded | None = None
    """Videos with `MediaRef.sound`: the sound track, time 0 at the first moment of the sampled window."""
    key: str = ""
    """Hash of the file's bytes and every sampling parameter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaTraits:
    """What a model family needs to know done to its media. The family table fills one in per family.

    Example: `MediaTraits(frame="resized_pixels", audio_rate=16000, seconds_name="video_second_per_grid")`
    """

    frame: CoordinateFrame
    """In which coordinates the model speaks of places in an image."""
    vision: bool = True
    """It takes images and videos."""
    pixel_factor: int = 28
    """Heights and widths are multiples of this: patch size x merge size."""
    temporal_patch_size: int = 2
    """Frames per step of the time axis."""
    merge_size: int = 2
    """Patches per token and axis."""
    audio_rate: int | None = None
    """Samples per second of the audio tower; None when the family has none."""
    audio_min_tokens: int = 1
    """Shorter sounds are refused (1 for Qwen2.5-Omni, 2 for Qwen2-Audio)."""
    seconds_name: str | None = None
    """Keyword of the forward for seconds per step of the time axis; None when it takes none."""
    time_words: str | None = None
    """What is written before each step of a video's time axis, as in "<{:.1f} seconds>"; None when nothing is."""
    mel_frames: int | None = None
    """Mel frames that every sound is padded to, where the audio tower takes one length only."""
