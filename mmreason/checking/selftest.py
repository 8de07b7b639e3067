"""The self-test of rewards: every row's gold must win, and nothing else may.

For each row the configured rewards score a few answers that nobody sampled: the gold, written in the configured format;
other golds; nothing; the format with nothing in it; the gold box in other coordinate frames; a rambling text. A gold
that does not score the maximum, a wrong answer that does, a reward that says the same of everything: each would train a
model for a week before anybody noticed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice

from mmreason.checking.answers import THOUGHT, Gold, Shape, gold_of, options_of, other_golds, outside
from mmreason.checking.findings import Findings
from mmreason.checking.leaks import leak
from mmreason.checking.rows import Row
from mmreason.config import RewardConfig, ScoringConfig
from mmreason.errors import DataError
from mmreason.rewards.base import TextRollout
from mmreason.rewards.pool import RewardPool
from mmreason.types import Score

PROBES = ("gold", "another gold", "empty", "format only", "wrong frame", "rambling")
_EXACT = 1e-3
"""A gold box is written with six decimals, so its overlap with itself is not quite 1."""
_OF_LENGTH = ("length_overlong", "repetition")
"""0 for every answer that is not too long or repeats nothing, as those of the self-test."""
_MOST_LEAKS = 0.5
"""A task whose answers stand in most of its prompts is one that asks to find them there (reading, copying)."""


@dataclass(frozen=True, slots=True)
class _Trial:
    """One row with the answers that were written for it, probe by probe."""

    row: Row
    gold: Gold
    probes: tuple[tuple[str, str], ...]
    """(probe, text)."""


@dataclass(slots=True)
class Means:
    """Mean score per reward ("total" first) and probe."""

    sums: dict[tuple[str, str], tuple[float, int]] = field(default_factory=dict)

    def add(self, reward: str, probe: str, value: float) -> None:
        total, count = self.sums.get((reward, probe), (0.0, 0))
        self.sums[reward, probe] = (total + value, count + 1)

    def table(self) -> list[str]:
        """Lines of text: a row per reward, a column per probe that was scored."""
        probes = [probe for probe in PROBES if any(key[1] == probe for key in self.sums)]
        rewards = list(dict.fromkeys(reward for reward, _ in self.sums))
        width = max([len("mean score of"), *map(len, rewards)])
        lines = [f"{'mean score of':{width}}" + "".join(f"{probe:>14}" for probe in probes)]
        for reward in rewards:
            cells = (self.sums.get((reward, probe)) for probe in probes)
            shown = (f"{cell[0] / cell[1]:>14.3f}" if cell else f"{'-':>14}" for cell in cells)
            lines.append(f"{reward:{width}}" + "".join(shown))
        return lines


def self_test(
    rows: Sequence[Row],
    rewards: Sequence[RewardConfig],
    scoring: ScoringConfig,
    shape: Shape,
    system: str | None,
    found: Findings,
    needing: Sequence[Row] = (),
) -> list[str]:
    """Score the probes of every row; findings for what is wrong. Returns a table of mean scores, as lines.

    rows: with `geometry` where the model's sizes are known. Those without any gold are passed over, but that those
    among `needing` must have a score: a finding where nothing can be scored without a gold.
    """
    trials = list(_trials(rows, rewards, shape, found))
    _find_leaks(trials, system, found)
    means, results = Means(), []
    without = [row for row in needing if not row.sample.golds and row.sample.answer is None]
    if not trials and not without:
        return []
    with RewardPool(rewards, scoring) as pool:
        scored = _scored(trials, pool, scoring.deadline_s, found)
        _need_no_gold(without, pool, shape, found)
        names = pool.names
    if not trials:
        return []
    for trial, scores in zip(trials, scored, strict=False):  # fewer, where the rewards hang
        named = [(probe, score) for (probe, _), score in zip(trial.probes, scores, strict=True)]
        results.append((trial, named))
        for probe, score in named:
            if score.total is not None:
                means.add("total", probe, score.total)
            for name in names:
                if name in score.parts:
                    means.add(name, probe, score.parts[name])
    unread = list(_unread(names, results, shape))
    for line in unread or _constant(names, results):
        found.add("reward", line)
    for line in _of_no_task(rewards, names, rows):
        found.add("reward", line)
    for trial, named in results:
        for line in _verdicts(trial, named) if not unread else ():  # else every row would say it again
            found.add("gold", f"{trial.row.place}: {line}")
    return [f"{len(trials)} golds, written as {shape.write('...', thought='...')!r}", *means.table()]


def _scored(trials: Sequence[_Trial], pool: RewardPool, deadline_s: float, found: Findings) -> list[list[Score]]:
    """Scores of the probes of all trials; of a few only, where rewards hang: every row would wait for its deadline."""
    scored: list[list[Score]] = []
    while len(scored) < len(trials):
        some = trials[len(scored) : max(4, 8 * len(scored))]
        began = time.monotonic()
        fresh = pool.score([(trial.row.sample, [_rollout(text) for _, text in trial.probes]) for trial in some])
        scored += fresh
        left = len(trials) - len(scored)
        if left and time.monotonic() - began > deadline_s and all(scores[0].total is None for scores in fresh):
            found.add("reward", f"no score after the deadline for any of {len(fresh)} rows; {left} rows not tried")
            break
    return scored


def _need_no_gold(rows: Sequence[Row], pool: RewardPool, shape: Shape, found: Findings) -> None:
    """A finding for each of these rows, which have no gold, that the rewards cannot score without one."""
    answer = [_rollout(shape.write(""))]
    for row, (score,) in zip(rows, pool.score([(row.sample, answer) for row in rows]), strict=True):
        if score.total is None:
            found.add("gold", f"{row.place}: no gold answer, and no score without one: {score.error}")


def _trials(
    rows: Sequence[Row], rewards: Sequence[RewardConfig], shape: Shape, found: Findings
) -> Iterator[_Trial]:
    golds: list[tuple[Row, Gold]] = []
    for row in rows:
        try:
            gold = gold_of(row.sample, rewards)
            why = outside(row.sample, options_of("iou", row.sample, rewards)) if "box" in row.sample.golds else None
        except DataError as error:
            found.add("gold", f"{row.place}: {error}")
            continue
        if why:
            found.add("gold", f"{row.place}: {why}")
        elif gold is not None:
            golds.append((row, gold))
    by_task: dict[str, list[Gold]] = {}
    for row, gold in golds:
        by_task.setdefault(row.sample.task, []).append(gold)
    for at, (row, gold) in enumerate(golds):
        siblings = by_task[row.sample.task]
        others = islice(cycle(siblings), at % len(siblings), at % len(siblings) + min(len(siblings), 50))
        yield _Trial(row, gold, tuple(_probes(row, gold, others, shape)))


def _probes(row: Row, gold: Gold, others: Iterator[Gold], shape: Shape) -> Iterator[tuple[str, str]]:
    yield "gold", shape.write(gold.text)
    for other in other_golds(row.sample, gold, others):
        yield "another gold", shape.write(other.text)
    yield "empty", ""
    yield "format only", shape.write("")
    for text in gold.wrong_frames:
        yield "wrong frame", shape.write(text)
    yield "rambling", f"{THOUGHT} " * 200


def _rollout(text: str) -> TextRollout:
    return TextRollout(text=text, token_count=len(text.split()))


def _verdicts(trial: _Trial, named: Sequence[tuple[str, Score]]) -> Iterator[str]:
    """What is wrong with the scores of one row, at most one line."""
    (_, gold), rest = named[0], named[1:]
    shown = trial.gold.text if len(trial.gold.text) <= 60 else trial.gold.text[:57] + "..."
    if gold.total is None:
        yield f"its gold {shown!r} has no score: {gold.error}"
        return
    if not gold.flags.get("correct", True):
        yield f"its gold {shown!r} counts as wrong ({_parts(gold)}); look at task, answer and options"
        return
    for probe, score in rest:
        if score.total is not None and score.total >= gold.total - 1e-9 and probe != "another gold":
            yield f"its gold {shown!r} scores {gold.total:.3g}, and so does an answer of kind {probe!r}"
            return
    others = [score.total for probe, score in rest if probe == "another gold" and score.total is not None]
    if others and min(others) >= gold.total - 1e-9:
        yield f"its gold {shown!r} scores {gold.total:.3g}, and so do wrong answers"
    elif gold.parts.get("iou", 1.0) < 1 - _EXACT or gold.parts.get("accuracy", 1.0) < 1 - _EXACT:
        yield f"its gold {shown!r} does not score the maximum ({_parts(gold)})"


def _parts(score: Score) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in score.parts.items())


Results = Sequence[tuple[_Trial, Sequence[tuple[str, Score]]]]


def _values(name: str, results: Results, wanted: Callable[[str], bool]) -> list[float]:
    return [
        score.parts[name] for _, named in results for probe, score in named if wanted(probe) and name in score.parts
    ]


def _constant(names: Sequence[str], results: Results) -> Iterator[str]:
    for name in names:
        values = _values(name, results, lambda probe: True)
        if name.partition("#")[0] in _OF_LENGTH:
            continue
        if values and max(values) - min(values) < 1e-12:
            yield (
                f"reward {name}: {values[0]:.3g} for every answer of the self-test, right, wrong or empty; it cannot "
                "teach anything here"
            )


def _of_no_task(rewards: Sequence[RewardConfig], names: Sequence[str], rows: Sequence[Row]) -> Iterator[str]:
    """Rewards whose `tasks` are those of no row: most likely a misspelt task."""
    tasks = {row.sample.task for row in rows}
    for reward, name in zip(rewards, names, strict=True):
        if not any(reward.applies_to(task) for task in tasks):
            yield f"reward {name}: tasks {', '.join(reward.tasks)}, but the rows have {', '.join(sorted(tasks))} only"


def _unread(names: Sequence[str], results: Results, shape: Shape) -> Iterator[str]:
    """Rewards that see no right answer in any gold: they do not read the format that another one asks for."""
    for name in names:
        golds = _values(name, results, lambda probe: probe == "gold")
        best = max(_values(name, results, lambda probe: True), default=0.0)
        if golds and max(golds) <= 0.0 and name.partition("#")[0] in ("accuracy", "iou", "format"):
            yield (
                f"reward {name}: 0 for every gold written as {shape.write('...', thought='...')!r} (best of any answer "
                f"{best:.3g}); it does not read this format: change the tags or pattern of reward format, or {name}"
            )


def _find_leaks(trials: Sequence[_Trial], system: str | None, found: Findings) -> None:
    """Answers that stand in the prompt, unless a task is made of such rows."""
    by_task: dict[str, list[tuple[_Trial, str | None]]] = {}
    for trial in trials:
        where = leak(trial.row.sample, trial.gold.text, system)
        by_task.setdefault(trial.row.sample.task, []).append((trial, where))
    for task, looked_at in by_task.items():
        leaks = [(trial, where) for trial, where in looked_at if where]
        if len(leaks) > _MOST_LEAKS * len(looked_at) and len(looked_at) >= 20:
            found.add("leak", f"task {task}: {len(leaks)} of {len(looked_at)} answers stand in their prompts, as in "
                      f"{leaks[0][0].row.place}: {_short(leaks[0][1])}")  # fmt: skip
            continue
        for trial, where in leaks:
            found.add("leak", f"{trial.row.place}: the answer stands in the prompt: {_short(where)}")


def _short(text: str | None) -> str:
    return repr(text if text and len(text) <= 60 else f"{(text or '')[:57]}...")
