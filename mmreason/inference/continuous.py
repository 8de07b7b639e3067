"""vLLM for batch inference, by continuous batching: prompts join and leave the running batch at every step.

The engine runs in this process, so that it ends with it however it ends. Media arrive decoded (reader.py); vLLM gets
the tensors that the decode loop would get, and the same banned ids, so that greedy answers are the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedConfig

from mmreason.config import RunConfig
from mmreason.config.engines import LocalOptions
from mmreason.errors import EngineError
from mmreason.inference.generate import Finished, Text, seeds_of
from mmreason.inference.prepare import Ready
from mmreason.policy.families import Family
from mmreason.rollout import vllm_local
from mmreason.rollout.base import SamplingParams, TextDecoder, cut
from mmreason.rollout.vllm_inputs import engine_input
from mmreason.rollout.vllm_params import request_params
from mmreason.rollout.vllm_setup import engine_arguments
from mmreason.rollout.vllm_worker import rules_text

GPU_MEMORY = 0.9
"""Share of a GPU that the engine takes where no `rollout.options` say otherwise: nothing else runs here."""


@dataclass(slots=True)
class _Asked:
    """A prompt in the engine, and the answers that it has."""

    ready: Ready
    began: float
    texts: dict[int, Text] = field(default_factory=dict)
    error: str = ""


class ContinuousBatching:
    """Answers in the order in which they are done; n requests per prompt, each with its own seed.

    guide: keywords of vLLM's `StructuredOutputsParams`, such as {"regex": "yes|no"}; {} leaves answers free.
    """

    name = "vllm"

    def __init__(
        self,
        llm: Any,
        family: Family,
        config: PreTrainedConfig,
        decoder: TextDecoder,
        params: SamplingParams,
        *,
        banned: Sequence[int],
        end_ids: Sequence[int],
        n: int,
        seed: int,
        most: int,
        guide: dict[str, Any] | None = None,
    ) -> None:
        """llm: `vllm.LLM`, as `start_vllm` opens it; most: prompts in it at a time."""
        self._engine, self._decoder, self._params = llm.llm_engine, decoder, params
        self._rules, self._fields = family.rules(config), family.engine_fields
        self._banned, self._end_ids = list(banned), list(end_ids)
        self._n, self._seed, self._most, self._guide = n, seed, most, guide or {}
        self._asked: dict[int, _Asked] = {}
        self._serial = 0

    @property
    def room(self) -> int:
        return self._most - len(self._asked)

    @property
    def waiting(self) -> int:
        return len(self._asked)

    def submit(self, ready: Ready) -> None:
        """Take a prompt; one that vLLM refuses is finished with its reason."""
        self._serial += 1
        asked = self._asked[self._serial] = _Asked(ready, time.monotonic())
        for index, seed in enumerate(seeds_of(ready.id, self._n, self._seed)):
            try:
                prompt = engine_input((ready.prompt,), self._rules, self._fields)
                self._engine.add_request(f"{self._serial}/{index}", prompt, self._vllm_params(seed))
            except ValueError as error:  # longer than the engine's longest, say
                asked.error = f"vLLM refuses the prompt ({error})"
                asked.texts[index] = Text(text="", tokens=0, truncated=False)

    def advance(self) -> list[Finished]:
        """One step of the engine."""
        if self._engine.has_unfinished_requests():
            for output in self._engine.step():
                if output.finished:
                    self._note(output)
        done = [serial for serial, asked in self._asked.items() if len(asked.texts) == self._n]
        return [self._finished(self._asked.pop(serial)) for serial in done]

    def forget(self) -> None:
        """Give up what was submitted and is not finished."""
        names = [f"{serial}/{index}" for serial in self._asked for index in range(self._n)]
        self._engine.abort_request(names)
        self._asked.clear()

    def close(self) -> None:
        """Give memory and processes back."""
        vllm_local.close()

    def _note(self, output: Any) -> None:
        serial, _, index = output.request_id.partition("-")[0].partition("/")
        asked, sampled = self._asked[int(serial)], output.outputs[0]
        if sampled.finish_reason not in ("stop", "length"):
            asked.error = f"vLLM ended the answer with {sampled.finish_reason!r}"
        asked.texts[int(index)] = self._text(list(sampled.token_ids), sampled.finish_reason == "length")

    def _text(self, ids: list[int], truncated: bool) -> Text:
        text = cut(self._decoder.text(torch.tensor(ids, dtype=torch.int64)), self._params.stop)
        return Text(text=text, tokens=len(ids), truncated=truncated)

    def _finished(self, asked: _Asked) -> Finished:
        texts = tuple(asked.texts[index] for index in range(self._n))
        return Finished(ready=asked.ready, texts=texts, seconds=time.monotonic() - asked.began, error=asked.error)

    def _vllm_params(self, seed: int) -> Any:
        from vllm import SamplingParams as VllmParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        values = request_params(self._params, seed, self._banned, self._end_ids)
        guide = StructuredOutputsParams(**self._guide) if self._guide else None
        values |= {"logprobs": None, "structured_outputs": guide, "output_kind": RequestOutputKind.FINAL_ONLY}
        return VllmParams(**values)


def start_vllm(
    config: RunConfig,
    family: Family,
    model: PreTrainedConfig,
    longest: int,
    most: Mapping[str, int],
    say: Callable[[str], None] = lambda line: None,
) -> Any:
    """A `vllm.LLM` in this process, with the checkpoint's weights: the one that is open, if it is the same.

    longest: tokens of an answer; most: kind of media -> items of it in one prompt. Raises EngineError.
    """
    given = config.rollout.options if config.rollout.engine == "vllm" else {"gpu_memory": GPU_MEMORY}
    options = LocalOptions.model_validate({**given, "sleep": False, "offload_optimizer": False})
    length = options.max_model_len or config.data.max_prompt_tokens + longest
    length = min(length, getattr(model.get_text_config(), "max_position_embeddings", length))
    dtype = config.model.dtype if options.dtype == "auto" else options.dtype
    options = options.model_copy(update={"max_model_len": length, "dtype": dtype})
    arguments = engine_arguments(config, family, options, "cuda" if torch.cuda.is_available() else "cpu", most)
    try:
        llm = vllm_local.opened_anew(arguments, options.start_s, say)
    except EngineError as error:
        raise EngineError(f"{error}; --engine hf is our own loop") from error
    llm.collective_rpc("use_trainer_positions", args=(rules_text(family.rules(model)),))
    return llm
