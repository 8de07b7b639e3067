"""DisCO: right answers' scores up against wrong ones', no ratio to clip, and a bound on the drift. Li et al. 2025.

The score of an answer is s = mean_t log pi (their logL) or mean_t rho (Lratio). With a question's right answers P and
wrong ones W: L = -mean_q [mean_P s - tau log mean_W exp(s / tau)], whose gradient weighs wrong answers by
softmax(s / tau): hard ones more. tau -> infinity is DisCO-b, the plain difference of means. As their code
(Optimization-AI/DisCO at bd2b078, core_algos.py) we build the gradient, so the reported loss is shifted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmreason.algorithms.ratios import Tokens, answer_sum


def contrast(rewards_NG: Tensor) -> Tensor:
    """+n / |P| for right answers, -n / |W| for wrong ones, n scored in the group; 0 where all are alike.

    Right is a reward over the middle of the group's range: with rewards 0 and 1 the paper's; for others our choice.
    With `sequence_mean` the factor n makes it mean over P minus mean over W. Example: [1, 0, 0, 1] -> 2, -2, -2, 2.
    """
    known_NG = ~rewards_NG.isnan()
    high_N1 = rewards_NG.nan_to_num(nan=-torch.inf).amax(-1, keepdim=True)
    low_N1 = rewards_NG.nan_to_num(nan=torch.inf).amin(-1, keepdim=True)
    spread_N1 = high_N1 - low_N1
    # A hair above the middle, so that rounding does not decide about a reward that is the middle.
    right_NG = known_NG & (rewards_NG - low_N1 > 0.500001 * spread_N1)
    shares_NG = _shares(right_NG, rewards_NG.dtype) - _shares(known_NG & ~right_NG, rewards_NG.dtype)
    return torch.where(spread_N1 > 1e-9, known_NG.sum(-1, keepdim=True) * shares_NG, 0.0)


def _shares(chosen_NG: Tensor, dtype: torch.dtype) -> Tensor:
    return chosen_NG.to(dtype) / chosen_NG.sum(-1, keepdim=True).clamp(min=1)


def hardness(scores: Tensor, tokens: Tokens, tau: float) -> Tensor:
    """[T], a constant: |W| softmax_W(s / tau) for tokens of wrong answers (advantage < 0), 1 for all others.

    All answers of a question must be in this row. Example: s -1.2 and -.4, tau 10: 2 x (.48, .52).
    """
    scores = scores.detach()
    wrong = (tokens.weight != 0) & (tokens.advantage < 0)
    share = wrong / answer_sum(wrong.to(scores.dtype), tokens.answer).clamp(min=1)  # each wrong answer counts once
    hardest = scores.new_full((int(tokens.group.max()) + 1,), -torch.inf)
    hardest = hardest.scatter_reduce(0, tokens.group, torch.where(wrong, scores, -torch.inf), "amax")[tokens.group]
    size = ((scores - hardest) / tau).exp()
    mean = answer_sum(torch.where(wrong, size * share, 0.0), tokens.group) / answer_sum(share, tokens.group)
    return torch.where(wrong, size / mean, 1.0)


def drift(tokens: Tokens, beta: float, delta: float) -> Tensor:
    """A constant []: beta [KL - delta]_+, the price of drifting; KL the row's weighted mean of log pi_old - log pi.

    Per row, as their code has it per micro-batch. Example: beta 1e3, delta 1e-4, KL 3e-4 -> 0.2; KL 1e-4 -> 0.
    """
    gap = tokens.old - tokens.logprob.detach()
    kl = (gap * tokens.weight).sum() / tokens.weight.sum().clamp(min=1e-30)
    return beta * (kl - delta).clamp(min=0)
