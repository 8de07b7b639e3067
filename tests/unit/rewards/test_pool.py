"""Real worker processes: rewards that raise, hang, exit, lie; recycling; nothing left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from mmreason.config import RewardConfig, ScoringConfig
from mmreason.errors import ConfigError, PluginError, RewardError
from mmreason.rewards import pool as pool_module
from mmreason.rewards.pool import RewardPool
from mmreason.types import Rollout, Sample, Score
from tests.unit.rewards.helpers import answered, sample

BAD = """
import math, os, sys, time, subprocess
from mmreason.types import Score

def good(sample, rollouts):
    return [Score(total=float(r.tokens), parts={"length": len(r.text)}) for r in rollouts]

def bad(sample, rollouts):
    how = sample.answer
    if how == "raise":
        raise ValueError("two\\nlines")
    if how == "hang":
        while True:
            pass
    if how == "exit":
        os._exit(3)
    if how == "sys.exit":
        sys.exit("bye")
    if how == "nan":
        return [Score(total=math.nan) for r in rollouts]
    if how == "inf part":
        return [Score(total=1.0, parts={"x": math.inf}) for r in rollouts]
    if how == "short":
        return [Score(total=1.0)]
    if how == "str":
        return "1.0"
    if how == "floats":
        return [1.0 for r in rollouts]
    if how == "text total":
        return [Score(total="1.0") for r in rollouts]
    if how == "bool":
        return [Score(total=True, flags={"f": 1}) for r in rollouts]
    if how == "print":
        print("to standard output")
    if how == "own error":
        return [Score(total=None, error="no gold") for r in rollouts]
    return [Score(total=1.0) for r in rollouts]

def pid(sample, rollouts):
    return [Score(total=float(os.getpid())) for r in rollouts]

def child(sample, text):
    return float(subprocess.Popen(["sleep", "1000"]).pid)

def nap(sample, text):
    time.sleep(float(sample.answer))
    return 1.0
