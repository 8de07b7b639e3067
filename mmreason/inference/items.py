"""What to run on: the files of a folder, the members of an archive, the lines of a list, or rows of questions.

Nothing is opened here but the archive, the list or the file of rows. The order is always the same, and so are the ids:
paths inside the root, with "/" between folders. Hidden files and what we wrote ourselves are left out.
"""

from __future__ import annotations

import codecs
import os
import re
import stat
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from zlib import crc32

from mmreason.config import DataConfig, DataSource
from mmreason.data import iter_with_origins
from mmreason.errors import ConfigError, DataError
from mmreason.inference.archives import Member, is_tar, tar_members, zip_members
from mmreason.processors.base import UNREADABLE, Refusal
from mmreason.processors.kinds import media_format
from mmreason.processors.source import locate
from mmreason.types import Sample

MEDIA_ENDINGS = {
    "image": "png jpg jpeg jpe jfif gif webp bmp tif tiff ppm pgm pbm pnm ico jp2 j2k avif heic heif",
    "video": "mp4 m4v mov mkv webm avi mpg mpeg m2ts mts flv wmv asf 3gp 3g2 ogv",
    "audio": "wav flac mp3 ogg oga opus m4a aac aif aiff au caf amr wma w64",
}
"""A file with such a name is expected to be media: one that is none has a row that says so."""
KINDS = tuple(MEDIA_ENDINGS)
KIND_BY_ENDING = {ending: kind for kind, endings in MEDIA_ENDINGS.items() for ending in endings.split()}

