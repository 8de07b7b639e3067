"""What a run of `mmreason infer` is asked to do, checked before anything is opened."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmreason.config import RunConfig, leaf_values, load_config
from mmreason.errors import ConfigError
from mmreason.evaluation.file import model_files
from mmreason.inference.items import ROWS_ENDINGS, Selection
from mmreason.inference.outfile import rows_file, settings_file
from mmreason.rollout.base import SamplingParams

EngineName = Literal["auto", "hf", "vllm"]
MATTER = ("media.", "data.suffix", "data.system", "data.show_options", "data.max_prompt_tokens")
MATTER_NOT = ("media.workers", "media.deadline_s", "media.cache_dir", "media.cache_gb", "media.memory_gb")
"""Keys of a config, or beginnings of keys, that change answers, and those of them that do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferOptions:
    """Options of the command line, by the same names. Example: `InferOptions(source="photos", model="runs/a/model",
    prompt="What is shown?", out="results.jsonl")`
    """

    source: str | Path
    """A folder, an archive, a list of paths ("-": standard input), a file of rows with questions, or a media file."""
    model: str
    out: str | Path
    """.jsonl, .parquet or .csv"""
    prompt: str | None = None
    """Template (prompts.py); None only for rows with prompts of their own."""
    config: str | Path | Mapping[str, Any] | None = None
    """A training config: its system message, suffix, media, model and rollout settings are used."""
    overrides: Sequence[str] = ()
    system: str | None = None
    """System message, instead of the config's."""
    root: str | Path | None = None
    """Where paths of a list or of rows start, and what none may leave."""
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    recursive: bool = True
    item: Literal["file", "folder"] = "file"
    """folder: all media of a folder go into one prompt."""
    sound: bool = False
    """Videos are shown with their sound, where they have one."""
    n: int = 1
    """Answers per item; of several the majority's is shown."""
    temperature: float | None = None
    """0: the likeliest token. None: 0 for one answer, else the config's `rollout.temperature`."""
    top_p: float | None = None
    max_new_tokens: int | None = None
    """None: the config's `rollout.max_new_tokens`."""
    seed: int = 0
    tags: tuple[str, str] = ("think", "answer")
    """Tags of thoughts and answer."""
    engine: EngineName = "auto"
    json_schema: str | Path | Mapping[str, Any] | None = None
    """Answers are JSON of this schema (a file, or the schema itself); vLLM only."""
    regex: str | None = None
    """Answers match this expression as a whole; vLLM only."""
    shard: tuple[int, int] = (1, 1)
    """(i, n): the i-th of n parts, from 1."""
    rewards: Sequence[str] = ()
    """Rewards that score the answers, as for `mmreason score`."""
    score: bool = False
    """Score with the config's rewards."""
    overwrite: bool = False
    """Begin again where `out` exists."""
    retry_errors: bool = False
    """Items whose row is an error are asked again; the new row takes its place."""
    gallery: str | Path | None = None
    """An HTML page of all answers beside small pictures of their media, written at the end (gallery.py)."""

    def __post_init__(self) -> None:
        if not Path(self.out).name:
            raise ConfigError(f"--out {str(self.out)!r}: expected the name of a file, such as results.jsonl")
        if self.n < 1:
            raise ConfigError(f"--n {self.n}: expected 1 or more")
        index, count = self.shard
        if not 1 <= index <= count:
            raise ConfigError(f"--shard {index}/{count}: expected i/n with i from 1 to n")
        if self.gallery is not None and Path(self.gallery).suffix.lower() not in (".html", ".htm"):
            raise ConfigError(f"--gallery {self.gallery}: expected a name that ends in .html")
        ours = {self.out, rows_file(Path(self.out)), settings_file(Path(self.out)), self.gallery or self.out}
        if os.path.realpath(self.source) in map(os.path.realpath, ours):
            raise ConfigError(f"--out {self.out}: would be written over {self.source}, which is read; choose another")
        if self.overwrite and self.retry_errors:
            raise ConfigError("--retry-errors and --overwrite exclude each other")
        if self.n > 1 and self.temperature == 0:
            raise ConfigError(f"--n {self.n} --temperature 0: all answers would be the same; give a higher temperature")
        if self.score and (self.config is None or self.rewards):
            raise ConfigError("--score: scores with the rewards of --config; give that, and no --reward")

    @property
    def guide(self) -> dict[str, Any]:
        """What answers are held to: {"json": schema}, {"regex": ...} or {}. Raises ConfigError."""
        if self.json_schema is not None and self.regex is not None:
            raise ConfigError("--json-schema and --regex are both given, expected one of them")
        if self.regex is not None:
            try:
                re.compile(self.regex)
            except re.error as error:
                raise ConfigError(f"--regex {self.regex!r}: is no regular expression ({error})") from error
            return {"regex": self.regex}
        return {} if self.json_schema is None else {"json": _schema(self.json_schema), "disable_any_whitespace": True}

    @property
    def _questions(self) -> dict[str, Any]:
        """The file of rows: the ids of another are other questions, while a path inside a root is always one file."""
        path = Path(self.source)
        is_rows = path.suffix.lower() in ROWS_ENDINGS and path.is_file()
        return {"questions": str(path.absolute())} if is_rows else {}

    @property
    def selection(self) -> Selection:
        """Which files are taken."""
        out = Path(self.out).absolute()
        return Selection(
            include=tuple(self.include),
            exclude=tuple(self.exclude),
            recursive=self.recursive,
            by_folder=self.item == "folder",
            shard=self.shard,
            skip=frozenset({out, rows_file(out), settings_file(out), Path(self.gallery or out).absolute()}),
        )

    def run_config(self) -> RunConfig:
        """The settings of model, prompts, media and decoding. Raises ConfigError."""
        given = {"run_dir": ".", "model": {"path": self.model}, "train": {"method": "sft"}}
        config = load_config(given if self.config is None else self.config, self.overrides)
        model = config.model.model_copy(update={"path": self.model, "lora": None})
        system = config.data.system if self.system is None else self.system
        return config.model_copy(update={"model": model, "data": config.data.model_copy(update={"system": system})})

    def params(self, config: RunConfig) -> SamplingParams:
        """How to sample. Raises ConfigError."""
        rollout = config.rollout
        default = 0.0 if self.n == 1 else rollout.temperature
        temperature = default if self.temperature is None else self.temperature
        return SamplingParams(
            temperature=temperature or 1.0,
            greedy=temperature == 0,
            top_p=rollout.top_p if self.top_p is None else self.top_p,
            top_k=rollout.top_k,
            max_new_tokens=rollout.max_new_tokens if self.max_new_tokens is None else self.max_new_tokens,
            stop=rollout.stop,
        )

    def settings(self, config: RunConfig, root: Path) -> dict[str, Any]:
        """All that the answers depend on. The engine is not: greedy answers of both are the same up to rounding."""
        params = self.params(config)
        values = leaf_values(config)
        kept = {k: v for k, v in values.items() if k.startswith(MATTER) and not k.startswith(MATTER_NOT)}
        return {
            "root": str(root),
            **self._questions,
            "model": self.model,
            "model files": model_files(self.model),
            "model.dtype": config.model.dtype,
            "model.revision": config.model.revision,
            "prompt": self.prompt,
            **kept,
            "item": self.item,
            "sound": self.sound,
            "n": self.n,
            "temperature": 0.0 if params.greedy else params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k,
            "max_new_tokens": params.max_new_tokens,
            "stop": list(params.stop),
            "seed": self.seed,
            "tags": list(self.tags),
            **self.guide,
            "rewards": list(self.rewards) or (values_of_rewards(values) if self.score else []),
        }


def _schema(given: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(given, Mapping):
        return dict(given)
    try:
        found = json.loads(Path(given).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--json-schema {given}: cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise ConfigError(f"--json-schema {given}: expected an object, the schema")
    return found


def values_of_rewards(values: Mapping[str, Any]) -> list[str]:
    """The config's rewards as texts."""
    return [f"{key}={value}" for key, value in values.items() if key.startswith(("rewards.", "scoring.combine"))]
