"""Hard samples come again: those whose last group had a low mean reward, the lower the likelier.

After the difficulty-aware retrospective sampling of QwenLong-L1 (Wan et al. 2025, 2505.17667), which takes hard samples
of earlier phases into the next ones, weighted by difficulty. The form here - one pool over the whole run, weights
`below - mean reward`, which suit rewards of any scale - is OUR choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


class Replay:
    """The pool of one process.

    Example: share 0.25, below 0.5: a quarter of the prompts are of samples with a mean reward under 0.5; one of mean 0
    is drawn five times as often as one of mean 0.4.
    """

    def __init__(self, *, share: float, below: float, seed: int, rank: int = 0) -> None:
        self.share, self.below, self.seed, self.rank = share, below, seed, rank
        self.asked = self.drawn = 0
        self.pool: dict[str, float] = {}
        """Mean reward by id, below `below`."""

    def note(self, id: str, mean_reward: float) -> None:
        """What a group of this sample got: it joins the pool, or leaves it."""
        self.pool.pop(id, None)
        if mean_reward < self.below:
            self.pool[id] = mean_reward

    def draw(self) -> str | None:
        """The id of a sample that comes again, taken out of the pool until its next group; None: the next row's turn.

        What is drawn depends on seed, process, pool and how often was asked, and on nothing else.
        """
        random = np.random.default_rng([self.seed, self.rank, self.asked])
        self.asked += 1
        if not self.pool or random.random() >= self.share:
            return None
        ids = sorted(self.pool)
        weights = np.array([self.below - self.pool[id] for id in ids])
        id = ids[int(random.choice(len(ids), p=weights / weights.sum()))]
        del self.pool[id]
        self.drawn += 1
        return id

    @property
    def state(self) -> dict[str, Any]:
        return {"asked": self.asked, "drawn": self.drawn, "pool": dict(self.pool)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where one with this `state` stood."""
        self.asked, self.drawn, self.pool = state["asked"], state["drawn"], dict(state["pool"])
