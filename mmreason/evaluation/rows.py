"""What became of each question of an evaluation, and the numbers over all of them.

A question whose media, text or answer cannot be used is neither right nor wrong: it is left out of the numbers and
counted beside them, with its reason.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from mmreason.evaluation.statistics import Estimate, estimate, ks_up_to, pass_at_k

Status = Literal["scored", "quarantined", "unscored"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalAnswer:
    """One answer. Example: `EvalAnswer(text="<answer>B</answer>", answer="B", correct=True, tokens=9, vote=0)`"""

    text: str
    answer: str | None = None
    """What was found in `<answer>`; None where nothing was."""
    correct: bool | None = None
    """None where the rewards do not say."""
    tokens: int = 0
    truncated: bool = False
    score: float | None = None
    """Its reward; None where there is none."""
    vote: int | None = None
    """Index of the first answer of this question that is the same; None where it has no vote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRow:
    """What became of one question. Example: `EvalRow(id="q1", modality="image", task="mcq", source="a.jsonl",
    status="scored", answers=(EvalAnswer(...),))`
    """

    id: str
    modality: str
    task: str
    source: str
    status: Status
    reason: str = ""
    """Why it is quarantined or unscored."""
    answers: tuple[EvalAnswer, ...] = ()

    @property
    def right(self) -> int:
        """How many answers are correct."""
        return sum(answer.correct is True for answer in self.answers)

    @property
    def majority(self) -> int | None:
        """Index of the answer with most votes; of several, the one that was given first. None without a vote."""
        votes = Counter(answer.vote for answer in self.answers if answer.vote is not None)
        most = max(votes.values(), default=0)
        return min((vote for vote, count in votes.items() if count == most), default=None)

    @property
    def majority_is_right(self) -> bool:
        """Whether the answer with most votes is correct; no vote is no correct answer."""
        return self.majority is not None and self.answers[self.majority].correct is True


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalResult:
    """One row per question, in the order given; after `join`, by process."""

    rows: tuple[EvalRow, ...]

    @staticmethod
    def join(parts: Sequence[EvalResult]) -> EvalResult:
        """The results of all processes as one."""
        return EvalResult(rows=tuple(row for part in parts for row in part.rows))

    def groups(self) -> dict[str, list[EvalRow]]:
        """Rows under "all", and by the values of each column: "image", "task:mcq", "source:a.jsonl"."""
        groups = {"all": list(self.rows)}
        for column in ("modality", "task", "source"):
            for value in sorted({getattr(row, column) for row in self.rows}):
                name = value if column == "modality" else f"{column}:{value}"
                groups[name] = [row for row in self.rows if getattr(row, column) == value]
        return groups

    @property
    def mean(self) -> float:
        """Mean of the modalities' accuracies, each counting the same."""
        groups = self.groups()
        shares = [accuracy(groups[modality]) for modality in sorted({row.modality for row in self.rows})]
        known = [share.value for share in shares if share.of]
        return sum(known) / len(known) if known else math.nan

    def metrics(self) -> dict[str, float]:
        """Numbers for the log.

        "accuracy/mean" (of the modalities), "accuracy/all", "accuracy/<modality>", "accuracy/task:<task>",
        "accuracy/source:<source>", the last four each also with "/low" and "/high" (95 %) and "/of"; with several
        answers per question "pass@<k>/..." and "maj@<n>/..." likewise; counts "samples", "quarantined", "unscored";
        "length/mean" in tokens, "length/truncated" as a share. A share of nothing is left out.
        """
        values: dict[str, float] = {} if math.isnan(self.mean) else {"accuracy/mean": self.mean}
        for group, rows in self.groups().items():
            for measure, share in measures(rows).items():
                if share.of:
                    name = f"{measure}/{group}"
                    values |= {name: share.value, f"{name}/of": share.of}
                    values |= {f"{name}/low": share.low, f"{name}/high": share.high}
        statuses = Counter(row.status for row in self.rows)
        values |= {"samples": len(self.rows)} | {name: statuses[name] for name in ("quarantined", "unscored")}
        answers = [answer for row in self.rows for answer in row.answers]
        if answers:
            values["length/mean"] = sum(answer.tokens for answer in answers) / len(answers)
            values["length/truncated"] = sum(answer.truncated for answer in answers) / len(answers)
        return values

    def summary(self) -> str:
        """One line: "accuracy 83 % [78-88] of 240: audio 95, image 90, text 70, video 77; 3 quarantined"."""
        groups = self.groups()
        overall = accuracy(groups["all"])
        by_modality = ", ".join(
            f"{name} {_percent(accuracy(groups[name]))}" for name in sorted({row.modality for row in self.rows})
        )
        shown = f"{_percent(overall)} % [{100 * overall.low:.0f}-{100 * overall.high:.0f}] of {overall.of}"
        return f"accuracy {shown}: {by_modality}" + self._left_out()

    def table(self) -> str:
        """A line per group, a column per measure, in per cent with 95 % intervals."""
        groups = self.groups()
        width = max(map(len, groups)) + 2
        names = list(measures(groups["all"]))
        lines = [f"{'%':{width}}{'of':>6}" + "".join(f"{name:>18}" for name in names)]
        for group, rows in groups.items():
            shares = measures(rows)
            cells = "".join(f"{_cell(shares[name]) if name in shares else '-':>18}" for name in names)
            lines.append(f"{group:{width}}{shares['accuracy'].of:>6}{cells}")
        return "\n".join([*lines, f"95 % intervals in brackets{self._left_out()}"])

    def _left_out(self) -> str:
        statuses = Counter(row.status for row in self.rows)
        return "".join(f"; {statuses[name]} {name}" for name in ("quarantined", "unscored") if statuses[name])


def measures(rows: Sequence[EvalRow]) -> dict[str, Estimate]:
    """ "accuracy" and, with several answers per question, "pass@2", "pass@4", ... and "maj@n" of these rows."""
    return {"accuracy": accuracy(rows), **dict(_of_several(rows))}


def accuracy(rows: Sequence[EvalRow]) -> Estimate:
    """Share of correct answers, as a mean over the questions that were scored."""
    scored = [row for row in rows if row.status == "scored"]
    return estimate([row.right / len(row.answers) for row in scored], draws=_answers(scored))


def _of_several(rows: Sequence[EvalRow]) -> Iterator[tuple[str, Estimate]]:
    scored = [row for row in rows if row.status == "scored"]
    n = _answers(scored)
    if n == 1:
        return
    for k in ks_up_to(n)[1:]:
        yield f"pass@{k}", estimate([pass_at_k(n, row.right, k) for row in scored], draws=n / k)
    yield f"maj@{n}", estimate([float(row.majority_is_right) for row in scored])


def _answers(scored: Sequence[EvalRow]) -> int:
    """Answers per question, the same for all."""
    counts = {len(row.answers) for row in scored}
    assert len(counts) <= 1, f"different numbers of answers: {counts}"
    return counts.pop() if counts else 1


def _percent(share: Estimate) -> str:
    return f"{100 * share.value:.0f}" if share.of else "-"


def _cell(share: Estimate) -> str:
    if not share.of:
        return "-"
    return f"{100 * share.value:.1f} [{100 * share.low:.0f}-{100 * share.high:.0f}]"
