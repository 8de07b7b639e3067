"""What further terms of the loss need before the update: passes without gradient over the sampled answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mmreason.config import TermConfig
from mmreason.policy.policy import Policy, Teaching
from mmreason.policy.teacher import load_teacher
from mmreason.training.other_views import numbered, seen_otherwise, with_column, with_masked_pictures, without_media
from mmreason.training.run import Run
from mmreason.types import Batch, RolloutGroup, Segment, Tree


class TermInputs:
    """Columns and teachers for the terms of a run; opened once, asked in every step."""

    def __init__(self, run: Run) -> None:
        """Raises ModelError for a teacher that cannot be used."""
        self.run = run
        self.terms = [term for term in run.config.grpo.terms if term.name in INPUTS]
        self._teacher: Policy | None = None
        self._forward: Any = None
        self._head: Tensor | None = None
        self._hidden: Tensor | None = None
        for term in self.terms:
            if term.name == "distill":
                self._open_teacher(term.option("teacher"))

    def noted(self, groups: Sequence[RolloutGroup], trees: Sequence[Tree], step: int) -> list[Tree]:
        """The trees with every column that the terms need. All processes call this at the same time."""
        if not self.terms:
            return list(trees)
        trees, _ = numbered(trees)
        for term in self.terms:
            trees = INPUTS[term.name](self, term, groups, trees, step)
        return trees

    def teaching(self, row: Batch) -> Teaching | None:
        """What the teacher makes of a row's tokens, for the KL over the vocabulary."""
        if self._hidden is None:
            return None
        assert self._head is not None
        blank = torch.zeros(row.ids.shape[0])
        taught = row.columns.get("taught", blank).bool() & row.loss_mask
        places = torch.where(taught, row.columns.get("place", blank), 0).long()
        return Teaching(hidden=self._hidden[places], head=self._head, taught=taught)

    def taught(self, term: TermConfig, groups: Sequence[RolloutGroup], trees: Sequence[Tree], step: int) -> list[Tree]:
        """Columns "taught" and, from sampled tokens, "logprob.teacher"; or the teacher's hidden states by place."""
        teacher, exact = self._teacher, term.option("estimator") == "exact"
        assert teacher is not None
        temperature = self.run.temperature
        score: Callable[[Batch], Tensor] = partial(teacher.hidden_states, forward=self._forward)
        if not exact:
            score = partial(_logprob, teacher, temperature, self._forward)
        trees = self._unreadable(trees)
        chosen = partial(_chosen, answers=term.option("answers"), threshold=term.option("threshold"))
        with self.run.timed("score"):
            prompts = without_media(self.run, groups)
            values, known = seen_otherwise(self.run, teacher, trees, prompts, chosen, score)
        if exact:
            # Without any taught token there is no hidden size to read off; the head has it.
            assert self._head is not None
            self._hidden = values if values.dim() > 1 else torch.zeros(len(values), self._head.shape[1])
        else:
            trees = with_column(trees, "logprob.teacher", values)
        return with_column(trees, "taught", known)

    def masked(self, term: TermConfig, groups: Sequence[RolloutGroup], trees: Sequence[Tree], step: int) -> list[Tree]:
        """Columns "logprob.masked" and "masked": the policy's own log-probs where pictures are masked."""
        run = self.run
        score = partial(_logprob, run.policy, run.temperature, run.engine.model)
        with run.timed("score"):
            prompts = with_masked_pictures(run, groups, term.option("mask_ratio"), step)
            values, known = seen_otherwise(run, run.policy, trees, prompts, lambda segment: True, score)
        return with_column(with_column(trees, "logprob.masked", values), "masked", known)

    def _unreadable(self, trees: Sequence[Tree]) -> list[Tree]:
        """Column "unreadable": 1 on answers with an id that the teacher has no row for; it cannot correct them.

        Such ids fill the policy's head up behind its tokenizer, and are sampled only by chance.
        """
        assert self._head is not None
        rows = self._head.shape[0]

        def marked(tree: Tree) -> Tree:
            own = [segment for segment in tree.segments if "place" in segment.columns]
            lost = {int(one.columns["answer"][0]) for one in own if int(one.ids.max()) >= rows}
            if lost:
                problem = f"an answer has an id beyond the teacher's {rows}: not corrected"
                self.run.announce(problem, f"sample {tree.id}")
            return replace(tree, segments=tuple(_marked_in(segment, lost) for segment in tree.segments))

        return [marked(tree) for tree in trees]

    def _open_teacher(self, path: str) -> None:
        run = self.run
        self._teacher = load_teacher(path, run.policy, run.engine.device)
        self._head = run.engine.whole(self._teacher.head.weight)  # needed in the policy's forward
        self._forward = run.engine.frozen(self._teacher.model)


INPUTS: dict[str, Callable[[TermInputs, TermConfig, Sequence[RolloutGroup], Sequence[Tree], int], list[Tree]]] = {
    "distill": TermInputs.taught,
    "perception": TermInputs.masked,
}


def _logprob(policy: Policy, temperature: float, forward: Any, row: Batch) -> Tensor:
    return policy.token_scores(row, temperature=temperature, forward=forward, grad=False).logprob


def _chosen(segment: Segment, *, answers: str, threshold: float) -> bool:
    """Whether the teacher corrects this rollout."""
    if "unreadable" in segment.columns:
        return False
    return answers == "all" or bool(segment.columns["reward"][0] <= threshold)


def _marked_in(segment: Segment, lost: set[int]) -> Segment:
    if "answer" not in segment.columns or int(segment.columns["answer"][0]) not in lost:
        return segment
    return segment.with_columns(unreadable=torch.ones(segment.ids.shape))
