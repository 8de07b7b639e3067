"""The decode loop as an engine of batch inference, where memory does not hold what was submitted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from mmreason.config import ModelConfig
from mmreason.inference.generate import DecodeLoop
from mmreason.inference.prepare import Ready
from mmreason.policy.policy import load_policy
from mmreason.rollout.base import SamplingParams
from mmreason.rollout.hf import HFEngine
from mmreason.types import Message, Rollout, Sample, Segment


class Decoder:
    """Ids as words."""

    def text(self, ids: torch.Tensor) -> str:
        return " ".join(map(str, ids.tolist()))


class SmallGPU(HFEngine):
    """Our loop on a device that holds 20 tokens of prompts at a time."""

    def generate(
        self, prompts: Sequence[Segment], n: int, params: SamplingParams, seeds: Sequence[Sequence[int]]
    ) -> list[tuple[Rollout, ...]]:
        if sum(len(prompt.ids) for prompt in prompts) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().generate(prompts, n, params, seeds)


def ready(id: str, tokens: int) -> Ready:
    ids = torch.arange(5, 5 + tokens)
    prompt = Segment(kind="prompt", ids=ids, loss_mask=torch.zeros(tokens, dtype=torch.bool))
    sample = Sample(id=id, messages=(Message(role="user", content=("?",)),))
    return Ready(id=id, sample=sample, names=(), prompt=prompt)


def test_what_memory_does_not_hold_is_answered_in_parts_and_one_prompt_alone_is_an_error(tiny_vl: Path) -> None:
    policy = load_policy(ModelConfig(path=str(tiny_vl), self_check=False), torch.device("cpu"), trained=False)
    params = SamplingParams(max_new_tokens=3, greedy=True)
    asked = [ready(f"{number}", tokens) for number, tokens in enumerate((9, 8, 30, 7, 10))]

    def answers(engine: HFEngine) -> dict[str, tuple[str, ...]]:
        loop = DecodeLoop(engine, params, n=1, seed=0)
        for one in asked:
            loop.submit(one)
        done = loop.advance()
        assert [one.ready.id for one in done] == ["0", "1", "2", "3", "4"]
        assert loop.waiting == 0
        return {one.ready.id: (one.error, *(text.text for text in one.texts)) for one in done}

    failed = DecodeLoop(HFEngine(policy, Decoder()), params, n=1, seed=0)
    failed.submit(asked[0])
    failed.forget()
    assert (failed.waiting, failed.advance()) == (0, [])

    whole = answers(HFEngine(policy, Decoder()))
    parts = answers(SmallGPU(policy, Decoder()))
    assert parts.pop("2") == ("the GPU's memory does not hold it (30 tokens); lower the media's max_pixels",)
    assert parts == {id: found for id, found in whole.items() if id != "2"}
