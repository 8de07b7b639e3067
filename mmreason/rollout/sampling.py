"""Choosing the next token: pure functions of logits and one uniform number per row.

Shapes: R rows, V vocabulary, N tokens of the longest answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmreason.rollout.base import SamplingParams


def uniforms(seeds: Sequence[int], length: int) -> Tensor:
    """float64 [R, N] in [0, 1): one number per row and step, from the row's seed alone.

    Row i does not depend on the other rows, nor its first numbers on `length`.
    """
    rows = [torch.rand(length, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows) if rows else torch.zeros(0, length, dtype=torch.float64)


def log_probs(logits_RV: Tensor, temperature: float, banned: Tensor) -> Tensor:
    """float32 [R, V]: log_softmax(logits / temperature) with the banned ids (int64 [K]) at -inf."""
    scaled_RV = logits_RV.float() / temperature
    scaled_RV[:, banned] = float("-inf")
    return torch.log_softmax(scaled_RV, dim=-1)


def choose(logp_RV: Tensor, uniform_R: Tensor, params: SamplingParams) -> Tensor:
    """int64 [R]: the likeliest token, or the one where the cumulative probability passes the row's uniform number.

    top_k and top_p narrow the choice first, as in transformers: k first, then the smallest set of the likeliest tokens
    whose probability (among those left) reaches p.
    """
    return draw(logp_RV, uniform_R, params).tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One token per row."""

    tokens: Tensor
    """int64 [R]."""
    logprobs: Tensor
    """float32 [R]: of the whole softmax, or with `keep_support` of what was left to choose among."""
    kept: tuple[Tensor, Tensor] | None = None
    """With `keep_support`: how many ids each token was chosen among, int64 [R], and these ids, int32 [M]."""


def draw(logp_RV: Tensor, uniform_R: Tensor, params: SamplingParams) -> Drawn:
    """`choose`, with what is recorded of it."""
    if params.greedy or (not params.top_k and params.top_p == 1.0):
        tokens = logp_RV.argmax(dim=-1) if params.greedy else _inverse_cdf(logp_RV.exp(), uniform_R)
        return Drawn(tokens=tokens, logprobs=logp_RV.gather(1, tokens[:, None])[:, 0])
    count = min(params.top_k or logp_RV.shape[1], logp_RV.shape[1])
    top_RK, ids_RK = logp_RV.topk(count, dim=-1)  # falling
    p_RK = top_RK.softmax(dim=-1)
    before_RK = p_RK.cumsum(dim=-1) - p_RK
    p_RK[before_RK >= params.top_p] = 0.0  # the first one always stays: nothing stands before it
    place_R1 = _inverse_cdf(p_RK, uniform_R)[:, None]
    tokens, logprobs = ids_RK.gather(1, place_R1)[:, 0], top_RK.gather(1, place_R1)[:, 0]
    if not params.keep_support:
        return Drawn(tokens=tokens, logprobs=logprobs)
    kept_RK = p_RK > 0
    mass_R = top_RK.masked_fill(~kept_RK, float("-inf")).logsumexp(dim=-1)
    return Drawn(tokens=tokens, logprobs=logprobs - mass_R, kept=(kept_RK.sum(-1), ids_RK[kept_RK].int()))


def _inverse_cdf(p_RV: Tensor, uniform_R: Tensor) -> Tensor:
    """First index whose cumulative probability is above the uniform number: never one of probability 0.

    In float64: over a vocabulary of 150 000 the rounding of a float32 sum is larger than many tokens' probability.
    """
    cdf_RV = p_RV.double().cumsum(dim=-1)
    target_R1 = uniform_R[:, None] * cdf_RV[:, -1:]
    return torch.searchsorted(cdf_RV, target_R1, right=True)[:, 0].clamp_(max=p_RV.shape[1] - 1)
