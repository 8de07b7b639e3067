"""Several processes live and end together: one that dies, hangs or fails stops the others, with a line that names it.

Once a second a thread of every process writes that it lives, and where it is (a "beat"), into the store through which
the processes of a run found each other, and looks at the others. Who finds a fault posts a verdict there, once and for
all; everybody obeys it: one line on the terminal of each node, then the end of the process, whatever its main thread
waits for.

    found by                        what                                                         after about
    the process itself              an exception; a stage that takes longer than train.timeout_s    at once
    another process of its node     its process is gone (killed, crashed)                           1 s
    rank 0; the others for rank 0   no more beats: it was stopped, or its node is gone              30 s
    its guard (guard.py)            the same, for a process that cannot end itself                  40 s
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from types import FrameType, TracebackType
from typing import Any

from torch.distributed import DistError
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from mmreason.errors import ConfigError, MMReasonError, StopRequested
from mmreason.training import guard

LOST_S = 30
"""A process that was not heard of for so long is given up."""
GUARD_S = 40
"""A process that stands still for so long is ended by its guard."""
START_S = 300
"""All processes must have begun within this time of the first."""
CONNECT_S = 60
"""Longest wait for the store."""
PAUSE_S = 2
"""Time to find out, after SIGTERM, that a process has died, and to read the verdict."""
EXIT_STATUS = 3
"""Of a process that ended because another one failed."""
GOES_ON = "all processes stop; the same command goes on"
_VERDICT = "verdict"


class RankError(MMReasonError):
    """An MMReasonError of one process of several; its message says which process, and where it was."""


class Watch:
    """Where this process is. Of a run of one process that is all there is to know; of several see `PeerWatch`."""

    def __init__(self) -> None:
        self._stage, self.step = "load", 0

    def enter(self, stage: str) -> None:
        """A stage of the current step begins; it lasts until the next one does."""
        self._stage = stage

    @property
    def place(self) -> str:
        """Example: "stage update of step 7"."""
        return f"stage {self._stage}" + (f" of step {self.step}" if self.step else "")

    def signalled(self, name: str) -> None:
        """Say that a signal will stop the run. Called in a signal handler."""
        _say(f"{name} received; saving, then stopping")


@contextlib.contextmanager
def watching(timeout_s: float) -> Iterator[Watch]:
    """Around all of a run, from before its data are read. Starts a watch where there are several processes.

    Raises RankError in place of an MMReasonError of this process, and SystemExit when another process failed first.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Watch()
        return
    with PeerWatch(_connect(), timeout_s) as watch:
        yield watch


def _connect() -> Store:
    address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=CONNECT_S)))
    except (DistError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"rank {os.environ.get('RANK')}: no connection to the other processes at {address} within {CONNECT_S} s "
            f"({reason}); start runs of several processes with torchrun or configs/launch/, check MASTER_ADDR and "
            "MASTER_PORT"
        ) from error
    connected: Store = PrefixStore("mmreason", store)
    return connected


