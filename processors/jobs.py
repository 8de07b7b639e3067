"""What decoding workers run: plain functions from bytes to facts, and from bytes and a plan to arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmreason.processors import source as sources
from mmreason.processors.base import CORRUPT, TOO_LARGE, Decoded, Facts, Limits, Plan, Refusal
from mmreason.processors.decode_audio import audio_facts, decode_audio, decode_sound_of_video
from mmreason.processors.decode_image import decode_image, image_facts
from mmreason.processors.decode_video import decode_video, video_facts
from mmreason.processors.source import Source


def examine(kind: str, source: Source, sound: bool, limits: Limits) -> Facts:
    """Hash and header facts of a file. Raises Refusal."""
    digest = sources.digest(source)
    if kind == "video":
        return video_facts(source, digest, limits, sound)
    return {"image": image_facts, "audio": audio_facts}[kind](source, digest, limits)


def decode(kind: str, source: Source, facts: Facts, plan: Plan, limits: Limits) -> Decoded:
    """Decode and resize by the plan; sounds keep their own rate. Raises Refusal."""
    if kind == "image":
        return Decoded(kind=kind, data=decode_image(source, plan, limits), original=facts.size)
    if kind == "audio":
        samples, rate = decode_audio(source, facts, plan, limits)
        return Decoded(kind=kind, data=samples, rate=rate)
    frames, times = decode_video(source, facts, plan)
    sound = None
    if plan.sound:
        samples, rate = decode_sound_of_video(source, facts, plan, limits)
        sound = Decoded(kind="audio", data=samples, rate=rate)
    return Decoded(kind=kind, data=frames, original=facts.size, timestamps=times, sound=sound)


def guarded(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """The function's result, or the Refusal it ended with. Decoders of hostile files may raise anything."""
    try:
        return function(*arguments)
    except Refusal as refusal:
        return refusal
    except MemoryError:
        return Refusal(TOO_LARGE, "decoding needs more memory than a worker may use")
    except Exception as error:  # the boundary: becomes a MediaError, which is quarantined and counted
        return Refusal(CORRUPT, f"{type(error).__name__}: {error}"[:300])
