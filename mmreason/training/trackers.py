"""Trackers by accelerate (tensorboard, wandb, ...): the numbers of metrics.jsonl, shown elsewhere as well.

metrics.jsonl stays the source of truth. Each tracker works in a thread of its own behind a bounded queue, so that one
that cannot connect, raises or never answers costs no step any time: it is given up, said once and noted as an event,
and the run goes on. At the end of a run all trackers together have `CLOSE_S` to write what they still hold.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from mmreason.errors import ConfigError

CLOSE_S = 20.0
"""Longest wait for all trackers at the end of a run."""
MOST_WAITING = 2000
"""Records that may wait for a tracker; later ones are only in metrics.jsonl."""
PROJECT = "mmreason"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Why a tracker shows less than metrics.jsonl. Example: `Trouble(tracker="wandb", reason="CommError: ...")`"""

    tracker: str
    reason: str


class Trackers:
    """The trackers of one run, in its main process. They start to connect at once.

    resumed: whether the run goes on after `step`; else what an earlier run left in the same folder is void.
    """

    def __init__(
        self, names: Sequence[str], run_dir: Path, settings: Mapping[str, Any], *, step: int, resumed: bool
    ) -> None:
        plain = {key: _plain(value) for key, value in settings.items()}
        self._threads = [
            # Tensorboard shows each set of hyper-parameters as a run: one for a run and its resumes.
            _Thread(name, _maker(name, run_dir, step, resumed), {} if name == "tensorboard" and resumed else plain)
            for name in dict.fromkeys(names)
        ]
        for thread in self._threads:
            thread.start()

    def log(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """Numbers of one line of metrics.jsonl, as "train/nll", "eval/accuracy/all". Returns at once."""
        numbers = {f"{kind}/{name}": value for name, value in values.items() if isinstance(value, (int, float))}
        for thread in self._threads:
            thread.put((step, numbers))

    def troubles(self) -> list[Trouble]:
        """What went wrong since this was last asked."""
        return [Trouble(tracker=thread.name, reason=reason) for thread in self._threads for reason in thread.reasons()]

    def close(self) -> list[Trouble]:
        """Let all trackers finish, for at most CLOSE_S in all; what went wrong."""
        deadline = time.monotonic() + CLOSE_S
        for thread in self._threads:
            thread.end()
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                thread.give_up(f"not finished {CLOSE_S:g} s after the end; what it has not sent is in metrics.jsonl")
        return self.troubles()


class _Thread(threading.Thread):
    """Makes one tracker, feeds it, finishes it."""

    def __init__(self, name: str, make: Callable[[], GeneralTracker], settings: Mapping[str, Any]) -> None:
        super().__init__(name=name, daemon=True)  # a tracker that hangs must not keep the program
        self._make, self._settings = make, settings
        self._records: queue.SimpleQueue[tuple[int, dict[str, float]] | None] = queue.SimpleQueue()
        self._given_up = False
        self._reasons: queue.SimpleQueue[str] = queue.SimpleQueue()

    def put(self, record: tuple[int, dict[str, float]]) -> None:
        if self._given_up:
            return
        if self._records.qsize() >= MOST_WAITING:
            self.give_up(f"{MOST_WAITING} records behind; from here on they are only in metrics.jsonl")
            return
        self._records.put(record)

    def end(self) -> None:
        """Nothing will follow."""
        self._records.put(None)

    def give_up(self, reason: str) -> None:
        """From now on nothing is given to it. Only the first reason is of interest."""
        if not self._given_up:
            self._given_up = True
            self._reasons.put(reason)

    def reasons(self) -> list[str]:
        """Why it was given up, if it was since this was last asked."""
        return [self._reasons.get() for _ in range(self._reasons.qsize())]

    def run(self) -> None:
        try:
            tracker = self._make()
            tracker.start()
            if self._settings:
                tracker.store_init_configuration(dict(self._settings))
            while (record := self._records.get()) is not None and not self._given_up:
                step, numbers = record
                tracker.log(numbers, step=step)
            tracker.finish()
        except Exception as error:  # other people's code, and the network: said, noted, and no reason to stop
            self.give_up(f"{type(error).__name__}: {' '.join(str(error).split())}"[:300])


def _maker(name: str, run_dir: Path, step: int, resumed: bool) -> Callable[[], GeneralTracker]:
    """What makes a tracker; called in its thread, where importing and connecting may take as long as they like."""
    kind = LOGGER_TYPE_TO_CLASS[name]
    if name == "tensorboard":
        # Tensorboard drops what an earlier file says of this step and later ones.
        purge_step = step + 1 if resumed else 0
        return lambda: kind("tensorboard", str(run_dir), purge_step=purge_step)
    if name == "wandb":
        return lambda: kind(os.environ.get("WANDB_PROJECT", PROJECT), **_wandb_options(run_dir, resumed))
    if kind.requires_logging_directory:
        return lambda: kind(PROJECT, str(run_dir))
    return lambda: kind(PROJECT)


def _wandb_options(run_dir: Path, resumed: bool) -> dict[str, Any]:
    """Keyword arguments of wandb.init: one wandb run for a run and its resumes, whose id is kept in RUN/wandb.

    Raises ConfigError where wandb would ask for a key: nobody looks at a terminal for that.
    """
    import wandb

    settings = wandb.setup().settings
    if not (settings._offline or settings._noop) and not wandb.login(prompt=False):
        raise ConfigError("no API key; set WANDB_API_KEY, run `wandb login`, or set WANDB_MODE=offline")
    options: dict[str, Any] = {
        "name": os.environ.get("WANDB_NAME", run_dir.resolve().name),
        "dir": str(run_dir),
        # Also what its own clean-up at the exit of Python waits, which nothing else bounds.
        "settings": wandb.Settings(finish_timeout=CLOSE_S),
    }
    if "WANDB_RUN_ID" in os.environ:
        return options
    kept = run_dir / "wandb" / "run_id"
    known = kept.read_text(encoding="utf-8").strip() if resumed and kept.exists() else ""
    if not known:
        kept.parent.mkdir(parents=True, exist_ok=True)
        known = secrets.token_hex(4)
        kept.write_text(known + "\n", encoding="utf-8")
    return {**options, "id": known, "resume": "allow"}


def _plain(value: Any) -> Any:
    """A setting as every tracker takes it: a number, a text, or None."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else json.dumps(value)
