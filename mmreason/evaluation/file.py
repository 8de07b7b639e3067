"""eval.jsonl: one line per question, appended as answers come, so that an evaluation that was killed goes on.

Another view of the media (`--views`) has lines of its own, in eval.VIEW.jsonl. Every line carries the hash of the
settings that its answers were made with; eval.json has the settings themselves and, once all is answered, the numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmreason.config import RunConfig, leaf_values
from mmreason.errors import ConfigError, DataError
from mmreason.evaluation.rows import EvalAnswer, EvalRow
from mmreason.rewards import facts
from mmreason.types import Sample, View

ROWS, NUMBERS = "eval.jsonl", "eval.json"

MATTER = ("seed", "model.", "data.", "media.", "rollout.", "rewards.", "scoring.combine", "eval.")
MATTER_NOT = (
    *("data.train", "data.max_bad_fraction", "rollout.engine", "rollout.n", "rollout.temperature", "rollout.max_rows"),
    *("media.workers", "media.deadline_s", "media.cache_dir", "media.cache_gb", "media.memory_gb"),
    *("model.freeze", "model.lora", "model.gradient_checkpointing", "model.head_chunk", "model.self_check"),
)
"""Keys, or beginnings of keys, that change no answer to the evaluation's questions."""


def settings_of(config: RunConfig, samples: Sequence[Sample]) -> dict[str, Any]:
    """Everything that the answers depend on, by dotted key; files of weights and questions as digests."""
    values = leaf_values(config)
    kept = {k: v for k, v in values.items() if k.startswith(MATTER) and not k.startswith(MATTER_NOT)}
    asked = {f"{n['reward']}.prompt_hash": n["prompt_hash"] for n in facts(config.rewards) if "prompt_hash" in n}
    return {
        **kept,
        **asked,
        "model files": model_files(config.model.path),
        "questions": digest(repr(sample) for sample in samples),
    }


def model_files(path: str) -> str:
    """Digest of the names, sizes and times of a checkpoint's files."""
    return digest(_weights(Path(path)))


def _weights(folder: Path) -> Iterable[str]:
    """Name, size and time of a checkpoint's files; nothing for the name of a hub's model."""
    for file in sorted(folder.glob("*")) if folder.is_dir() else ():
        yield f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}"


def digest(lines: Iterable[str]) -> str:
    """16 hexadecimal digits that depend on every line."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "backslashreplace") + b"\n")
    return digest.hexdigest()[:16]


class EvalFile:
    """The files of one evaluation in a folder. Only the main process has one."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, fresh: bool, view: View = "ordered") -> None:
        """`view`: one that is not "ordered" has a file of rows of its own."""
        self.rows, self.numbers = folder / ROWS, folder / NUMBERS
        if view != "ordered":
            self.rows, settings = folder / f"eval.{view}.jsonl", {**settings, "view": view}
        self.settings = dict(settings)
        self.hash = digest([json.dumps(self.settings, sort_keys=True)])
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if fresh:
                self.rows.unlink(missing_ok=True)
                self.numbers.unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(folder, error) from error

    def load(self) -> list[EvalRow]:
        """The questions that are answered already. A line that a kill cut in two is taken away.

        Raises ConfigError when the answers were made with other settings.
        """
        try:
            whole = self.rows.read_bytes() if self.rows.exists() else b""
            lines = whole.split(b"\n")[:-1]  # what follows the last line end is torn
            if len(whole) != sum(len(line) + 1 for line in lines):
                self.rows.write_bytes(b"".join(line + b"\n" for line in lines))
        except OSError as error:
            raise _unwritable(self.rows, error) from error
        found = [self._parsed(number, line) for number, line in enumerate(lines, 1)]
        if any(line.get("settings") != self.hash for line in found):
            raise ConfigError(
                f"{self.rows}: holds answers made with other settings{self._difference()}; "
                "--fresh starts over, --out FOLDER writes elsewhere"
            )
        return [_row(line) for line in found]

    def append(self, rows: Sequence[EvalRow]) -> None:
        """Lines for these questions, in the file when this returns."""
        lines = [json.dumps({**_without_empty(row), "settings": self.hash}) + "\n" for row in rows]
        try:
            with self.rows.open("a", encoding="utf-8") as file:
                file.write("".join(lines))
        except OSError as error:
            raise _unwritable(self.rows, error) from error

    def write_numbers(self, metrics: Mapping[str, float] | None) -> None:
        """eval.json: the settings, whether all is answered, and then the numbers."""
        content = {"complete": metrics is not None, "settings": self.settings, "metrics": dict(metrics or {})}
        partial = self.numbers.with_suffix(".json.partial")
        try:
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            partial.replace(self.numbers)
        except OSError as error:
            raise _unwritable(self.numbers, error) from error

    def _parsed(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise DataError(f"{self.rows}:{number}: is no line of an evaluation; --fresh starts over")
        return value

    def _difference(self) -> str:
        """Which settings differ, as far as eval.json tells."""
        try:
            theirs = json.loads(self.numbers.read_text(encoding="utf-8"))["settings"]
        except (OSError, ValueError, KeyError, TypeError):
            return ""
        keys = sorted(key for key in {*theirs, *self.settings} if theirs.get(key) != self.settings.get(key))
        return f" ({', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''})" if keys else ""


def _without_empty(row: EvalRow) -> dict[str, Any]:
    return {key: value for key, value in asdict(row).items() if value != ""}


def _row(line: Mapping[str, Any]) -> EvalRow:
    fields = {key: value for key, value in line.items() if key not in ("settings", "answers")}
    return EvalRow(**{"source": "", **fields}, answers=tuple(EvalAnswer(**answer) for answer in line["answers"]))


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be written ({error.strerror}); the same command goes on from what is there")
