"""Rows of a results file with their media, from where these are: a folder, or an archive, which is not unpacked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from mmreason.errors import DataError
from mmreason.inference.items import Item, Selection, list_items
from mmreason.inference.outfile import read_rows_file, rows_with_places
from mmreason.inference.rows import Row
from mmreason.media_parts import read_part
from mmreason.types import MediaRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Medium:
    """One media item of a row. Example: `Medium(name="7.png", ref=MediaRef(kind="image", path="/photos/7.png"))`"""

    name: str
    ref: MediaRef | None = None
    problem: str = ""
    """Why there is no `ref`."""


def rows_with_media(rows: Path, root: Path) -> Iterator[tuple[Row, list[Medium]]]:
    """The rows of a file that `mmreason infer` wrote, each with its media; one at a time in memory.

    root: the folder that paths start at, and that none may leave, or the archive that they are members of. Rows come
    in the order of their file; those of an archive in its order, because some archives can be read in no other.
    """
    if root.is_file():
        yield from _of_archive(rows, root)
    else:
        for row in read_rows_file(rows):
            yield row, media_of(row, root)


def media_of(row: Mapping[str, Any], root: Path) -> list[Medium]:
    """The media of a row whose paths start at a folder, which none may leave."""
    return [_medium(part, part, root) for part in _media_parts(row)]


def parts_of(row: Mapping[str, Any]) -> list[Any]:
    """The parts of all messages, whatever the row is."""
    contents = [message.get("content") for message in objects(row.get("messages"))]
    return [part for content in contents for part in (content if isinstance(content, list) else [content])]


def objects(value: object) -> list[Mapping[str, Any]]:
    """The objects of a list; none where the value is no list."""
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _of_archive(rows: Path, archive: Path) -> Iterator[tuple[Row, list[Medium]]]:
    places = {row["id"]: place for place, row in rows_with_places(rows)}
    with rows.open("rb") as file:
        for item in list_items(str(archive), Selection()).items:
            if item.id in places:
                row = _row_at(file, places.pop(item.id))
                yield row, [_member(part, item) for part in _media_parts(row)]
        for place in places.values():  # members that are gone since: named as missing
            row = _row_at(file, place)
            yield row, media_of(row, archive)


def _row_at(file: BinaryIO, place: int) -> Row:
    file.seek(place)
    row: Row = json.loads(file.readline())
    return row


def _member(part: Mapping[str, Any], item: Item) -> Medium:
    """The member of an archive that a row is about: infer makes one item of each."""
    try:
        content = None if item.error or item.load is None else item.load().data
    except DataError as error:
        return Medium(name=_name(part), problem=str(error))
    if content is None:
        return Medium(name=_name(part), problem=item.error)
    inside = {key: value for key, value in part.items() if key != part.get("type")}
    return _medium(part, {**inside, "bytes": content}, None)


def _medium(part: Mapping[str, Any], filled: Mapping[str, Any], root: Path | None) -> Medium:
    """`filled`: the part as it is read, `part`: as it is named."""
    name = _name(part)
    try:
        ref = read_part(filled, "media", name, root)
    except DataError as error:
        return Medium(name=name, problem=str(error).removeprefix(f"{name}: "))
    assert isinstance(ref, MediaRef), "parts of text were left out"
    return Medium(name=name, ref=ref)


def _name(part: Mapping[str, Any]) -> str:
    return PurePosixPath(str(part.get(str(part.get("type"))))).name


def _media_parts(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [part for part in objects(parts_of(row)) if part.get("type") != "text"]
