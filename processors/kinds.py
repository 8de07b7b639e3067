"""Which kind of media a file is, by its content: for folders, where nobody says."""

from __future__ import annotations

from dataclasses import dataclass

from mmreason.processors.base import Refusal
from mmreason.processors.containers import open_container, reading
from mmreason.processors.sniff import EITHER, FILMS, IMAGES, is_text, recognise
from mmreason.processors.source import Source, open_source


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a file is to be loaded as."""

    kind: str
    """"image", "video" or "audio"."""
    sound: bool = False
    """Videos: there is a sound track."""


def kind_of(source: Source) -> Kind | None:
    """The kind of a file, or None for what is no media. Raises Refusal where it cannot be read or is empty.

    Containers that hold sound, video or both are told by their streams, a cover picture left out; one that cannot be
    opened is a video, so that loading it says why. An animated GIF of several frames is a video, any other an image.
    """
    name = media_format(source)
    if name is None:
        return None
    if name in EITHER or name in FILMS:
        return _by_streams(source)
    if name == "GIF":
        return Kind(kind="video" if _frames_at_most(source, 2) == 2 else "image")
    return Kind(kind="image" if name in IMAGES else "audio")


def media_format(source: Source) -> str | None:
    """The name of a media file's format, by its first bytes; None for what is no media. Raises Refusal."""
    with open_source(source) as file:
        name = recognise(file)
        if name != "PPM" and is_text(file):  # "BM" and the like begin texts as well
            return None
        return name


def _by_streams(source: Source) -> Kind:
    try:
        with open_container(source) as container:
            sound = bool(container.streams.audio)
            stream = container.streams.best("video")
            film = stream is not None and not stream.disposition & stream.disposition.attached_pic
            return Kind(kind="audio") if sound and not film else Kind(kind="video", sound=sound)
    except Refusal:
        return Kind(kind="video")


def _frames_at_most(source: Source, count: int) -> int:
    """How many frames there are, counted up to `count`, without decoding them."""
    found = 0
    try:
        with open_container(source) as container, reading():
            for packet in container.demux(video=0):
                found += packet.size > 0
                if found == count:
                    break
    except Refusal:
        pass
    return found
