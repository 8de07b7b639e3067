"""Our sampling parameters as vLLM's, and what vLLM sampled as answers.

Every answer is a request of its own with its own seed: vLLM makes as many requests of `n` answers anyway (its prefix
cache and the hashes of media see to it that prompt and media are computed once), and with `n` answers to a request
the seed of one would depend on how many there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from mmreason.errors import EngineError
from mmreason.rollout.base import Answer, Context, SamplingParams, TextDecoder, cut
from mmreason.types import Segment, Support

BANNED = -1e9
"""Added to the logits of banned ids: their probability is exactly 0 in float32, and the number survives JSON."""

_NEVER = -9000.0
"""Log-probs below are of tokens that could not be chosen: -inf, or what the server writes for it."""


def narrows(params: SamplingParams) -> bool:
    """Whether top-p or top-k leave out tokens."""
    return not params.greedy and (params.top_p < 1 or params.top_k > 0)


def wanted_logprobs(params: SamplingParams) -> int:
    """How many log-probs per token vLLM must give: 0 the sampled token's, -1 all of them.

    vLLM's are those after top-k and top-p, so that those above -inf are exactly the tokens that could be chosen.
    """
    if not (params.keep_support and narrows(params)):
        return 0
    return params.top_k or -1


def request_params(params: SamplingParams, seed: int, banned: Sequence[int], end_ids: Sequence[int]) -> dict[str, Any]:
    """Keyword arguments of `vllm.SamplingParams` for one answer; plain values, so that they also go as JSON."""
    return {
        "temperature": 0.0 if params.greedy else params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "seed": seed,
        "max_tokens": params.max_new_tokens,
        "logit_bias": {int(token): BANNED for token in banned},
        "ignore_eos": True,  # whatever vLLM takes for it; ours are the next line
        "stop_token_ids": list(end_ids),
        "stop": list(params.stop),
        "include_stop_str_in_output": True,
        "detokenize": bool(params.stop),
        "skip_special_tokens": False,
        "logprobs": wanted_logprobs(params),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """What an engine says of one answer of T tokens, however it says it."""

    ids: Sequence[int]
    """[T]."""
    logprobs: Sequence[float]
    """[T]: of the sampled tokens."""
    candidates: Sequence[Sequence[tuple[int, float]]] = ()
    """[T]: (id, log-prob) of the sampled token and those that were asked for beside it, each once."""
    finish_reason: str | None
    """vLLM's "stop" or "length"; anything else is no answer."""


def sampled_of(output: Any) -> Sampled:
    """From vLLM's `CompletionOutput`, with flat log-probs."""
    flat = output.logprobs
    ids = list(output.token_ids)
    spans = list(zip(flat.start_indices, flat.end_indices, strict=True))[: len(ids)]
    # The sampled token stands there twice where it is among those that were asked for.
    listed = [dict(zip(flat.token_ids[a:b], flat.logprobs[a:b], strict=True)) for a, b in spans]
    own = [found[token] for token, found in zip(ids, listed, strict=True)]
    candidates = [list(found.items()) for found in listed]
    return Sampled(ids=ids, logprobs=own, candidates=candidates, finish_reason=output.finish_reason)


def answer_of(
    sampled: Sampled, context: Context, params: SamplingParams, decoder: TextDecoder, weight_version: int
) -> Answer:
    """An answer below a path, as every engine gives it. Raises EngineError where vLLM gave up on the request.

    Log-probs are left out where they are not those that `SamplingParams` speaks of: vLLM's greedy ones are without a
    temperature, and those of narrowed sampling are over what was left to choose among.
    """
    if sampled.finish_reason not in ("stop", "length"):
        raise EngineError(
            f"vLLM ended an answer with {sampled.finish_reason!r} after {len(sampled.ids)} tokens; expected 'stop' or "
            "'length'; its log says why"
        )
    defined = params.temperature == 1.0 if params.greedy else params.keep_support or not narrows(params)
    ids = torch.tensor(list(sampled.ids), dtype=torch.int64)
    segment = Segment(
        kind="policy",
        ids=ids,
        loss_mask=torch.ones(len(ids), dtype=torch.bool),
        parent=len(context) - 1,
        columns={"logprob.sampling": torch.tensor(list(sampled.logprobs))} if defined else {},
        weight_version=weight_version,
        support=support_of(sampled) if wanted_logprobs(params) else None,
    )
    finish: Literal["stop", "length"] = "stop" if sampled.finish_reason == "stop" else "length"
    return Answer(segment, cut(decoder.text(ids), params.stop), finish)


def support_of(sampled: Sampled) -> Support:
    """What each token was chosen among: all candidates that have a probability.

    Raises EngineError where they do not make up the whole: tokens of equal logits at the k-th place stay in vLLM's
    choice, all of them, but not in its list of k.
    """
    kept = [[(token, logprob) for token, logprob in found if logprob > _NEVER] for found in sampled.candidates]
    for place, found in enumerate(kept):
        mass = math.fsum(math.exp(logprob) for _, logprob in found)
        if abs(mass - 1) > 1e-3:
            raise EngineError(
                f"vLLM chose token {place} of an answer among more than the {len(found)} tokens that it lists (they "
                f"sum to {mass:.4f}); set rollout.top_k to 0 and rollout.top_p to 1, or rollout.engine: hf"
            )
    counts = torch.tensor([len(found) for found in kept], dtype=torch.int64)
    return Support(counts=counts, ids=torch.tensor([token for found in kept for token, _ in found], dtype=torch.int32))
