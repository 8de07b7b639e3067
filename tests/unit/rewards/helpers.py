"""Short ways to make samples and rollouts."""

from typing import Any

from mmreason.rewards import bind
from mmreason.types import Rollout, Sample, Score


def sample(answer: Any = None, task: str = "exact", **fields: Any) -> Sample:
    return Sample(**{"id": "file.jsonl:1", "messages": (), "answer": answer, "task": task, **fields})


def answered(*answers: str) -> list[Rollout]:
    return [Rollout(text=f"<think>hm</think><answer>{answer}</answer>") for answer in answers]


def grade(name: str, question: Sample, text: str, **options: Any) -> Score:
    """Score of one whole completion."""
    (score,) = bind(name, options)(question, [Rollout(text=text)])
    return score


def value_of(answer: str, question: Sample, **options: Any) -> float | None:
    """The accuracy of the answer; None where there is no score."""
    (score,) = bind("accuracy", options)(question, answered(answer))
    return score.total
