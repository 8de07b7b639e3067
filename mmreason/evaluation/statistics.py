"""Means over questions with 95 % intervals, and pass@k. Numbers in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Z95 = 1.959964
"""Standard normal quantile of 97.5 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over questions and its 95 % interval. Example: `Estimate(value=0.9, low=0.6, high=0.98, of=10)`

    Of no questions: value NaN, interval 0 to 1.
    """

    value: float
    low: float
    high: float
    of: int
    """Questions."""


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Probability that k of a question's n answers, drawn without replacement, hold a correct one.

    1 - C(n - c, k) / C(n, k), as the product of 1 - k / i over i = n - c + 1 ... n, which neither overflows nor
    cancels. Unbiased for the chance that k fresh answers hold a correct one: M. Chen et al., "Evaluating large language
    models trained on code", 2021, arXiv 2107.03374.
    """
    assert 0 <= correct <= n, f"{correct} correct of {n}"
    assert 1 <= k <= n, f"pass@{k} from {n} answers"
    if n - correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - correct + 1, n + 1))


def ks_up_to(n: int) -> list[int]:
    """1, 2, 4, ... up to n, and n itself."""
    powers = [2**exponent for exponent in range(n.bit_length()) if 2**exponent <= n]
    return powers if powers[-1] == n else [*powers, n]


def estimate(values: Sequence[float], draws: float = 1.0) -> Estimate:
    """The mean of per-question values from 0 to 1, with Wilson's interval at the effective number of questions.

    For values that are 0 or 1 this is Wilson's interval. Values between vary less than those, so that their mean is
    known as well as that of more questions: value (1 - value) / (variance of the mean). `draws`: how many independent
    yes-or-no trials a value stands for (pass@k from n answers: n / k); their total bounds the effective number, so that
    values which happen to agree claim no more than that.
    """
    count = len(values)
    if not count:
        return Estimate(value=math.nan, low=0.0, high=1.0, of=0)
    mean = math.fsum(values) / count
    if mean <= 0.0 or mean >= 1.0:
        effective = float(count)
    else:
        variance = math.fsum((value - mean) ** 2 for value in values) / count**2
        effective = min(mean * (1 - mean) / variance, count * draws) if variance else count * draws
    low, high = wilson(mean, effective)
    return Estimate(value=mean, low=low, high=high, of=count)


def wilson(share: float, n: float, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval for a share of n trials: (low, high), 95 % by default; (0, 1) for n = 0.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.
    """
    assert 0 <= share <= 1, f"a share of {share}"
    if n == 0:
        return 0.0, 1.0
    square = z * z / n
    middle = (share + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(share * (1 - share) / n + square / (4 * n))
    return max(0.0, middle - half), min(1.0, middle + half)
