"""Code that wants out: network, files, secrets, processes, memory, time, output. Real processes, real limits.

Tests of namespaces are skipped only where the machine has none; the refusal itself is tested everywhere.
"""

import os
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest

from mmreason.rewards import sandbox
from mmreason.rewards.sandbox import Isolation, Limits, Outcome, SandboxMissing, require, run


def _missing() -> str:
    try:
        require()
    except SandboxMissing as error:
        return str(error)
    return ""


MISSING = _missing()
needs_namespaces = pytest.mark.skipif(bool(MISSING), reason=MISSING)
BOTH = [pytest.param("namespaces", marks=needs_namespaces), "container"]
QUICK = Limits(wall_s=5.0, cpu_s=2, memory_mb=400, file_mb=2, output_kb=16)


def tried(code: str, isolation: Isolation = "namespaces", limits: Limits = QUICK) -> Outcome:
    return run(textwrap.dedent(code), after="result = space.get('found')", limits=limits, isolation=isolation)


@pytest.mark.parametrize("isolation", BOTH)
def test_ordinary_code_runs(isolation: Isolation) -> None:
    given = run("x = 2\nprint('hello')", after="result = [space['x'], more]", given={"more": "é"}, isolation=isolation)
    assert (given.result, given.error, given.output) == ([2, "é"], None, "hello\n")
    import_numpy = tried("import numpy; found = float(numpy.ones((50, 50)).dot(numpy.ones(50)).sum())", isolation)
    assert import_numpy.result == 2500


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("1 / 0", "raised ZeroDivisionError in line 1: division by zero"),
        ("x = 1\nx(", "raised SyntaxError: '(' was never closed (answer.py, line 2)"),
        ("exit(3)", "called exit(3)"),
        ("import sys\nsys.exit()", "called exit(None)"),
        ("import os\nos._exit(7)", "ended by itself (exit status 7)"),
        ("raise BaseException('two\\nlines')", "raised BaseException in line 1: two lines"),
        ("found = {1, 2}", "raised TypeError: Object of type set is not JSON serializable"),
    ],
)
@needs_namespaces
def test_code_that_fails(code: str, error: str) -> None:
    assert tried(code).error == error


@needs_namespaces
def test_the_network_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        outcome = tried(f"import socket; found = socket.create_connection(('127.0.0.1', {port}), 1) is not None")
        assert outcome.error == "raised PermissionError in line 1: [Errno 1] Operation not permitted"
        with socket.create_connection(("127.0.0.1", port), 1):  # outside it is there
            pass


