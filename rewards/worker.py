"""The process that runs rewards, and nothing else: it may be killed at any moment (pool.py is its other end).

It says ("ready",) or ("failed", kind, message) once, then for each chunk of jobs one message per job, in order:
("scores", list[Score]) or ("error", text). ("importing",) and ("imported",) around slow imports stop the job's clock;
("time", seconds) asks for a deadline of the job's own.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from mmreason.errors import ConfigError, MMReasonError
from mmreason.rewards import BoundReward, bind
from mmreason.rewards.base import checked, on_more_time, on_slow_import, one_line

_PR_SET_PDEATHSIG = 1


def serve(descriptor: int, parent: int) -> None:
    """Serve the pool on this socket until it closes, or until the process `parent` is gone."""
    _die_with(parent)
    connection = Connection(descriptor)
    try:
        rewards = _load(connection)
        on_slow_import(lambda begins: connection.send(("importing",) if begins else ("imported",)))
        on_more_time(lambda seconds: connection.send(("time", seconds)))
        while rewards is not None:
            _run_chunk(connection, rewards)
    except (EOFError, ConnectionError):
        pass  # the pool closed its end: nothing left to do
    # Not the ordinary exit: threads or exit handlers that a reward left behind must not keep the process alive.
    sys.stdout.flush()
    os._exit(0)


def _die_with(parent: int) -> None:
    """Be killed when the parent dies, even in the middle of a reward (Linux); elsewhere the closed socket must do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _load(connection: Connection) -> list[BoundReward] | None:
    specs: Sequence[tuple[str, Mapping[str, Any]]] = connection.recv()
    try:
        rewards = [bind(name, options) for name, options in specs]
    except MMReasonError as error:
        connection.send(("failed", "ConfigError" if isinstance(error, ConfigError) else "PluginError", str(error)))
        return None
    except (Exception, SystemExit) as error:  # an entry point that fails to import: foreign code
        connection.send(("failed", "PluginError", one_line(f"loading failed with {type(error).__name__}: {error}")))
        return None
    connection.send(("ready",))
    return rewards


def _run_chunk(connection: Connection, rewards: Sequence[BoundReward]) -> None:
    for payload, indices in connection.recv():
        for index in indices:
            sample, rollouts = pickle.loads(payload)  # each reward has its own: what one changes, no other sees
            count = len(rollouts)
            try:
                answer: tuple[str, Any] = "scores", checked(rewards[index](sample, rollouts), count)
            except MMReasonError as error:
                answer = "error", one_line(str(error))
            except (Exception, SystemExit) as error:  # rewards are foreign code: whatever they raise is counted
                answer = "error", one_line(f"raised {type(error).__name__}: {error}")
            connection.send(answer)
