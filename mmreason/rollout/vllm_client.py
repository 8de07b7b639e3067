"""Answers from vLLM servers over HTTP: token ids and processed media in, token ids and log-probs out.

The route is vLLM's token-in-token-out one (`--enable-scale-out`), so that nothing is tokenized, decoded or resized
again. Media travel once per prompt and server: a request for one token brings them, and fills the prefix cache; the
answers' requests name them by hash. A server that dropped them says so, and gets them again.

A request that was lost - its server died, or answered with other weights than it should have - is made again with the
same prompt and seed, as soon as the server says that it has the weights (fleet.py sees to that). Every wait has a
deadline.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from mmreason.errors import EngineError
from mmreason.policy.engine_fields import EngineFields
from mmreason.policy.positions import MediaRules
from mmreason.rollout.base import Answer, AnswerEngine, Context, SamplingParams, TextDecoder
from mmreason.rollout.fleet import Fleet
from mmreason.rollout.transfer import QUICK_S
from mmreason.rollout.vllm_inputs import engine_input
from mmreason.rollout.vllm_params import Sampled, answer_of, request_params
from mmreason.rollout.web import Lost, Web

GENERATE = "/inference/v1/generate"
LOOK_S = 1.0
"""Seconds between two questions whether a server is back."""
TRIES = 10
"""How often an answer is asked for: a server may die a few times, and one that fails always is given up."""


class ServerEngine(AnswerEngine):
    """Samples from vLLM servers. See `rollout.base.Engine`; `generate` may be called from any thread.

    version: what servers call the weights of `weight_version` (see Fleet.push); answers of others are not taken.
    concurrency: requests to one server at a time. deadline_s: how long all answers of one call may take. first: where
    in the row of servers this process begins to deal out its prompts.
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
        first: int = 0,
    ) -> None:
        self._first = first
        self.rules, self.fields, self.decoder = rules, fields, decoder
        self.banned, self.end_ids = banned, end_ids
        self.deadline_s, self.fleet = deadline_s, fleet
        self.version = ""
        self.remade = 0
        """How many answers were asked for again."""
        self._counting = threading.Lock()
        self.concurrency = concurrency
        self._places: list[Place] = []
        self._calls: set[_Call] = set()
        self._closed = False
        self.use(urls)

    def use(self, urls: Sequence[str]) -> None:
        """Ask these servers from here on."""
        self._places = [Place(url, self.concurrency, self._failure) for url in urls]

    def sample(self, contexts: Sequence[Context], params: SamplingParams, seeds: Sequence[int]) -> list[Answer]:
        """One answer below each path; `seeds[i]` belongs to path i. Raises EngineError."""
        return self.sample_at(self._places, contexts, params, seeds)

    def sample_at(
        self, places: Sequence[Place], contexts: Sequence[Context], params: SamplingParams, seeds: Sequence[int]
    ) -> list[Answer]:
        """The same, from these of the servers."""
        assert len(contexts) == len(seeds), "one seed per context"
        call = _Call(self, params)
        self._calls.add(call)
        try:
            if self._closed:  # asked only now: `close` sees the call, or the call sees it
                raise EngineError("sampling was cancelled")
            groups: dict[tuple[int, ...], list[int]] = {}
            for index, context in enumerate(contexts):
                groups.setdefault(tuple(map(id, context)), []).append(index)
            asked: dict[int, Future[Answer]] = {}
            for number, indices in enumerate(groups.values()):
                place = places[(self._first + number) % len(places)]
                prompt = _Prompt(contexts[indices[0]], self.rules, self.fields)
                for index in indices:
                    asked[index] = place.pool.submit(call.answer, place, prompt, seeds[index])
            return [asked[index].result() for index in range(len(contexts))]
        finally:
            call.over.set()  # what is left of it after an error
            self._calls.discard(call)

    def cancel(self) -> None:
        """End what other threads are sampling: their calls raise EngineError soon."""
        for call in list(self._calls):
            call.over.set()
        for place in self._places:
            place.web.cut(last=self._closed)

    def close(self) -> None:
        """Cancel, and stop the servers that are ours."""
        self._closed = True
        self.cancel()
        for place in self._places:
            place.pool.shutdown(cancel_futures=True)
            place.web.close()
        if self.fleet is not None:
            self.fleet.close()

    def count_again(self) -> None:
        """One more answer is asked for again; from any thread."""
        with self._counting:
            self.remade += 1

    def _failure(self) -> EngineError | None:
        return self.fleet.failure if self.fleet is not None else None


