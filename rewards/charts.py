"""Charts as code: the model's plotting code is run in the sandbox, and what it draws is compared with the gold's chart.

After MSRL (DocTron-hub/MSRL, of which weights are public; research notes "rewards" 6): R = w_t R_text + w_v R_vis +
w_e R_exec. What is known of it: values within 5 %, chart types and layout exact, texts by edit distance; R_exec 0 or
1; R_vis 0 for what cannot be rendered; w_v is 0 in its first stage. OURS, because nothing is public: the weights, that
R_text is the mean of these four (the paper counts five kinds), and what is marked so below. MSRL compares normalised
code and asks a vision model about pictures; we read the figure that the code drew, and compare pictures by their ink.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmreason.errors import DataError, RewardError
from mmreason.rewards.accuracy import answer_of
from mmreason.rewards.base import BAD_GOLD, slow_import
from mmreason.rewards.sandbox import Isolation, Limits, Outcome, SandboxMissing, require, run
from mmreason.rewards.texts import edit_distance
from mmreason.types import Rollout, Sample, Score

TOLERANCE = 0.05
_READER = Path(__file__).with_name("chart_reader.py")
_BEFORE = """
import os
os.makedirs("/tmp/.matplotlib", exist_ok=True)
with open("/tmp/.matplotlib/" + {name!r}, "w") as file:
    file.write({fonts!r})
import matplotlib.pyplot as plt
plt.close = lambda *figures: None  # so that there is something to look at
plt.show = lambda *options, **more: None
"""


def obstacles(options: Mapping[str, Any]) -> Iterator[str]:
    """Why this machine cannot run plotting code, in a line; nothing where it can."""
    if find_spec("matplotlib") is None:
        yield "needs matplotlib; pip install 'mmreason[charts]'"
    try:
        require(options.get("isolation", "namespaces"))
    except SandboxMissing as error:
        yield str(error)


def chart_code(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    w_text: float = 0.5,
    w_visual: float = 0.3,
    w_exec: float = 0.2,
    wall_s: float = 20.0,
    at_once: int = 4,
    isolation: Isolation = "namespaces",
) -> list[Score]:
    """Plotting code, run in a sandbox: values, chart types, layout, texts and picture against those of the gold's code.

    The gold is `golds["code"]`. An answer's code is its last fenced block, else all of it. Parts: text (mean of values,
    kinds, layout, words), visual, exec. `w_visual: 0` is MSRL's first stage. Weights are OURS; range [0, their sum].
    `at_once`: how many run side by side; give `scoring.deadline_s` time for a group. "correct": text of at least 0.95.
    `isolation`: "container" if this is one that may be lost (docs/rewards.md).
    """
    code = sample.golds.get("code")
    try:
        if not isinstance(code, str):
            raise DataError("draws nothing: golds.code is no text")
        gold = _gold(code, wall_s, isolation)
    except (DataError, _CutOff) as error:
        flags = {BAD_GOLD: True} if isinstance(error, DataError) else {}
        return [Score(total=None, error=f"{sample.id}: the gold's code {error}", flags=flags)] * len(rollouts)
    weights = {"text": w_text, "visual": w_visual, "exec": w_exec}
    codes = [code_of(rollout.text) for rollout in rollouts]
    with ThreadPoolExecutor(max(1, at_once)) as pool:
        outcomes = list(pool.map(lambda text: _drawn(text, wall_s, isolation), codes))
    return [_score(outcome, gold, weights) for outcome in outcomes]


def _score(outcome: Outcome, gold: Mapping[str, Any], weights: Mapping[str, float]) -> Score:
    chart = outcome.result
    parts = compared(chart, gold) if _is_chart(chart) else dict.fromkeys(("values", "kinds", "layout", "words"), 0.0)
    text = sum(parts.values()) / len(parts)
    named = {"text": text, "visual": 0.0, "exec": float(_is_chart(chart)), **parts}
    if _is_chart(chart):
        named["visual"] = alike(chart["picture"], gold["picture"])
    total = sum(weight * named[name] for name, weight in weights.items())
    return Score(total=total, parts=named, flags={"correct": text >= 0.95, "answered": outcome.error is None})


def code_of(text: str) -> str | None:
    """The last fenced block of the answer, else the whole answer; None without an answer."""
    answer = answer_of(text, require_tags=False)
    if answer is None or "```" not in answer:
        return answer
    pieces = answer.split("```")
    block = pieces[-2] if len(pieces) % 2 else pieces[-1]  # an even number of pieces: the last fence is not closed
    first, newline, rest = block.partition("\n")
    return (rest if newline and first.strip().isalnum() else block).strip() or None


class _CutOff(RewardError):
    """The gold's code came to no end this time, perhaps because the machine is busy: nothing is known about it."""