"""


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    file = tmp_path / "bad_rewards.py"
    file.write_text(BAD)
    return str(file)


def scoring(**values: object) -> ScoringConfig:
    return ScoringConfig.model_validate({"deadline_s": 20.0, **values})


def group(how: str, size: int = 2) -> tuple[Sample, list[Rollout]]:
    return sample(how), answered(*["x"] * size)


ERRORS = {
    "raise": "raised ValueError: two lines",
    "exit": "its worker process ended by itself (exit status 3)",
    "sys.exit": "raised SystemExit: bye",
    "nan": "returned nan as total",
    "inf part": "returned inf as x",
    "short": "returned 1 scores for 2 rollouts",
    "str": "returned str, expected a list of 2 scores",
    "floats": "returned a list with float in it, expected Score",
    "text total": "returned str as total, expected a number",
    "own error": "no gold",
}


def test_a_bad_reward_costs_its_own_group_only(plugin: str) -> None:
    groups = [group(how) for how in ["ok", *ERRORS, "bool", "print", "ok"]]
    with RewardPool([RewardConfig(name=f"{plugin}:bad"), RewardConfig(name="format")], scoring()) as pool:
        scores = pool.score(groups)
        again = pool.score([group("ok")])
    fine = {"ok", "bool", "print"}
    for (question, _), row in zip(groups, scores, strict=True):
        for score in row:
            if question.answer in fine:
                assert score.total == 2.0
                assert score.parts == {f"{plugin}:bad": 1.0, "format": 1.0}
            else:
                assert score.total is None
                assert score.error == f"reward {plugin}:bad: {ERRORS[question.answer]}"
                assert score.parts == {"format": 1.0}
    assert pool.errors == {f"{plugin}:bad": 2 * len(ERRORS), "format": 0}
    assert again[0][0].total == 2.0


def test_a_hanging_reward_is_killed_and_the_rest_is_scored(plugin: str) -> None:
    groups = [group("ok"), group("hang"), *[group("ok")] * 30]
    with RewardPool([RewardConfig(name=f"{plugin}:bad"), RewardConfig(name="format")], scoring(deadline_s=1.5)) as pool:
        start = time.monotonic()
        scores = pool.score(groups)
        took = time.monotonic() - start
    assert [row[0].total for row in scores] == [2.0, None, *[2.0] * 30]
    assert scores[1][0].error is not None
    assert "no result within 1.5 s, so its worker was killed" in scores[1][0].error
    assert scores[1][0].parts == {"format": 1.0}
    assert 1.5 <= took < 30


def test_the_deadline_is_per_job_not_per_message(plugin: str) -> None:
    """Four jobs of 0.5 s travel in one message; each is well within 1.5 s."""
    with RewardPool([RewardConfig(name=f"{plugin}:nap")] * 4, scoring(deadline_s=1.5, workers=1)) as pool:
        assert pool.score([group("0.5", size=1)])[0][0].total == 4.0


def test_importing_a_slow_library_is_not_the_jobs_time(plugin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As math-verify, which can take longer to import than a job may take; the clock stands still meanwhile."""
    folder = Path(plugin).parent
    (folder / "slow_library.py").write_text("import time; time.sleep(3)\n")
    (folder / "user.py").write_text(
        "from mmreason.rewards.base import slow_import\n"
        "def f(sample, text): return slow_import('slow_library').time.time() > 0\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    with RewardPool([RewardConfig(name=f"{folder / 'user.py'}:f")], scoring(deadline_s=1.5, workers=1)) as pool:
        ((score,),) = pool.score([group("x", size=1)])
    assert (score.total, score.error) == (1.0, None)


def test_token_counts_reach_the_reward(plugin: str) -> None:
    import torch

    from mmreason.types import Segment

    policy = Segment(kind="policy", ids=torch.arange(7), loss_mask=torch.ones(7, dtype=torch.bool))
    with RewardPool([RewardConfig(name=f"{plugin}:good")], scoring(workers=1)) as pool:
        ((score,),) = pool.score([(sample(), [Rollout(text="abc", segments=(policy,))])])
    assert score.total == 7
    assert score.parts == {f"{plugin}:good": 7, f"{plugin}:good.length": 3}


def test_what_one_reward_changes_no_other_sees(tmp_path: Path) -> None:
    file = tmp_path / "two.py"
    file.write_text(
        "def changes(sample, rollouts):\n"
        "    sample.meta['seen'] = 1\n"
        "    rollouts.append(rollouts[0])\n"
        "    return looks(sample, rollouts[:1])\n\n"
        "def looks(sample, rollouts):\n"
        "    from mmreason.types import Score\n"
        "    return [Score(total=float(sample.meta.get('seen', 0) + len(rollouts) - 1))]\n"
    )
    rewards = [RewardConfig(name=f"{file}:{name}") for name in ("changes", "looks")]
    with RewardPool(rewards, scoring(workers=1)) as pool:
        ((score,),) = pool.score([(sample(meta={"a": 1}), answered("x"))])
    assert list(score.parts.values()) == [1.0, 0.0]


def test_groups_come_back_in_order_whatever_their_number(plugin: str) -> None:
    with RewardPool([RewardConfig(name="accuracy")], scoring()) as pool:
        for count in (0, 1, 7, 300):
            groups = [(sample(str(i), "numeric"), answered(*[str(i + k) for k in range(3)])) for i in range(count)]
            totals = [[score.total for score in row] for row in pool.score(groups)]
            assert totals == [[1.0, 0.0, 0.0]] * count
        assert pool.score([(sample("1", "numeric"), [])]) == [[]]


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("nosuch", {}, PluginError, "nosuch: no such entry|nosuch: no such name"),
        ("missing.py:f", {}, PluginError, "no such plug-in file"),
        ("iou", {"pwer": 1}, ConfigError, "did you mean 'power'"),
        ("broken.py:f", {}, PluginError, "ZeroDivisionError"),
        ("sysexit.py:f", {}, PluginError, "SystemExit"),
    ],
)
def test_what_cannot_be_loaded_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, int], error: type, message: str
) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "sysexit.py").write_text("import sys; sys.exit('no')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        RewardPool([RewardConfig(name=name, options=options)], scoring())


def test_a_plugin_that_hangs_while_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow.py").write_text("while True: pass\n")
    monkeypatch.setattr(pool_module, "START_S", 2.0)
    with pytest.raises(RewardError, match="did not start within 2 s"):
        RewardPool([RewardConfig(name=f"{tmp_path / 'slow.py'}:f")], scoring(workers=1))


def test_relative_plugins_mean_the_same_after_a_change_of_folder(
    plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with RewardPool([RewardConfig(name="bad_rewards.py:bad")], scoring(workers=1)) as pool:
        monkeypatch.chdir("/")
        scores = pool.score([group("exit"), group("ok")])
    assert [row[0].total for row in scores] == [None, 1.0]


def test_module_plugins_are_found_as_in_the_parent(plugin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(plugin).parent))
    with RewardPool([RewardConfig(name="bad_rewards:bad")], scoring(workers=1)) as pool:
        assert pool.score([group("ok")])[0][0].total == 1.0


def test_a_users_rewards_folder_does_not_reach_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rewards").mkdir()
    (tmp_path / "rewards" / "__init__.py").write_text("raise RuntimeError('shadowed')\n")
    (tmp_path / "json.py").write_text("raise RuntimeError('shadowed')\n")
    monkeypatch.chdir(tmp_path)
    with RewardPool([RewardConfig(name="format")], scoring(workers=1)) as pool:
        assert pool.score([group("x")])[0][0].total == 1.0


def test_workers_are_recycled(plugin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "RECYCLE_JOBS", 3)
    with RewardPool([RewardConfig(name=f"{plugin}:pid")], scoring(workers=1)) as pool:
        first, second = ({row[0].total for row in pool.score([group("x")] * 3)} for _ in range(2))
    assert len(first) == 1
    assert first.isdisjoint(second)


def test_two_threads_score_at_the_same_time(plugin: str) -> None:
    with RewardPool([RewardConfig(name=f"{plugin}:nap")], scoring()) as pool:
        sizes: dict[int, Future[list[int]]] = {1: Future(), 3: Future()}

        def score(size: int) -> None:
            sizes[size].set_result([len(row) for row in pool.score([group("0.1", size)] * 4)])

        for size in sizes:
            threading.Thread(target=score, args=[size], daemon=True).start()
        assert [sizes[size].result(timeout=10) for size in sizes] == [[1] * 4, [3] * 4]


def test_a_worker_that_died_while_idle_is_replaced(plugin: str) -> None:
    with RewardPool([RewardConfig(name=f"{plugin}:pid")], scoring(workers=1)) as pool:
        (score,) = pool.score([group("x", size=1)])[0]
        assert score.total is not None
        os.kill(int(score.total), signal.SIGKILL)
        assert gone(int(score.total))
        (after,) = pool.score([group("x", size=1)])[0]
    assert after.error is None
    assert after.total != score.total


def test_what_a_reward_started_ends_with_its_worker(plugin: str) -> None:
    with RewardPool([RewardConfig(name=f"{plugin}:child")], scoring(workers=1)) as pool:
        (score,) = pool.score([group("x", size=1)])[0]
        assert score.total is not None
        assert running(int(score.total))
    assert gone(int(score.total))


@pytest.mark.skipif(sys.platform != "linux", reason="parent-death signal")
@pytest.mark.parametrize("busy", [False, True])
def test_workers_die_with_a_killed_parent(plugin: str, busy: bool) -> None:
    program = f"""
from mmreason.config import RewardConfig, ScoringConfig
from mmreason.rewards.pool import RewardPool
from mmreason.types import Rollout, Sample
pool = RewardPool([RewardConfig(name={plugin + ":bad"!r})], ScoringConfig(workers=1, deadline_s=1000.0))
print(pool._workers[0].process.pid, flush=True)
if {busy}:
    pool.score([(Sample(id="x", messages=(), answer="hang"), [Rollout(text="x")])])
input()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        time.sleep(0.5 if busy else 0.0)
        assert running(worker)
        parent.kill()
    assert gone(worker)


class Stop(Exception):
    """What the alarm raises in the middle of a call, like Ctrl-C."""


def test_an_interrupted_call_does_not_spoil_the_next(plugin: str, alarm: None) -> None:
    with RewardPool([RewardConfig(name=f"{plugin}:nap")], scoring(workers=1)) as pool:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(Stop):
            pool.score([group("1.5")])
        (after,) = pool.score([group("no number", size=1)])[0]
    assert after.error is not None  # not the late 1.0 of the first call
    assert "ValueError" in after.error


@pytest.fixture
def alarm() -> Iterator[None]:
    def interrupt(number: int, frame: object) -> None:
        raise Stop

    previous = signal.signal(signal.SIGALRM, interrupt)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)


def test_no_process_is_left(plugin: str) -> None:
    pool = RewardPool([RewardConfig(name="format")], scoring())
    pids = [worker.process.pid for worker in pool._workers]
    pool.close()
    pool.close()
    assert all(gone(pid) for pid in pids)


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def gone(pid: int) -> bool:
    """Within ten seconds."""
    end = time.monotonic() + 10
    while running(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not running(pid)


def test_scores_are_plain(plugin: str) -> None:
    with RewardPool([RewardConfig(name=f"{plugin}:bad", weight=0.5)] * 2, scoring(workers=1)) as pool:
        ((score, _),) = pool.score([group("bool")])
    assert score == Score(
        total=1.0, parts={f"{plugin}:bad": 1.0, f"{plugin}:bad#2": 1.0}, flags={"f": True, f"{plugin}:bad#2.f": True}
    )
    assert type(score.parts[f"{plugin}:bad"]) is float


def test_rewards_of_some_tasks_and_gates(tmp_path: Path) -> None:
    """A reward of other tasks is not even run; a gate is read for each answer by itself."""
    file = tmp_path / "mine.py"
    file.write_text(
        "def bonus(sample, text):\n    return 0.5\n\n"
        "def boxes_only(sample, text):\n    assert sample.task == 'grounding', sample.task\n    return 2.0\n"
    )
    rewards = [
        RewardConfig(name=f"{file}:bonus", gate="accuracy"),
        RewardConfig(name="accuracy", tasks=("mcq", "exact")),
        RewardConfig(name=f"{file}:boxes_only", tasks=("grounding",)),
    ]
    groups = [(sample("B", "mcq"), answered("B", "A")), (sample(None, "grounding"), answered("[1, 2, 3, 4]"))]
    with RewardPool(rewards, scoring(workers=1)) as pool:
        (right, wrong), (box,) = pool.score([*groups, *groups])[2:]
        bonus, _, boxes = pool.names
    assert (right.total, wrong.total, box.total) == (1.5, 0.0, 2.0)
    assert wrong.parts == {"accuracy": 0.0, bonus: 0.0}
    assert box.parts == {bonus: 0.0, boxes: 2.0}


def test_no_reward_for_a_task(plugin: str) -> None:
    with RewardPool([RewardConfig(name="accuracy", tasks=("mcq",))], scoring(workers=1)) as pool:
        ((score,),) = pool.score([(sample("4", "numeric"), answered("4"))])
    assert score.error == "none of the rewards (accuracy) applies to this sample"


def test_a_pool_refuses_gates_that_are_none() -> None:
    with pytest.raises(ConfigError, match=r"rewards\.0\.gate: 'iou', expected the label of another reward; known: "):
        RewardPool([RewardConfig(name="accuracy", gate="iou"), RewardConfig(name="format")], scoring())


@pytest.mark.parametrize(
    ("groups", "workers", "sizes"), [(5, 2, [1] * 5), (40, 2, [5] * 8), (9, 1, [2] * 4 + [1]), (400, 2, [16] * 25)]
)
def test_every_worker_has_four_messages_or_more(groups: int, workers: int, sizes: list[int]) -> None:
    scoring = pool_module._Scoring([(sample("a"), answered("a"))] * groups, [lambda task: True])
    scoring.cut_chunks(workers)
    assert [len(chunk) for chunk in scoring.chunks] == sizes