ROWS_ENDINGS = (".jsonl", ".json", ".parquet")
LIST_ENDINGS = (".txt", ".lst", ".list")
_BEFORE_ESCAPE = re.compile(r"\\+(?=udc[89a-f][0-9a-f]|[\udc80-\udcff])")


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of an item. Example: `File(name="birds/7.png", path=Path("/photos/birds/7.png"))`"""

    name: str
    """Its path inside the root."""
    path: Path | None = None
    data: bytes | None = None
    """The content, of an archive's member."""
    named: bool = False
    """The user named this very file, or it was seen to be media: it has a row whatever becomes of it."""

    @property
    def source(self) -> str | bytes:
        """Where its content is."""
        return self.data if self.data is not None else str(self.path)

    @property
    def expected(self) -> str | None:
        """The kind that its name speaks of."""
        return KIND_BY_ENDING.get(PurePosixPath(self.name).suffix.lower().lstrip("."))


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What one prompt is about. Example: `Item(id="birds/7.png", files=(File(...),))`"""

    id: str
    files: tuple[File, ...] = ()
    sample: Sample | None = None
    """The question itself, where rows of questions are given."""
    error: str = ""
    """Why there is nothing to ask about."""
    load: Callable[[], File] | None = None
    """Reads the member of an archive; it may be called once, before the next item is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which files of a folder or archive are taken, and how."""

    include: Sequence[str] = ()
    """Only names that match one of these: `*.png`; with a slash the whole path has to match. (): all."""
    exclude: Sequence[str] = ()
    recursive: bool = True
    by_folder: bool = False
    """A folder is one item, with all media in it."""
    shard: tuple[int, int] = (1, 1)
    """(i, n): the i-th of n parts, from 1; by the ids, so that new files move no other."""
    skip: frozenset[Path] = frozenset()
    """Files that we write."""

    def takes(self, name: str) -> bool:
        """Whether a path inside the root is taken by the patterns."""
        return (not self.include or _matches(name, self.include)) and not _matches(name, self.exclude)

    def takes_member(self, name: str) -> bool:
        """The same for a member of an archive, whose folders are only in its names."""
        return self.takes(name) and (self.recursive or "/" not in name)

    def has(self, id: str) -> bool:
        """Whether an item belongs to this shard."""
        return crc32(id.encode("utf-8", "backslashreplace")) % self.shard[1] == self.shard[0] - 1


@dataclass(slots=True, kw_only=True)
class Listing:
    """Items in order. `total`: how many, as far as one can know without reading all of an archive."""

    root: Path
    """Where the names of files start."""
    items: Iterator[Item]
    total: int | None = None
    most: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 1))
    """Kind of media -> how many of it one prompt may have."""
    has_rows: bool = False
    """Items are questions with their own prompts."""
    skipped: int = 0
    """Files that are no media, and whose names do not say so either."""
    notes: list[str] = field(default_factory=list)
    """What else was left out, a line each; complete once all items are taken."""


def list_items(source: str, selection: Selection, root: Path | None = None) -> Listing:
    """The items of a folder, an archive, a list ("-": standard input), a file of rows, or of one media file.

    root: where paths of a list or of rows start; default: the folder of the file. Raises ConfigError: nothing there,
    an option that does not go with it; DataError: unreadable.
    """
    path, root = Path(source).absolute(), root and root.absolute()
    if source == "-":
        return _of_list(_lines(sys.stdin.buffer.read()), root or Path.cwd(), selection)
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError):  # a name that is too long, or no name at all, among them
        raise ConfigError(f"{source}: there is no such file or folder") from None
    if is_folder:
        return _of_folder(path, selection)
    ending = path.suffix.lower()
    if ending in ROWS_ENDINGS:
        return _of_rows(path, root, selection)
    if ending in LIST_ENDINGS:
        return _of_list(_read_lines(path), root or path.parent, selection)
    if ending.lstrip(".") not in KIND_BY_ENDING:
        if zipfile.is_zipfile(path):
            return _of_archive(path, zip_members(path, selection.takes_member), selection)
        if is_tar(path):
            return _of_archive(path, tar_members(path, selection.takes_member), selection)
    return _of_list([path.name], path.parent, selection)


def shown(name: str) -> str:
    """A name that any file can hold: bytes that are no UTF-8 are written as backslash escapes ("\\udcff" for FF).

    Two names never become one: backslashes before such a byte, or before letters like its escape, are doubled.
    """
    return _BEFORE_ESCAPE.sub(lambda found: 2 * found[0], name).encode("utf-8", "backslashreplace").decode()


def _matches(name: str, patterns: Iterable[str]) -> bool:
    last = name.rpartition("/")[2]
    return any(fnmatchcase(name if "/" in pattern else last, pattern) for pattern in patterns)


# ---- folders


def _of_folder(root: Path, selection: Selection) -> Listing:
    notes: list[str] = []
    there = sorted(name for name in walk(root, selection, notes) if selection.takes(name))
    names = [name for name in there if _file(root, name).expected or _is_media(root, name)]
    if selection.by_folder:
        groups: dict[str, list[File]] = {}
        for name in names:
            groups.setdefault(name.rpartition("/")[0] or ".", []).append(_file(root, name))
        found = [Item(id=shown(folder), files=tuple(files)) for folder, files in sorted(groups.items())]
    else:
        found = [Item(id=shown(name), files=(_file(root, name),)) for name in names]
    found = [item for item in found if selection.has(item.id)]
    skipped, most = len(there) - len(names), max((len(item.files) for item in found), default=1)
    return Listing(
        root=root,
        items=iter(found),
        total=len(found),
        most=dict.fromkeys(KINDS, most),
        notes=notes,
        skipped=skipped,
    )


def _is_media(root: Path, name: str) -> bool:
    """Whether a file whose name does not say so begins as media do, or cannot be read, which its row then says.

    What is empty, or a link that leads outside or nowhere, is none.
    """
    try:
        return media_format(locate(str(root / name), str(root))[0]) is not None
    except Refusal as refusal:
        return refusal.reason == UNREADABLE


def _file(root: Path, name: str) -> File:
    return File(name=shown(name), path=root / name, named=True)


def walk(root: Path, selection: Selection, notes: list[str]) -> Iterator[str]:
    """Paths inside `root` of all files that are not hidden; links to folders are not followed.

    A folder that cannot be read is a line in `notes`.
    """
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            entries = list(os.scandir(root / folder))
        except OSError as error:
            notes.append(f"{root / folder}: cannot be read ({error.strerror})")
            continue
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith(".") or root / name in selection.skip:
                continue
            if entry.is_dir(follow_symlinks=False):
                if selection.recursive:
                    folders.append(name)
            elif _is_file(entry):
                yield name


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a file, or a link that is none to a folder: a broken link, or a loop of links, has a row."""
    try:
        return entry.is_file() or (entry.is_symlink() and not entry.is_dir())
    except OSError:  # a loop of links, a link to a name that is too long
        return True


