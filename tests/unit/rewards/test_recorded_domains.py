"""Our rewards give what public code gave on recorded inputs (tests/recorded); `OTHERWISE` says where not, and why.

The records hold inputs, made for the purpose, and outputs of the public functions; their commits are in the files.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmreason.rewards import bind
from mmreason.rewards.base import TextRollout
from mmreason.rewards.lengths import limited
from tests.unit.rewards.helpers import grade, sample

RECORDED = Path(__file__).parents[2] / "recorded"


def cases(name: str) -> list[dict[str, Any]]:
    record = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))
    assert len(record["commit"]) == 40
    return list(record["cases"])


def ours(reward: str, kind: str, given: Any, gold: Any = None, **options: Any) -> float:
    """Our total of a recorded input, its gold under `kind`."""
    question = sample(golds={kind: given["gold"] if gold is None else gold, **given.get("golds", {})})
    tokens, budget = given.get("tokens", 1), 1024
    rollout = TextRollout(
        text=given["text"], token_count=tokens, finish_reason="length" if tokens >= budget else "stop"
    )
    (score,) = bind(reward, options)(question, [rollout])
    assert score.error is None, score.error
    assert score.total is not None
    return score.total


def skin(given: Any) -> float:
    gold = {"scores": given["scores"], "class": given["class"]}
    return ours("hierarchy", "hierarchy", given, gold, variant="published")


def numeric(given: Any) -> float:
    (score,) = bind("numeric_band", {})(sample(given["gold"], "numeric"), [TextRollout(text=given["text"])])
    assert score.total is not None
    return score.total


def letters(given: Any) -> float:
    question = sample(given["gold"], "mcq" if given["gold"] in "ABCD" else "numeric")
    return grade("accuracy", question, given["text"], variant="visual_thinker").total or 0.0


def plan(given: Any) -> float:
    return ours("plan_prefix", "plan", {**given, "golds": {"actions": given["actions"]}})


def sentence(given: Any) -> float:
    return ours("table_sentence", "table_sentence", given, unfit=0.1)


SAME: dict[str, Callable[[Any], float]] = {
    "mm_r5_rerank": lambda given: ours("rerank", "rerank", given, variant="published"),
    "mm_r5_rerank_format": lambda given: ours("rerank_format", "rerank", given, variant="published"),
    "reason_rft_numeric": numeric,
    "embodied_plan": plan,
    "med_r1_labels": lambda given: ours("multi_label", "multi_label", given, variant="published"),
    "skin_r1_hierarchy": skin,
    "skin_r1_length": lambda length: limited(length, 256, 64, 0.7),
    "judgelrm": lambda given: ours("judge_pair", "judge_pair", given, ties="first"),
    "reasoning_table_wikitq": lambda given: ours("table_answer", "table_answer", given, numbers=False),
    "reasoning_table_fetaqa": sentence,
    "reasoning_table_finqa": lambda given: ours("table_number", "table_number", given),
    "reasoning_table_evidence": lambda given: ours("table_evidence", "table_evidence", given, numbers=False),
    "egothinker": lambda given: ours("ego_grounding", "ego_grounding", given),
    "mm_eureka_format": lambda given: 0.5 * (grade("format", sample(), given["text"], variant="mm_eureka").total or 0),
    "visual_thinker_format": lambda given: (
        grade("format", sample(), given["text"], variant="video_r1", prefilled=True).total or 0
    ),
    "visual_thinker_accuracy": letters,
}
OTHERWISE: dict[str, dict[str, float]] = {  # case -> what we give
    "reason_rft_numeric": {
        "0 | 0": 1, "0.0 | 0": 1,  # 0 for 0: a division by zero there
        "1_00 | 100": 0, "nan | 100": 0,  # Python's spelling; a reward that is no number there
        "100% | 100": 1, "$100 | 100": 1, "100 cm | 100": 1,  # a number with its unit
    },
    "embodied_plan": {
        '[{"action_id": true, "action_name": "pick up the mug"}]}': 0.125,  # true is no whole number
        '["find a mug"]}': 0.125, '"find a mug"}': 0.125, '{"action_id": 0}}': 0.125,  # an exception there: 0 in all
        '[{"action_id": 0, "action_name": 7}]}': 0.125,
        '[{"action_id": 0, "action_name": "find a mug"}]}\n```': 1.5,  # in a code fence
    },
    "judgelrm": {"<think>x</think><answer>0_8</answer><answer>3</answer>": -2.5},  # Python's spelling of 8
    "reasoning_table_wikitq": {"<think></think><answer>Rome</answer> | Rome": 0},  # an empty thought is none
    "reasoning_table_fetaqa": {"<think></think><answer>Jane</answer> | Jane Roe won the 2004 race in Oslo.": 0},
    "reasoning_table_evidence": {"<think></think><answer>42</answer>": 1, "<think></think><answer>41</answer>": 0},
    "reasoning_table_finqa": {
        " | 100": 0, " | 12.5%": 0, " | 0.5": 0, " | -40": 0, " | 3.2": 0,  # an empty answer is none
        "1234 | 1,234": 1, "1 | 1,234": 0.1, "1,300 | 1,234": 0.1,  # "1,234" is 1 there
        "0.001 | 0": 0.1, "0.02 | 0": 0.1,  # of a gold below 1 the error counts as absolute there
        "$3200000 | 3.2 million": 1, "50% | 0.5": 1,  # the same number otherwise written
        "between 90 and 100 | 90": 0.1,  # two numbers
    },
    "egothinker": {"[0,0,10,10]</answer><think>look</think><answer>x": 0},  # the last answer, not the first
    "visual_thinker_accuracy": {"<answer>B\n</answer> A | B": 1},  # an answer that ends a line
}  # fmt: skip


def key(given: Any) -> str:
    """What names a case: its answer, or plan, without what stands around it, and its gold where that is a text."""
    if not isinstance(given, dict):
        return str(given)
    if "actions" in given:
        return str(given["text"].rpartition('"executable_plan": ')[2])
    answer = re.sub(r"^<think>look</think><answer>(.*)</answer>$", r"\1", given["text"], flags=re.DOTALL)
    return f"{answer} | {given['gold']}" if isinstance(given.get("gold"), str) else answer


@pytest.mark.parametrize("name", SAME)
def test_public_code_gave_the_same(name: str) -> None:
    otherwise = OTHERWISE.get(name, {})
    different = {}
    for case in cases(name):
        got = SAME[name](case["input"])
        if got != pytest.approx(case["output"] if case["output"] != "nan" else None, abs=1e-9):
            different[key(case["input"])] = got
    assert different == pytest.approx(otherwise)


@pytest.mark.parametrize("credit", ["partial", "penalty", "full"])
def test_public_code_paired_the_calls_so_in_one_of_its_runs(credit: str) -> None:
    """Recorded under six seeds of Python's hash: where several pairings are possible, its results differ."""
    records = cases("reason_rft_calls")
    for case in records:
        got = ours("calls", "calls", case["input"], credit=credit)
        assert any(got == pytest.approx(value) for value in case["output"][credit]), case
    assert max(len(case["output"]["partial"]) for case in records) > 1


RULES = {"sudoku": ["rows", "columns", "boxes"], "binairo": ["balanced", "no_triples"], "stars": ["stars"]}


def test_puzzles_are_solved_where_public_code_says_so() -> None:
    records = cases("vgrp_puzzles")
    for case in records:
        given = case["input"]
        clues = [["*"] * len(row) for row in given["grid"]]
        gold = {"rules": RULES[given["rules"]], "clues": clues, "regions": given.get("regions")}
        text = f"<answer>{json.dumps(given['grid'])}</answer>"
        assert ours("grid", "grid", {"text": text, "gold": gold}) == float(case["output"]), given
    solved = {(case["input"]["rules"], case["output"]) for case in records}
    assert len(solved) == 6


def test_expressions_reach_the_target_where_public_code_says_so() -> None:
    """Which computes in floats, and so misses the one solution of 8 8 3 3."""
    exact = {"8/(3-8/3)", "(8/(3-(8/3)))"}
    for case in cases("sft_vs_rl_points"):
        given = case["input"]
        gold = {"cards": given["cards"], "target": given["target"]}
        value = ours("expression", "expression", {"text": f"<answer>{given['answer']}</answer>", "gold": gold})
        assert value == (given["answer"] in exact or case["output"] == 5), given
