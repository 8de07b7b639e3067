"""Other views of a question's media: what a contrast rollout sees instead of them.

A view changes some kinds of media and leaves the others as they are. Frames are changed before the processor sees
them, since it joins two neighbours into one step of the time axis.

    shuffled   a video's frames in another order; its timestamps stay (Video-R1's temporal GRPO)
    blank      an image, or every frame of a video, is mid-grey
    noise      a sound, also that of a video, is white noise of the same level
    muted      the same as silence
    none       images, videos and sounds are taken out of the prompt
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mmreason.processors.base import Decoded
from mmreason.types import MediaRef, Sample, View

MID_GREY = 128


def shuffled(decoded: Decoded, seed: int) -> Decoded:
    """The frames in another order; timestamps stay as they are."""
    return replace(decoded, data=decoded.data[shuffled_order(decoded, seed)])


def blank(decoded: Decoded, seed: int) -> Decoded:
    """Mid-grey of the same size."""
    return replace(decoded, data=np.full_like(decoded.data, MID_GREY))


def noise(decoded: Decoded, seed: int) -> Decoded:
    """White noise with the sound's root mean square, so silence stays silence."""
    level = float(np.sqrt(np.mean(np.square(decoded.data, dtype=np.float64)))) if len(decoded.data) else 0.0
    samples = level * _rng(decoded, seed).standard_normal(len(decoded.data))
    return replace(decoded, data=samples.astype(np.float32))


def muted(decoded: Decoded, seed: int) -> Decoded:
    """Silence of the same length."""
    return replace(decoded, data=np.zeros_like(decoded.data))


VIEWS: dict[View, dict[str, Callable[[Decoded, int], Decoded]]] = {
    "ordered": {},
    "shuffled": {"video": shuffled},
    "blank": {"image": blank, "video": blank},
    "noise": {"audio": noise},
    "muted": {"audio": muted},
    "none": {},
}
"""What a view does to each kind of media that it changes; a video's sound counts as audio."""

SEEDED = ("shuffled", "noise")
"""These look different with another seed."""


def applies(view: View, sample: Sample) -> bool:
    """Whether a view shows this sample otherwise than it is."""
    if view == "none":
        return bool(sample.media)
    return any(changes(view, ref) for ref in sample.media)


def changes(view: View, ref: MediaRef) -> bool:
    """Whether a view changes this item, or the sound that comes with it."""
    return ref.kind in VIEWS[view] or (ref.sound and "audio" in VIEWS[view])


def seen(decoded: Decoded, view: View, seed: int) -> Decoded:
    """A decoded item, and the sound that comes with it, as the view shows it; what is changed gets another key."""
    change = VIEWS[view].get(decoded.kind)
    if change is not None:
        decoded = replace(change(decoded, seed), key=f"{decoded.key}:{view}:{seed}")
    if decoded.sound is not None:
        decoded = replace(decoded, sound=seen(decoded.sound, view, seed))
    return decoded


def without_media(sample: Sample) -> Sample:
    """The sample with its media taken out of the messages; one that was media alone is left with an empty text."""
    messages = [
        replace(message, content=tuple(part for part in message.content if isinstance(part, str)) or ("",))
        for message in sample.messages
    ]
    return replace(sample, messages=tuple(messages))


def shuffled_order(decoded: Decoded, seed: int) -> list[int]:
    """A permutation of the frames that depends on seed and video, and that shows: never one that looks ordered."""
    count = len(decoded.data)
    order = _rng(decoded, seed).permutation(count)
    if np.array_equal(decoded.data[order], decoded.data):
        order = np.roll(np.arange(count), 1)
    return [int(index) for index in order]


def _rng(decoded: Decoded, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, int(decoded.key[:8] or "0", 16)])
