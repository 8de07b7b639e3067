"""What a rollout engine will be asked for, and whether it can be had on this machine."""

from __future__ import annotations

from collections.abc import Sequence

from mmreason.checking.findings import Findings
from mmreason.checking.rows import Row
from mmreason.config import RunConfig
from mmreason.config.engines import VllmOptions, vllm_missing
from mmreason.rollout.vllm_setup import longest, most_media, options_of


def check_engine(config: RunConfig, rows: Sequence[Row], longest_prompt: int, found: Findings) -> list[str]:
    """Lines of text; a finding where vLLM is missing, or where a prompt with its answer would be too long for it."""
    if missing := vllm_missing(config.rollout.engine):
        found.add("config", missing)
    options = options_of(config.rollout)
    if not isinstance(options, VllmOptions):
        return []
    room, answer = longest(config, options), config.rollout.max_new_tokens
    if longest_prompt + answer > room:
        found.add(
            "config",
            f"rollout.options.max_model_len: {room}, but the longest prompt has {longest_prompt} tokens and "
            f"rollout.max_new_tokens is {answer}; raise it to {longest_prompt + answer}, or leave it out",
        )
    media = most_media(row.sample for row in rows)
    shown = ", ".join(f"{count} {kind}" for kind, count in sorted(media.items())) or "none"
    return [f"rollout engine {config.rollout.engine}: max_model_len {room}, media per prompt at most: {shown}"]
