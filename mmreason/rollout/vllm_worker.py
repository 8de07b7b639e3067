"""What runs inside of vLLM's worker processes: the trainer's rotary positions in place of vLLM's own, and two repairs.

vLLM computes M-RoPE positions from the same grids and times, and nearly the same way. It truncates time in float64
where transformers does in float32 (3 steps of 0.7 s at 25 a second are one off), and counts the tokens around a video
with sound otherwise: log-probs were off by up to 5e-3 on tiny models. So workers ask `rope_positions`, as everything
else does.

An engine takes this as `worker_extension_cls=WORKER`; then `collective_rpc("use_trainer_positions", args=(rules,))`,
where `rules` is `rules_text(policy.rules)`. Models with one axis of positions take it for the repairs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmreason.policy.positions import MediaRules, rope_positions
from mmreason.types import MediaTensors

WORKER = "mmreason.rollout.vllm_worker.TrainerPositions"
TRANSFER_WORKER = "mmreason.rollout.vllm_transfer.Worker"
"""The same, where weights come through vLLM's weight-transfer interface."""


def rules_text(rules: MediaRules) -> str:
    """The rules as JSON, which passes between processes and over HTTP."""
    return json.dumps(asdict(rules))


def rules_of(text: str) -> MediaRules:
    """The rules that `rules_text` wrote."""
    values = json.loads(text)
    return MediaRules(**{**values, "wrapper": {kind: tuple(pair) for kind, pair in values["wrapper"].items()}})


class TrainerPositions:
    """Methods that vLLM adds to its worker class."""

    model_runner: Any

    def use_trainer_positions(self, rules: str) -> None:
        """From here on positions of prompts are the trainer's, new embeddings reach a head that shares them, and on a
        CPU prompts may be computed in parts."""
        model = self.model_runner.get_model()
        model.get_mrope_input_positions = partial(engine_positions, rules=rules_of(rules))
        _unpack_head(model.get_language_model())
        if self.model_runner.device.type == "cpu":
            _sample_without_early_draws(self.model_runner)


def _unpack_head(language_model: Any) -> None:
    """On a CPU a head that shares the embeddings computes with a packed copy of them, which vLLM's reload forgets."""
    head = getattr(language_model, "lm_head", None)
    if head is not None and hasattr(head, "cpu_linear"):
        head.cpu_linear = torch.nn.functional.linear


def _sample_without_early_draws(runner: Any) -> None:
    """A prompt that is computed in parts draws a token after each, and all but the last are thrown away.

    vLLM then turns the request's generator back, which those of CPUs cannot do ("CPU Generator does not use offset").
    So requests that are not complete draw from the common generator.
    """
    if hasattr(runner, "draws_early"):  # done already
        return
    runner.draws_early = sample = runner.sample_tokens

    def sample_tokens(grammar_output: Any) -> Any:
        generators = runner.input_batch.generators
        (early,) = np.nonzero(runner.discard_request_mask.np[: runner.input_batch.num_reqs])
        kept = {int(index): generators.pop(int(index)) for index in early if int(index) in generators}
        try:
            return sample(grammar_output)
        finally:
            generators.update(kept)

    runner.sample_tokens = sample_tokens


def engine_positions(
    input_tokens: Sequence[int], mm_features: Sequence[Any], *, rules: MediaRules
) -> tuple[Tensor, int]:
    """What a vLLM model's `get_mrope_input_positions` gives: positions int64 [3, T], and next position - T.

    mm_features: vLLM's `MultiModalFeatureSpec` of each item.
    """
    ordered = sorted(mm_features, key=lambda feature: (feature.mm_position.offset, feature.modality == "audio"))
    videos = {feature.mm_position.offset for feature in ordered if feature.modality == "video"}
    media = [_stand_in(feature, feature.mm_position.offset in videos, rules) for feature in ordered]
    positions, following = rope_positions(torch.tensor(list(input_tokens)), media, 0, rules)
    return positions, following - len(input_tokens)


def _stand_in(feature: Any, at_video: bool, rules: MediaRules) -> MediaTensors:
    """An item as far as its positions depend on it; a sound at the place of a video is that video's own."""
    kind, data = feature.modality, feature.data
    grid = data[f"{kind}_grid_thw"].data.tolist() if f"{kind}_grid_thw" in data else None
    seconds = data["second_per_grid_ts"].data.item() if "second_per_grid_ts" in data else None
    return MediaTensors(
        kind=kind,
        kwargs={},
        tokens=feature.mm_position.get_num_embeds(),
        grid=None if grid is None else (grid[0], grid[1], grid[2]),
        seconds_per_grid=seconds,
        stamps=((),) * grid[0] if grid is not None and kind == "video" and rules.steps_apart else (),
        joined=kind == "audio" and at_video,
    )
