"""How much likelier the policy makes what was sampled, as a log-ratio: per token, or one for a whole answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

MAX_LOG_RATIO = 20.0
"""exp() of more overflows half precision; a token this unlikely under one model carries no usable gradient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """What a loss sees of one packed row: [T] each. Tokens with weight 0 are not trained on.

    Example: two answers of one token: `Tokens(logprob=[-1., -2.], old=[-1., -2.], advantage=[1., -1.],
    weight=[.5, .5], answer=[1, 2], group=[1, 1])`
    """

    logprob: Tensor
    """log policy, with gradient."""
    old: Tensor
    """log of the policy that the ratio compares with: the one before this batch's first update."""
    advantage: Tensor
    weight: Tensor
    """Share of the token in the step's loss; see `aggregation`."""
    answer: Tensor
    """int64: number of the answer that a token belongs to; any number where the weight is 0."""
    group: Tensor
    """int64: number of the question that the answer is to."""

    def sum(self, values: Tensor) -> Tensor:
        """[T]: every token gets the sum of `values` over the trained tokens of its answer."""
        return answer_sum(values * (self.weight != 0), self.answer)

    def mean(self, values: Tensor) -> Tensor:
        """[T]: every token gets the mean of `values` over the trained tokens of its answer."""
        trained = (self.weight != 0).to(values.dtype)
        return self.sum(values) / answer_sum(trained, self.answer).clamp(min=1)


def answer_sum(values: Tensor, answer: Tensor) -> Tensor:
    """[T]: every token gets the sum of `values` over the tokens of its answer."""
    if not answer.numel():
        return values
    return values.new_zeros(int(answer.max()) + 1).index_add(0, answer, values)[answer]


def token(tokens: Tokens) -> Tensor:
    """log pi - log pi_old of each token. Schulman et al. 2017 (PPO)."""
    return tokens.logprob - tokens.old


def sequence(tokens: Tokens) -> Tensor:
    """Mean over the answer's tokens of their log-ratios: one ratio per answer. Zheng et al. 2025 (GSPO), equation 7.

    Example: [.3, -.1, .05, .05] -> .075 for all four, a ratio of 1.077884.
    """
    return tokens.mean(token(tokens))


def sequence_token(tokens: Tokens) -> Tensor:
    """The answer's ratio as a value, the token's own log-prob as gradient. Zheng et al. 2025 (GSPO-token), equation 14.

    With one advantage for all tokens of an answer its gradient is that of `sequence` (sequence_mean); with advantages
    that differ by token it lets each push its own token.
    """
    return tokens.logprob - tokens.logprob.detach() + sequence(tokens).detach()


RATIOS: dict[str, Callable[[Tokens], Tensor]] = {
    "token": token,
    "sequence": sequence,
    "sequence_token": sequence_token,
}
