"""The configuration of a run: strict, frozen, few keys, every key documented, all mistakes reported at once.

A config is a YAML file plus `dotted.key=value` overrides. Nothing here imports torch, so that checking a config
takes a fraction of a second on any machine.
"""

from mmreason.config.loading import Given, build_config, inspect_config, leaf_keys, leaf_values, load_config
from mmreason.config.sections import (
    DataConfig,
    DataSource,
    EvalConfig,
    GrpoConfig,
    LoraConfig,
    MediaConfig,
    ModelConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    ScoringConfig,
    Section,
    TermConfig,
    TrainConfig,
)

__all__ = [
    "DataConfig",
    "DataSource",
    "EvalConfig",
    "Given",
    "GrpoConfig",
    "LoraConfig",
    "MediaConfig",
    "ModelConfig",
    "RewardConfig",
    "RolloutConfig",
    "RunConfig",
    "ScoringConfig",
    "Section",
    "TermConfig",
    "TrainConfig",
    "build_config",
    "inspect_config",
    "leaf_keys",
    "leaf_values",
    "load_config",
]
