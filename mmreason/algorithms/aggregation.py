"""How per-token losses become one number: a weight per token, so that the loss is a plain weighted sum.

The weights of one optimizer step add up over all rows and all processes, so the result does not depend on how the
trees were packed or who had them. `sequences` and `tokens` are the counts over the WHOLE step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCounts:
    """Totals over all processes of one optimizer step.

    Example: answers of 2 and 6 tokens: `StepCounts(sequences=2, tokens=8, max_new_tokens=8)`
    """

    sequences: int
    tokens: int
    max_new_tokens: int


def token_mean(length: int, counts: StepCounts) -> float:
    """Every token counts the same (DAPO, TRL's default). Losses [1,1] and [.5]*6 -> 0.625."""
    return 1.0 / counts.tokens


def sequence_mean(length: int, counts: StepCounts) -> float:
    """Every answer counts the same (GRPO's paper). Losses [1,1] and [.5]*6 -> 0.75."""
    return 1.0 / (length * counts.sequences)


def constant(length: int, counts: StepCounts) -> float:
    """Sum over tokens, divided by answers x longest possible answer (Dr.GRPO). With 8: -> 0.3125."""
    return 1.0 / (counts.sequences * counts.max_new_tokens)


def sequence_sum(length: int, counts: StepCounts) -> float:
    """Sum over tokens, mean over answers (REINFORCE). -> 2.5."""
    return 1.0 / counts.sequences


AGGREGATIONS: dict[str, Callable[[int, StepCounts], float]] = {
    "token_mean": token_mean,
    "sequence_mean": sequence_mean,
    "constant": constant,
    "sequence_sum": sequence_sum,
}
