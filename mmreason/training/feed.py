"""Which prompts come next. Every process reads its own share of each epoch's order and replaces what is bad.

The position is two numbers (epoch, index), so that a resumed run continues with the very next sample. A sample that
cannot be used is quarantined, and the next one of the same process takes its place: no process waits for another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mmreason.encode import Encoder
from mmreason.errors import DataError, MediaError, MMReasonError
from mmreason.processors.quarantine import Quarantine
from mmreason.types import Sample, Segment

Check = Callable[[Sample, Segment], MMReasonError | None]
"""Why an encoded sample cannot be used in this run, or None."""


class Feed:
    """An endless stream of encoded prompts for one process."""

    def __init__(
        self,
        samples: Sequence[Sample],
        encoder: Encoder,
        quarantine: Quarantine,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        check: Check | None = None,
    ) -> None:
        if len(samples) < world:
            raise DataError(f"{len(samples)} samples for {world} processes; at least one each is needed")
        self.samples, self.encoder, self.quarantine = samples, encoder, quarantine
        self.seed, self.rank, self.world = seed, rank, world
        self.check = check or (lambda sample, prompt: None)
        self.epoch, self.index = 0, 0
        self._order = self._shuffled()

    def take(self, count: int) -> list[tuple[Sample, Segment]]:
        """The next `count` usable prompts. Raises DataError when this process has no usable sample left."""
        taken: list[tuple[Sample, Segment]] = []
        while len(taken) < count:
            candidates = self._next(count - len(taken))
            self.quarantine.tried(len(candidates))
            for sample, result in zip(candidates, self.encoder.prompts(candidates), strict=True):
                error = result if isinstance(result, MMReasonError) else self.check(*result)
                if error is not None:
                    self.reject(sample, error)
                else:
                    assert not isinstance(result, MMReasonError)
                    taken.append(result)
        return taken

    def reject(self, sample: Sample, error: MMReasonError) -> None:
        """Never use this sample again in this run, and write down why."""
        if isinstance(error, MediaError):
            self.quarantine.add(sample.id, error.source, error.reason, error.detail)
        else:
            self.quarantine.add(sample.id, sample.id, error.reason, str(error))

    @property
    def seen(self) -> int:
        """How many different samples this process has come to, used or quarantined."""
        return len(self._order) if self.epoch else self.index

    @property
    def state(self) -> dict[str, int]:
        return {"epoch": self.epoch, "index": self.index}

    def restore(self, state: dict[str, int]) -> None:
        """Continue where a feed with this `state` stood."""
        self.epoch, self.index = state["epoch"], state["index"]
        self._order = self._shuffled()

    def _next(self, count: int) -> list[Sample]:
        found: list[Sample] = []
        barren = 0
        while len(found) < count:
            if self.index >= len(self._order):
                self.epoch, self.index = self.epoch + 1, 0
                self._order = self._shuffled()
                barren += 1
                if barren > 1 and not found:
                    raise DataError("every sample of this process is quarantined; see quarantine.jsonl in run_dir")
            sample = self.samples[self._order[self.index]]
            self.index += 1
            if sample.id not in self.quarantine:
                found.append(sample)
        return found

    def _shuffled(self) -> Sequence[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.samples))
        share: list[int] = order[self.rank :: self.world].tolist()
        return share
