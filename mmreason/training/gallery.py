"""Which groups a run keeps for its report, and what of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import ceil
from typing import Any

from mmreason.config import RunConfig
from mmreason.reporting.previews import Preview, Previews
from mmreason.training.metrics import MetricsLog
from mmreason.types import Rollout, RolloutGroup, Score


class Gallery:
    """Writes `train.gallery_groups` groups of a run to gallery.jsonl, evenly spread over its steps."""

    def __init__(self, config: RunConfig, log: MetricsLog) -> None:
        self._steps, self._count = config.train.steps, config.train.gallery_groups
        self._log, self._previews = log, Previews(config.media)

    def keep(self, step: int, groups: Sequence[RolloutGroup], left_out: RolloutGroup | None) -> None:
        """Write this step's share of them, taking turns between `groups` and one that was left out of the loss."""
        candidates = [(group, True) for group in groups] + [(group, False) for group in (left_out,) if group]
        wanted = min(share_of(step, self._steps, self._count), len(candidates))
        for place in range(wanted if self._log.active else 0):
            group, trained = candidates[(step + place) % len(candidates)]
            self._log.show(group_record(step, group, self._previews.of(group.sample.media), trained=trained))

    def close(self) -> None:
        """End the process that decodes for the previews."""
        self._previews.close()


def share_of(step: int, steps: int, count: int) -> int:
    """How many groups this step (from 1) adds, so that `count` are evenly spread over `steps`.

    Example: 3 groups in 6 steps: 1, 0, 1, 0, 1, 0.
    """
    return ceil(step * count / steps) - ceil((step - 1) * count / steps)


def group_record(step: int, group: RolloutGroup, media: Sequence[Preview], *, trained: bool) -> dict[str, Any]:
    """One group as the report shows it: JSON only. `trained`: False where it was left out of the loss."""
    sample = group.sample
    texts = [part for message in sample.messages for part in message.content if isinstance(part, str)]
    return {
        "step": step,
        "id": sample.id,
        "source": sample.source,
        "modality": sample.modality,
        "prompt": "\n".join(texts),
        "options": list(sample.options),
        "answer": json.loads(json.dumps(sample.answer, default=str)),
        "trained": trained,
        "rollouts": [_answer_record(*pair) for pair in zip(group.rollouts, group.scores, strict=True)],
        "media": list(media),
        "more_media": len(sample.media) - len(media),
    }


def _answer_record(rollout: Rollout, score: Score) -> dict[str, Any]:
    record = {
        "text": rollout.text,
        "tokens": rollout.tokens,
        "total": score.total,
        "parts": dict(score.parts),
        "finish_reason": rollout.finish_reason,
    }
    return record if score.error is None else {**record, "error": score.error}
