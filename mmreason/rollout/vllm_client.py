"""Answers from vLLM servers over HTTP: token ids and processed media in, token ids and log-probs out.

The route is vLLM's token-in-token-out one (`--enable-scale-out`), so that nothing is tokenized, decoded or resized
again. Media travel once per prompt and server: a request for one token brings them, and fills the prefix cache; the
answers' requests name them by hash. A server that dropped them says so, and gets them again.

A request that was lost - its server died, or answered with other weights than it should have - is made again with the
same prompt and seed, as soon as the server says that it has the weights (fleet.py sees to that). Every wait has a
deadline.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from mmreason.errors import EngineError
from mmreason.policy.engine_fields import EngineFields
from mmreason.policy.positions import MediaRules
from mmreason.rollout.base import Answer, AnswerEngine, Context, SamplingParams, TextDecoder
from mmreason.rollout.fleet import QUICK_S, Fleet
from mmreason.rollout.vllm_inputs import engine_input
from mmreason.rollout.vllm_params import Sampled, answer_of, request_params
from mmreason.rollout.web import Lost, Web

GENERATE = "/inference/v1/generate"
LOOK_S = 1.0
"""Seconds between two questions whether a server is back."""


class ServerEngine(AnswerEngine):
    """Samples from vLLM servers. See `rollout.base.Engine`; `generate` may be called from any thread.

    version: what servers call the weights of `weight_version` (see Fleet.push); answers of others are not taken.
    concurrency: requests to one server at a time. deadline_s: how long all answers of one call may take.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        rules: MediaRules,
        fields: EngineFields,
        banned: Sequence[int],
        end_ids: Sequence[int],
        decoder: TextDecoder,
        concurrency: int = 64,
        deadline_s: float = 1800.0,
        fleet: Fleet | None = None,
    ) -> None:
        self.rules, self.fields, self.decoder = rules, fields, decoder
        self.banned, self.end_ids = banned, end_ids
        self.deadline_s, self.fleet = deadline_s, fleet
        self.version = ""
        self.remade = 0
        """How many answers were asked for again."""
        self._places = [_Place(url, concurrency, self._failure) for url in urls]
        self._stopped = threading.Event()

    def sample(self, contexts: Sequence[Context], params: SamplingParams, seeds: Sequence[int]) -> list[Answer]:
        """One answer below each path; `seeds[i]` belongs to path i. Raises EngineError."""
        assert len(contexts) == len(seeds), "one seed per context"
        end = time.monotonic() + self.deadline_s
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, context in enumerate(contexts):
            groups.setdefault(tuple(map(id, context)), []).append(index)
        done: queue.SimpleQueue[tuple[int, Future[Answer]]] = queue.SimpleQueue()
        for number, indices in enumerate(groups.values()):
            place = self._places[number % len(self._places)]
            prompt = _Prompt(contexts[indices[0]], self.rules, self.fields)
            for index in indices:
                task = _Task(self, place, prompt, params, seeds[index], end)
                place.pool.submit(task.run).add_done_callback(_reporter(done, index))
        return self._collected(done, len(contexts), end)

    def cancel(self) -> None:
        """End what is under way: every call of `sample` raises EngineError soon."""
        self._stopped.set()
        for place in self._places:
            place.web.cut()

    def close(self) -> None:
        """Cancel, and stop the servers that are ours."""
        self.cancel()
        for place in self._places:
            place.pool.shutdown(wait=False, cancel_futures=True)
        if self.fleet is not None:
            self.fleet.close()

    @property
    def stopped(self) -> bool:
        """Whether `cancel` was called."""
        return self._stopped.is_set()

    def _failure(self) -> EngineError | None:
        return self.fleet.failure if self.fleet is not None else None

    def _collected(self, done: queue.SimpleQueue[tuple[int, Future[Answer]]], count: int, end: float) -> list[Answer]:
        answers: dict[int, Answer] = {}
        while len(answers) < count:
            try:
                index, future = done.get(timeout=max(0.0, end - time.monotonic()) + QUICK_S)
            except queue.Empty:  # not even the requests' own deadlines
                raise self.late() from None
            answers[index] = future.result()
        return [answers[index] for index in range(count)]

    def late(self) -> EngineError:
        """What to raise when the deadline is over."""
        where = ", ".join(place.web.url for place in self._places)
        return EngineError(
            f"waited {self.deadline_s:g} s for answers by the weights of step {self.weight_version} from {where}; where "
            "answers take that long, raise rollout.options.deadline_s, else the servers' logs say what they do"
        )


class _Place:
    """One server, its requests' threads, and what it should know of media."""

    def __init__(self, url: str, concurrency: int, failure: Callable[[], EngineError | None]) -> None:
        self.web, self._failure = Web(url), failure
        self.pool = ThreadPoolExecutor(concurrency, thread_name_prefix=f"rollouts {url}")
        self._asking = threading.Lock()

    def wait_for(self, version: str, end: float, stopped: threading.Event) -> bool:
        """Wait until it has these weights; False when `end` came first. Raises EngineError where it is given up."""
        with self._asking:  # one of the waiting threads asks
            while time.monotonic() < end and not stopped.is_set():
                if (failure := self._failure()) is not None:
                    raise failure
                try:
                    if self.web.get("/weight_info", QUICK_S)["weight_version"] == version:
                        return True
                except Lost:
                    pass
                stopped.wait(LOOK_S)
        return False


