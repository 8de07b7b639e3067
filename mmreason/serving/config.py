"""What a reward service is told: by a YAML file, or by a scorer's name with `key=value`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from mmreason.config import MediaConfig
from mmreason.config.loading import explain
from mmreason.config.section import Section
from mmreason.errors import ConfigError
from mmreason.yaml_file import apply_override, read_yaml

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class ServiceConfig(Section):
    """What to serve and where. Example: `ServiceConfig(scorer="siglip", options={"path": "/models/siglip"})`"""

    scorer: str = Field(min_length=1)
    """Built-in name (siglip, reward_model), pkg.mod:attr, file.py:attr, or an entry point of mmreason.scorers."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the scorer."""
    device: str = "cpu"
    """Where its model is: cpu, cuda, cuda:1, ..."""
    host: str = "127.0.0.1"
    """Where to listen. Beyond this machine only with a key."""
    port: int = Field(8100, ge=0, lt=65536)
    """0: any free one, which is printed."""
    media_roots: list[str] = Field(default_factory=list)
    """Folders that paths of media may lead into. None: no paths, only content."""
    media: MediaConfig = MediaConfig()
    """How media are decoded, as in a run's config."""
    key_env: str | None = None
    """Environment variable with the key that requests must have."""
    batch: int = Field(32, ge=1)
    """Most requests that are scored together."""
    gather_ms: float = Field(5.0, ge=0)
    """How long the first of a batch waits for others."""
    deadline_s: float = Field(60.0, gt=0)
    """A request that is not scored in this time gets 503; while a batch takes longer, /health says stuck."""
    room: int = Field(1024, ge=1)
    """Requests that may wait; more get 503 at once."""


def service_config(what: str, overrides: Sequence[str] = (), more: Mapping[str, Any] | None = None) -> ServiceConfig:
    """`what`: a YAML file or a scorer; `overrides` as for a run's config; `more`: values that win.

    Raises ConfigError, a line per mistake.
    """
    values = read_yaml(Path(what)) if what.endswith((".yaml", ".yml")) else {"scorer": what}
    for override in overrides:
        apply_override(values, override)
    try:
        return ServiceConfig.model_validate({**values, **(more or {})})
    except ValidationError as error:
        found = [line for item in error.errors(include_url=False) for line in explain(item, ServiceConfig)]
        raise ConfigError("\n".join(f"{what}: {line}" for line in found)) from error