# ---- lists and rows


def _of_list(lines: Sequence[str], root: Path, selection: Selection) -> Listing:
    if selection.by_folder:
        raise ConfigError("--item folder: goes with a folder, not with a list or a file")
    listing = Listing(root=root, items=iter(()))
    given = [_as_there(line, root) for line in lines if line.strip()]
    names = dict.fromkeys(_inside(name, root) for name in given)
    if repeated := len(given) - len(names):
        listing.notes.append(f"{repeated} lines of the list name a file again")
    found = [
        Item(id=shown(name), files=(File(name=shown(name), path=root / name, named=True),))
        for name in names
        if selection.takes(name) and selection.has(shown(name))
    ]
    listing.items, listing.total = iter(found), len(found)
    return listing


def _as_there(line: str, root: Path) -> str:
    """The name in a line: with the blanks around it where there is such a file, else without."""
    return line if line == line.strip() or os.path.lexists(root / line) else line.strip()


def _inside(name: str, root: Path) -> str:
    """The path from the root, where it leads there by its letters; whether it really does is seen when it is opened."""
    path = os.path.normpath(root / name)
    folder = os.path.normpath(root)
    return os.path.relpath(path, folder) if path.startswith(folder.rstrip(os.sep) + os.sep) else name


def _read_lines(path: Path) -> list[str]:
    try:
        return _lines(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _lines(content: bytes) -> list[str]:
    """The names in a list. Only line ends divide them: other characters that Python splits at may be part of a name."""
    return os.fsdecode(content.removeprefix(codecs.BOM_UTF8)).replace("\r\n", "\n").split("\n")


def _of_rows(path: Path, root: Path | None, selection: Selection) -> Listing:
    if selection.by_folder or selection.include or selection.exclude:
        raise ConfigError(f"{path}: rows of questions; --item folder, --include and --exclude go with folders")
    config = DataConfig(eval=(DataSource(path=str(path)),), media_root=None if root is None else str(root))

    def items() -> Iterator[Item]:
        for origin, sample in iter_with_origins(config, "eval"):
            if isinstance(sample, Sample):
                item = Item(id=sample.id, sample=sample)
            else:
                item = Item(id=os.path.basename(origin), error=str(sample).partition(": ")[2] or str(sample))
            if selection.has(item.id):
                yield item

    total = 0

    def samples() -> Iterator[Sample]:
        nonlocal total
        for item in items():
            total += 1
            if item.sample is not None:
                yield item.sample

    from mmreason.rollout.vllm_setup import most_media  # slow to import

    most = most_media(samples())  # read twice, so that a format that is not known is said at once
    return Listing(root=root or path.parent, items=items(), total=total, most=most, has_rows=True)


# ---- archives


def _of_archive(path: Path, members: Iterator[Member], selection: Selection) -> Listing:
    if selection.by_folder:
        raise ConfigError("--item folder: goes with a folder; unpack the archive")
    listing = Listing(root=path, items=iter(()))

    def items() -> Iterator[Item]:
        seen: set[str] = set()
        for member in members:
            id = shown(member.name)
            if id in seen:
                listing.notes.append(f"{path}: {id!r} is in it again; the first is taken")
                continue
            seen.add(id)
            if selection.has(id):
                yield Item(id=id, files=(File(name=id),), error=member.error, load=_loader(id, member))

    listing.items = items()
    return listing


def _loader(name: str, member: Member) -> Callable[[], File]:
    return lambda: File(name=name, data=member.read())
