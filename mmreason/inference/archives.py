"""Members of zip and tar files, read one at a time into memory; nothing is ever unpacked to disk.

A member whose name is absolute or leaves the archive, a link, or one that is larger than `MEMBER_BYTES` or packed
`RATIO` times smaller than it is becomes an error of its own. Hidden members and folders are passed over.
"""

from __future__ import annotations

import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mmreason.errors import DataError

MEMBER_BYTES = 2 << 30
"""The largest member that is read."""
RATIO, RATIO_FROM = 200, 64 << 20
"""A member of at least so many bytes that is packed to a smaller share than 1 / RATIO is refused: no media are so."""
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError)
"""What reading a damaged, encrypted (RuntimeError) or oddly packed (NotImplementedError is one) member raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file of an archive. `read` may be called once, before the next member is taken."""

    name: str
    read: Callable[[], bytes]
    """Raises DataError."""
    error: str = ""
    """Why it is not to be read."""


def zip_members(path: Path, takes: Callable[[str], bool]) -> Iterator[Member]:
    """The members of a zip file by name. Raises DataError where there is no readable index."""
    try:
        archive = zipfile.ZipFile(path)
    except _BROKEN as error:
        raise DataError(f"{path}: not a readable zip file ({error})") from error
    with archive:
        for info in sorted(archive.infolist(), key=lambda info: info.filename):
            if info.is_dir() or _hidden(info.filename) or not takes(info.filename):
                continue
            link = stat.S_ISLNK(info.external_attr >> 16)
            bomb = info.file_size >= RATIO_FROM and info.file_size > RATIO * max(1, info.compress_size)
            why = _refused(info.filename, info.file_size, link) or ("packed too small to be media" if bomb else "")
            yield Member(name=info.filename, read=_zip_reader(archive, info), error=why)


def tar_members(path: Path, takes: Callable[[str], bool]) -> Iterator[Member]:
    """The members of a tar file, packed or not, in its order. A damaged place ends it with a member that says so."""
    count = 0
    try:
        with tarfile.open(path, "r:*") as archive:
            for info in archive:
                archive.members.clear()  # type: ignore[attr-defined]  # else it remembers every member
                if info.isdir() or info.isdev() or _hidden(info.name) or not takes(info.name):
                    continue
                count += 1
                why = _refused(info.name, info.size, info.issym() or info.islnk())
                yield Member(name=info.name, read=_tar_reader(archive, info), error=why)
    except _BROKEN as error:
        where = f"damaged after {count} files: {error}"
        yield Member(name=path.name, read=lambda: b"", error=f"the archive is {where}")


def is_tar(path: Path) -> bool:
    """Whether a file begins as a tar file does, packed or not; one that is cut before its first name does not."""
    try:
        return tarfile.is_tarfile(path)
    except _BROKEN:
        return False


def _hidden(name: str) -> bool:
    parts = name.split("/")
    return "__MACOSX" in parts or any(part.startswith(".") and part not in (".", "..") for part in parts)


def _refused(name: str, size: int, link: bool) -> str:
    """Why a member may not be read, by its header."""
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name):
        return "its name leads out of the archive"
    if link:
        return "a link; only files are read"
    if size > MEMBER_BYTES:
        return f"{size} bytes, at most {MEMBER_BYTES} are read"
    return ""


def _zip_reader(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], bytes]:
    return lambda: _read(lambda: archive.open(info), info.file_size)


def _tar_reader(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[], bytes]:
    return lambda: _read(lambda: archive.extractfile(info), info.size)


def _read(opened: Callable[[], IO[bytes] | None], size: int) -> bytes:
    """All bytes of a member, and no more than its header says."""
    try:
        file = opened()
        assert file is not None  # folders and devices were passed over
        with file:
            content = file.read(size + 1)
    except _BROKEN as error:
        raise DataError(f"cannot be read from the archive ({error})") from error
    if len(content) != size:
        raise DataError(f"{len(content)} bytes in the archive, its header says {size}")
    return content
