"""What a run writes down: metrics.jsonl, gallery.jsonl, and the progress line on the terminal.

Each line of metrics.jsonl is one flat JSON object: {"step", "kind": "train" | "eval" | "event", "time", names...}.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from mmreason.training.trackers import Trackers, Trouble

METRICS = "metrics.jsonl"
GALLERY = "gallery.jsonl"


class MetricsLog:
    """Append-only logs of one run. On resume, lines after the checkpoint's step are dropped: they are made again."""

    def __init__(self, run_dir: Path, *, after_step: int | None, active: bool) -> None:
        self.run_dir, self.active = run_dir, active
        self.trackers: Trackers | None = None
        if active:
            for name in (METRICS, GALLERY):
                _keep_until(run_dir / name, after_step)

    def write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl, in the file when this returns."""
        self._append(METRICS, {"step": step, "kind": kind, "time": round(time.time(), 3), **values})
        if self.trackers is not None and kind != "event":
            self.trackers.log(step, kind, values)
            self._note(step, self.trackers.troubles())

    def close(self, step: int) -> None:
        """Let trackers finish, which takes a bounded time."""
        if self.trackers is not None:
            self._note(step, self.trackers.close())

    def _note(self, step: int, troubles: Sequence[Trouble]) -> None:
        for trouble in troubles:
            self.write(step, "event", {"event": "tracker", "tracker": trouble.tracker, "reason": trouble.reason})
            line = f"mmreason: tracker {trouble.tracker}: {trouble.reason}; training goes on without it"
            tqdm.write(line, file=sys.stderr)

    def show(self, record: Mapping[str, Any]) -> None:
        """One group for the report's gallery."""
        self._append(GALLERY, record)

    def _append(self, name: str, record: Mapping[str, Any]) -> None:
        if not self.active:
            return
        try:
            with (self.run_dir / name).open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
        except OSError as error:
            # Losing a line of a log must not end a week of training; the terminal still has it.
            print(f"mmreason: {self.run_dir / name}: line not written: {error.strerror}", file=sys.stderr)


class Stopwatch:
    """Seconds per named stage of a step. `entering` is told each stage as it begins.

    Stages of other threads than the one that made it run beside the step: they are measured apart, and nobody is told.
    """

    def __init__(self, entering: Callable[[str], None] = lambda stage: None) -> None:
        self.seconds: dict[str, float] = {}
        self.beside: dict[str, float] = {}
        self._entering, self._thread = entering, threading.get_ident()

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        mine = threading.get_ident() == self._thread
        if mine:
            self._entering(stage)
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = self.seconds if mine else self.beside
            seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - started

    def lap(self) -> dict[str, float]:
        """What was measured since the last lap, as metrics `time/STAGE`, with `time/step` their sum.

        What ran beside is `time/ahead/STAGE`, and no part of the sum.
        """
        seconds, self.seconds = self.seconds, {}
        beside, self.beside = self.beside, {}
        named = {f"time/{stage}": round(value, 4) for stage, value in seconds.items()}
        apart = {f"time/ahead/{stage}": round(value, 4) for stage, value in beside.items()}
        return {**named, **apart, "time/step": round(sum(seconds.values()), 4)}


class Progress:
    """One terminal line: step, time left, and the few numbers that say whether it goes well."""

    def __init__(self, total: int, done: int, *, active: bool, label: str, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        terminal = self._stream.isatty()
        interval = 0.1 if terminal else 10  # seconds; a log file is not redrawn, it grows
        self.bar = tqdm(
            total=total,
            initial=done,
            disable=not active,
            desc=label,
            file=self._stream,
            dynamic_ncols=True,
            mininterval=interval,
            maxinterval=interval,
        )

    def update(self, metrics: Mapping[str, Any]) -> None:
        """Advance by one step and show its metrics."""
        self.bar.set_postfix_str(_summary(metrics), refresh=False)
        self.bar.update(1)

    def say(self, text: str) -> None:
        """A line of its own above the progress line."""
        self.bar.write(text, file=self._stream)

    def close(self) -> None:
        """Leave the last state of the line on the screen."""
        self.bar.close()


_SHOWN = {
    "reward/mean": ("reward", "{:.3f}"),
    "nll": ("nll", "{:.3f}"),
    "kl": ("kl", "{:.4f}"),
    "length/mean": ("len", "{:.0f}"),
    "tokens_per_second": ("tok/s", "{:.0f}"),
    "quarantined": ("quarantined", "{:.0f}"),
}


def _summary(metrics: Mapping[str, Any]) -> str:
    shown = [
        f"{name} {form.format(metrics[key])}"
        for key, (name, form) in _SHOWN.items()
        if key in metrics and (metrics[key] or key != "quarantined")
    ]
    total = metrics.get("time/step") or 1.0
    stages = {key[5:]: value for key, value in metrics.items() if key.startswith("time/") and key != "time/step"}
    longest = sorted(stages.items(), key=lambda item: -item[1])[:3]
    return " ".join([*shown, "|", *(f"{stage} {100 * value / total:.0f}%" for stage, value in longest)])


def _keep_until(path: Path, step: int | None) -> None:
    """Drop lines after `step` (all of them for a fresh run) and a half-written last line."""
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().split(b"\n"):  # not splitlines: it also splits at characters that JSON may hold
        with contextlib.suppress(ValueError):  # the line that a kill cut in two, perhaps inside a character
            if step is not None and json.loads(line)["step"] <= step:
                kept.append(line + b"\n")
    temporary = path.with_suffix(".partial")
    temporary.write_bytes(b"".join(kept))
    temporary.replace(path)
