"""What the rewards of a config are called, and which of them may open the gate of another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mmreason.plugins import nearest

if TYPE_CHECKING:
    from mmreason.config.sections import RewardConfig


def labels(names: Sequence[str]) -> list[str]:
    """Names made unique: the second "iou" is "iou#2"."""
    return [name if n == 1 else f"{name}#{n}" for i, name in enumerate(names) for n in [names[: i + 1].count(name)]]


def gate_mistakes(rewards: Sequence[RewardConfig]) -> Iterator[str]:
    """A line for each gate that names no reward, and one for each circle of gates."""
    names = labels([reward.name for reward in rewards])
    gates = {name: reward.gate for name, reward in zip(names, rewards, strict=True)}
    reported: set[str] = set()
    for index, name in enumerate(names):
        gate = gates[name]
        if gate is not None and gate not in gates:
            others = [other for other in names if other != name]
            yield f"rewards.{index}.gate: {gate!r}, expected the label of another reward{nearest(gate, others)}"
        circle = _circle(name, gates)
        if circle and not reported & set(circle):
            reported |= set(circle)
            yield f"rewards.{index}.gate: the gates are a circle ({' -> '.join(circle)}), so none would ever open"


def _circle(name: str, gates: dict[str, str | None]) -> list[str]:
    """`name`, its gate, that one's gate, ... back to `name`; empty where the way does not come back."""
    way = [name]
    while (gate := gates.get(way[-1])) is not None and gate not in way[1:]:
        way.append(gate)
    return way if len(way) > 1 and way[-1] == name else []
