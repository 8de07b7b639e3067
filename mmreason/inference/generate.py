"""Engines for batch inference: prompts in, finished answers out, in any order.

`DecodeLoop` is our own decode loop: it answers what was submitted in batches. Media are decoded elsewhere (reader.py);
here are tensors only.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol
from zlib import crc32

import torch

from mmreason.inference.prepare import Ready
from mmreason.rollout.base import SamplingParams
from mmreason.rollout.hf import HFEngine


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """One sampled answer. Example: `Text(text="<answer>owl</answer>", tokens=7, truncated=False)`"""

    text: str
    tokens: int
    truncated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What became of one prompt."""

    ready: Ready
    texts: tuple[Text, ...]
    seconds: float
    """From its submission to its last answer, others beside it."""
    error: str = ""
    """Why it has no answer."""

    @property
    def without_media(self) -> Finished:
        """The same without the media's tensors, which only the engine needed."""
        return replace(self, ready=replace(self.ready, prompt=replace(self.ready.prompt, media=())))


class Generator(Protocol):
    """Answers prompts side by side."""

    name: str
    """What rows say under `engine`."""

    @property
    def room(self) -> int:
        """How many more prompts it would take now."""
        ...

    @property
    def waiting(self) -> int:
        """How many prompts were submitted and are not finished."""
        ...

    def submit(self, ready: Ready) -> None:
        """Take a prompt."""
        ...

    def advance(self) -> list[Finished]:
        """Work on what was submitted; what was finished meanwhile, maybe nothing."""
        ...

    def forget(self) -> None:
        """Give up what was submitted and is not finished: its run has failed, and another one may follow."""
        ...

    def close(self) -> None:
        """End its processes."""
        ...


def seeds_of(id: str, n: int, seed: int) -> list[int]:
    """The seed of each answer to an item: they depend on nothing else, so that resuming and shards change none."""
    return [crc32(f"{seed} {index} {id}".encode("utf-8", "backslashreplace")) for index in range(n)]


class DecodeLoop:
    """Batches of as many prompts as are decoded side by side (`rollout.max_rows`), n answers each."""

    name = "hf"

    def __init__(self, engine: HFEngine, params: SamplingParams, n: int, seed: int) -> None:
        self._engine, self._params, self._n, self._seed = engine, params, n, seed
        self._pending: list[tuple[Ready, float]] = []

    @property
    def room(self) -> int:
        return max(1, self._engine.max_rows // self._n) - len(self._pending)

    @property
    def waiting(self) -> int:
        return len(self._pending)

    def submit(self, ready: Ready) -> None:
        self._pending.append((ready, time.monotonic()))

    def advance(self) -> list[Finished]:
        """Answer all that was submitted."""
        batch, self._pending = self._pending, []
        return self._answered(batch) if batch else []

    def _answered(self, batch: Sequence[tuple[Ready, float]]) -> list[Finished]:
        """In halves where a GPU's memory does not hold all; a prompt that it does not hold alone has no answer."""
        try:
            return self._generated(batch)
        except torch.OutOfMemoryError:
            pass  # not here: the error holds on to the tensors
        torch.cuda.empty_cache()
        if len(batch) > 1:
            half = len(batch) // 2
            return self._answered(batch[:half]) + self._answered(batch[half:])
        ((ready, began),) = batch
        error = f"the GPU's memory does not hold it ({len(ready.prompt.ids)} tokens); lower the media's max_pixels"
        return [Finished(ready=ready, texts=(), seconds=time.monotonic() - began, error=error)]

    def _generated(self, batch: Sequence[tuple[Ready, float]]) -> list[Finished]:
        prompts = [ready.prompt for ready, _ in batch]
        seeds: Sequence[Sequence[int]] = [seeds_of(ready.id, self._n, self._seed) for ready, _ in batch]
        groups = self._engine.generate(prompts, self._n, self._params, seeds)
        now = time.monotonic()
        return [
            Finished(
                ready=ready,
                texts=tuple(Text(text=r.text, tokens=r.tokens, truncated=r.finish_reason == "length") for r in group),
                seconds=now - began,
            )
            for (ready, began), group in zip(batch, groups, strict=True)
        ]

    def forget(self) -> None:
        """Drop what waits for the next batch."""
        self._pending = []

    def close(self) -> None:
        """Nothing runs beside us."""
