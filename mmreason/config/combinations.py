"""Combinations of settings that no single key can refuse. Each check yields a line per mistake."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmreason.config import RunConfig


def impossible(config: RunConfig) -> Iterator[str]:
    """The mistakes in a config whose keys are right each by itself."""
    for check in _CHECKS:
        yield from check(config)


def impossible_in(part: Any) -> Iterator[str]:
    """The same for a config with keys missing that are wrong in themselves: checks that ask for one say nothing."""
    for check in _CHECKS:
        with contextlib.suppress(AttributeError):
            yield from list(check(part))


def _code_is_pinned(config: RunConfig) -> Iterator[str]:
    if config.model.trust_remote_code and config.model.revision is None:
        yield "model.trust_remote_code: needs model.revision, so that the code that runs is the code you read"


def _grpo_has_rewards(config: RunConfig) -> Iterator[str]:
    if config.train.method == "grpo" and not config.rewards:
        yield "rewards: empty, but train.method is grpo; name at least one (`mmreason rewards` lists them)"


def _groups_compare(config: RunConfig) -> Iterator[str]:
    if config.train.method == "grpo" and config.rollout.n < 2:
        yield f"rollout.n: {config.rollout.n}, but a group needs at least 2 answers to compare"


def _some_frames(config: RunConfig) -> Iterator[str]:
    low, high = config.media.video_min_frames, config.media.video_max_frames
    if low > high:
        yield f"media.video_min_frames: {low} is more than media.video_max_frames ({high})"


def _some_image_pixels(config: RunConfig) -> Iterator[str]:
    low, high = config.media.image_min_pixels, config.media.image_max_pixels
    if low > high:
        yield f"media.image_min_pixels: {low} is more than media.image_max_pixels ({high})"


def _some_video_pixels(config: RunConfig) -> Iterator[str]:
    low, high = config.media.video_min_pixels, config.media.video_max_pixels
    if low > high:
        yield f"media.video_min_pixels: {low} is more than media.video_max_pixels ({high})"


def _prompts_divide(config: RunConfig) -> Iterator[str]:
    updates, prompts = config.grpo.updates_per_batch, config.train.prompts_per_step
    if prompts % updates:
        yield f"grpo.updates_per_batch: {updates} does not divide train.prompts_per_step ({prompts})"


def _rates_of_trained_parts(config: RunConfig) -> Iterator[str]:
    for part in sorted(set(config.train.learning_rates) & set(config.model.freeze)):
        yield f"train.learning_rates.{part}: {part} is not trained; take it out of model.freeze, or drop this key"


def _something_is_trained(config: RunConfig) -> Iterator[str]:
    if not config.model.lora and set(config.model.freeze) >= {"vision", "audio", "projector", "language"}:
        yield "model.freeze: every part is frozen and model.lora is unset, so nothing would be trained"


def _adapters_are_in_the_language_model(config: RunConfig) -> Iterator[str]:
    ignored = set(config.train.learning_rates) - {"language"} if config.model.lora else set()
    for part in sorted(ignored):
        yield f"train.learning_rates.{part}: with model.lora only adapters in language are trained; drop this key"


def _answers_fit_in_a_row(config: RunConfig) -> Iterator[str]:
    answer, row = config.rollout.max_new_tokens, config.train.row_tokens
    if config.train.method == "grpo" and answer >= row:
        yield f"rollout.max_new_tokens: {answer} leaves no room for a prompt in a row of train.row_tokens ({row})"


_CHECKS = (
    _code_is_pinned,
    _grpo_has_rewards,
    _groups_compare,
    _some_frames,
    _some_image_pixels,
    _some_video_pixels,
    _prompts_divide,
    _rates_of_trained_parts,
    _something_is_trained,
    _adapters_are_in_the_language_model,
    _answers_fit_in_a_row,
)
