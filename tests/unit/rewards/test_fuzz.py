"""Any string is an answer: no reward crashes, hangs, gives NaN or leaves its range.

    MMREASON_FUZZ=100000 python -m pytest tests/unit/rewards/test_fuzz.py      the long run (`make fuzz`)
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from mmreason.rewards import REWARDS, bind
from mmreason.types import Geometry, Message, Rollout, Sample, Segment

COUNT = int(os.environ.get("MMREASON_FUZZ", "300"))
"""Strings that every reward gets, 5 to a group."""
LONG = COUNT > 300
CHUNKS = 10

FRAGMENTS = (
    *("<think>", "</think>", "<answer>", "</answer>", "<result>", "</result>", "<glue>", "</glue>"),
    *("<final diagnosis>", "</final diagnosis>", "<observation>", "</observation>", "<|value|>", "<|column|>"),
    *('"bbox_2d":', '"point_2d":', '"label": "cat"', '"Confidence":', "'Position':", '"action_id":', '"action_name":'),
    *("```json", "```", "[", "]", "{", "}", "(", ")", ",", ":", ";", "|", '"', "'", "\\", "/", "\n", " ", ".", "="),
    *("0", "1", "-1", "0.5", "1e308", "-1e999", "1e-320", "NaN", "Infinity", "9" * 400, "1,234.5", "12%", "3/0", "007"),
    *("[1,2,3,4]", "[0,0,0,0]", "[9,9,1,1]", "(1,2),(3,4)", "[[1,2,3,4],[5,6,7,8]]", "5 to 9", "0:12", "[3, 1, 2]"),
    *("A", "B.", "(C)", "cat", "the", "yes", "no", "Step 1: 1", "(2, color, cyan)", "move(2,'left')", "24", "(10-4)*4"),
    *("Request: harmful", "Response: unharmful", "\\boxed{", "\\frac{1}{2}", "$x^2$", "\x00", "\u202e", "\ud7ff", "½"),
)
STRINGS = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=8), max_size=24).map("".join) | st.text(max_size=60)
ANSWERS = STRINGS | STRINGS.map("<think>x</think><answer>{}</answer>".format)

GOLDS: Mapping[str, Any] = {
    "box": [10, 20, 110, 220],
    "boxes": [{"box": [10, 20, 110, 220], "label": "cat"}, {"box": [200, 20, 300, 90], "label": "dog"}],
    "point": [60, 120],
    "points": [[60, 120], [80, 150]],
    "spans": [[3, 9], [12, 15]],
    "duration": 30.0,
    "track": [[0, 0, 10, 10], [1, 1, 11, 11]],
    "things": [{"box": [10, 20, 110, 220], "point": [60, 120]}],
    "triplets": [[2, "color", "cyan"], [5, "size", "small"]],
    "calls": ["move(2,'left')", "turn(3,'red')"],
    "steps": [{"kind": "position", "target": "red cup", "value": [320, 240]}],
    "trace": [[0.1, 0.1], [0.5, 0.5], [0.9, 0.2]],
    "plan": ["pick up the mug", "open the door"],
    "actions": {"3": "pick up the mug", "4": "open the door"},
    "ego_grounding": [3, 9],
    "rerank": {"positives": [3], "total": 4},
    "ranked_list": ["cat", "dog"],
    "hierarchy": {"path": ["skin", "lesion", "melanoma"], "class": "malignant"},
    "multi_label": ["cat", "dog"],
    "table_answer": "42|forty-two",
    "table_number": 12.5,
    "table_sentence": "the cat sat on the mat",
    "table_evidence": {"answer": "42", "cells": [{"value": "8,189", "column": "yds"}]},
    "guard": {"prompt": "harmful", "response": "unharmful"},
    "judge_pair": [8, 3],
    "step_labels": [1, 1, 0],
    "expression": {"cards": [10, 4, 3, "A"], "target": 24},
    "grid": {"solution": [[1, 2], [2, 1]], "clues": [[1, 0], [0, 1]]},
    "budget": 40,
    "maze": ["S.#", "..G"],
}
TASKS = {
    "accuracy": ("mcq", "numeric", "math", "exact", "free_form", "ocr", "regression", "counting"),
    "numeric_band": ("numeric", "regression"),
}
ANSWER = {"mcq": "A", "numeric": "24", "math": "$\\frac{1}{2}$", "regression": "3.5", "counting": "4"}

RANGES: Mapping[str, tuple[float, float]] = {
    "giou": (0, 2),
    "seg_zero": (0, 4),
    "vision_reasoner": (0, 6),
    "expression": (0, 1),
    "guard": (-100, 0),
    "judge_pair": (-3, 4.4),
    "length_bonus": (0, math.inf),
    "length_cosine": (-10, 2),
    "length_group": (-0.5, 0.5),
    "length_overlong": (-1, 0),
    "plan_prefix": (-0.25, 1.5),
    "refer_steps": (0, 2.5),
    "repetition": (-1, 0),
    "table_evidence": (0, 1.6),
    "trace": (0, 2),
    "triplets": (-math.inf, 10),
}
"""Of the default options, from each reward's page; the others are 0 to 1."""
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "length_cosine": {"max_length": 100, "unit": "words"},
    "length_budget": {"unit": "words"},
    "length_group": {"unit": "words"},
    "length_overlong": {"unit": "words", "max_length": 20, "buffer": 5},
}
ELSEWHERE = {
    "chart_code": "runs the answer in a sandbox, which has tests of its own",
    **dict.fromkeys(("judge", "reconstruction", "rm_relative", "semantic", "service"), "asks a server"),
    "tars": "asks two functions of the user's",
}
"""Rewards that do not read the answer themselves."""
NAMES = sorted(set(REWARDS) - set(ELSEWHERE))