class PeerWatch(Watch):
    """The watch of one process of several. A context manager; the thread lives from enter to exit."""

    def __init__(self, store: Store, timeout_s: float) -> None:
        super().__init__()
        self.rank, self.world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self._leads_node = os.environ.get("LOCAL_RANK", "0") == "0"
        self._store, self._timeout_s = store, timeout_s
        self._beats = 0
        self._here = (self.place, 0)  # and for how many beats
        self._peers: dict[int, dict[str, Any]] = {}
        self._silent: dict[int, int] = {}
        self._signal: tuple[str, int] | None = None  # its name, and the beat at which it came
        self._ends_at: int | None = None
        self._previous: Any = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._live, name="watch", daemon=True)
        self._me = {"rank": self.rank, "host": socket.gethostname(), "node": _node(), "pid": os.getpid()}

    def __enter__(self) -> PeerWatch:
        name = f"rank {self.rank} ({self._me['host']})"
        command = [sys.executable, "-I", "-S", guard.__file__, str(GUARD_S), name]
        # In a session of its own: signals for the process group of this process are not for it.
        self._guard = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        # Until the run has handlers of its own, and after: a launcher that lost a process sends SIGTERM to the others,
        # which must live long enough to say which one.
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._end_soon)
        self._beat()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._leave(error)
        finally:
            if self._previous is not None:
                signal.signal(signal.SIGTERM, self._previous)

    def _leave(self, error: BaseException | None) -> None:
        if error is None or isinstance(error, StopRequested):
            self._close()
            return
        if _blames_a_peer(error):  # who it is, the thread will find out, and end this process
            self._thread.join(LOST_S + 15)
        what = str(error) if isinstance(error, MMReasonError) else _summary(error)
        verdict = self._post(self._me, f"failed in {self.place}: {what}", error=True)
        if verdict["by"] != self.rank:
            self._tell(verdict)
            raise SystemExit(EXIT_STATUS) from error
        self._close(done=False)
        if isinstance(error, MMReasonError):
            os.write(2, b"\n")  # leaves the progress line, which is another process's
            raise RankError(verdict["text"]) from error
        _say(verdict["text"])

    def enter(self, stage: str) -> None:
        super().enter(stage)
        with contextlib.suppress(RuntimeError):  # the thread finds out what has become of the store
            self._publish()

    def signalled(self, name: str) -> None:
        # Said later, by the thread: a launcher sends SIGTERM also when another process has died.
        self._signal = self._signal or (name, self._beats)

    def _end_soon(self, number: int, frame: FrameType | None) -> None:
        self._ends_at = self._ends_at or self._beats + PAUSE_S

    # ---- the thread --------------------------------------------------------------------------------------------------

    def _live(self) -> None:
        try:
            while not self._closing.wait(1.0):
                self._beat()
                verdict = self._posted() or self._find_fault()
                if verdict is not None:
                    self._obey(verdict)
                elif self._signal is not None and self._beats > self._signal[1] + PAUSE_S:
                    self._say_signal()
                elif self._ends_at is not None and self._beats > self._ends_at:
                    os._exit(128 + signal.SIGTERM)
        except RuntimeError:  # DistError is one; the store is gone, and with it the node of rank 0
            if not self._closing.is_set():
                place = self._peers.get(0, {}).get("place", "stage load")
                _say(f"the node of rank 0 is gone, last seen in {place}; {GOES_ON}")
                os._exit(EXIT_STATUS)

    def _beat(self) -> None:
        self._beats += 1
        place, since = self._here
        self._here = (place, since) if place == self.place else (self.place, self._beats)
        self._publish()
        self._reassure(self.place)

    def _publish(self, *, done: bool = False) -> None:
        beat = {**self._me, "place": self.place, "beat": self._beats, "done": done}
        self._store.set(_key(self.rank), json.dumps(beat))

    def _reassure(self, line: str) -> None:
        """A line for the guard."""
        with contextlib.suppress(OSError):  # a guard that somebody killed is not worth a run
            assert self._guard.stdin is not None
            os.write(self._guard.stdin.fileno(), f"{line}\n".encode())

    def _posted(self) -> dict[str, Any] | None:
        return json.loads(self._store.get(_VERDICT)) if self._store.check([_VERDICT]) else None

    def _post(self, about: dict[str, Any], what: str, *, error: bool = False) -> dict[str, Any]:
        """Post a verdict; returns the one that holds, which is the first that was posted.

        error: it is about this very process, whose exception will say it.
        """
        where = f"rank {about['rank']} ({about['host']})" if "host" in about else f"rank {about['rank']}"
        text = f"{where} {what}" + ("" if error else f"; {GOES_ON}")
        verdict = {"text": text, "by": self.rank, "node": self._me["node"], "error": error}
        held: dict[str, Any] = json.loads(self._store.compare_set(_VERDICT, "", json.dumps(verdict)))
        if held["by"] == self.rank:
            time.sleep(PAUSE_S + 1)  # the store may end with this process: let the others read it
        return held

    def _find_fault(self) -> dict[str, Any] | None:
        """A verdict about this process or one of those it looks after."""
        place, since = self._here
        if self._beats - since > self._timeout_s:
            return self._post(self._me, f"has been in {place} for more than {self._timeout_s:g} s (train.timeout_s)")
        if not self._peers:
            return self._meet()
        gone = self._find_gone()
        if gone is not None:
            return self._post(gone, f"is gone, its process ended in {gone['place']}")
        silent = self._find_silent()
        if silent is not None:
            return self._post(silent, f"stopped answering in {silent['place']}, {LOST_S} s ago")
        return None

    def _meet(self) -> dict[str, Any] | None:
        """Wait until all processes have begun; afterwards `_peers` knows them."""
        ranks = range(self.world)
        if self._store.check([_key(rank) for rank in ranks]):
            self._peers = dict(zip(ranks, self._read(*ranks), strict=True))
            del self._peers[self.rank]
        elif self._beats > START_S:
            missing = next(rank for rank in ranks if not self._store.check([_key(rank)]))
            return self._post({"rank": missing}, f"has not begun {START_S} s after rank {self.rank}")
        return None

    def _read(self, *ranks: int) -> list[dict[str, Any]]:
        return [json.loads(beat) for beat in self._store.multi_get([_key(rank) for rank in ranks])]

    def _find_gone(self) -> dict[str, Any] | None:
        """A process of this node that is no more, and had not come to its end."""
        for peer in self._peers.values():
            if peer["node"] == self._me["node"] and _is_gone(peer["pid"]):
                (last,) = self._read(peer["rank"])
                if not last["done"]:
                    return last
        return None

    def _find_silent(self) -> dict[str, Any] | None:
        """One not heard of for LOST_S beats of ours: counted so, a machine that slept as a whole loses nobody."""
        ranks = range(1, self.world) if self.rank == 0 else (0,)
        for now in self._read(*ranks):
            rank = now["rank"]
            heard = now["done"] or now["beat"] != self._peers[rank]["beat"]
            self._silent[rank] = 0 if heard else self._silent.get(rank, 0) + 1
            self._peers[rank] = now
            if self._silent[rank] > LOST_S:
                return now
        return None

    def _obey(self, verdict: dict[str, Any]) -> None:
        if verdict["error"] and verdict["by"] == self.rank and self._closing.wait(15):
            return  # the main thread ends by itself, with its exception
        self._tell(verdict)
        os._exit(EXIT_STATUS)

    # ---- ending ------------------------------------------------------------------------------------------------------

    def _tell(self, verdict: dict[str, Any]) -> None:
        """One line on each node: by the process that posted the verdict, elsewhere by the first one."""
        if verdict["by"] == self.rank or (self._leads_node and verdict["node"] != self._me["node"]):
            _say(verdict["text"])

    def _say_signal(self) -> None:
        assert self._signal is not None
        name, self._signal = self._signal[0], None
        if self._store.add("signal", 1) == 1:
            super().signalled(name)

    def _close(self, *, done: bool = True) -> None:
        self._closing.set()
        self._thread.join(10)
        with contextlib.suppress(RuntimeError):  # the store may be gone, as the others are done
            if self._signal is not None:
                self._say_signal()
            self._publish(done=done)
        self._reassure(guard.END)
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(10)


def _key(rank: int) -> str:
    return f"beat/{rank}"


def _node() -> str:
    """What processes have in common that can see each other's process ids, and that one launcher started."""
    with contextlib.suppress(OSError):
        return f"{socket.gethostname()} {os.environ.get('GROUP_RANK', '')} {os.readlink('/proc/self/ns/pid')}"
    return f"{socket.gethostname()} {os.environ.get('GROUP_RANK', '')}"


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def _blames_a_peer(error: BaseException) -> bool:
    """Whether this is how a collective ends when another process is no longer there."""
    return isinstance(error, DistError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in ("gloo", "NCCL", "closed by peer"))
    )


def _summary(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _say(text: str) -> None:
    """A line on standard error. Not print: this may be a signal handler, or the last thing before the end."""
    os.write(2, f"\nmmreason: {text}\n".encode())  # the progress line is left first
