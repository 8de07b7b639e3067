"""Which prompts come next. Every process reads its own share of each epoch's order and replaces what is bad.

The position is two numbers (epoch, index), so that a resumed run continues with the very next sample. A sample that
cannot be used is quarantined, and the next one of the same process takes its place: no process waits for another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmreason.encode import Encoder
from mmreason.errors import DataError, MediaError, MMReasonError
from mmreason.order import Order
from mmreason.processors.quarantine import Quarantine
from mmreason.training.replay import Replay
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
        order: Order,
        rank: int = 0,
        world: int = 1,
        check: Check | None = None,
        replay: Replay | None = None,
    ) -> None:
        if order.length < world:
            raise DataError(f"{order.length} samples for {world} processes; at least one each is needed")
        self.samples, self.encoder, self.quarantine = samples, encoder, quarantine
        self.order, self.rank, self.world = order, rank, world
        self.check = check or (lambda sample, prompt: None)
        self.replay = replay
        self._place = {sample.id: index for index, sample in enumerate(samples)} if replay else {}
        self.epoch, self.index = 0, 0
        self._order = self._share(0)
        self._seen: set[int] = set()

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
        return len(self._seen.union(self._order[: self.index]))

    @property
    def state(self) -> dict[str, Any]:
        place = {"epoch": self.epoch, "index": self.index}
        return place if self.replay is None else {**place, "replay": self.replay.state}

    def restore(self, state: Mapping[str, Any]) -> list[str]:
        """Continue where a feed with this `state` stood. Returns the ids that were to be replayed and are gone."""
        self.epoch, self.index = state["epoch"], state["index"]
        self._seen = {row for epoch in range(self.epoch) for row in self._share(epoch)}
        self._order = self._share(self.epoch)
        if self.replay is None or "replay" not in state:
            return []
        self.replay.restore(state["replay"])
        gone = [id for id in self.replay.pool if id not in self._place]
        for id in gone:
            del self.replay.pool[id]
        return gone

    def _next(self, count: int) -> list[Sample]:
        found: list[Sample] = []
        barren = 0
        while len(found) < count:
            again = self.replay.draw() if self.replay is not None else None
            if again is not None:
                found += [self.samples[self._place[again]]] if again not in self.quarantine else []
                continue
            if self.index >= len(self._order):
                self._seen.update(self._order)
                self.epoch, self.index = self.epoch + 1, 0
                self._order = self._share(self.epoch)
                barren += 1
                if barren > 1 and not found:
                    raise DataError("every sample of this process is quarantined; see quarantine.jsonl in run_dir")
            sample = self.samples[self._order[self.index]]
            self.index += 1
            if sample.id not in self.quarantine:
                found.append(sample)
        return found

    def _share(self, epoch: int) -> Sequence[int]:
        return self.order.epoch(epoch)[self.rank :: self.world]
