"""Members of zip and tar files, read one at a time into memory; nothing is ever unpacked to disk.

A member whose name is absolute or leaves the archive, a link, or one that is larger than `MEMBER_BYTES` or packed
`RATIO` times smaller than it is becomes an error of its own. Hidden members and folders are passed over. Names are
those of the members without "./": "./a.png" and "a.png" are the same file.
"""

from __future__ import annotations

import io
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from mmreason.errors import DataError

MEMBER_BYTES = 1 << 30
"""The largest member that is read: it is held in memory while it is decoded."""
RATIO, RATIO_FROM = 200, 64 << 20
"""A member of at least so many bytes that is packed to a smaller share than 1 / RATIO is refused: no media are so."""
PACKED_TOO_SMALL = f"packed to less than 1/{RATIO}, which no media are; not read"
_BLOCK = 4 << 20
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
        named = [(_named(info.filename), info) for info in archive.infolist() if not info.is_dir()]
        for name, info in sorted(named, key=lambda pair: pair[0]):
            if _hidden(name) or not takes(name):
                continue
            link = stat.S_ISLNK(info.external_attr >> 16)
            bomb = _is_bomb(info.file_size, info.compress_size)
            why = _refused(name, info.file_size, link) or (PACKED_TOO_SMALL if bomb else "")
            yield Member(name=name, read=_zip_reader(archive, info), error=why)


def tar_members(path: Path, takes: Callable[[str], bool]) -> Iterator[Member]:
    """The members of a tar file, packed or not, in its order. A damaged place ends it with a member that says so."""
    count = 0
    try:
        with path.open("rb") as packed, tarfile.open(fileobj=packed, mode="r:*") as archive:
            for info in archive:
                archive.members.clear()  # type: ignore[attr-defined]  # else it remembers every member
                name = _named(info.name)
                if info.isdir() or info.isdev() or _hidden(name) or not takes(name):
                    continue
                count += 1
                why = _refused(name, info.size, info.issym() or info.islnk())
                yield Member(name=name, read=_tar_reader(archive, info, packed), error=why)
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
    return "__MACOSX" in parts or any(part.startswith(".") and part != ".." for part in parts)


def _refused(name: str, size: int, link: bool) -> str:
    """Why a member may not be read, by its header."""
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name):
        return "its name leads out of the archive"
    if link:
        return "a link; only files are read"
    if size > MEMBER_BYTES:
        return f"{size} bytes, at most {MEMBER_BYTES} are read"
    return ""


def _named(name: str) -> str:
    """The name without "." and doubled slashes."""
    return str(PurePosixPath(name))


def _is_bomb(size: int, packed: int) -> bool:
    return size >= RATIO_FROM and size > RATIO * packed


def _zip_reader(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], bytes]:
    return lambda: _read(lambda: archive.open(info), info.file_size, lambda: info.compress_size)


def _tar_reader(archive: tarfile.TarFile, info: tarfile.TarInfo, packed: IO[bytes]) -> Callable[[], bytes]:
    """Nothing in a tar file says how small a member is packed: it is seen by how far the file was read for it."""
    start = packed.tell()
    return lambda: _read(lambda: archive.extractfile(info), info.size, lambda: packed.tell() - start)


def _read(opened: Callable[[], IO[bytes] | None], size: int, packed: Callable[[], int]) -> bytes:
    """All bytes of a member, and no more than its header says. packed: how many were read of the archive for them."""
    content, count = io.BytesIO(), 0
    try:
        file = opened()
        assert file is not None  # folders and devices were passed over
        with file:
            while count <= size and (block := file.read(_BLOCK)):
                count += content.write(block)
                if _is_bomb(count, packed()):
                    raise DataError(PACKED_TOO_SMALL)
    except _BROKEN as error:
        raise DataError(f"cannot be read from the archive ({error})") from error
    if count != size:
        raise DataError(f"{'more' if count > size else count} bytes in the archive, its header says {size}")
    return content.getvalue()
