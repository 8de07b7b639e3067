"""Every shipped config is one that the program takes, and every key says what it is for."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmreason.config import RunConfig, Section, leaf_keys, load_plan
from mmreason.config.helps import helps

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
FILLED_BY_THE_ENGINE = {
    "bf16.enabled",
    "gradient_clipping",
    "gradient_accumulation_steps",
    "train_micro_batch_size_per_gpu",
}  # mmreason/training/engine.py
DEEPSPEED = sorted((ROOT / "configs" / "deepspeed").glob("*.json"))


def test_there_are_configs() -> None:
    assert {path.name for path in CONFIGS} >= {"quickstart.yaml"}
    assert {path.name for path in DEEPSPEED} == {"zero2.json", "zero3.json"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_config_parses(path: Path) -> None:
    load_plan(path)


def test_every_key_has_a_line_of_help() -> None:
    silent = [name for name, text in _help(RunConfig) if not text]
    assert not silent, f"no docstring under these keys of mmreason/config/: {silent}"


def test_there_are_few_keys() -> None:
    assert len(leaf_keys()) < 120


def _help(section: type[Section], prefix: str = "") -> Iterator[tuple[str, str | None]]:
    """(key, its help) of all keys that hold a value; sections explain themselves by their keys."""
    leaves = {key.replace("[]", "") for key in leaf_keys()}
    for name, info in section.model_fields.items():
        if prefix + name in leaves:
            yield prefix + name, helps(section).get(name)
        for part in (info.annotation, *getattr(info.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, Section):
                yield from _help(part, f"{prefix}{name}.")


def test_help_reaches_every_leaf() -> None:
    assert {name for name, _ in _help(RunConfig)} == {key.replace("[]", "") for key in leaf_keys()}


@pytest.mark.parametrize("path", DEEPSPEED, ids=lambda path: path.name)
def test_deepspeed_config_leaves_only_to_the_engine_what_the_engine_fills(path: Path) -> None:
    # Any other "auto" is filled by accelerate from model.config.hidden_size, which multimodal configs do not have.
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert settings["zero_optimization"]["stage"] == int(path.stem.removeprefix("zero"))
    assert set(_autos(settings)) <= FILLED_BY_THE_ENGINE


def _autos(settings: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in settings.items():
        if value == "auto":
            yield prefix + key
        elif isinstance(value, dict):
            yield from _autos(value, f"{prefix}{key}.")
