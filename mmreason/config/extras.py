"""What a config asks for that is not part of this package: DeepSpeed with its settings file, and trackers.

Found out without importing them, or torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmreason.errors import ConfigError

_PACKAGES = {"comet_ml": "comet-ml"}
"""What pip calls a tracker's package, where that is not the tracker's name. Its module has the tracker's name."""


def require_trackers(names: Sequence[str]) -> None:
    """Raises ConfigError for trackers that are not installed, a line each."""
    lacking = [name for name in dict.fromkeys(names) if find_spec(name) is None]
    if lacking:
        lines = (
            f"train.trackers: {name} is not installed; pip install {_PACKAGES.get(name, name)}, or take it out"
            for name in lacking
        )
        raise ConfigError("\n".join(lines))


def read_deepspeed(path: str) -> dict[str, Any]:
    """The settings of a DeepSpeed file. Raises ConfigError: DeepSpeed is not installed, no JSON object, no ZeRO stage
    from 0 to 3 where there is a section for it."""
    name = f"train.deepspeed: {path}"
    try:
        settings = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name} cannot be read as JSON ({error})") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{name} holds {type(settings).__name__}, expected an object as in configs/deepspeed/")
    zero = settings.get("zero_optimization", {})
    if not isinstance(zero, dict) or zero.get("stage", 0) not in [0, 1, 2, 3]:
        raise ConfigError(f'{name}: zero_optimization: {str(zero)[:60]}, expected {{"stage": 0, 1, 2 or 3, ...}}')
    if find_spec("deepspeed") is None:
        raise ConfigError(f"{name}: DeepSpeed is not installed; pip install 'mmreason[train]', or drop this key")
    return settings


def zero_stage(settings: dict[str, Any]) -> int:
    """The stage in settings as `read_deepspeed` gives them; 0 where they do not say."""
    return int(settings.get("zero_optimization", {}).get("stage", 0))
