"""Workers: deadlines, crashes, recycling, memory, and their end with the parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mmreason.processors.base import Refusal
from mmreason.processors.media import MediaLoader
from mmreason.processors.workers import WorkerPool
from tests.media_files import write_image
from tests.unit.processors import jobs_for_tests as jobs
from tests.unit.processors.helpers import TRAITS, config, ref


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def eventually(condition: Callable[[], bool], seconds: float = 10) -> bool:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    return condition()


def test_results_in_order() -> None:
    with WorkerPool(2, deadline_s=30) as pool:
        assert pool.run([(jobs.double, (number,)) for number in range(50)]) == list(range(0, 100, 2))
        assert pool.run([]) == []
        assert pool.replaced == 0


def test_workers_started_beforehand_are_ready() -> None:
    with WorkerPool(2, deadline_s=30) as pool:
        pool.start()
        assert [worker.ready for worker in pool._workers] == [True, True]
        assert pool.run([(jobs.sleep, (0.1,))] * 2) == ["slept"] * 2
        assert pool.replaced == 0


def test_a_slow_job_costs_only_itself() -> None:
    with WorkerPool(2, deadline_s=1.0) as pool:
        pool.run([(jobs.double, (1,))] * 2)
        begun = time.monotonic()
        answers = pool.run([(jobs.double, (1,)), (jobs.sleep, (100,)), (jobs.stuck_in_native_code, ()),
                            *[(jobs.double, (number,)) for number in range(6)]])  # fmt: skip
        assert time.monotonic() - begun < 20
        assert [answer.reason for answer in answers[1:3]] == ["timeout", "timeout"]
        assert [answers[0], *answers[3:]] == [2, 0, 2, 4, 6, 8, 10]
        assert pool.replaced == 2


@pytest.mark.parametrize(("job", "arguments"), [(jobs.leave, (3,)), (jobs.segfault, ()), (jobs.leave, (0,))])
def test_a_crash_costs_only_itself(job: Callable[..., None], arguments: tuple[int, ...]) -> None:
    with WorkerPool(1, deadline_s=30) as pool:
        first, crash, last = pool.run([(jobs.double, (1,)), (job, arguments), (jobs.double, (2,))])
        assert (first, last) == (2, 4)
        assert isinstance(crash, Refusal)
        assert crash.reason == "decoder crashed"


def test_a_worker_that_was_killed_while_idle_is_replaced() -> None:
    with WorkerPool(1, deadline_s=30) as pool:
        (process,) = pool.run([(jobs.process_id, ())])
        os.kill(process, signal.SIGKILL)
        assert eventually(lambda: not alive(process))
        assert pool.run([(jobs.double, (4,))]) == [8]


def test_refusals_and_surprises_become_answers() -> None:
    with WorkerPool(1, deadline_s=30, memory_bytes=1 << 30) as pool:
        refused, surprise, greedy, fine = pool.run(
            [(jobs.refuse, ()), (jobs.unforeseen, ()), (jobs.allocate, (8 << 30,)), (jobs.double, (1,))]
        )
        assert (refused.reason, refused.detail) == ("corrupt", "as asked")
        assert (surprise.reason, greedy.reason, fine) == ("corrupt", "too large", 2)
        assert pool.replaced == 0


def test_large_answers_and_jobs() -> None:
    with WorkerPool(1, deadline_s=30) as pool:
        (answer, length) = pool.run([(jobs.large, (50_000_000,)), (len, (bytes(50_000_000),))])
        assert (len(answer), length) == (50_000_000, 50_000_000)


def test_recycling() -> None:
    with WorkerPool(1, deadline_s=30, recycle_after=2) as pool:
        processes = pool.run([(jobs.process_id, ())] * 5)
        assert len(set(processes)) == 3
        assert not any(alive(process) for process in processes[:4])


def test_workers_are_light() -> None:
    with WorkerPool(1, deadline_s=30) as pool:
        assert pool.run([(jobs.loaded_modules, ())]) == [["PIL", "av"]]


def test_close_ends_the_processes_and_the_pool_starts_again() -> None:
    pool = WorkerPool(1, deadline_s=30)
    (process,) = pool.run([(jobs.process_id, ())])
    pool.close()
    assert not alive(process)
    assert pool.run([(jobs.double, (1,))]) == [2]
    pool.close()


def test_workers_die_with_a_killed_parent(tmp_path: Path) -> None:
    code = (
        "import sys; from mmreason.processors.workers import WorkerPool; "
        "from tests.unit.processors import jobs_for_tests as jobs; "
        "WorkerPool(2, 1000.0).run([(jobs.stuck_in_native_code, (sys.argv[1],))] * 2)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) as parent:
        assert eventually(lambda: len(list(tmp_path.iterdir())) == 2, 60)
        children = [int(path.name) for path in tmp_path.iterdir()]
        assert all(alive(child) for child in children)
        parent.kill()
        parent.wait()
        assert eventually(lambda: not any(alive(child) for child in children))


def test_used_from_several_threads() -> None:
    with WorkerPool(2, deadline_s=30) as pool:
        pool.run([(jobs.double, (0,))] * 2)
        answers: dict[int, list[int]] = {}

        def ask(number: int) -> None:
            answers[number] = pool.run([(jobs.double, (number,))] * 5)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert answers == {number: [2 * number] * 5 for number in range(4)}


def test_workers_run_beside_a_user_folder_with_its_own_modules(tmp_path: Path) -> None:
    """A folder that holds av.py, numpy/ and processors/ shadows nothing."""
    for name in ("av.py", "PIL.py", "resource.py"):
        (tmp_path / name).write_text("raise RuntimeError('the wrong module')")
    (tmp_path / "processors").mkdir()
    write_image(tmp_path / "a.png")
    code = (
        "from mmreason.processors.workers import WorkerPool; from mmreason.processors.base import Limits; "
        "from mmreason.processors.jobs import examine; pool = WorkerPool(1, 60.0); "
        "limits = Limits(pixels=10**6, video_seconds=1.0, audio_seconds=1.0); "
        "print(pool.run([(examine, ('image', 'a.png', False, limits))])[0].size); pool.close()"
    )
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "(64, 48)", done.stderr


def test_loader_survives_a_worker_that_dies(tmp_path: Path) -> None:
    refs = [ref(write_image(tmp_path / f"{number}.png")) for number in range(4)]
    with MediaLoader(config(workers=1), TRAITS) as loader:
        assert loader._pool is not None
        (process,) = loader._pool.run([(jobs.process_id, ())])
        os.kill(process, signal.SIGKILL)
        assert eventually(lambda: not alive(process))
        assert [answer.kind for answer in loader.load(refs) if not isinstance(answer, Exception)] == ["image"] * 4
