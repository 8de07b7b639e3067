"""vLLM in the trainer's own process: the same prompts, the same answers, a second copy of the weights.

In a run of several processes each has an engine of its own: vLLM's "external launcher" takes part in the process group
that is there already, so that all of them are opened together (`take_weights` is called by all at the same place).

An engine is opened when it is first needed, and stays open until the process ends or another run needs other
settings: starting one takes half a minute and more. The weights are handed over in memory after each update.
On a GPU its memory is given back between rollouts (`rollout.options.sleep`).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import numpy as np
import torch

from mmreason.config.engines import LocalOptions
from mmreason.errors import EngineError
from mmreason.policy.policy import Policy
from mmreason.rollout.base import Answer, AnswerEngine, Context, SamplingParams, TextDecoder
from mmreason.rollout.vllm_inputs import engine_input
from mmreason.rollout.vllm_params import answer_of, request_params, sampled_of
from mmreason.rollout.vllm_worker import rules_text
from mmreason.rollout.weights import Canary, engine_weights

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine core in this process: weights need not travel
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # threads are the trainer's, too
    "VLLM_LOGGING_LEVEL": "ERROR",  # it warns of every weight that an update does not change
}


class VLLMEngine(AnswerEngine):
    """Samples with vLLM from a policy's weights. See `rollout.base.Engine`.

    arguments: of `vllm.LLM`, as `vllm_setup.engine_arguments` makes them. optimizer_to: moves the optimizer's state.
    """

    def __init__(
        self,
        policy: Policy,
        decoder: TextDecoder,
        arguments: Mapping[str, Any],
        options: LocalOptions,
        say: Callable[[str], None] = lambda line: None,
        optimizer_to: Callable[[torch.device], None] = lambda device: None,
    ) -> None:
        self.policy, self.decoder, self.options, self.say = policy, decoder, options, say
        self._optimizer_to = optimizer_to
        self.canary = Canary(
            policy, gap=max(1e-3, 10 * options.logprob_gap), exact=arguments["dtype"] == "float32"
        )
        self._arguments = dict(arguments)
        self._llm: Any = None

    def sample(self, contexts: Sequence[Context], params: SamplingParams, seeds: Sequence[int]) -> list[Answer]:
        """One answer below each path of segments; `seeds[i]` belongs to path i. Raises EngineError."""
        assert len(contexts) == len(seeds), "one seed per context"
        llm = self._open()
        self._wake()
        names: list[str] = []
        with _own_random_state():
            try:
                for context, seed in zip(contexts, seeds, strict=True):
                    names.append(self._ask(llm, context, params, seed))
                found = self._finish(llm, set(names))
            except BaseException:
                llm.llm_engine.abort_request(names)  # the engine outlives the error; what is answered is not there
                raise
        return [
            answer_of(sampled_of(found[name].outputs[0]), context, params, self.decoder, self.weight_version)
            for name, context in zip(names, contexts, strict=True)
        ]

    def take_weights(self, version: int) -> None:
        """Load the policy's trained weights, forget what earlier ones computed, and ask the canary. Raises EngineError.

        The first time all weights are loaded: the engine may have been another run's.
        """
        whole = self._llm is None
        llm = self._open()
        self._wake()
        weights = engine_weights(self.policy, whole=whole)
        with _own_random_state():
            llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
            # Loading empties the workers' cache of media; the scheduler must know, also where no tower is trained.
            llm.llm_engine.reset_encoder_cache()
            llm.llm_engine.reset_prefix_cache()
        self.weight_version = version
        self.canary.check(self)

    def rest(self) -> None:
        """Give the GPU's memory back until the next answers are wanted."""
        if self._llm is not None and self._sleeps and not self._llm.llm_engine.is_sleeping():
            self._llm.sleep(level=1)
        if self.options.offload_optimizer:
            self._optimizer_to(self.policy.device)

    def close(self) -> None:
        """The engine stays open for the process's next run, without a GPU's memory."""
        self.rest()

    @property
    def _sleeps(self) -> bool:
        return self.options.sleep and self.policy.device.type == "cuda"

    def _wake(self) -> None:
        self._make_room()
        if self._sleeps and self._llm.llm_engine.is_sleeping():  # also where an earlier run left it so
            self._llm.wake_up()

    def _make_room(self) -> None:
        if self.options.offload_optimizer:
            self._optimizer_to(torch.device("cpu"))

    def _open(self) -> Any:
        if self._llm is None:
            self._make_room()
            self._llm = opened(self._arguments, self.options.start_s, self.say)
            self._llm.collective_rpc("use_trainer_positions", args=(rules_text(self.policy.rules),))
        return self._llm

    def _ask(self, llm: Any, context: Context, params: SamplingParams, seed: int) -> str:
        from vllm import SamplingParams as VllmParams
        from vllm.sampling_params import RequestOutputKind

        asked = request_params(params, seed, self.policy.banned.tolist(), self.policy.end_ids)
        given = engine_input(context, self.policy.rules, self.policy.family.engine_fields)
        length = len(given["prompt_token_ids"])
        if length + params.max_new_tokens > self._arguments["max_model_len"]:
            raise EngineError(
                f"a prompt of {length} tokens and {params.max_new_tokens} for its answer are more than the engine's "
                f"{self._arguments['max_model_len']}; raise rollout.options.max_model_len"
            )
        name = str(next(_NUMBERS))
        own = VllmParams(**asked, flat_logprobs=True, output_kind=RequestOutputKind.FINAL_ONLY)
        llm.llm_engine.add_request(name, given, own)
        return name

    def _finish(self, llm: Any, names: set[str]) -> dict[str, Any]:
        """Step until all are answered; by name. Raises EngineError past the deadline."""
        core = llm.llm_engine
        found: dict[str, Any] = {}
        end = time.monotonic() + self.options.deadline_s
        while core.has_unfinished_requests():
            found |= {output.request_id: output for output in core.step() if output.finished}
            if time.monotonic() > end:
                raise EngineError(
                    f"stage rollout: {len(names - found.keys())} of {len(names)} answers are not there after "
                    f"{self.options.deadline_s:g} s; raise rollout.options.deadline_s, or lower "
                    "rollout.max_new_tokens or rollout.max_rows"
                )
        return found