@lru_cache(maxsize=256)
def _gold(code: str, wall_s: float, isolation: Isolation) -> Mapping[str, Any]:
    """What the gold's code draws; only this is kept. Raises DataError if it draws nothing, _CutOff without an end."""
    outcome = _drawn(code, wall_s, isolation)
    if outcome.cut_off:
        raise _CutOff(f"came to no end: it {outcome.error}")
    if not _is_chart(outcome.result):
        raise DataError(f"draws nothing: {outcome.error or 'no figure'}")
    chart: Mapping[str, Any] = outcome.result
    return chart


def _drawn(code: str | None, wall_s: float, isolation: Isolation) -> Outcome:
    if code is None:
        return Outcome(error="no code")
    limits = Limits(wall_s=wall_s, cpu_s=math.ceil(wall_s))
    after = _READER.read_text(encoding="utf-8")
    return run(code, before=_before(), after=after, limits=limits, isolation=isolation)


@cache
def _before() -> str:
    """What runs before the code: a list of matplotlib's own fonts, which takes seconds to make, and figures stay."""
    manager = slow_import("matplotlib.font_manager")
    fonts = manager.FontManager.__new__(manager.FontManager)
    own = str(Path(slow_import("matplotlib").get_data_path()))
    fonts.__dict__ |= manager.fontManager.__dict__
    fonts.ttflist = [font for font in fonts.ttflist if font.fname.startswith(own)]
    fonts.afmlist = [font for font in fonts.afmlist if font.fname.startswith(own)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fonts.json"
        manager.json_dump(fonts, str(file))
        return _BEFORE.format(name=f"fontlist-v{manager.FontManager.__version__}.json", fonts=file.read_text())


# ---- comparing two charts


def _is_chart(value: Any) -> bool:
    """Whether this is what chart_reader.py says: the code ran in the same process, and may say anything."""
    lists = ("layout", "plots", "picture")
    if not isinstance(value, Mapping) or not all(isinstance(value.get(name), list) for name in lists):
        return False
    return all(
        isinstance(plot, Mapping)
        and _all(plot.get("kinds"), str)
        and _all(plot.get("values"), int | float)
        and isinstance(plot.get("texts"), Mapping)
        and _all(list(plot["texts"].values()), str)
        for plot in value["plots"]
    ) and _all(value["picture"], int | float)


def _all(values: Any, kind: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def compared(chart: Mapping[str, Any], gold: Mapping[str, Any]) -> dict[str, float]:
    """values, kinds, layout, words, 0 to 1 each, from two descriptions of chart_reader.py.

    values: F1 of numbers within 5 % of each other; words: 1 - edit distance / length, over every kind of text that
    either has; both as the mean over plots, in order, a plot that only one has counting 0. kinds: all plots have the
    same types, or not. layout: the same grid and places, or not. F1 and the means are OURS.
    """
    plots, wanted = chart["plots"], gold["plots"]
    count = max(len(plots), len(wanted))
    pairs = list(zip(plots, wanted, strict=False))
    return {
        "values": sum(same_values(one["values"], other["values"]) for one, other in pairs) / count if count else 1.0,
        "kinds": float([plot["kinds"] for plot in plots] == [plot["kinds"] for plot in wanted]),
        "layout": float(chart["layout"] == gold["layout"]),
        "words": sum(_same_texts(one["texts"], other["texts"]) for one, other in pairs) / count if count else 1.0,
    }


def same_values(found: Sequence[float], wanted: Sequence[float], tolerance: float = TOLERANCE) -> float:
    """F1 of two lists of numbers, in any order: each number is used once, pairs differ by at most 5 % of the wanted.

    Example: [100, 52] and [100, 50] -> 1; [100] and [100, 50] -> 0.6667; none and none -> 1.
    """
    if not found or not wanted:
        return float(not found and not wanted)
    given, gold = sorted(found), sorted(wanted)
    at = matched = 0
    for value in gold:
        reach = tolerance * abs(value) + 1e-9
        while at < len(given) and given[at] < value - reach:
            at += 1
        if at < len(given) and given[at] <= value + reach:
            at, matched = at + 1, matched + 1
    return 2 * matched / (len(found) + len(wanted))


def _same_texts(found: Mapping[str, str], wanted: Mapping[str, str]) -> float:
    names = {*found, *wanted}
    return sum(same_text(found.get(name, ""), wanted.get(name, "")) for name in names) / len(names) if names else 1.0


def same_text(found: str, wanted: str) -> float:
    """1 - edit distance in characters / the longer length, for up to 300 characters."""
    found, wanted = found[:300], wanted[:300]
    longest = max(len(found), len(wanted))
    return 1 - edit_distance(list(found), list(wanted)) / longest if longest else 1.0


def alike(left: Sequence[float], right: Sequence[float]) -> float:
    """Cosine of two pictures' ink (255 - colour), 0 to 1: white paper says nothing. OURS; MSRL asks a vision model."""
    if len(left) != len(right):
        return 0.0
    norm = math.sqrt(sum(a * a for a in left) * sum(b * b for b in right))
    if not norm or not math.isfinite(norm):
        return 0.0
    return max(0.0, min(1.0, sum(a * b for a, b in zip(left, right, strict=True)) / norm))
