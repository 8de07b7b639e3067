"""Recognising a media file by its content, never by its name."""

from __future__ import annotations

import struct
from typing import BinaryIO

from mmreason.processors.base import CORRUPT, TRUNCATED, WRONG_TYPE, Refusal
from mmreason.processors.source import length

IMAGES = {"PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "JPEG2000", "AVIF", "HEIC"}
SOUNDS = {"WAV", "FLAC", "MP3", "AIFF", "AU", "CAF", "AMR", "AAC", "W64"}
FILMS = {"AVI", "MPEG-TS", "MPEG-PS", "MPEG video", "FLV"}
EITHER = {"MP4", "Matroska", "OGG", "ASF"}
"""Containers that hold video, sound or both: their streams decide."""

_PREFIXES = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\x01\0", "ICO"),
    (b"\0\0\0\x0cjP  ", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"fLaC", "FLAC"),
    (b"OggS", "OGG"),
    (b"ID3", "MP3"),
    (b".snd", "AU"),
    (b"caff", "CAF"),
    (b"#!AMR", "AMR"),
    (b"RF64", "WAV"),
    (b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0", "W64"),
    (b"\x1a\x45\xdf\xa3", "Matroska"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "ASF"),
    (b"FLV\x01", "FLV"),
    (b"\0\0\x01\xba", "MPEG-PS"),
    (b"\0\0\0\x01", "MPEG video"),
    (b"\0\0\x01", "MPEG video"),
)
_RIFF = {b"WAVE": "WAV", b"AVI ": "AVI", b"WEBP": "WEBP"}
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC", b"msf1": "HEIC"}
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")

_SLOPPY_BYTES = 64
"""Many WAV writers count their own header wrongly; what is missing beyond this is missing content."""


def recognise(file: BinaryIO) -> str | None:
    """The format's name by the first bytes, or None. The file is left at its start."""
    head = file.read(400)
    file.seek(0)
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12])
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "AIFF"
    if head[4:8] in _MP4_BOXES:
        return _BRANDS.get(head[8:12], "MP4") if head[4:8] == b"ftyp" else "MP4"
    for prefix, name in _PREFIXES:
        if head.startswith(prefix):
            return name
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "PPM"
    if len(head) > 376 and head[0] == head[188] == head[376] == 0x47:
        return "MPEG-TS"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return "AAC" if head[1] & 0x16 == 0x10 else "MP3"
    return None


def expect(kind: str, file: BinaryIO) -> str:
    """The format's name, if it can be media of this kind. Raises Refusal: wrong type, corrupt, truncated."""
    name = recognise(file)
    if name is None:
        if is_text(file):
            raise Refusal(WRONG_TYPE, f"expected {kind}, the content is text")
        raise Refusal(CORRUPT, "the content is no known media format")
    allowed = {"image": IMAGES, "video": FILMS | EITHER | {"GIF"}, "audio": SOUNDS | EITHER | FILMS}[kind]
    if name not in allowed:
        raise Refusal(WRONG_TYPE, f"expected {kind}, the content is {name}")
    promised, there = _declared_length(name, file), length(file)
    if promised > there:
        raise Refusal(TRUNCATED, f"{there} bytes, its {name} header promises {promised}")
    return name


def is_text(file: BinaryIO) -> bool:
    """Whether the content begins as text does. The file is left at its start."""
    head = file.read(4096)
    file.seek(0)
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # not merely a character cut at the end of the block
            return False
        text = head[: error.start].decode("utf-8")
    return all(character.isprintable() or character.isspace() for character in text)


def _declared_length(name: str, file: BinaryIO) -> int:
    """How many bytes the outermost structure says there are; 0 where it does not say."""
    if name == "MP4":
        return _end_of_boxes(file)
    if name in ("WAV", "WEBP", "AVI"):
        return _end_of_riff(file)
    if name == "W64":
        return _end_of_w64(file)
    return 0


def _end_of_riff(file: BinaryIO) -> int:
    magic, size = struct.unpack("<4sI", file.read(8).ljust(8, b"\0"))
    file.seek(0)
    # Writers that stream cannot know the size: they leave 0 or a huge number.
    return 0 if magic != b"RIFF" or size == 0 or size >= 0x7FFFF000 else 8 + size - _SLOPPY_BYTES


def _end_of_w64(file: BinaryIO) -> int:
    size = int.from_bytes(file.read(24)[16:], "little")
    file.seek(0)
    return 0 if size >= 1 << 62 else size - _SLOPPY_BYTES  # a streaming writer's


def _end_of_boxes(file: BinaryIO) -> int:
    """Where the last top-level box of an mp4 ends by the boxes' own sizes; the index (moov) must be among them."""
    end, size_of_file, indexed = 0, length(file), False
    while end + 8 <= size_of_file:
        file.seek(end)
        header = file.read(16).ljust(16, b"\0")
        size = int.from_bytes(header[:4], "big")
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        indexed = indexed or header[4:8] == b"moov"
        if size == 0 or not header[4:8].isalnum():  # "to the end of the file", or bytes that are no box
            break
        end += max(size, 8)
    file.seek(0)
    return end if indexed else max(end, size_of_file + 1)
