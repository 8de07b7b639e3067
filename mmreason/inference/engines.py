"""Opening a model for batch inference: who answers (`--engine`), and what prepares its prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from mmreason.config import MediaConfig, RunConfig
from mmreason.encode import Encoder
from mmreason.inference.generate import DecodeLoop, Generator
from mmreason.inference.options import InferOptions
from mmreason.policy.policy import load_policy
from mmreason.processors.base import MediaTraits
from mmreason.processors.pipeline import MediaPipeline
from mmreason.rollout.hf import HFEngine


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A model that answers, with what makes prompts for it."""

    generator: Generator
    encoder: Encoder
    traits: MediaTraits
    processor: Any

    def pipeline(self, media: MediaConfig, root: str | None) -> MediaPipeline:
        """Media for one reader: one decoding process, and no memory of media, since every file is used once."""
        config = media.model_copy(update={"workers": min(1, media.workers), "memory_gb": 0.0})
        return MediaPipeline(config, self.traits, self.processor, root)


def open_engine(options: InferOptions, config: RunConfig, say: Callable[[str], None]) -> Opened:
    """The engine that was asked for; one line says which it is. Raises ModelError, ConfigError."""
    return _decode_loop(options, config, say)


def _decode_loop(options: InferOptions, config: RunConfig, say: Callable[[str], None]) -> Opened:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    policy = load_policy(config.model, device, trained=False)
    traits = policy.family.traits(policy.base.config)
    media = MediaPipeline(config.media.model_copy(update={"workers": 0}), traits, policy.processor)
    encoder = Encoder(policy.processor, policy.tokenizer, policy.rules, media, config.data)
    engine = HFEngine(policy, encoder, config.rollout.max_rows)
    say(f"infer: our own decode loop on {device}")
    loop = DecodeLoop(engine, options.params(config), options.n, options.seed)
    return Opened(generator=loop, encoder=encoder, traits=traits, processor=policy.processor)