class Place:
    """One server, and the threads of the requests to it."""

    def __init__(self, url: str, concurrency: int, failure: Callable[[], EngineError | None]) -> None:
        self.web, self._failure = Web(url, keep=True), failure
        self.pool = ThreadPoolExecutor(concurrency, thread_name_prefix=f"rollouts {url}")
        self._asking = threading.Lock()

    def wait_for(self, version: str, over: Callable[[], bool]) -> None:
        """Wait until it has these weights, or until `over()`. Raises EngineError where it is given up."""
        with self._asking:  # one of the waiting threads asks
            while not over():
                if (failure := self._failure()) is not None:
                    raise failure
                try:
                    if self.web.get("/weight_info", QUICK_S)["weight_version"] == version:
                        return
                except Lost:
                    pass
                time.sleep(LOOK_S)


class _Prompt:
    """A path as requests carry it: in full, or with its media named only."""

    def __init__(self, context: Context, rules: MediaRules, fields: EngineFields) -> None:
        self.context, self.given = context, engine_input(context, rules, fields)
        _require_sendable(self.given)
        self.sending = threading.Lock()
        self.sent = self.given["type"] != "multimodal"
        """Whether the server was given the media."""

    def body(self, params: Mapping[str, Any], *, whole: bool) -> dict[str, Any]:
        body: dict[str, Any] = {"token_ids": self.given["prompt_token_ids"], "sampling_params": params}
        if self.given["type"] == "multimodal":
            body["features"] = _features(self.given, whole=whole)
        return body


class _Call:
    """What the answers of one call of `sample` have in common."""

    def __init__(self, engine: ServerEngine, params: SamplingParams) -> None:
        self.engine, self.params = engine, params
        self.version, self.step = engine.version, engine.weight_version
        self.end = time.monotonic() + engine.deadline_s
        self.over = threading.Event()

    def answer(self, place: Place, prompt: _Prompt, seed: int) -> Answer:
        """Ask until there is an answer by the right weights. Raises EngineError."""
        engine = self.engine
        params = request_params(self.params, seed, engine.banned, engine.end_ids)
        for number in range(TRIES):
            try:
                choice = self._choice(place, prompt, params, again=number > 0)
                return answer_of(sampled_of(choice), prompt.context, self.params, engine.decoder, self.step)
            except Lost as lost:
                self._require_time(place)
                reason = str(lost)
                engine.count_again()
            self.over.wait(min(number, 1) * LOOK_S)  # the first time it may be the media that are missing, no more
            place.wait_for(self.version, lambda: self.over.is_set() or time.monotonic() > self.end)
            self._require_time(place)
        raise EngineError(f"gave up on an answer after {TRIES} tries, the last one: {reason}")

    def _choice(self, place: Place, prompt: _Prompt, params: Mapping[str, Any], *, again: bool) -> dict[str, Any]:
        with prompt.sending:
            if not prompt.sent:
                self._ask(place, prompt.body({**params, "max_tokens": 1, "logprobs": None}, whole=True))
                prompt.sent = True
        choice = self._ask(place, prompt.body(params, whole=again))
        if choice["finish_reason"] == "abort":  # a server that is told to end gives up what it was at
            raise Lost(f"{place.web.url}: gave an answer up")
        versions = {span["version"] for span in choice["weight_versions"] or ()}
        if versions != {self.version}:
            raise Lost(f"{place.web.url}: answered by the weights {sorted(versions)}, expected {self.version}")
        return choice

    def _ask(self, place: Place, body: Mapping[str, Any]) -> dict[str, Any]:
        self._require_time(place)
        choice: dict[str, Any] = place.web.post(GENERATE, body, max(self.end - time.monotonic(), 0.001))["choices"][0]
        return choice

    def _require_time(self, place: Place) -> None:
        if self.over.is_set():
            raise EngineError("sampling was cancelled")
        if time.monotonic() >= self.end:
            raise EngineError(
                f"waited {self.engine.deadline_s:g} s for answers by the weights of step {self.step} from "
                f"{place.web.url}; where answers take that long, raise rollout.options.deadline_s, else its log says "
                "what it does"
            )


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
