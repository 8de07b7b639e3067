"""From a file's facts, the config and the item's own options to a plan: which frames, which size, which seconds.

The resize and frame-count rules are qwen-vl-utils' own functions. Theirs gives the number of frames; which frames they
are is decided by time (the same frames where the rate is constant), so that variable frame rates are sampled evenly.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from qwen_vl_utils.vision_process import smart_nframes, smart_resize

from mmreason.config import MediaConfig
from mmreason.processors.base import (
    ASPECT_RATIO,
    BAD_OPTIONS,
    TOO_LONG,
    TOO_SHORT,
    UNSUPPORTED,
    Facts,
    Limits,
    MediaTraits,
    Plan,
    Refusal,
)
from mmreason.types import MediaRef

# smart_nframes warns on every clip with fewer frames than fps asks for, and then does the right thing.
logging.getLogger("qwen_vl_utils.vision_process").setLevel(logging.ERROR)

_PIXELS = {"min_pixels", "max_pixels"}
_TIMES = {"start", "end"}
OPTIONS: dict[str, set[str]] = {
    "image": _PIXELS,
    "video": _PIXELS | _TIMES | {"fps", "nframes", "min_frames", "max_frames"},
    "audio": _TIMES,
}
"""What `MediaRef.options` may hold, by kind. Seconds, frames per second, frames, and pixels per frame."""

_SAME_RATE = 0.01
"""Within this share the container's frame rate and the measured one are the same."""
_VERSION = 2
"""Part of every key: raise it when the same plan gives other pixels or samples."""


def limits_of(config: MediaConfig) -> Limits:
    """The limits to what a file may be, as the config sets them."""
    return Limits(
        pixels=config.image_max_source_pixels,
        video_seconds=config.video_max_seconds,
        audio_seconds=config.audio_max_seconds,
    )


def check_request(ref: MediaRef, traits: MediaTraits) -> None:
    """What can be refused without touching the file. Raises Refusal: unsupported, bad options."""
    if ref.kind not in OPTIONS:
        raise Refusal(UNSUPPORTED, f"kind {ref.kind!r}; known: {', '.join(OPTIONS)}")
    if traits.audio_rate is None and (ref.kind == "audio" or ref.sound):
        raise Refusal(UNSUPPORTED, "this model family takes no sound")
    if not traits.vision and ref.kind != "audio":
        raise Refusal(UNSUPPORTED, "this model family takes sounds only")
    _check_options(ref.options, OPTIONS[ref.kind])


def plan(ref: MediaRef, facts: Facts, config: MediaConfig, traits: MediaTraits, decoder: str) -> Plan:
    """Resolve every sampling parameter. Raises Refusal: too short, too long, aspect ratio, bad options."""
    if ref.kind == "audio":
        start, end = float(ref.options.get("start", 0.0)), ref.options.get("end")
        _check_sound(start, end, facts.seconds, config)
        return Plan(start=start, end=end, rate=traits.audio_rate)
    size = _resized(ref, facts, config, traits)
    if ref.kind == "image":
        return Plan(size=size)
    indices = _frame_indices(ref.options, facts, config)
    assert facts.times is not None
    start, end = float(facts.times[indices[0]]), ref.options.get("end")
    if ref.sound:
        assert facts.sound_seconds is not None
        _check_sound(start, end, facts.sound_seconds, config)
    rate = traits.audio_rate if ref.sound else None
    return Plan(size=size, indices=indices, sound=ref.sound, start=start, end=end, rate=rate, decoder=decoder)


def key_of(kind: str, facts: Facts, plan: Plan) -> str:
    """Hash of the file's bytes and every sampling parameter: equal keys are equal `Decoded`."""
    text = json.dumps([_VERSION, kind, facts.digest, asdict(plan)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _resized(ref: MediaRef, facts: Facts, config: MediaConfig, traits: MediaTraits) -> tuple[int, int]:
    """(width, height) by qwen-vl-utils' smart_resize."""
    width, height = facts.size
    low = ref.options.get("min_pixels", getattr(config, f"{ref.kind}_min_pixels"))
    high = ref.options.get("max_pixels", getattr(config, f"{ref.kind}_max_pixels"))
    if low > high:
        raise Refusal(BAD_OPTIONS, f"min_pixels {low} is more than max_pixels {high}")
    try:
        new_height, new_width = smart_resize(height, width, traits.pixel_factor, low, high)
    except ValueError as error:
        raise Refusal(ASPECT_RATIO, str(error)) from None
    if not new_height or not new_width:  # it rounds a thin strip down to nothing
        raise Refusal(ASPECT_RATIO, f"{width} x {height} pixels do not fit into {high} pixels")
    return new_width, new_height


def _frame_indices(options: Mapping[str, Any], facts: Facts, config: MediaConfig) -> tuple[int, ...]:
    """Indices into `facts.times`: as many as smart_nframes says, evenly spaced in time between start and end."""
    assert facts.times is not None
    window = np.flatnonzero((facts.times >= options.get("start", 0.0)) & (facts.times <= options.get("end", math.inf)))
    if len(window) < 2:
        raise Refusal(TOO_SHORT, f"{len(window)} frames between start and end")
    rate = _frame_rate(facts)
    rule = {
        "fps": options.get("fps", config.video_fps),
        "min_frames": options.get("min_frames", config.video_min_frames),
        "max_frames": options.get("max_frames", config.video_max_frames),
    }
    try:
        count = smart_nframes({"nframes": options["nframes"]} if "nframes" in options else rule, len(window), rate)
    except ValueError as error:
        raise Refusal(TOO_SHORT if "nframes" in options else BAD_OPTIONS, str(error)) from None
    moments = np.linspace(facts.times[window[0]], facts.times[window[-1]], count)
    return tuple(np.rint(np.interp(moments, facts.times[window], window)).astype(int).tolist())


def _frame_rate(facts: Facts) -> float:
    """Frames per second: the container's number, as qwen-vl-utils takes it, where the frames bear it out.

    Times are rounded (Matroska: to milliseconds), and 14.999 frames per second instead of 15 can be one frame less.
    """
    assert facts.times is not None
    measured: float = (len(facts.times) - 1) / facts.seconds
    return facts.rate if abs(facts.rate / measured - 1) < _SAME_RATE else measured


def _check_sound(start: float, end: float | None, seconds: float, config: MediaConfig) -> None:
    used = min(seconds, seconds if end is None else end) - start
    if used <= 0:
        raise Refusal(TOO_SHORT, f"no sound between start and end; it lasts {seconds:.2f} s")
    if used > config.audio_max_seconds:
        raise Refusal(TOO_LONG, f"{used:.1f} s of sound, at most {config.audio_max_seconds:g} s are allowed")


def _check_options(options: Mapping[str, Any], known: set[str]) -> None:
    if unknown := sorted(set(options) - known):
        raise Refusal(BAD_OPTIONS, f"unknown {', '.join(map(repr, unknown))}; known: {', '.join(sorted(known))}")
    for name, value in options.items():
        whole = name not in ("fps", "start", "end")
        fits = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not fits or not math.isfinite(value) or value < (0 if name == "start" else 1e-9):
            raise Refusal(BAD_OPTIONS, f"{name}: {value!r}, expected a positive {'integer' if whole else 'number'}")
    if "fps" in options and "nframes" in options:
        raise Refusal(BAD_OPTIONS, "fps and nframes exclude each other")
    if options.get("end", math.inf) <= options.get("start", 0.0):
        raise Refusal(BAD_OPTIONS, f"end {options['end']} is not after start {options.get('start', 0.0)}")
