"""Two bounded caches, least recently used out first: decoded media on disk, anything in memory."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from mmreason.errors import ConfigError
from mmreason.processors.base import Decoded

Key = TypeVar("Key")
Value = TypeVar("Value")

_log = logging.getLogger(__name__)
_STALE_S = 3600.0
"""A temporary file this old was left by a process that died."""


class DiskCache:
    """Decoded media in a folder, shared by processes and runs: one file per key, bounded in bytes.

    Files are written under a temporary name, then renamed, so that readers see whole files; a file that is damaged
    all the same (each array has a checksum) is deleted and decoded again. Reading a file marks it as used.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"media.cache_dir: {folder} cannot be created ({error.strerror})") from error
        self._folder, self._max_bytes = folder, max_bytes
        self._bytes = max_bytes  # unknown until the first look around
        self._written = max_bytes
        self._serial = itertools.count()
        self.damaged = 0
        self.failed_writes = 0

    def get(self, key: str) -> Decoded | None:
        """What was put under this key, or None; a damaged file is removed."""
        path = self._path(key)
        try:
            file = path.open("rb")
        except OSError:  # none, or not ours to read
            return None
        try:
            with file, np.load(file, allow_pickle=False) as arrays:
                found = _unpack({name: arrays[name] for name in arrays.files})
        except Exception as error:  # a flipped bit may make a zip of any version, encrypted, of any method
            self.damaged += 1
            _log.warning("%s: damaged cache entry (%s), decoded again", path, error)
            _remove(path)
            return None
        with contextlib.suppress(OSError):  # another user's file, or a folder that cannot be written
            os.utime(path)
        return found if found.key == key else None

    def put(self, decoded: Decoded) -> None:
        """Keep an item. A full or unwritable disk is reported once and costs only the cache."""
        path = self._path(decoded.key)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.{next(self._serial)}.tmp")
        try:
            path.parent.mkdir(exist_ok=True)
            with temporary.open("wb") as file:
                np.savez(file, **_pack(decoded))  # type: ignore[arg-type]  # its stub takes any keyword for allow_pickle
                size = file.tell()
            os.replace(temporary, path)
        except OSError as error:
            _remove(temporary)
            self.failed_writes += 1
            if self.failed_writes == 1:
                _log.warning("%s: cannot write to the media cache (%s); going on without", self._folder, error.strerror)
            return
        self._bytes += size
        self._written += size
        # Other processes write too: look around from time to time, and whenever the bound seems to be passed.
        if self._bytes > self._max_bytes or self._written > self._max_bytes / 20:
            self._evict()

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.npz"

    def _evict(self) -> None:
        """Measure the folder; above the bound delete the least recently used files, down to nine tenths of it."""
        entries = sorted(_entries(self._folder))
        self._bytes, self._written = sum(size for _, size, _ in entries), 0
        if self._bytes <= self._max_bytes:
            return
        for _, size, path in entries:
            if self._bytes <= 0.9 * self._max_bytes:
                return
            if _remove(path):
                self._bytes -= size


def _entries(folder: Path) -> list[tuple[float, int, Path]]:
    """(last use, bytes, path) of every cache file; left-over temporary files are removed in passing."""
    found = []
    for path in folder.glob("??/*"):
        try:
            status = path.stat()
        except OSError:  # another process was faster
            continue
        if path.suffix == ".npz":
            found.append((status.st_mtime, status.st_size, path))
        elif path.suffix == ".tmp" and time.time() - status.st_mtime > _STALE_S:
            _remove(path)
    return found


def _remove(path: Path) -> bool:
    """Delete a file if we may. That we may not costs room, not the run."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _pack(decoded: Decoded) -> dict[str, np.ndarray[Any, Any]]:
    facts = {name: getattr(decoded, name) for name in ("kind", "original", "timestamps", "rate", "key")}
    arrays = {"data": decoded.data, "facts": np.frombuffer(json.dumps(facts).encode(), np.uint8)}
    if decoded.sound is not None:
        arrays["sound"], arrays["sound_rate"] = decoded.sound.data, np.array(decoded.sound.rate)
    return arrays


def _unpack(arrays: dict[str, np.ndarray[Any, Any]]) -> Decoded:
    facts = json.loads(arrays["facts"].tobytes())
    sound = None
    if "sound" in arrays:
        rate = int(arrays["sound_rate"])
        sound = Decoded(kind="audio", data=arrays["sound"], rate=rate, key=f"{facts['key']}:sound")
    return Decoded(
        kind=facts["kind"],
        data=arrays["data"],
        original=None if facts["original"] is None else (facts["original"][0], facts["original"][1]),
        timestamps=tuple(facts["timestamps"]),
        rate=facts["rate"],
        sound=sound,
        key=facts["key"],
    )


class MemoryCache(Generic[Key, Value]):
    """A dictionary bounded in bytes; the caller says how large a value is."""

    def __init__(self, max_bytes: float) -> None:
        self._max_bytes, self.bytes = max_bytes, 0
        self._items: OrderedDict[Key, tuple[Value, int]] = OrderedDict()

    def get(self, key: Key) -> Value | None:
        if key not in self._items:
            return None
        self._items.move_to_end(key)
        return self._items[key][0]

    def put(self, key: Key, value: Value, size: int) -> None:
        if key in self._items:
            self.bytes -= self._items.pop(key)[1]
        if size > self._max_bytes:
            return
        self._items[key] = value, size
        self.bytes += size
        while self.bytes > self._max_bytes:
            self.bytes -= self._items.popitem(last=False)[1][1]

    def __len__(self) -> int:
        return len(self._items)
