"""Accuracy of greedy answers on held-out samples, by modality, task and source, with 95 % intervals.

A sample whose media, text or answer cannot be used is neither right nor wrong: it is left out of the shares and
counted beside them, with its reason.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

from mmreason.encode import Encoder
from mmreason.errors import MMReasonError
from mmreason.rollout.base import Engine, SamplingParams
from mmreason.types import Rollout, Sample, Score

ScoreGroups = Callable[[Sequence[tuple[Sample, Sequence[Rollout]]]], list[list[Score]]]
"""`RewardPool.score`: one list of scores per group."""

Outcome = Literal["correct", "wrong", "quarantined", "unscored"]

BATCH = 64
"""Samples encoded and answered at a time, so that their media need not all be in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRow:
    """What became of one sample. Example: `EvalRow(id="q1", modality="image", task="mcq", source="a.jsonl",
    outcome="correct", text="<answer>B</answer>", tokens=9)`
    """

    id: str
    modality: str
    task: str
    source: str
    outcome: Outcome
    reason: str = ""
    """Why it is quarantined or unscored."""
    text: str = ""
    tokens: int = 0
    truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A number of successes among `of` trials. Example: `Share(successes=9, of=10)`"""

    successes: int
    of: int

    @property
    def value(self) -> float:
        return self.successes / self.of if self.of else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.successes, self.of)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalResult:
    """One row per sample, in the order given; after `join`, by process."""

    rows: tuple[EvalRow, ...]

    @staticmethod
    def join(parts: Sequence[EvalResult]) -> EvalResult:
        """The results of all processes as one."""
        return EvalResult(rows=tuple(row for part in parts for row in part.rows))

    def shares(self, column: Literal["modality", "task", "source"]) -> dict[str, Share]:
        """Accuracy by the values of a column, in alphabetical order."""
        values = sorted({getattr(row, column) for row in self.rows})
        return {value: _share([row for row in self.rows if getattr(row, column) == value]) for value in values}

    @property
    def overall(self) -> Share:
        """Accuracy over all samples."""
        return _share(self.rows)

    @property
    def mean(self) -> float:
        """Mean of the modalities' accuracies, each counting the same."""
        known = [share.value for share in self.shares("modality").values() if share.of]
        return sum(known) / len(known) if known else math.nan

    def metrics(self) -> dict[str, float]:
        """Numbers for the log.

        "accuracy/mean" (of the modalities), "accuracy/all", "accuracy/<modality>", "accuracy/task:<task>",
        "accuracy/source:<source>", the last four each also with "/low" and "/high" (95 %) and "/of"; counts
        "samples", "quarantined", "unscored"; "length/mean" in tokens, "length/truncated" as a share. A share of
        nothing is left out.
        """
        named = {"accuracy/all": self.overall}
        named |= {f"accuracy/{name}": share for name, share in self.shares("modality").items()}
        named |= {f"accuracy/task:{name}": share for name, share in self.shares("task").items()}
        named |= {f"accuracy/source:{name}": share for name, share in self.shares("source").items()}
        values: dict[str, float] = {} if math.isnan(self.mean) else {"accuracy/mean": self.mean}
        for name, share in named.items():
            if share.of:
                values |= {name: share.value, f"{name}/of": share.of}
                values[f"{name}/low"], values[f"{name}/high"] = share.interval
        outcomes = Counter(row.outcome for row in self.rows)
        values |= {"samples": len(self.rows)} | {name: outcomes[name] for name in ("quarantined", "unscored")}
        answered = [row for row in self.rows if row.outcome != "quarantined"]
        if answered:
            values["length/mean"] = sum(row.tokens for row in answered) / len(answered)
            values["length/truncated"] = sum(row.truncated for row in answered) / len(answered)
        return values

    def summary(self) -> str:
        """One line: "accuracy 83 % [78-88] of 240: audio 95, image 90, text 70, video 77; 3 quarantined"."""
        low, high = (100 * end for end in self.overall.interval)
        by_modality = ", ".join(f"{name} {_percent(share)}" for name, share in self.shares("modality").items())
        outcomes = Counter(row.outcome for row in self.rows)
        left_out = [f"; {outcomes[name]} {name}" for name in ("quarantined", "unscored") if outcomes[name]]
        overall = f"{_percent(self.overall)} % [{low:.0f}-{high:.0f}] of {self.overall.of}"
        return f"accuracy {overall}: {by_modality}" + "".join(left_out)


def evaluate(
    samples: Sequence[Sample], encoder: Encoder, engine: Engine, score: ScoreGroups, params: SamplingParams
) -> EvalResult:
    """Answer every sample once (greedily, if `params` say so) and count what the rewards call correct.

    Correct is a score's flag "correct" (the accuracy reward sets it); a score without it counts as unscored.
    """
    rows: list[EvalRow] = []
    for start in range(0, len(samples), BATCH):
        rows += _evaluate_batch(samples[start : start + BATCH], encoder, engine, score, params)
    return EvalResult(rows=tuple(rows))


def _evaluate_batch(
    samples: Sequence[Sample], encoder: Encoder, engine: Engine, score: ScoreGroups, params: SamplingParams
) -> Iterator[EvalRow]:
    results = encoder.prompts(samples)
    usable = [result for result in results if not isinstance(result, MMReasonError)]
    seeds = [[crc32(sample.id.encode())] for sample, _ in usable]
    rollouts = engine.generate([prompt for _, prompt in usable], 1, params, seeds) if usable else []
    groups = [(sample, answers) for (sample, _), answers in zip(usable, rollouts, strict=True)]
    scored = iter(zip(groups, score(groups) if groups else [], strict=True))
    for sample, result in zip(samples, results, strict=True):
        if isinstance(result, MMReasonError):
            yield _row(sample, "quarantined", reason=str(result))
        else:
            (_, (rollout,)), (mark,) = next(scored)
            yield _scored_row(sample, rollout, mark)


def _scored_row(sample: Sample, rollout: Rollout, mark: Score) -> EvalRow:
    outcome: Outcome
    if mark.total is None or "correct" not in mark.flags:
        outcome, reason = "unscored", mark.error or "no reward says whether the answer is correct; add accuracy"
    else:
        outcome, reason = ("correct" if mark.flags["correct"] else "wrong"), ""
    return _row(sample, outcome, reason, rollout)


def _row(sample: Sample, outcome: Outcome, reason: str, rollout: Rollout | None = None) -> EvalRow:
    return EvalRow(
        id=sample.id,
        modality=sample.modality,
        task=sample.task,
        source=sample.source,
        outcome=outcome,
        reason=reason,
        text=rollout.text if rollout else "",
        tokens=rollout.tokens if rollout else 0,
        truncated=rollout is not None and rollout.finish_reason == "length",
    )


def _share(rows: Sequence[EvalRow]) -> Share:
    outcomes = Counter(row.outcome for row in rows)
    return Share(successes=outcomes["correct"], of=outcomes["correct"] + outcomes["wrong"])


def _percent(share: Share) -> str:
    return f"{100 * share.value:.0f}" if share.of else "-"


def wilson(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval for a share: (low, high), 95 % by default; (0, 1) for n = 0.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.
    """
    assert 0 <= successes <= n, f"{successes} successes in {n} trials"
    if n == 0:
        return 0.0, 1.0
    share, square = successes / n, z * z / n
    middle = (share + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(share * (1 - share) / n + square / (4 * n))
    return max(0.0, middle - half), min(1.0, middle + half)
