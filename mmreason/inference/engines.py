"""Opening a model for batch inference: what prepares its prompts, and who answers them (`--engine`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from mmreason.config import MediaConfig, RunConfig
from mmreason.config.engines import VLLM_VERSION, vllm_missing
from mmreason.encode import Encoder
from mmreason.errors import ConfigError
from mmreason.inference.generate import DecodeLoop, Generator
from mmreason.inference.options import InferOptions
from mmreason.policy.front import load_front
from mmreason.policy.policy import banned_ids, end_ids, load_policy
from mmreason.processors.pipeline import MediaPipeline
from mmreason.rollout.hf import HFEngine

MISSING = f"vLLM {VLLM_VERSION} is not installed"


class Front:
    """A checkpoint before its weights are read: enough to prepare prompts while the engine starts."""

    def __init__(self, config: RunConfig) -> None:
        """Raises ModelError: unknown family, a broken checkpoint."""
        found = load_front(config.model)
        self.family, self.model, self.processor = found.family, found.config, found.processor
        self._media, self._traits = config.media, found.family.traits(found.config)
        unused = self._pipeline(config.media.model_copy(update={"workers": 0}), None)
        rules = found.family.rules(found.config)
        self.encoder = Encoder(found.processor, found.processor.tokenizer, rules, unused, config.data)

    def reader_pipeline(self, root: str | None) -> MediaPipeline:
        """Media for one reader: one decoding process, and no memory of media, since every file is used once."""
        workers = min(1, self._media.workers)
        return self._pipeline(self._media.model_copy(update={"workers": workers, "memory_gb": 0.0}), root)

    def _pipeline(self, media: MediaConfig, root: str | None) -> MediaPipeline:
        return MediaPipeline(media, self._traits, self.processor, root)


@dataclass(frozen=True, slots=True)
class Opened:
    """A model that is open already. Example: `Opened(front, around_vllm(llm, front, options, config))`"""

    front: Front
    generator: Generator


def engine_of(options: InferOptions) -> str:
    """ "hf" or "vllm". Raises ConfigError: vLLM is asked for, by name or by structured output, and is not there."""
    installed = vllm_missing("vllm") is None
    if options.engine == "vllm" and not installed:
        raise ConfigError(f"--engine vllm: {MISSING}; pip install 'mmreason[vllm]', or --engine hf")
    name = ("vllm" if installed else "hf") if options.engine == "auto" else options.engine
    if name == "hf" and options.guide:
        raise ConfigError("--json-schema, --regex: only vLLM can hold answers to them; install it, or leave them out")
    return name


def longest_prompt_and_answer(front: Front, options: InferOptions, config: RunConfig) -> int | None:
    """Tokens that the engine takes; None: nothing says so."""
    own = getattr(front.model.get_text_config(), "max_position_embeddings", None)
    ours = engine_of(options) == config.rollout.engine == "vllm"  # else its options are another engine's
    given = config.rollout.options.get("max_model_len") if ours else None
    return min((most for most in (own, given) if most is not None), default=None)


def open_generator(
    front: Front, options: InferOptions, config: RunConfig, most: Mapping[str, int], say: Callable[[str], None]
) -> Generator:
    """Who answers; one line says it. most: kind of media -> items in one prompt. Raises ModelError, EngineError."""
    if engine_of(options) == "vllm":
        return _vllm(front, options, config, most, say)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    why = "" if options.engine == "hf" else f" ({MISSING})"
    say(f"infer: our own decode loop on {device}{why}")
    policy = load_policy(config.model, device, trained=False)
    engine = HFEngine(policy, front.encoder, config.rollout.max_rows)
    return DecodeLoop(engine, options.params(config), options.n, options.seed)


def _vllm(
    front: Front, options: InferOptions, config: RunConfig, most: Mapping[str, int], say: Callable[[str], None]
) -> Generator:
    from mmreason.inference.continuous import start_vllm

    longest = options.params(config).max_new_tokens
    llm = start_vllm(config, front.family, front.model, longest, most, lambda line: say(f"infer: {line}"))
    return around_vllm(llm, front, options, config)


def around_vllm(llm: Any, front: Front, options: InferOptions, config: RunConfig) -> Generator:
    """An open `vllm.LLM` as the one who answers."""
    from mmreason.inference.continuous import ContinuousBatching

    tokenizer: Any = front.processor.tokenizer
    return ContinuousBatching(
        llm,
        front.family,
        front.model,
        front.encoder,
        options.params(config),
        banned=banned_ids(front.family, front.encoder.rules, tokenizer).tolist(),
        end_ids=end_ids(_generation(config), tokenizer),
        n=options.n,
        seed=options.seed,
        most=max(1, 2 * config.rollout.max_rows // options.n),
        guide=options.guide,
    )


def _generation(config: RunConfig) -> GenerationConfig | None:
    try:
        return GenerationConfig.from_pretrained(config.model.path, revision=config.model.revision or "main")
    except OSError:  # the checkpoint has none
        return None
