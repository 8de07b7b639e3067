"""vLLM for batch inference, by continuous batching: prompts join and leave the running batch at every step.

The engine runs in this process, so that it ends with it however it ends. Media arrive decoded (reader.py); vLLM gets
the tensors that the decode loop would get, and the same banned ids, so that greedy answers are the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedConfig

from mmreason.config import RunConfig
from mmreason.config.engines import LocalOptions
from mmreason.errors import ModelError
from mmreason.inference.generate import Finished, Text, seeds_of
from mmreason.inference.prepare import Ready
from mmreason.policy.families import Family
from mmreason.rollout.base import SamplingParams, TextDecoder, cut
from mmreason.rollout.vllm_inputs import engine_input
from mmreason.rollout.vllm_params import request_params
from mmreason.rollout.vllm_worker import WORKER, rules_text

GPU_MEMORY = 0.9
"""Share of a GPU that the engine takes where no `rollout.options` say otherwise: nothing else runs here."""
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # an engine process would outlive ours when that is killed
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",  # of our own calls to the worker, in this process
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # readers would inherit the one core that the engine is bound to
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}


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

    def close(self) -> None:
        """Give memory and processes back."""
        self._engine.engine_core.shutdown()

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


def start_vllm(config: RunConfig, family: Family, model: PreTrainedConfig, longest: int, n: int) -> Any:
    """A `vllm.LLM` in this process. longest: tokens of an answer. Raises ModelError where it does not start."""
    given = config.rollout.options if config.rollout.engine == "vllm" else {"gpu_memory": GPU_MEMORY}
    options = LocalOptions.model_validate(given)
    on_gpu = torch.cuda.is_available()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if options.kv_cache_gb is not None and not on_gpu:
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, round(options.kv_cache_gb)))
    length = options.max_model_len or config.data.max_prompt_tokens + longest
    length = min(length, getattr(model.get_text_config(), "max_position_embeddings", length))
    from vllm import LLM

    try:
        llm = LLM(**_arguments(config, options, length, n, on_gpu=on_gpu))
    except (ValueError, RuntimeError, NotImplementedError, OSError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{config.model.path}: vLLM cannot open it ({line}); --engine hf is our own loop") from error
    llm.collective_rpc("use_trainer_positions", args=(rules_text(family.rules(model)),))
    return llm


def _arguments(config: RunConfig, options: LocalOptions, length: int, n: int, *, on_gpu: bool) -> dict[str, Any]:
    return dict(
        model=config.model.path,
        revision=config.model.revision,
        trust_remote_code=config.model.trust_remote_code,
        dtype=config.model.dtype if options.dtype == "auto" else options.dtype,
        max_model_len=length,
        max_num_batched_tokens=max(8192, length),  # an item is computed in one piece
        max_num_seqs=config.rollout.max_rows,
        enforce_eager=not on_gpu if options.eager is None else options.eager,
        gpu_memory_utilization=options.gpu_memory,
        tensor_parallel_size=options.tensor_parallel,
        enable_prefix_caching=n > 1,  # else every prompt is there once
        mm_processor_cache_gb=0,  # every file is there once; what n answers share is in the engine meanwhile
        mm_device_do_normalize=False,  # our pixels are normalised
        generation_config="vllm",  # nothing from the checkpoint: every parameter is given with each request
        skip_mm_profiling=not on_gpu,  # it measures a GPU's memory
        worker_extension_cls=WORKER,
    )
