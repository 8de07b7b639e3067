"""The servers of a run: started or found, kept alive, and kept at the trainer's weights.

One process, rank 0, has the fleet. A thread of it looks at every server once a second: one that died is started again
(counted, at most `restarts` times), and one that does not have the current weights, because it was started again by us
or by someone else, is given them. Whoever waits for a server only has to wait until it says that it has the version it
should have.

vLLM tells the weights of every token by a label that we set after each push; ours has a part that no other run shares.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mmreason.errors import EngineError, MMReasonError, StopRequested
from mmreason.rollout.servers import ServerProcess, free_ports, healthy
from mmreason.rollout.transfer import QUICK_S, Transfer, load_folder
from mmreason.rollout.web import Lost, Web

LOOK_S = 1.0
"""Seconds between two looks at the servers."""


class Control:
    """Commands to one vLLM server, which must run with VLLM_SERVER_DEV_MODE=1. All raise Lost and EngineError."""

    def __init__(self, url: str) -> None:
        self.url, self.web = url, Web(url)

    def version(self) -> str:
        """The label of the weights in use."""
        info = self.web.get("/weight_info", QUICK_S)
        if not isinstance(info, dict) or "weight_version" not in info:
            raise EngineError(f"{self.url}/weight_info: expected a weight_version, got {info!r}; is it vLLM 0.32?")
        return str(info["weight_version"])

    def use_positions(self, rules: str) -> None:
        """Have the trainer's positions computed in its workers (vllm_worker.py)."""
        self.web.post("/collective_rpc", {"method": "use_trainer_positions", "args": [rules]}, QUICK_S)

    def label(self, version: str) -> None:
        """Forget what was computed by earlier weights, prompts and media, and name these."""
        # Requests that run are put off, and their answers will be by two kinds of weights: they are asked for again.
        end = time.monotonic() + QUICK_S
        while not self.web.post("/reset_prefix_cache?reset_running_requests=true", {}, QUICK_S)["success"]:
            if time.monotonic() > end:
                raise EngineError(f"{self.url}: the prefix cache of the earlier weights could not be reset")
            time.sleep(0.1)
        self.web.post("/reset_encoder_cache", {}, QUICK_S)
        self.web.post("/update_weight_version", {"new_version": version}, QUICK_S)


class Fleet:
    """Servers that we start (`processes`), or that run already (`urls`).

    transfer: how they get new weights; start_s: how long a start may take; restarts: how many in all; rules: those of
    the trainer's positions, for its workers; frozen: a folder with all weights, for a
    server that is new: those that are pushed need only be the ones that training changes; give_up: told `failure`.
    """

    def __init__(
        self,
        transfer: Transfer,
        processes: Sequence[ServerProcess] = (),
        urls: Sequence[str] = (),
        *,
        start_s: float = 600.0,
        restarts: int = 3,
        rules: str | None = None,
        frozen: Path | None = None,
        say: Callable[[str], None] = print,
        give_up: Callable[[EngineError], None] = lambda failure: None,
    ) -> None:
        assert bool(processes) != bool(urls), "servers are started, or found"
        self.transfer, self.processes, self._start_s = transfer, list(processes), start_s
        self._found, self._left, self._say = list(urls), restarts, say
        self._rules, self._frozen, self._give_up = rules, frozen, give_up
        self.restarted = 0
        """How many times a server was started again."""
        self.failure: EngineError | None = None
        """Why a server is given up; every wait for it ends with this."""
        self._version = self._before = ""
        self._lock = threading.Lock()  # around everything that changes the weights of a server
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="rollout servers", daemon=True)

    @property
    def urls(self) -> list[str]:
        """Where the servers are; a server that is started again stays where it was."""
        return [process.url for process in self.processes] or self._found

    def open(self, stopping: Callable[[], bool] = lambda: False) -> None:
        """Start the servers, all at once, and wait until each is well.

        Raises EngineError, and StopRequested as soon as `stopping()`.
        """
        try:
            for process, port in zip(self.processes, free_ports([one.host for one in self.processes]), strict=True):
                process.port = port
                process.start()
            for process in self.processes:
                process.wait_until_healthy(self._start_s, stopping)
            if stopping():
                raise StopRequested
            for url in self._found:
                _require_reachable(url)
        except BaseException:
            self.close()
            raise
        self._thread.start()

    def push(self, take: Callable[[Transfer], None], version: str) -> None:
        """Have `take` fill the transfer, and give that, from now on called `version`, to every server.

        A server that is down at the moment gets them when it is up again; waiting for it is the caller's. Raises
        EngineError, and what `take` raises.
        """
        with self._lock:
            take(self.transfer)
            self._version, self._before = version, self._version
            with ThreadPoolExecutor(len(self.urls)) as pool:
                list(pool.map(self._push_one, self.urls))

    def close(self) -> None:
        """Stop the servers that we started."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(QUICK_S)
        for process in self.processes:
            process.stop()

    def _push_one(self, url: str) -> None:
        control = Control(url)
        try:
            new = not self._before or control.version() != self._before
            if new and self._rules is not None:
                control.use_positions(self._rules)
            if new and self._frozen is not None:
                load_folder(control.web, self._frozen, self.transfer.load_s)
            self.transfer.give(control.web, new=new)
            control.label(self._version)
        except Lost as lost:
            if healthy(url):  # else the thread finds out what has become of it
                raise EngineError(
                    f"{lost}; the server is well but does not take the weights, and its log says why (its worker "
                    "extension, how weights get there: docs/rollout.md, Servers; slow loads: rollout.options.load_s)"
                ) from None

    def _keep(self) -> None:
        while not self._closing.wait(LOOK_S):
            try:
                for process in self.processes:
                    if not process.alive:
                        self._start_again(process)
                for url in self.urls:
                    self._bring_up_to_date(url)
            except Exception as error:  # the boundary of the thread: whoever waits for servers must know
                named = "" if isinstance(error, MMReasonError) else f"rollout servers: {type(error).__name__}: "
                self.failure = EngineError(f"{named}{error}")
                self._give_up(self.failure)
                return

    def _start_again(self, process: ServerProcess) -> None:
        if self._left == 0:
            raise EngineError(
                f"{process.name} died, and was started again {self.restarted} times already "
                f"(rollout.options.restarts); {process.log} says why"
            )
        self._left, self.restarted = self._left - 1, self.restarted + 1
        self._say(f"{process.name} died; it is started again ({self._left} left), its prompts are generated again")
        process.start()
        try:
            process.wait_until_healthy(self._start_s, self._closing.is_set)
        except EngineError as error:  # a GPU's memory may not be free at once
            if self._left == 0:
                raise
            self._say(str(error))
            process.stop()

    def _bring_up_to_date(self, url: str) -> None:
        with self._lock:
            if self._version and healthy(url):
                with contextlib.suppress(Lost):
                    if Control(url).version() != self._version:
                        self._push_one(url)


def _require_reachable(url: str) -> None:
    """Raises EngineError unless a vLLM server with its control routes is there."""
    try:
        Control(url).version()
    except Lost as lost:
        raise EngineError(f"no rollout server answers: {lost}; start it, or correct rollout.options.urls") from None
    except EngineError as error:
        raise EngineError(
            f"{error}; start the server with VLLM_SERVER_DEV_MODE=1 and --enable-scale-out (docs/rollout.md, Servers)"
        ) from None
