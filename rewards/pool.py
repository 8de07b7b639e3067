"""Scores groups in worker processes that can be killed: a reward that hangs or crashes costs its own job only.

A job is one group under one reward. Jobs travel in chunks, answers come back one by one, and each job has
`scoring.deadline_s` from the moment its turn comes, or the time that it asks for (a judge on another machine). Workers
are started without importing the caller's main module, in a session of their own (an interrupt at the terminal is the
parent's to handle) and die with the parent.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mmreason.config.reward_names import gate_mistakes, labels
from mmreason.errors import ConfigError, PluginError, RewardError
from mmreason.rewards.base import without_tensors
from mmreason.rewards.combine import closed_gates, combine
from mmreason.types import Rollout, Sample, Score

if TYPE_CHECKING:
    from mmreason.config import RewardConfig, ScoringConfig

START_S = 180.0
"""Longest time for a worker to start and load its rewards, and for one slow import."""
RECYCLE_JOBS = 20_000
"""A worker is replaced after so many jobs, so that what rewards leak stays bounded."""
CHUNK_GROUPS = 16
"""Most groups that one message carries."""

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from mmreason.rewards.worker import serve; serve(int(sys.argv[2]), int(sys.argv[3]))"
)

Job = tuple[int, int]
"""(group, reward)."""


class _Worker:
    """One process, its socket, and the jobs that it was given and has not answered."""

    def __init__(self, specs: Sequence[tuple[str, dict[str, Any]]], cwd: str) -> None:
        ours, theirs = socket.socketpair()
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):  # a message is all there or fails: no endless wait
            ours.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(START_S), 0))
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT, json.dumps(sys.path), str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what rewards print must not mix with what we print
                cwd=cwd,
                start_new_session=True,
            )
        self.connection = Connection(ours.detach())
        self.ready = False
        self.jobs: deque[Job] = deque()
        self.jobs_done = 0
        self.allowed_s = START_S
        """Time for what it does now."""
        self.deadline = time.monotonic() + START_S
        self.connection.send(specs)

    def allow(self, seconds: float) -> None:
        """A new turn: it has this long from now."""
        self.allowed_s = seconds
        self.deadline = time.monotonic() + seconds

    @property
    def idle(self) -> bool:
        return self.ready and not self.jobs

    def kill(self) -> int:
        """End the process and all that it started; returns its exit status (negative: the signal)."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # already gone
        self.connection.close()
        return self.process.wait()


