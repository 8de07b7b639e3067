"""Votes and scores of finished answers, by the same rewards as in training, in their worker processes.

A thread waits for them (`ScoringThread`), so that the engine goes on meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from queue import Empty, Queue
from types import TracebackType

from mmreason.config import RewardConfig, ScoringConfig
from mmreason.inference.generate import Finished
from mmreason.inference.rows import Answer, answer_of
from mmreason.rewards.agreement import NO_VOTE
from mmreason.rewards.base import TextRollout
from mmreason.rewards.pool import RewardPool
from mmreason.types import Sample, Score

Scored = tuple[Finished, list[Answer], list[Score]]
"""A finished prompt, its answers with votes, and, where there are rewards, their scores."""

AHEAD = 16
"""Batches of finished prompts that may wait for their scores; then the engine waits, too."""
JOIN_S = 2.0
"""How long `close` waits for scores that nobody wants any more; their workers are killed then."""
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

    def score(self, finished: Sequence[Finished]) -> list[Scored]:
        """What the answers to these prompts are worth."""
        answers = [[answer_of(t.text, t.tokens, t.truncated, self._tags) for t in one.texts] for one in finished]
        samples = [one.ready.sample for one in finished]
        if self._votes is not None:
            ballots = [[_rollout(_ballot(answer)) for answer in group] for group in answers]
            votes = self._votes.score(list(zip(samples, ballots, strict=True)))
            answers = [[_voted(a, v) for a, v in zip(*pair, strict=True)] for pair in zip(answers, votes, strict=True)]
        if self._rewards is None:
            return [(one, group, []) for one, group in zip(finished, answers, strict=True)]
        groups: list[tuple[Sample, list[TextRollout]]] = [
            (sample, [_rollout(answer) for answer in group]) for sample, group in zip(samples, answers, strict=True)
        ]
        return list(zip(finished, answers, self._rewards.score(groups), strict=True))


class ScoringThread:
    """Scores batches one after the other beside whoever submits them. Use as a context manager, inside the scorer's.

    Example: `with scorer, ScoringThread(scorer) as scores: scores.submit(finished); rows = scores.taken(1.0)`
    """

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._given: Queue[Sequence[Finished] | None] = Queue(AHEAD)
        self._made: Queue[list[Scored] | BaseException] = Queue()
        self.waiting = 0
        """Batches that were submitted and not taken."""
        self._stopped = False
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="scores", daemon=True)
        self._thread.start()

    def __enter__(self) -> ScoringThread:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        with suppress(Empty):
            while True:
                self._given.get_nowait()
        self._given.put(None)
        self._thread.join(JOIN_S)

    def submit(self, finished: Sequence[Finished]) -> None:
        """Have them scored; waits where `AHEAD` batches are before them."""
        self.waiting += 1
        self._given.put(finished)

    def taken(self, timeout_s: float) -> list[Scored]:
        """What was scored since the last time, in the order of submission; waits at most so long for the first.

        Raises what went wrong with a batch, after what came before it was taken.
        """
        if (failed := self._failed) is not None:
            self._failed, self.waiting = None, self.waiting - 1
            raise failed
        found: list[Scored] = []
        while self.waiting:
            try:
                made = self._made.get(timeout=0.0 if found else timeout_s)
            except Empty:
                break
            if isinstance(made, BaseException):
                if found:  # those first; still counted as waiting, so that it is not forgotten
                    self._failed = made
                    return found
                self.waiting -= 1
                raise made
            self.waiting -= 1
            found += made
        return found

    def _run(self) -> None:
        while (finished := self._given.get()) is not None and not self._stopped:
            try:
                self._made.put(self._scorer.score(finished))
            except BaseException as error:  # a thread's boundary: raised again by `taken`
                self._made.put(error)


def _rollout(answer: Answer) -> TextRollout:
    reason = "length" if answer.truncated else "stop"
    return TextRollout(text=answer.text, token_count=answer.tokens, finish_reason=reason)  # type: ignore[arg-type]


def _ballot(answer: Answer) -> Answer:
    """What is compared: the parsed answer, whatever its tag; without one all that follows the thoughts."""
    return answer if answer.parsed is None else replace(answer, text=f"<answer>{answer.parsed}</answer>")


def _voted(answer: Answer, vote: Score) -> Answer:
    return replace(answer, vote=None if vote.total in (None, NO_VOTE) else int(vote.total))
