"""Keyword arguments of vLLM's engine for a run: the same for an engine in the trainer's process and for a server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from mmreason.config import ModelConfig, RolloutConfig, RunConfig
from mmreason.config.engines import ENGINE_OPTIONS, LocalOptions, VllmOptions, vllm_missing
from mmreason.errors import ConfigError
from mmreason.policy.families import Family
from mmreason.rollout.vllm_worker import WORKER
from mmreason.types import Sample

Device = Literal["cpu", "cuda"]


def require_vllm(engine: str) -> None:
    """Raises ConfigError where the engine needs vLLM and it is not installed."""
    if missing := vllm_missing(engine):
        raise ConfigError(missing)


def options_of(rollout: RolloutConfig) -> Any:
    """`rollout.options` with their defaults; they were checked when the config was made."""
    return ENGINE_OPTIONS[rollout.engine].model_validate(dict(rollout.options))


def engine_arguments(
    config: RunConfig, family: Family, options: VllmOptions, device: Device, most_media: Mapping[str, int]
) -> dict[str, Any]:
    """What `vllm.LLM` takes, and, as flags, its server. most_media: kind -> items of it in one prompt, at most."""
    length = longest(config, options)
    arguments: dict[str, Any] = {
        **_model(config.model),
        "dtype": _dtype(config, options),
        "max_model_len": length,
        "max_num_seqs": config.rollout.max_rows,
        "max_num_batched_tokens": max(length, 2048),  # also what the encoder cache is sized by: any item fits
        "limit_mm_per_prompt": {kind: max(1, most_media.get(kind, 0)) for kind in family.engine_fields},
        "tensor_parallel_size": options.tensor_parallel,
        "enforce_eager": device == "cpu" if options.eager is None else options.eager,
        "enable_prefix_caching": True,
        "logprobs_mode": "processed_logprobs",
        "max_logprobs": -1,  # any number: what top-p leaves is found among all
        "generation_config": "vllm",  # nothing from the checkpoint: every parameter is given with each request
        "mm_device_do_normalize": False,  # the trainer's pixels are normalised
        "worker_extension_cls": WORKER,
        "seed": config.seed,
    }
    if isinstance(options, LocalOptions):
        arguments["mm_processor_cache_gb"] = 0  # all inputs come processed, and it would keep them
        # Where blanks are free a model may write nothing else until its tokens are spent; xgrammar, the other one that
        # can forbid them, lets control characters into JSON texts.
        arguments["structured_outputs_config"] = {"backend": "guidance", "disable_any_whitespace": True}
    if device == "cuda":
        arguments["gpu_memory_utilization"] = options.gpu_memory
        if isinstance(options, LocalOptions) and options.sleep:
            arguments["enable_sleep_mode"] = True  # without it sleeping gives nothing back, and says nothing
    else:
        arguments["skip_mm_profiling"] = True  # it measures a GPU's memory
    if options.kv_cache_gb is not None or device == "cpu":
        arguments["kv_cache_memory_bytes"] = int((options.kv_cache_gb or 1.0) * 2**30)
    return arguments


def _model(model: ModelConfig) -> dict[str, Any]:
    revision = {} if model.revision is None else {"revision": model.revision, "tokenizer_revision": model.revision}
    return {"model": model.path, "trust_remote_code": model.trust_remote_code, **revision}


def _dtype(config: RunConfig, options: VllmOptions) -> str:
    if options.dtype != "auto":
        return options.dtype
    return "bfloat16" if config.train.precision == "bf16" else config.model.dtype


def longest(config: RunConfig, options: VllmOptions) -> int:
    """Tokens of the longest prompt with its answer."""
    return options.max_model_len or config.data.max_prompt_tokens + config.rollout.max_new_tokens


def most_media(samples: Iterable[Sample]) -> dict[str, int]:
    """Kind -> how many items of it the prompt with the most has; a video's own sound counts as audio, too."""
    most: dict[str, int] = {}
    for sample in samples:
        counts: dict[str, int] = {}
        for ref in sample.media:
            for kind in (ref.kind, "audio") if ref.sound else (ref.kind,):
                counts[kind] = counts.get(kind, 0) + 1
        most = {kind: max(most.get(kind, 0), counts.get(kind, 0)) for kind in most.keys() | counts.keys()}
    return most