@needs_namespaces
def test_secrets_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "key.txt"
    secret.write_text("hunter2")
    monkeypatch.setenv("MY_TOKEN", "hunter2")
    descriptor = os.open(secret, os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    outcome = tried(f"""
        import os
        found = []
        for path in ({str(secret)!r}, "/etc/passwd", "/proc/self/environ", "/proc/1/environ", "/old/etc/passwd",
                     "/tmp/../../etc/shadow", {str(Path(__file__))!r}):
            try:
                found.append(open(path).read())
            except OSError as error:
                pass
        for number in range(3, 64):
            try:
                found.append(os.read(number, 100).decode())
            except OSError:
                pass
        found.append(os.environ.get("MY_TOKEN"))
    """)
    os.close(descriptor)
    assert outcome == Outcome(result=[None], output="")


@needs_namespaces
def test_nothing_is_written_outside_of_its_own_folder(tmp_path: Path) -> None:
    target = tmp_path / "made.txt"
    outcome = tried(f"""
        import os, sys
        found = []
        for path in ({str(target)!r}, "/made.txt", sys.prefix + "/made.txt", os.__file__, "/usr/made.txt",
                     "/dev/made.txt", "made.txt", "/tmp/made.txt"):
            try:
                open(path, "a").write("x")
                found.append(path)
            except OSError:
                pass
    """)
    assert outcome.result == ["made.txt", "/tmp/made.txt"]
    assert not target.exists()
    assert not (Path(sys.prefix) / "made.txt").exists()


REFUSED = [
    "import os\nwhile True: os.fork()",
    "import subprocess\nsubprocess.run(['/bin/sh', '-c', 'sleep 100 &'])",
    "import os\nos.execv('/bin/sh', ['sh'])",
    "import os\nos.posix_spawn('/bin/sh', ['sh'], {})",
    "import multiprocessing as m\nm.Process(target=print).start()",
    "import os, signal\nos.kill(os.getppid() or 1, signal.SIGKILL)",
    "import ctypes\nfound = ctypes.CDLL(None).unshare(0x10000000)\nassert found == 0, 'refused'",
    "import ctypes\nfound = ctypes.CDLL(None).ptrace(16, 1, 0, 0)\nassert found == 0, 'refused'",
    "import ctypes\nfound = ctypes.CDLL(None).umount2(b'/tmp', 2)\nassert found == 0, 'refused'",
]


@pytest.mark.parametrize("isolation", BOTH)
def test_no_process_no_program_no_signal_no_namespace(isolation: Isolation) -> None:
    outcome = tried(
        f"""
        found = []
        for code in {REFUSED!r}:
            try:
                exec(code, {{}})
                found.append("done")
            except Exception as error:
                found.append(str(error))
        """,
        isolation,
    )
    assert outcome.error is None, outcome
    for code, error in zip(REFUSED, outcome.result, strict=True):
        assert "Operation not permitted" in error or error == "refused", (code, error)


@pytest.mark.parametrize("isolation", BOTH)
def test_memory_ends(isolation: Isolation) -> None:
    outcome = tried("found = bytearray(1 << 30)", isolation)
    assert outcome.error == "raised MemoryError in line 1: "


@pytest.mark.parametrize("isolation", BOTH)
def test_threads_end(isolation: Isolation) -> None:
    outcome = tried("import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,)).start()",
                    isolation)  # fmt: skip
    assert str(outcome.error).startswith(("raised RuntimeError in line", "raised MemoryError", "did not end"))


@needs_namespaces
def test_files_end() -> None:
    big = tried("open('big', 'wb').write(bytes(3 << 20))")
    assert "File too large" in str(big.error) or "exit status" in str(big.error)
    many = tried("for i in range(9): open(f'f{i}', 'wb').write(bytes(1 << 20))")
    assert "No space left" in str(many.error)


@pytest.mark.parametrize("isolation", BOTH)
def test_output_ends(isolation: Isolation) -> None:
    outcome = tried("while True: print('x' * 1000)", isolation)
    assert outcome.error == "wrote more than 16 kB"
    assert len(outcome.output) < 200_000


@pytest.mark.parametrize("isolation", BOTH)
def test_time_ends(isolation: Isolation) -> None:
    began = time.monotonic()
    stubborn = tried(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(100)",
        isolation,
        Limits(wall_s=0.3),
    )
    assert (stubborn.error, stubborn.cut_off) == ("did not end within 0.3 s", True)
    busy = tried("while True: pass", isolation, Limits(wall_s=60, cpu_s=1))
    assert busy.error is not None
    assert "exit status" in busy.error
    assert busy.cut_off
    assert time.monotonic() - began < 40


@needs_namespaces
def test_nothing_survives(tmp_path: Path) -> None:
    """Also not where the one who started it is killed while the code runs."""
    program = "from mmreason.rewards.sandbox import run; print('go', flush=True); run('import time; time.sleep(99)')"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    line = [sys.executable, "-c", program]
    with subprocess.Popen(line, stdout=subprocess.PIPE, cwd=tmp_path, env=environment) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        deadline = time.monotonic() + 60
        while len(family := _descendants(parent.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)  # the code begins
        parent.kill()
    assert len(family) == 2  # the one outside that waits, and the one inside
    while any(_alive(pid) for pid in family) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in family if _alive(pid)]
    (left,) = tmp_path.iterdir()
    assert not list(left.iterdir()), "what the code writes is in memory"


def test_folders_of_runs_that_were_killed_go_a_day_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    old, young, other = (tmp_path / name for name in ("mmreason-sandbox-old", "mmreason-sandbox-young", "other"))
    for folder in (old, young, other):
        folder.mkdir()
        (folder / "made.txt").touch()
    for folder in (old, other):
        os.utime(folder, (0, 0))
    sandbox._tidy.cache_clear()
    assert run("", after="result = 1", isolation="container").result == 1
    assert sorted(tmp_path.iterdir()) == [young, other]


def _children(pid: int) -> list[int]:
    try:
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _descendants(pid: int) -> list[int]:
    found = _children(pid)
    return found + [grandchild for child in found for grandchild in _descendants(child)]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@needs_namespaces
def test_forged_reports_are_no_crash() -> None:
    forged = "\n".join(("[", "[1]", '{"missing": "x"}', '{"result": 5}', "[" * 100_000, ""))
    outcome = tried(f"""
        import os
        for n in range(3, 20):
            try:
                os.write(n, {forged.encode()!r})
            except OSError:
                pass
        found = 1
    """)
    assert outcome.result == 1, outcome


@needs_namespaces
def test_several_at_a_time() -> None:
    results: list[object] = []
    threads = [threading.Thread(target=lambda n=n: results.append(tried(f"found = {n}").result)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(map(str, results)) == ["0", "1", "2", "3"]


def test_a_machine_without_namespaces_is_refused_in_one_line(tmp_path: Path) -> None:
    """Inside of a sandbox there are none to be had: system calls for them are refused."""
    root = Path(__file__).parents[3]
    program = f"""
        import sys
        sys.path.insert(0, {str(root)!r})
        from mmreason.rewards import sandbox_child as child
        child.REFUSED[child.platform.machine()] = [272 if child.platform.machine() == "x86_64" else 97]
        child.CLONE[child.platform.machine()] = 9999
        child.CLONE3 = 9999
        child._checked(child.LIBC.prctl(child.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
        child._filter_calls()
        from mmreason.rewards.sandbox import require
        require("container")
        require()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, cwd=tmp_path, timeout=100
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("mmreason.rewards.sandbox.SandboxMissing: model-written code cannot be shut in here: user ")
    assert "user namespaces: Operation not permitted (unshare); allow it on this machine, or give isolation" in last
