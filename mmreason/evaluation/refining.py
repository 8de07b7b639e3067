"""Self-refinement: the model is shown its own wrong answer and asked for a better one (Madaan et al. 2023, 2303.17651).

The wording is OURS. It does not say that the answer is wrong: at test time nobody could.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mmreason.evaluation.rows import EvalRow
from mmreason.evaluation.selection import first_wrong
from mmreason.types import Sample

_REFINE = """

Here is a first attempt at this:

{draft}

Go through it step by step, look at what is given again, and find what is wrong or missing, if anything. Then write a \
complete answer of your own that stands by itself and does not mention the attempt."""


def to_refine(samples: Sequence[Sample], rows: Sequence[EvalRow]) -> list[Sample]:
    """The questions that have a wrong answer, each with the first one and the request to improve it."""
    wrong = [(sample, first_wrong(row)) for sample, row in zip(samples, rows, strict=True)]
    return [refine(sample, draft.text) for sample, draft in wrong if draft is not None]


def refine(sample: Sample, draft: str) -> Sample:
    """The same question with a draft and the request behind its last message."""
    *before, last = sample.messages
    asked = replace(last, content=(*last.content, _REFINE.format(draft=draft)))
    return replace(sample, messages=(*before, asked))
