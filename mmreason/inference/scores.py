"""Votes and scores of finished answers, by the same rewards as in training, in their worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType

from mmreason.config import RewardConfig, ScoringConfig
from mmreason.inference.generate import Finished
from mmreason.inference.rows import Answer, answer_of
from mmreason.rewards.agreement import NO_VOTE
from mmreason.rewards.base import TextRollout
from mmreason.rewards.pool import RewardPool
from mmreason.types import Sample, Score

AGREEMENT = "mmreason.rewards.agreement:agreement"


class Scorer:
    """Takes finished prompts; gives answers with votes, and scores. Use as a context manager."""

    def __init__(
        self,
        rewards: Sequence[RewardConfig],
        scoring: ScoringConfig,
        n: int,
        tags: tuple[str, str] = ("think", "answer"),
    ) -> None:
        """rewards: none leaves answers without scores. n: answers per item; one needs no vote.

        Raises PluginError or ConfigError for a reward that cannot be loaded.
        """
        self._tags = tags
        self._stack = ExitStack()
        with ExitStack() as opening:
            self._rewards = opening.enter_context(RewardPool(rewards, scoring)) if rewards else None
            voters = [RewardConfig(name=AGREEMENT, options={"require_tags": False})]
            one = scoring.model_copy(update={"workers": 1, "combine": "first"})
            self._votes = opening.enter_context(RewardPool(voters, one)) if n > 1 else None
            self._stack = opening.pop_all()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def score(self, finished: Sequence[Finished]) -> list[tuple[list[Answer], list[Score]]]:
        """Per prompt its answers and, where there are rewards, their scores."""
        answers = [[answer_of(t.text, t.tokens, t.truncated, self._tags) for t in one.texts] for one in finished]
        samples = [one.ready.sample for one in finished]
        if self._votes is not None:
            ballots = [[_rollout(_ballot(answer)) for answer in group] for group in answers]
            votes = self._votes.score(list(zip(samples, ballots, strict=True)))
            answers = [[_voted(a, v) for a, v in zip(*pair, strict=True)] for pair in zip(answers, votes, strict=True)]
        if self._rewards is None:
            return [(group, []) for group in answers]
        groups: list[tuple[Sample, list[TextRollout]]] = [
            (sample, [_rollout(answer) for answer in group]) for sample, group in zip(samples, answers, strict=True)
        ]
        return list(zip(answers, self._rewards.score(groups), strict=True))


def _rollout(answer: Answer) -> TextRollout:
    reason = "length" if answer.truncated else "stop"
    return TextRollout(text=answer.text, token_count=answer.tokens, finish_reason=reason)  # type: ignore[arg-type]


def _ballot(answer: Answer) -> Answer:
    """What is compared: the parsed answer, whatever its tag; without one all that follows the thoughts."""
    return answer if answer.parsed is None else replace(answer, text=f"<answer>{answer.parsed}</answer>")


def _voted(answer: Answer, vote: Score) -> Answer:
    return replace(answer, vote=None if vote.total in (None, NO_VOTE) else int(vote.total))
