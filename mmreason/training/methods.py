"""From config to what some methods have, and what moves with the steps: hard samples, temperature, learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mmreason.algorithms.temperature import follow
from mmreason.config import RunConfig
from mmreason.training.replay import Replay


def replay_of(config: RunConfig, rank: int) -> Replay | None:
    """The pool of hard samples that `grpo.options` asks for, if any."""
    share = config.grpo.option("replay")
    if config.train.method != "grpo" or not share:
        return None
    return Replay(share=share, below=config.grpo.option("replay_below"), seed=config.seed, rank=rank)


def next_temperature(config: RunConfig, carried: Mapping[str, float]) -> float:
    """The sampling temperature of a step. `carried`: temperature and sampled entropy of the step before, if any."""
    rollout, option = config.rollout, config.grpo.option
    if rollout.entropy_target is None or "temperature" not in carried:
        return rollout.temperature
    if "entropy/sampled" not in carried:
        return carried["temperature"]
    return follow(
        carried["temperature"],
        carried["entropy/sampled"],
        target=rollout.entropy_target,
        gain=option("temperature_gain"),
        low=option("temperature_low"),
        high=option("temperature_high"),
    )


def learning_rate_factor(config: RunConfig, step: int) -> float:
    """Share of the peak learning rate for the step after `step` finished ones.

    Example: warmup_steps 4, linear over 12 steps: 0.25, 0.5, 0.75, 1, 1, 0.875, ... 0.125.
    """
    train = config.train
    if step < train.warmup_steps:
        return (step + 1) / train.warmup_steps
    done = (step - train.warmup_steps) / max(1, train.steps - train.warmup_steps)
    shapes = {"constant": 1.0, "linear": 1.0 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return shapes[train.schedule]