class RewardPool:
    """Runs the rewards of a config. Close it, or use it as a context.

    `score` may be called from any thread that lasts as long as the pool (Linux ends a worker with the thread that
    started it): calls are done one after the other. `close` waits for none of them.

    Raises PluginError or ConfigError, when it is made, for a reward that cannot be loaded or a gate that is none.
    `errors` counts rollouts left without a score, by the reward that failed or refused.
    """

    def __init__(self, rewards: Sequence[RewardConfig], scoring: ScoringConfig) -> None:
        self.names = labels([reward.name for reward in rewards])
        self.errors: Counter[str] = Counter()
        wrong = list(gate_mistakes(rewards))
        if wrong:
            raise ConfigError("\n".join(wrong))
        self._weights = [reward.weight for reward in rewards]
        self._gates = [reward.gate for reward in rewards]
        self._applies = [reward.applies_to for reward in rewards]
        self._specs = [(reward.name, dict(reward.options)) for reward in rewards]
        self._scoring = scoring
        self._cwd = os.getcwd()  # relative plug-in paths mean the same for replaced workers
        self._scores = threading.Lock()
        self._workers: list[_Worker] = []
        try:
            self._workers += [self._new_worker() for _ in range(scoring.workers)]
            while not all(worker.ready for worker in self._workers):
                self._step(_Scoring([], []))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RewardPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End all workers."""
        while self._workers:
            self._workers.pop().kill()

    def score(self, groups: Sequence[tuple[Sample, Sequence[Rollout]]]) -> list[list[Score]]:
        """One combined score per rollout, in order (combine.py). A failed job is the error of its group's rollouts."""
        task = _Scoring(groups, self._applies)
        with self._scores:
            assert self._workers, "the pool is closed"
            task.cut_chunks(len(self._workers))
            try:
                while not task.done:
                    self._assign(task)
                    self._step(task)
            except BaseException:
                self._workers = [self._replace(worker) if worker.jobs else worker for worker in self._workers]
                raise
            return [self._combined(task, group) for group in range(len(groups))]

    def _combined(self, task: _Scoring, group: int) -> list[Score]:
        combined = []
        for rollout in range(task.sizes[group]):
            every = [task.results[group, reward][rollout] for reward in range(len(self._specs))]
            closed = closed_gates(every, self.names, self._gates)
            for name, score, shut in zip(self.names, every, closed, strict=True):
                self.errors[name] += score.error is not None and not shut
            combined.append(combine(every, self.names, self._weights, self._scoring.combine, closed))
        return combined

    def _new_worker(self) -> _Worker:
        return _Worker(self._specs, self._cwd)

    def _replace(self, worker: _Worker) -> _Worker:
        worker.kill()
        return self._new_worker()

    def _assign(self, task: _Scoring) -> None:
        """Give each idle worker a chunk."""
        for index, worker in enumerate(self._workers):
            if not worker.idle or not task.chunks:
                continue
            if worker.jobs_done >= RECYCLE_JOBS or worker.connection.poll() or worker.process.poll() is not None:
                self._workers[index] = self._replace(worker)  # worn out, or it died while it had nothing to do
                continue
            chunk = task.chunks.popleft()
            worker.jobs += [(group, reward) for group, rewards in chunk for reward in rewards]
            worker.allow(self._scoring.deadline_s)
            try:
                worker.connection.send([(task.payloads[group], rewards) for group, rewards in chunk])
            except OSError:
                pass  # it died meanwhile: `_step` finds the closed socket

    def _step(self, task: _Scoring) -> None:
        """Wait for the next message or deadline, and handle what is due."""
        waiting = [worker for worker in self._workers if not worker.idle]
        timeout = min((worker.deadline for worker in waiting), default=0.0) - time.monotonic()
        talking = wait([worker.connection for worker in waiting], max(0.0, timeout))
        now = time.monotonic()
        for worker in waiting:
            if worker.connection in talking:
                self._receive(worker, task)
            elif now >= worker.deadline:
                self._lose(worker, task, f"no result within {worker.allowed_s:g} s, so its worker was killed")

    def _receive(self, worker: _Worker, task: _Scoring) -> None:
        try:
            kind, *content = worker.connection.recv()
        except (EOFError, OSError):
            self._lose(worker, task, "its worker process ended by itself")
            return
        if kind == "failed":
            raise (ConfigError if content[0] == "ConfigError" else PluginError)(content[1])
        if kind == "importing":
            worker.deadline = time.monotonic() + START_S
            return
        if kind in ("time", "imported"):
            worker.allow(content[0] if content else worker.allowed_s)
            return
        worker.allow(self._scoring.deadline_s)
        if kind == "ready":
            worker.ready = True
        else:
            self._finish(worker.jobs.popleft(), kind, content[0], task)
            worker.jobs_done += 1

    def _finish(self, job: Job, kind: str, content: Any, task: _Scoring) -> None:
        name, size = self.names[job[1]], task.sizes[job[0]]
        if kind == "error":
            task.results[job] = [Score(total=None, error=f"reward {name}: {content}")] * size
        else:
            task.results[job] = [_named(score, name) for score in content]

    def _lose(self, worker: _Worker, task: _Scoring, why: str) -> None:
        """A worker hangs or is gone: its first job failed, the others are given to another worker."""
        index = self._workers.index(worker)  # fails where the pool was closed meanwhile: then nothing is started
        self._workers[index] = self._replace(worker)
        status = worker.process.returncode
        if not worker.ready:
            raise RewardError(f"a reward worker did not start within {START_S:g} s, or died (exit status {status})")
        self._finish(worker.jobs.popleft(), "error", f"{why} (exit status {status})", task)
        task.give_back(worker.jobs)


def _named(score: Score, name: str) -> Score:
    if score.error is None:
        return score
    return Score(total=None, parts=score.parts, flags=score.flags, error=f"reward {name}: {score.error}")


class _Scoring:
    """The state of one call of `score`."""

    def __init__(
        self, groups: Sequence[tuple[Sample, Sequence[Rollout]]], applies: Sequence[Callable[[str], bool]]
    ) -> None:
        self.sizes = [len(rollouts) for _, rollouts in groups]
        self.payloads = [pickle.dumps((sample, [without_tensors(r) for r in rollouts])) for sample, rollouts in groups]
        self.results: dict[Job, list[Score]] = {}
        self.chunks: deque[list[tuple[int, list[int]]]] = deque()
        self._jobs = [
            (group, [reward for reward, applies_to in enumerate(applies) if applies_to(sample.task)])
            for group, (sample, _) in enumerate(groups)
        ]
        for group, rewards in self._jobs:
            for reward in set(range(len(applies))) - set(rewards):
                self.results[group, reward] = [Score(total=None)] * self.sizes[group]
        self._count = len(groups) * len(applies)

    @property
    def done(self) -> bool:
        return len(self.results) == self._count

    def cut_chunks(self, workers: int) -> None:
        """Several groups per message, but at least four messages per worker, so that work stays even."""
        jobs = [(group, rewards) for group, rewards in self._jobs if rewards]
        size = max(1, min(CHUNK_GROUPS, len(jobs) // (4 * workers)))
        self.chunks += [jobs[start : start + size] for start in range(0, len(jobs), size)]

    def give_back(self, jobs: Sequence[Job]) -> None:
        """Jobs that a lost worker had not come to are next."""
        by_group: dict[int, list[int]] = {}
        for group, reward in jobs:
            by_group.setdefault(group, []).append(reward)
        if by_group:
            self.chunks.appendleft(list(by_group.items()))
