"""Verdicts that were given before, in memory or as files: a judge is asked once about each answer."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmreason.errors import RewardError

MOST_IN_MEMORY = 100_000
"""Verdicts per worker process; the oldest go first."""

_memory: OrderedDict[str, str] = OrderedDict()


def key_of(*parts: Any) -> str:
    """A hash of everything that a verdict depends on."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()


def look_up(where: str, key: str, choices: Sequence[str]) -> str | None:
    """The verdict kept under `key`: `where` is "memory", "none" or a folder. A file that is no verdict is none."""
    if where == "memory":
        return _memory.get(key)
    if where == "none":
        return None
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = _file(where, key).read_text(encoding="utf-8").strip()
        return text if text in choices else None
    return None


def keep(where: str, key: str, verdict: str) -> None:
    """Remember a verdict. Files appear whole or not at all, so that processes can share a folder.

    Raises RewardError for a folder that cannot be written.
    """
    if where == "memory":
        _memory[key] = verdict
        if len(_memory) > MOST_IN_MEMORY:
            _memory.popitem(last=False)
    elif where != "none":
        _write(_file(where, key), verdict)


def _write(file: Path, verdict: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=".part-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as written:
                written.write(f"{verdict}\n")
            Path(name).replace(file)
        except OSError:
            Path(name).unlink()
            raise
    except OSError as error:
        raise RewardError(f"cache {file.parent.parent}: a verdict cannot be written ({error.strerror})") from None


def _file(folder: str, key: str) -> Path:
    """Spread over 256 folders, which keeps each of them small."""
    return Path(folder) / key[:2] / key
