"""The rollout engine that a config asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from mmreason.config import RunConfig
from mmreason.config.engines import PARALLEL
from mmreason.errors import ConfigError
from mmreason.policy.policy import Policy
from mmreason.rollout.base import AnswerEngine, TextDecoder
from mmreason.rollout.hf import HFEngine
from mmreason.rollout.served import Gather, ServedEngine
from mmreason.rollout.vllm_local import VLLMEngine
from mmreason.rollout.vllm_setup import Device, engine_arguments, most_media, options_of, require_vllm
from mmreason.types import Sample


def rollout_engine(
    config: RunConfig,
    policy: Policy,
    decoder: TextDecoder,
    samples: Iterable[Sample],
    say: Callable[[str], None] = lambda line: None,
    *,
    rank: int = 0,
    gather: Gather = lambda value: [value],
    optimizer_to: Callable[[torch.device], None] = lambda device: None,
    stopping: Callable[[], bool] = lambda: False,
) -> AnswerEngine:
    """Raises ConfigError where vLLM is needed and not installed. samples: whose prompts it will be asked.

    rank, gather: of the run's processes, which share its servers. optimizer_to: moves the optimizer's state. stopping:
    whether the run was told to stop.
    """
    rollout = config.rollout
    require_vllm(rollout.engine)
    if rollout.engine == "hf":
        return HFEngine(policy, decoder, rollout.max_rows)
    options = options_of(rollout)
    if rollout.engine == "vllm" and options.tensor_parallel > 1:  # sft and dpo evaluate with it; infer may have it
        raise ConfigError(PARALLEL.format(parallel=options.tensor_parallel))
    device: Device = "cuda" if policy.device.type == "cuda" else "cpu"
    arguments = engine_arguments(config, policy.family, options, device, most_media(samples))
    if rollout.engine == "server":
        if device == "cuda" and options.servers > 1 and not (options.devices or options.urls):
            raise ConfigError(
                f"rollout.options.devices: missing; {options.servers} servers would all take the first GPU, so name "
                'those of each, such as ["4", "5"]'
            )
        folder = Path(config.run_dir)
        return ServedEngine(
            policy, decoder, arguments, options, folder, rank=rank, gather=gather, say=say, stopping=stopping
        )
    if len(gather(rank)) > 1:  # one in each, in the run's process group, on the GPU that LOCAL_RANK names
        arguments["distributed_executor_backend"] = "external_launcher"
    return VLLMEngine(policy, decoder, arguments, options, say, optimizer_to)
