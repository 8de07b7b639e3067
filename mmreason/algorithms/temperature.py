"""The sampling temperature of the next step, from the entropy of this one."""

from __future__ import annotations


def follow(temperature: float, entropy: float, *, target: float, gain: float, low: float, high: float) -> float:
    """T (1 + gain clip(1 - H / target, -1, 1)), kept within [low, high]. H: nats per sampled token, at temperature T.

    AceReason-Nemotron 1.1 (Liu et al. 2025, 2506.13284) chooses the temperature by hand so that this entropy stays near
    0.3; that every step moves it, and how, is OUR choice: the proportional step that Ziegler et al. 2019 (section 2.2)
    move the KL's coefficient by. Example: T 1, H 0.15, target 0.3, gain 0.1: 1.05; H 0.9: 0.9.
    """
    error = max(-1.0, 1 - entropy / target)  # not over 1: no entropy is below 0
    return min(high, max(low, temperature * (1 + gain * error)))
