"""A policy small enough to know everything about: vocabulary 6, answers of at most 3 tokens, every one enumerable.

Token 0 ends an answer. A token's distribution depends on its place and on the token before it. A answers in all,
N groups of G, L places, V tokens, C cells (place x token before).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mmreason.algorithms.aggregation import AGGREGATIONS, StepCounts
from mmreason.algorithms.ratios import Tokens

V, L, G = 6, 3, 4
C = L * (V + 1)
END = 0


@dataclass(frozen=True)
class Policy:
    """Logits per cell. [C, V]"""

    logits: Tensor

    @cached_property
    def log(self) -> Tensor:
        """[C, V]"""
        return self.logits.log_softmax(-1)

    def of(self, ids: Tensor) -> Tensor:
        """Log-prob of each token. [..., L] -> [..., L]"""
        return self.log[cells(ids), ids]


def cells(ids: Tensor) -> Tensor:
    """Which cell each token is drawn from. [..., L]"""
    before = torch.cat([torch.full_like(ids[..., :1], V), ids[..., :-1]], dim=-1)
    return torch.arange(L) * (V + 1) + before


def mask_of(ids: Tensor) -> Tensor:
    """1 up to the end token, itself included. float64 [..., L]"""
    ended = (ids == END).long().cumsum(-1) - (ids == END).long()
    return (ended == 0).double()


def policy(seed: int, spread: float = 0.7) -> Policy:
    generator = torch.Generator().manual_seed(seed)
    return Policy(spread * torch.randn(C, V, dtype=torch.float64, generator=generator))


EVERY = torch.cartesian_prod(*[torch.arange(V)] * L)
EVERY = EVERY[(EVERY * (1 - mask_of(EVERY)).long() == 0).all(-1)]  # one writing for each: nothing but 0 after the end
MASK = mask_of(EVERY)


def reward(ids: Tensor, kind: int = 0) -> Tensor:
    """Two rewards of 0 and 1 that look at the whole answer. [..., L] -> [...]"""
    tokens = ids.double() * mask_of(ids)
    if kind:
        return (tokens.sum(-1) > 6).double()
    return ((3 * tokens[..., 0] + 2 * tokens[..., 1] + tokens[..., 2]) % 5 < 2).double()


def sampled(source: Policy, groups: int, seed: int) -> Tensor:
    """Answers drawn from `source`. int64 [N, G, L]"""
    chances = (source.of(EVERY) * MASK).sum(-1).exp()
    generator = torch.Generator().manual_seed(seed)
    return EVERY[torch.multinomial(chances, groups * G, replacement=True, generator=generator)].reshape(groups, G, L)


def tokens_of(
    ids: Tensor, advantages: Tensor, *, now: Policy, old: Policy, aggregation: str
) -> tuple[Tokens, Tensor]:
    """All groups as one row of N x G x L tokens, padding without weight; and the log-probs that gradients are for.

    `advantages`: by answer [N, G], or by token [N, G, L].
    """
    mask = mask_of(ids)
    lengths = mask.sum(-1).long()
    counts = StepCounts(sequences=lengths.numel(), tokens=int(lengths.sum()), max_new_tokens=L)
    by_length = torch.tensor([0.0, *(AGGREGATIONS[aggregation](n, counts) for n in range(1, L + 1))]).double()
    leaf = now.of(ids).detach().flatten().requires_grad_()
    tokens = Tokens(
        logprob=leaf,
        old=old.of(ids).detach().flatten(),
        advantage=(advantages[..., None] if advantages.dim() == 2 else advantages).expand_as(mask).flatten(),
        weight=(by_length[lengths][..., None] * mask).flatten(),
        answer=torch.arange(1, lengths.numel() + 1).repeat_interleave(L),
        group=torch.arange(1, ids.shape[0] + 1).repeat_interleave(G * L),
    )
    return tokens, leaf


def per_group(ids: Tensor, by_token: Tensor, now: Policy) -> Tensor:
    """Gradient by the logits of each group's share, out of the gradient by every token's log-prob. [N, C x V]"""
    pushes = by_token.reshape(ids.shape) * ids.shape[0]
    place = torch.arange(ids.shape[0])[:, None, None] * C + cells(ids)
    total = torch.zeros(ids.shape[0] * C, dtype=torch.float64).index_add(0, place.flatten(), pushes.flatten())
    chosen = torch.zeros(ids.shape[0] * C * V, dtype=torch.float64)
    chosen = chosen.index_add(0, (place * V + ids).flatten(), pushes.flatten())
    found = chosen.reshape(-1, C, V) - total.reshape(-1, C, 1) * now.log.detach().exp()
    return found.flatten(1)


def exact(now: Policy, pushes_AL: Tensor, source: Policy | None = None) -> Tensor:
    """Sum over all answers of their chance under `source` x sum_t push_t grad log pi_t. [C x V]"""
    chance = ((source or now).of(EVERY) * MASK).sum(-1).exp().detach()
    logits = now.logits.clone().requires_grad_()
    total = (chance[:, None] * MASK * pushes_AL * Policy(logits).of(EVERY)).sum()
    return torch.autograd.grad(total, logits)[0].flatten()


def largest_z(samples: Tensor, expected: Tensor) -> float:
    """Of all parameters: how many standard errors the mean of the samples is away from what is expected."""
    error = samples.std(0) / len(samples) ** 0.5
    seen = error > 1e-12
    assert not expected[~seen].abs().gt(1e-9).any()
    return float(((samples.mean(0) - expected).abs() / error.clamp(min=1e-12))[seen].max())
