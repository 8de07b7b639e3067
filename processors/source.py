"""Reaching the bytes of a media item: is it a local regular file under the media root, and what are its bytes' hash?"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from pathlib import Path
from typing import BinaryIO

from mmreason.processors.base import EMPTY, MISSING, OUTSIDE_ROOT, REMOTE, UNREADABLE, Refusal

Source = str | bytes
"""A path, or the encoded file itself."""

_BLOCK = 1 << 20


def locate(path: str, root: str | None) -> tuple[str, os.stat_result]:
    """The real path of a media file (symbolic links followed) and its stat.

    Relative paths start at `root`; with a root, a file outside it is refused. Nothing is opened, so a pipe or a
    device cannot block. Raises Refusal: remote, missing, outside the root, not a regular file, empty.
    """
    if "://" in path or path.startswith("data:"):
        raise Refusal(REMOTE, "download it first and give its path")
    try:
        real = Path(root or "", path).resolve(strict=True)
        status = real.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise Refusal(MISSING) from None
    except (OSError, RuntimeError, ValueError) as error:  # no permission, a loop of links, a name that is too long
        raise Refusal(UNREADABLE, _why(error)) from None
    if root is not None and not real.is_relative_to(Path(root).resolve()):
        raise Refusal(OUTSIDE_ROOT, f"it leads to {real}; the root is {root}")
    if not stat.S_ISREG(status.st_mode):
        raise Refusal(UNREADABLE, "not a regular file")
    if status.st_size == 0:
        raise Refusal(EMPTY)
    return str(real), status


def digest(source: Source) -> str:
    """SHA-256 of the content, in hexadecimal."""
    found = hashlib.sha256()
    with open_source(source) as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()


def open_source(source: Source) -> BinaryIO:
    """The content as a binary file, positioned at its start."""
    if isinstance(source, bytes):
        if not source:
            raise Refusal(EMPTY)
        return io.BytesIO(source)
    try:
        return open(source, "rb")
    except OSError as error:
        raise Refusal(UNREADABLE, _why(error)) from None


def length(file: BinaryIO) -> int:
    """Number of bytes of an open file; the position is left at the start."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
