"""Where a process is, the guard beside it, a store that does not answer. Deaths: tests/integration/test_launch.py."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from mmreason.errors import ConfigError
from mmreason.training import guard, watch
from mmreason.training.watch import Watch, watching
from tests.integration.launched import free_port

PARENT = """
import subprocess, sys, time
guarded = subprocess.Popen([sys.executable, sys.argv[1], "2", "rank 5 (here)"], stdin=subprocess.PIPE)
guarded.stdin.write(sys.argv[2].encode())
guarded.stdin.flush()
guarded.wait()
"""


def test_one_process_has_a_place_and_nobody_to_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with watching(1.0) as watched:
        assert type(watched) is Watch
        assert watched.place == "stage load"
        watched.step = 7
        watched.enter("update")
        assert watched.place == "stage update of step 7"


def _guarded(lines: str) -> subprocess.CompletedProcess[str]:
    """A process that tells its guard these lines and then stands still until the guard has ended."""
    command = [sys.executable, "-c", PARENT, guard.__file__, lines]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_guard_ends_a_process_that_stands_still() -> None:
    done = _guarded("stage load\nstage update of step 7\n")
    assert done.returncode == -signal.SIGKILL
    assert done.stderr.strip() == "mmreason: rank 5 (here) stood still for 2 s in stage update of step 7; it is ended"


def test_the_guard_leaves_a_process_that_has_come_to_its_end() -> None:
    done = _guarded(f"stage save of step 7\n{guard.END}\n")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_store_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(watch, "CONNECT_S", 1)
    started = time.monotonic()
    with pytest.raises(ConfigError, match=rf"rank 1: no connection to the other processes at 127.0.0.1:{port} within"):
        watching(1.0).__enter__()
    assert time.monotonic() - started < 30
    monkeypatch.delenv("MASTER_ADDR")
    with pytest.raises(ConfigError, match="start runs of several processes with torchrun or configs/launch/"):
        watching(1.0).__enter__()


def test_an_error_of_a_collective_is_a_peers() -> None:
    closed = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234")
    assert watch._blames_a_peer(closed)
    assert not watch._blames_a_peer(RuntimeError("CUDA out of memory"))
