"""A step's groups: sampled when the step begins or, with `rollout.ahead: 1`, while the step before is trained on.

    step k    train on the groups of k  |  a thread samples and scores those of k + 1, by the weights of step k - 1
              wait for the thread; only then do the weights of the engine move, so that each answer is of one version
    step k+1  train on them: they are one step old, which grpo.off_policy corrects

A checkpoint must describe the state before a step, and no step that was made from older weights than those it holds. So
nothing is sampled ahead over a checkpoint: the step after `train.save_every` samples when it begins, in every run, and
one that was killed goes on exactly as it would have. After a stop by signal, between two of these, the step that was
under way is sampled again, by the newest weights.
"""

from __future__ import annotations

from concurrent.futures import wait

from mmreason.errors import EngineError
from mmreason.training.beside import Work
from mmreason.training.collect import Collected, collect
from mmreason.training.run import Run
from mmreason.training.tally import Tally

LOOK_S = 0.2
"""Seconds between two looks whether the run was told to stop."""


class Collector:
    """Gives the groups of one step after the other."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._under_way: Work[Collected] | None = None
        self.was_ahead = False
        """Whether the groups that were taken last are by older weights than the trainer's."""

    def take(self, step: int) -> Collected:
        """The groups of this step. From here on those of the next one are collected, where that is to be ahead."""
        run, under_way = self.run, self._under_way
        self.was_ahead = under_way is not None
        collected = collect(run, step) if under_way is None else self._result(under_way)
        self._under_way = run.beside.under_way = None
        if self._goes_ahead(step):
            run.sync()  # here, where all processes are, and not in the thread
            self._under_way = run.beside.begin(run.feed.state, lambda: collect(run, step + 1))
        return collected

    def settle(self) -> None:
        """Wait for what is collected ahead, so that weights can move; at once where the run was told to stop."""
        if self._under_way is None:
            return
        with self.run.timed("wait"):
            while not wait([self._under_way.future], timeout=LOOK_S).done:
                if self.run.stop_requested:
                    self.run.rollouts.cancel()

    def _result(self, under_way: Work[Collected]) -> Collected:
        assert under_way.future.done(), "settle comes before the next step"
        try:
            return under_way.future.result()
        except EngineError:
            if not self.run.stop_requested:
                raise
            return Collected(groups=(), left_out=None, sampled=0, tokens=0, tally=Tally())

    def _goes_ahead(self, step: int) -> bool:
        train = self.run.config.train
        return bool(self.run.config.rollout.ahead) and step < train.steps and step % train.save_every != 0
