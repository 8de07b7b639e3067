"""What the earlier stages of the same file have yet to make: said, and looked at as far as it is there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmreason.config import DataConfig, DataSource, ModelConfig, RunConfig
from mmreason.config.loading import Earlier

Sections = dict[str, Any]


def without_what_is_to_come(
    config: RunConfig | None, sections: Sections, earlier: Earlier
) -> tuple[RunConfig | None, Sections, list[str]]:
    """The config and its sections without data that a stage before has yet to write, and with the model that the first
    of them begins with in the place of one that is not there; and a line for each."""
    lines: list[str] = []
    changed: Sections = {}
    if isinstance(data := sections.get("data"), DataConfig):
        kept = {which: _there(which, getattr(data, which), earlier, lines) for which in ("train", "eval")}
        changed["data"] = data.model_copy(update=kept)
    if isinstance(model := sections.get("model"), ModelConfig) and earlier.model:
        maker = _maker(model.path, earlier.folders)
        if maker:
            lines.append(f"model {model.path}: will be made by stage {maker}; checked with {earlier.model} instead")
            changed["model"] = model.model_copy(update={"path": earlier.model})
    if not lines:
        return config, sections, []
    return config and config.model_copy(update=changed), {**sections, **changed}, lines


def _there(which: str, sources: tuple[DataSource, ...], earlier: Earlier, lines: list[str]) -> tuple[DataSource, ...]:
    makers = [_maker(source.path, earlier.folders) for source in sources]
    for source, maker in zip(sources, makers, strict=True):
        if maker:
            lines.append(f"data.{which} {source.path}: will be made by stage {maker}; not checked")
    return tuple(source for source, maker in zip(sources, makers, strict=True) if not maker)


def _maker(path: str, folders: Mapping[str, str]) -> str:
    """The stage that will make this path, which is not there; else empty."""
    if Path(path).exists():
        return ""
    return next((name for folder, name in folders.items() if path.startswith(f"{folder}/")), "")