_NUMBERS = itertools.count()
"""Names of requests: of the process, as its engine may serve several runs."""
_OPENED: list[tuple[dict[str, Any], Any]] = []
"""The one engine of this process, with its arguments: a process can hold one only."""


def opened(arguments: dict[str, Any], start_s: float, say: Callable[[str], None]) -> Any:
    """The engine with these arguments: the one that is open, or a new one in its place. Raises EngineError."""
    if _OPENED and _OPENED[0][0] == arguments:
        return _OPENED[0][1]
    close()
    say(f"starting vLLM for {arguments['model']} (may take minutes)")
    began = time.monotonic()
    os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
    with _own_random_state(), _deadline(start_s):
        import vllm

        try:
            llm = vllm.LLM(**arguments)
        except (ValueError, RuntimeError, OSError) as error:
            why = " ".join(str(error).split())[:300]
            raise EngineError(f"rollout.engine: vllm: the engine did not start ({why})") from error
    say(f"vLLM is ready after {time.monotonic() - began:.0f} s")
    _OPENED.append((arguments, llm))
    return llm


def opened_anew(arguments: dict[str, Any], start_s: float, say: Callable[[str], None]) -> Any:
    """The same with the checkpoint's weights, whatever an earlier run has loaded into it. Raises EngineError."""
    used = bool(_OPENED) and _OPENED[0][0] == arguments
    llm = opened(arguments, start_s, say)
    if used:
        llm.collective_rpc("reload_weights")
        llm.llm_engine.reset_encoder_cache()
        llm.llm_engine.reset_prefix_cache()
    return llm


def close() -> None:
    """End the process's engine, if there is one."""
    while _OPENED:
        _, llm = _OPENED.pop()
        with _sparing_the_runs_processes():
            llm.llm_engine.engine_core.shutdown()


@contextlib.contextmanager
def _sparing_the_runs_processes() -> Iterator[None]:
    """vLLM ends the process group that it finds, which in a run of several processes is the run's; not its own ones."""
    distributed: Any = torch.distributed
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        yield
        return
    destroy = distributed.destroy_process_group
    distributed.destroy_process_group = lambda group=None: destroy(group) if group is not None else None
    try:
        yield
    finally:
        distributed.destroy_process_group = destroy


@contextlib.contextmanager
def _own_random_state() -> Iterator[None]:
    """vLLM seeds and draws from the process's generators; a resumed run must find them as it left them."""
    state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_available() else []):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raises EngineError inside once the time is up; in threads other than the main one there is no deadline."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(signum: int, frame: FrameType | None) -> None:
        raise EngineError(
            f"stage start of the engine: vLLM is not ready after {seconds:g} s; raise rollout.options.start_s, or see "
            "with VLLM_LOGGING_LEVEL=INFO what it waits for"
        )

    earlier = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
