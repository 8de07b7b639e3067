"""The configuration of a run: strict, frozen, few keys, every key documented, all mistakes reported at once.

A config is a YAML file plus `dotted.key=value` overrides. Nothing here imports torch, so that checking a config
takes a fraction of a second on any machine.
"""

from mmreason.config.loading import Given, build_config, inspect_config, leaf_keys, leaf_values, load_config
from mmreason.config.plans import Plan, Stage, load_plan, read_header
from mmreason.config.recipe_files import RecipeHeader, recipe_files
from mmreason.config.section import Section
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
    ShapingConfig,
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
    "Plan",
    "RecipeHeader",
    "RewardConfig",
    "RolloutConfig",
    "RunConfig",
    "ScoringConfig",
    "Section",
    "ShapingConfig",
    "Stage",
    "TermConfig",
    "TrainConfig",
    "build_config",
    "inspect_config",
    "leaf_keys",
    "leaf_values",
    "load_config",
    "load_plan",
    "read_header",
    "recipe_files",
]
