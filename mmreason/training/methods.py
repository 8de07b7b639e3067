"""From config to the parts of a run that some methods have: the pool of hard samples, the moving temperature."""

from __future__ import annotations

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
