"""Opening containers with PyAV safely: known demuxers only, local content only, its errors as Refusals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av
import av.error
import av.logging

from mmreason.processors.base import CORRUPT, Refusal
from mmreason.processors.source import Source, open_source

av.logging.set_level(av.logging.PANIC)  # damaged files are reported by us, once

# Playlists (HLS, DASH, concat) are left out on purpose: they make FFmpeg open other files and addresses.
_DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,h264,hevc,flv,asf,gif,ogg,wav,w64,aiff,"
    "au,caf,amr,aac,mp3,flac"
)
_OPTIONS = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "file"}


@contextmanager
def open_container(source: Source) -> Iterator[Any]:
    """An av InputContainer. The content is read through our own file object, so a path is never taken for a URL."""
    with open_source(source) as file:
        with reading():
            container = av.open(file, "r", options=dict(_OPTIONS), metadata_errors="replace")
        with container:
            yield container


@contextmanager
def reading() -> Iterator[None]:
    """Whatever FFmpeg says of the content becomes a Refusal: corrupt."""
    try:
        yield
    except av.error.FFmpegError as error:
        raise Refusal(CORRUPT, f"FFmpeg: {error.strerror}") from None
