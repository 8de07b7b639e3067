"""Server processes: what is started ends with whoever started it. A small HTTP server stands in for vLLM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mmreason.errors import ConfigError, EngineError
from mmreason.rollout.keeper import below
from mmreason.rollout.servers import ServerProcess, flags, free_ports, healthy

# Like vLLM's, it starts processes that go on when it is killed: one in its group, one in a session of its own.
SERVER = """
import http.server, subprocess, sys
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
engine = [sys.executable, "-S", "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"]
subprocess.Popen(engine), subprocess.Popen(engine, start_new_session=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Health).serve_forever()
"""
FAILING = "import sys; print('loading'); print('ValueError: no such model'); sys.exit(7)"


def server(tmp_path: Path, code: str = SERVER) -> ServerProcess:
    return ServerProcess(
        "rollout server 0", lambda port: [sys.executable, "-S", "-c", code, str(port)], tmp_path / "server-0.log"
    )


def wait_for(what: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def started(process: ServerProcess) -> tuple[int, int, list[int]]:
    """Pids of the keeper, the server and its engines, once all of them run."""
    process.start()
    process.wait_until_healthy(20)
    assert process._keeper is not None
    kept = process._keeper.pid
    wait_for(lambda: len(below(kept)) == 3)
    main, *engines = below(kept)
    return kept, main, engines


def gone(pids: list[int]) -> bool:
    alive = [pid for pid in pids if Path(f"/proc/{pid}/stat").exists()]
    return all(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z" for pid in alive)


def test_a_server_starts_and_stops_and_starts_again(tmp_path: Path) -> None:
    process = server(tmp_path)
    assert not process.alive
    kept, main, engines = started(process)
    assert process.alive
    assert healthy(process.url)
    process.stop()
    assert not process.alive
    assert gone([kept, main, *engines])
    again = started(process)
    process.stop()
    process.stop()
    assert gone([*again[:2], *again[2]])


def test_when_the_server_is_killed_its_engines_are(tmp_path: Path) -> None:
    process = server(tmp_path)
    kept, main, engines = started(process)
    os.kill(main, signal.SIGKILL)
    wait_for(lambda: gone([kept, *engines]))
    assert not process.alive
    assert not healthy(process.url)
    process.stop()


def test_when_the_keeper_is_killed_the_server_is_and_stop_ends_its_group(tmp_path: Path) -> None:
    process = server(tmp_path)
    kept, main, engines = started(process)
    os.kill(kept, signal.SIGKILL)
    wait_for(lambda: gone([main]))
    process.stop()
    (alone,) = [pid for pid in engines if os.getsid(pid) == pid]
    wait_for(lambda: gone([pid for pid in engines if pid != alone]))
    os.kill(alone, signal.SIGKILL)  # a session of its own and no keeper: nobody's


def test_when_who_started_it_is_killed_nothing_is_left(tmp_path: Path) -> None:
    trainer = (
        "import sys, time; from pathlib import Path; from mmreason.rollout.servers import ServerProcess\n"
        "code = sys.stdin.read()\n"
        "process = ServerProcess('s', lambda port: [sys.executable, '-S', '-c', code, str(port)], Path(sys.argv[1]))\n"
        "process.start(); process.wait_until_healthy(20); print(process._keeper.pid, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", trainer, str(tmp_path / "server.log")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started_by:
        assert started_by.stdin is not None
        assert started_by.stdout is not None
        started_by.stdin.write(SERVER)
        started_by.stdin.close()
        kept = int(started_by.stdout.readline())
        wait_for(lambda: len(below(kept)) == 3)
        pids = [kept, *below(kept)]
        started_by.kill()
        wait_for(lambda: gone(pids))


def test_a_process_whose_name_is_no_text_is_found_too() -> None:
    code = "import ctypes, time; ctypes.CDLL(None).prctl(15, b'caf' + bytes([195])); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as named:
        assert named.stdout is not None
        named.stdout.readline()
        assert named.pid in below(os.getpid())
        named.kill()


def test_one_that_fails_says_what_its_log_ends_with(tmp_path: Path) -> None:
    process = server(tmp_path, FAILING)
    process.start()
    with pytest.raises(EngineError, match=r"ended with status 7 as it started; .*loading \| ValueError: no such model"):
        process.wait_until_healthy(20)
    process.stop()


def test_one_that_is_late_is_given_up(tmp_path: Path) -> None:
    process = server(tmp_path, "import time; time.sleep(600)")
    process.start()
    with pytest.raises(EngineError, match=r"within 0.2 s of its start.*start_s"):
        process.wait_until_healthy(0.2)
    process.stop()


def test_servers_that_are_started_together_have_ports_of_their_own() -> None:
    ports = free_ports(["127.0.0.1"] * 200)  # more than a few: one after the other some of them come twice
    assert len(set(ports)) == 200
    with pytest.raises(ConfigError, match=r"10\.255\.255\.254 is no address of this machine"):
        free_ports(["127.0.0.1", "10.255.255.254"])


def test_flags_of_a_command_line() -> None:
    given = {"max_model_len": 2048, "enforce_eager": True, "log_requests": False, "limit": {"image": 2}, "seed": None}
    expected = ["--max-model-len", "2048", "--enforce-eager", "--no-log-requests", "--limit", '{"image": 2}']
    assert flags(given) == expected
