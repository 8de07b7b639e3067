"""What every rollout engine offers: token ids in, token ids out.

The primitive is `extend`: sample one more segment below a path of segments. `generate` is `extend` n times from each
prompt, with the texts. Sampled ids are never turned into text and back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from mmreason.errors import ConfigError
from mmreason.types import Rollout, Segment


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to sample. Example: `SamplingParams(temperature=0.7, top_p=0.95, max_new_tokens=256, stop=("</answer>",))`

    Recorded log-probs are those of log_softmax(logits / temperature, banned ids at -inf), also when top_p or top_k
    narrow the choice: then they are not what was sampled from. With `keep_support` they are, and every segment says
    which ids each of its tokens was chosen among, so that it can be scored by the same rule.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    """Choose among the likeliest tokens that together have this probability."""
    top_k: int = 0
    """Choose among the k likeliest tokens; 0: all."""
    max_new_tokens: int = 512
    stop: tuple[str, ...] = ()
    """Texts that end an answer. They stay in it, so that a reward sees the "</answer>"; what a token adds is cut."""
    keep_support: bool = False
    """Record what top_p and top_k left to choose among: 4 bytes per id and 8 per token."""
    greedy: bool = False
    """Always the likeliest token; seeds, top_p and top_k then mean nothing."""

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(
                f"temperature {self.temperature}: expected more than 0; for the likeliest token use greedy"
            )
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p {self.top_p}: expected more than 0 and at most 1")
        if self.top_k < 0:
            raise ConfigError(f"top_k {self.top_k}: expected 0 (all tokens) or more")
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens {self.max_new_tokens}: expected 1 or more")
        if "" in self.stop:
            raise ConfigError("stop: an empty text would end every answer at once; leave it out")


Context = Sequence[Segment]
"""A path of segments from a prompt down to what the next segment continues."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One sampled continuation."""

    segment: Segment
    text: str
    finish_reason: Literal["stop", "length"]


class Engine(Protocol):
    """Samples answers. The same prompt and seed give the same answer, whatever is beside it (up to rounding)."""

    weight_version: int
    """How many optimizer steps the weights in use have seen; written into every sampled segment."""

    def extend(
        self, contexts: Sequence[Sequence[Segment]], params: SamplingParams, seeds: Sequence[int]
    ) -> list[Segment]:
        """One policy segment below each path of segments, with column "logprob.sampling"."""
        ...

    def generate(
        self, prompts: Sequence[Segment], n: int, params: SamplingParams, seeds: Sequence[Sequence[int]]
    ) -> list[tuple[Rollout, ...]]:
        """n answers to each prompt; `seeds[i][j]` belongs to answer j of prompt i."""
        ...


class AnswerEngine(ABC):
    """What engines have in common: whoever can `sample` offers the whole of `Engine`."""

    weight_version = 0

    @abstractmethod
    def sample(self, contexts: Sequence[Context], params: SamplingParams, seeds: Sequence[int]) -> list[Answer]:
        """One answer below each path of segments; `seeds[i]` belongs to path i."""

    def take_weights(self, version: int) -> None:
        """Sample by the trainer's weights of now, which have seen `version` steps. Parameters must be whole.

        Raises EngineError, and StopRequested in all processes where the run was told to stop meanwhile.
        """
        self.weight_version = version

    def rest(self) -> None:
        """No answers are wanted for a while: give memory back."""
        return

    def generate(
        self, prompts: Sequence[Segment], n: int, params: SamplingParams, seeds: Sequence[Sequence[int]]
    ) -> list[tuple[Rollout, ...]]:
        """n answers to each prompt; `seeds[i][j]` belongs to answer j of prompt i."""
        assert [len(row) for row in seeds] == [n] * len(prompts), "one seed per prompt and answer"
        flat = [seed for row in seeds for seed in row]
        answers = self.sample([(prompt,) for prompt in prompts for _ in range(n)], params, flat)
        rollouts = [
            Rollout(text=answer.text, segments=(answer.segment,), finish_reason=answer.finish_reason, seed=seed)
            for answer, seed in zip(answers, flat, strict=True)
        ]
        return [tuple(rollouts[start : start + n]) for start in range(0, len(rollouts), n)]

    def cancel(self) -> None:
        """End what other threads are sampling: they raise EngineError soon. Only servers sample in other threads."""
        return

    def counts(self) -> dict[str, float]:
        """What happened to the engine since the run began, as metrics; the same names in every process."""
        return {}

    def close(self) -> None:
        """End what the engine started."""
        return

    def extend(self, contexts: Sequence[Context], params: SamplingParams, seeds: Sequence[int]) -> list[Segment]:
        """One policy segment below each path; its parent is the path's last segment."""
        return [answer.segment for answer in self.sample(contexts, params, seeds)]


class TextDecoder(Protocol):
    """Turns sampled ids into text: `encode.Encoder`."""

    def text(self, ids: Tensor) -> str:
        """The text of sampled ids, end tokens left out."""
        ...


def cut(text: str, stop: Sequence[str]) -> str:
    """The text up to the first end of a stop text in it."""
    ends = [text.index(mark) + len(mark) for mark in stop if mark in text]
    return text[: min(ends)] if ends else text
