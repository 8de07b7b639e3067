"""`mmreason init`: a config to start from, with every key, its default and the reason for it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import PydanticUndefined

from mmreason.config import RunConfig, build_config
from mmreason.config.helps import helps
from mmreason.config.section import Section
from mmreason.config.sections import section_of
from mmreason.errors import ConfigError

_WIDTH = 100
_SUFFIX = " Think first, between <think> and </think>, then give the answer between <answer> and </answer>."
_HEAD = """\
# A run of mmreason. Every key is here: those behind a # have their default, the others are set for you to look at.
#   mmreason check {file}      what is wrong, before anything starts
#   mmreason train {file}      train; the same command goes on after a stop
"""


def init(
    file: str | Path = "run.yaml",
    *,
    method: str = "grpo",
    model: str | None = None,
    data: Sequence[str] = (),
) -> Path:
    """Write a commented config; returns its path. Raises ConfigError where a file is there already, or none can be."""
    file = Path(file)
    text = starting_config(file, method, model or "Qwen/Qwen2.5-VL-3B-Instruct", data or ("data/train.jsonl",))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError as error:
        raise ConfigError(f"{file}: is there already; give another name, or remove it first") from error
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written ({error.strerror})") from error
    return file


def starting_config(file: Path, method: str, model: str, data: Sequence[str]) -> str:
    """The text of that config; parsing it gives a valid run."""
    chosen: dict[str, Any] = {
        "run_dir": f"runs/{file.stem}",
        "model": {"path": model, "lora": {"rank": 16, "alpha": 32.0}, "gradient_checkpointing": True},
        "data": {
            "train": [{"path": path} for path in data],
            "suffix": _SUFFIX,
        },
        "train": {"method": method, "steps": 500, "prompts_per_step": 16, "learning_rate": 1e-5, "precision": "bf16"},
    }
    if method == "dpo":
        chosen["train"] |= {"aggregation": "sequence_sum"}
        chosen["grpo"] = {"kl_coef": 0.1}
    if method == "grpo":
        chosen["rewards"] = [{"name": "accuracy", "weight": 1.0}, {"name": "format", "weight": 0.1}]
    build_config(chosen, "init")
    return _HEAD.format(file=file) + "\n".join(_section(RunConfig, chosen, "")) + "\n"


def _section(section: type[Section], chosen: dict[str, Any], indent: str) -> list[str]:
    """The keys of a section in their order, chosen ones set, the others commented out."""
    lines: list[str] = []
    for name, info in section.model_fields.items():
        inner, repeated = section_of(info.annotation)
        if not indent:
            lines.append("")
        lines += [f"{indent}# {line}" for line in textwrap.wrap(helps(section).get(name, ""), _WIDTH - len(indent))]
        default = info.get_default(call_default_factory=True)
        if inner and not repeated and (name in chosen or isinstance(default, Section)):
            lines += [f"{indent}{name}:", *_section(inner, chosen.get(name, {}), indent + "  ")]
        elif name in chosen:
            lines += [indent + line for line in _plain(name, chosen[name])]
        else:
            value = "" if default is PydanticUndefined else _inline(default)
            lines.append(f"{indent}#{name}: {value}".rstrip())
    return lines


def _plain(name: str, value: Any) -> list[str]:
    """`name: value`, lists of sections one item a line."""
    if isinstance(value, list):
        return [f"{name}:", *(f"  - {_inline(item)}" for item in value)]
    return [f"{name}: {_inline(value)}"]


def _inline(value: Any) -> str:
    """A value as YAML on one line."""
    if isinstance(value, Section):
        value = value.model_dump(mode="json")
    if isinstance(value, tuple):
        value = list(value)
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")