class _Prompt:
    """A path as requests carry it: in full, or with its media named only."""

    def __init__(self, context: Context, rules: MediaRules, fields: EngineFields) -> None:
        self.context = context
        self.given = engine_input(context, rules, fields)
        _require_sendable(self.given)
        self.lock = threading.Lock()
        self.sent_to: str | None = None
        """The label of the server's weights when it was given the media."""

    def body(self, params: Mapping[str, Any], *, whole: bool) -> dict[str, Any]:
        ids = self.given["prompt_token_ids"]
        body: dict[str, Any] = {"token_ids": ids, "sampling_params": params}
        if self.given["type"] == "multimodal":
            body["features"] = _features(self.given, whole=whole)
        return body


class _Task:
    """One answer."""

    def __init__(
        self, engine: ServerEngine, place: _Place, prompt: _Prompt, params: SamplingParams, seed: int, end: float
    ) -> None:
        self.engine, self.place, self.prompt, self.params, self.seed = engine, place, prompt, params, seed
        self.end, self.version = end, engine.version

    def run(self) -> Answer:
        """Ask until there is an answer by the right weights."""
        again = False
        while True:
            if self.engine.stopped:
                raise EngineError("the rollout engine was closed")
            if time.monotonic() >= self.end:
                raise self.engine.late()
            try:
                return self._answer(whole=again)
            except Lost:
                self.engine.remade += 1
                again = True
            if not self.place.wait_for(self.version, self.end, self.engine._stopped) and not self.engine.stopped:
                raise self.engine.late()

    def _answer(self, *, whole: bool) -> Answer:
        engine = self.engine
        params = request_params(self.params, self.seed, engine.banned, engine.end_ids)
        if self.prompt.given["type"] == "multimodal" and not whole:
            self._bring_media(params)
        choice = self._ask(self.prompt.body(params, whole=whole))
        versions = {span["version"] for span in choice["weight_versions"] or ()}
        if versions != {self.version}:
            raise Lost(f"{self.place.web.url}: answered with the weights {sorted(versions)}, not {self.version}")
        return answer_of(
            sampled_of(choice), self.prompt.context, self.params, engine.decoder, engine.weight_version
        )

    def _bring_media(self, params: Mapping[str, Any]) -> None:
        """Send the prompt's media, unless an answer beside this one did."""
        with self.prompt.lock:
            if self.prompt.sent_to != self.version:
                self._ask(self.prompt.body({**params, "max_tokens": 1, "logprobs": None}, whole=True))
                self.prompt.sent_to = self.version

    def _ask(self, body: Mapping[str, Any]) -> dict[str, Any]:
        left = max(self.end - time.monotonic(), 0.001)
        choice: dict[str, Any] = self.place.web.post(GENERATE, body, left)["choices"][0]
        return choice


def sampled_of(choice: Mapping[str, Any]) -> Sampled:
    """A choice of the server's reply as every engine gives it."""
    content = choice["logprobs"]["content"]
    candidates = [[(one["token_id"], one["logprob"]) for one in token["top_logprobs"]] for token in content]
    return Sampled(
        ids=choice["token_ids"],
        logprobs=[token["logprob"] for token in content],
        candidates=candidates if any(len(found) > 1 for found in candidates) else (),
        finish_reason=choice["finish_reason"],
    )


def _features(given: Mapping[str, Any], *, whole: bool) -> dict[str, Any]:
    """Hashes and places of a prompt's media, and with `whole` their tensors."""
    from vllm.entrypoints.scale_out.token_in_token_out.mm_serde import encode_mm_kwargs_item

    features: dict[str, Any] = {
        "mm_hashes": given["mm_hashes"],
        "mm_placeholders": {
            kind: [{"offset": one.offset, "length": one.length} for one in places]
            for kind, places in given["mm_placeholders"].items()
        },
    }
    if whole:
        features["kwargs_data"] = {
            kind: [encode_mm_kwargs_item(item) for item in items] for kind, items in given["mm_kwargs"].items()
        }
    return features


def _require_sendable(given: Mapping[str, Any]) -> None:
    """Raises EngineError for media whose features do not fill a run of tokens: vLLM 0.32's route cannot say that."""
    places: Mapping[str, Collection[Any]] = given.get("mm_placeholders", {})
    kinds = [kind for kind, found in places.items() for place in found if place.is_embed is not None]
    if kinds:
        raise EngineError(
            f"a prompt has a {kinds[0]} with other tokens between its own (a video with its sound, or with times as "
            "words), which vLLM's servers cannot be sent; use rollout.engine: vllm for such data"
        )


def _reporter(
    done: queue.SimpleQueue[tuple[int, Future[Answer]]], index: int
) -> Callable[[Future[Answer]], None]:
    return lambda future: done.put((index, future))
