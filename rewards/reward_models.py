"""Rewards from a reward model's score, relative to that of the reference answer (VLAA-Thinker).

Source: VLAA-Thinker (2504.11468, section 4), open-ended questions: R = 1 - exp(-beta (S(y_hat) - S(y))) if S(y_hat) >
S(y), else 0; S is InternLM-XComposer2.5-Reward on (image, question, answer), y the reference. The paper's text gives
no beta: 1 is our default. Their model is a scorer of your own (`mmreason serve-reward file.py:attr`); the built-in
scorer reward_model takes any sequence-classification model with one output, and reads text only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmreason.rewards import service
from mmreason.rewards.base import BAD_GOLD, extract_answer
from mmreason.rewards.questions import references_of
from mmreason.rewards.remote import OnOutage
from mmreason.rewards.service import Send, asker, patience_of, score_of
from mmreason.types import Rollout, Sample, Score


def rm_relative(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    url: str,
    beta: float = 1.0,
    send: Send = "path",
    api_key_env: str | None = None,
    retries: int = 3,
    request_s: float = 60.0,
    deadline_s: float = 300.0,
    on_outage: OnOutage = "pause",
    outage_s: float = 900.0,
) -> list[Score]:
    """How far a reward model prefers the answer to the reference, 0 to 1 (VLAA-Thinker); 0 without an answer.

    `url`: a service with scorer reward_model, or one of yours that gives a number per text. `beta`: ours, the paper
    gives none. `send` and what follows: as for `service`. Flag: "answered". Parts: "margin" (S of the answer minus S of
    the reference).
    """
    references = references_of(sample)
    if not references:
        error = f"{sample.id}: needs a reference answer, but the gold answer is {sample.answer!r}"
        return [Score(total=None, error=error, flags={BAD_GOLD: True})] * len(rollouts)
    reference = references[0]
    answers = [extract_answer(rollout.text) for rollout in rollouts]
    texts = list(dict.fromkeys([reference, *(answer for answer in answers if answer is not None)]))
    if not any(answers):
        return [Score(total=0.0, flags={"answered": False})] * len(rollouts)
    ask = asker(url, api_key_env, patience_of(retries, request_s, deadline_s, on_outage, outage_s))
    values = {text: score_of(value) for text, value in zip(texts, ask(sample, texts, send), strict=True)}
    return [_score(answer, values[reference], values, beta) for answer in answers]


def relative(margin: float, beta: float) -> float:
    """1 - exp(-beta margin) for a margin above 0, else 0; below 1 but for rounding.

    Example: `relative(0.5, 1.0)` is 0.393469.
    """
    return -math.expm1(-beta * max(0.0, margin))


def _score(answer: str | None, reference: Score, values: dict[str, Score], beta: float) -> Score:
    flags = {"answered": answer is not None}
    if answer is None:
        return Score(total=0.0, flags=flags)
    given = values[answer]
    if given.total is None or reference.total is None:
        failed = given if given.total is None else reference
        return Score(total=None, error=failed.error or "the reward model has no score for it", flags=flags)
    margin = given.total - reference.total
    return Score(total=relative(margin, beta), parts={"margin": margin}, flags=flags)


def mistakes(options: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with options whose types are right, a line each."""
    yield from service.mistakes(options)
    if not 0 < options.get("beta", 1.0) < math.inf:
        yield f"option beta: got {options['beta']!r}, expected a number above 0"
