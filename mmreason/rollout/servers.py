"""Processes that serve a model over HTTP: start, health, log, stop. What is served is vLLM, but nothing here knows it.

Every process has a keeper (keeper.py), so that nothing is left of it when it, or we, end in whatever way.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mmreason.errors import ConfigError, EngineError
from mmreason.rollout import keeper

GRACE_S = 5.0
"""How long a server may take to end by itself."""
LOOK_S = 5.0
"""Longest wait for a server to say that it is well."""
PAUSE_S = 0.5
"""Between two looks at a server that is starting."""
TAIL = 4
"""Lines of a log that an error shows."""
_OF_LAUNCHERS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_", "ROLE_", "LOCAL_", "TORCHELASTIC_")
"""Variables by which a server would take itself for one of the trainer's processes."""

Command = Callable[[int], Sequence[str]]
"""Port -> the command that serves there."""


def flags(arguments: Mapping[str, Any]) -> list[str]:
    """Keyword arguments of an engine as a server's command line has them.

    Example: {"max_model_len": 2048, "enforce_eager": True} -> ["--max-model-len", "2048", "--enforce-eager"]
    """
    line: list[str] = []
    for name, value in arguments.items():
        option = "--" + name.replace("_", "-")
        if value is True:
            line.append(option)
        elif value is False:
            line.append("--no-" + option[2:])
        elif value is not None:
            line += [option, json.dumps(value) if isinstance(value, (dict, list)) else str(value)]
    return line


class ServerProcess:
    """One server on this machine. Example: `ServerProcess("rollout server 0", command, Path("RUN/server-0.log"))`"""

    def __init__(
        self,
        name: str,
        command: Command,
        log: Path,
        *,
        host: str = "127.0.0.1",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing is started yet."""
        self.name, self.log, self.host, self.port = name, log, host, 0
        self._command, self._environment = command, environment or {}
        self._keeper: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def alive(self) -> bool:
        """Whether its process runs, which says nothing of its health."""
        return self._keeper is not None and self._keeper.poll() is None

    def start(self) -> None:
        """Start it, again if it ran before, where it was before; returns at once."""
        self.stop()
        self.port = self.port or free_ports([self.host])[0]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        watched = [sys.executable, "-I", "-S", keeper.__file__, str(os.getpid()), str(GRACE_S)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_OF_LAUNCHERS)}
        with self.log.open("ab") as log:
            # In a session of its own: Ctrl-C at the terminal is for the trainer, which stops its servers itself.
            self._keeper = subprocess.Popen(
                [*watched, *self._command(self.port)],
                env={**environment, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_healthy(self, deadline_s: float, stopping: Callable[[], bool] = lambda: False) -> None:
        """Raises EngineError, with the end of its log, when it ends or is late. Returns early where `stopping()`."""
        end = time.monotonic() + deadline_s
        while not stopping():
            if not self.alive:
                assert self._keeper is not None
                raise EngineError(f"{self.name} ended with status {self._keeper.poll()} as it started{self._tail()}")
            if healthy(self.url):
                return
            if time.monotonic() > end:
                raise EngineError(
                    f"{self.name} did not answer at {self.url}/health within {deadline_s:g} s of its start"
                    f"{self._tail()}; where loading takes that long, raise rollout.options.start_s"
                )
            time.sleep(PAUSE_S)

    def stop(self) -> None:
        """Tell it to end, and see to it: by its keeper, and by its process group where the keeper itself is dead."""
        if self._keeper is None:
            return
        self._keeper.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._keeper.wait(GRACE_S + 2 * keeper.REAP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._keeper.pid, signal.SIGKILL)
        self._keeper.wait()
        self._keeper = None

    def _tail(self) -> str:
        """What its log ends with, as part of one line."""
        with contextlib.suppress(OSError):
            text = self.log.read_bytes()[-8192:].decode(errors="replace")
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            return f"; {self.log} ends: " + " | ".join(line[-300:] for line in lines[-TAIL:])
        return f"; there is no log at {self.log}"


def healthy(url: str) -> bool:
    """Whether the server at `url` says that it can work."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=LOOK_S)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def free_ports(hosts: Sequence[str]) -> list[int]:
    """A port for each that nobody listens on now, all different. Raises ConfigError for another machine's address."""
    with contextlib.ExitStack() as held:  # all at once: a port that was let go may be given out again
        ports = []
        for host in hosts:
            probe = held.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
            try:
                probe.bind((host, 0))
            except OSError as error:
                raise ConfigError(
                    f"rollout.options.host: {host} is no address of this machine ({error.strerror}); expected one that "
                    "`ip address` shows, or 127.0.0.1"
                ) from None
            ports.append(probe.getsockname()[1])
        return ports