def sample(task: str) -> Sample:
    geometry = Geometry(original=(640, 480), resized=(644, 476), frame="resized_pixels")
    return Sample(
        id="fuzz",
        messages=(Message(role="user", content=("Which?",)),),
        answer=ANSWER.get(task, "cat"),
        task=task,
        options=("cat", "dog", "melanoma"),
        golds=GOLDS,
        demos=("<think>the cat sat</think><answer>cat</answer>",),
        geometry=(geometry,),
    )


def rollouts(texts: list[str]) -> list[Rollout]:
    """Answers with as many sampled tokens as they have words; one of blanks only has one."""
    counts = [max(len(text.split()), int(text != "")) for text in texts]
    blanks = [(torch.zeros(count, dtype=torch.int64), torch.ones(count, dtype=torch.bool)) for count in counts]
    return [
        Rollout(text=text, segments=(Segment(kind="policy", parent=0, ids=ids, loss_mask=mask),))
        for text, (ids, mask) in zip(texts, blanks, strict=True)
    ]


def check(name: str, answers: list[Rollout], task: str) -> None:
    low, high = RANGES.get(name, (0, 1))
    started = time.process_time()
    try:
        scores = bind(name, OPTIONS.get(name, {}))(sample(task), answers)
    except BaseException as error:
        error.add_note(f"of the reward {name}, task {task}")
        raise
    assert time.process_time() - started < 5, f"{name}: {time.process_time() - started:.1f} s"
    assert len(scores) == len(answers)
    for score in scores:
        assert not score.flags.get("bad_gold"), f"{name}: {score.error}"
        if score.total is not None:
            assert low - 1e-9 <= score.total <= high + 1e-9, f"{name}: {score.total}"
        assert all(math.isfinite(value) for value in score.parts.values()), f"{name}: {score.parts}"


def tasks_of(name: str) -> tuple[str, ...]:
    return TASKS.get(name, ("mcq",))


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_any_string_gets_a_score_within_the_range(chunk: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The same strings for all rewards: making them takes longer than scoring them."""
    given_out = 0

    @seed(chunk)
    @settings(max_examples=COUNT // CHUNKS // 5, suppress_health_check=list(HealthCheck), database=None)
    @given(texts=st.lists(ANSWERS, min_size=5, max_size=5), pick=st.integers(0, 7))
    def run(texts: list[str], pick: int) -> None:
        nonlocal given_out
        answers = rollouts(texts)
        for name in NAMES:
            tasks = tasks_of(name)
            check(name, answers, tasks[pick % len(tasks)])
        given_out += len(texts)

    run()
    if LONG:
        with capsys.disabled():
            print(f"chunk {chunk}: {given_out} strings to each of {len(NAMES)} rewards", flush=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_long_answer_takes_no_more_than_its_length(name: str) -> None:
    for fragment in FRAGMENTS if LONG else FRAGMENTS[::7]:
        for text in (fragment * 5000, f"<think>x</think><answer>{fragment * 5000}</answer>"):
            check(name, rollouts([text]), tasks_of(name)[0])


@pytest.mark.parametrize("name", NAMES)
def test_the_golds_here_let_every_reward_speak(name: str) -> None:
    scores = [bind(name, OPTIONS.get(name, {}))(sample(task), rollouts(["x"]))[0] for task in tasks_of(name)]
    assert not [score for score in scores if score.total is None]
