"""R1-AQA's rewards on recorded answers: ours give what its public code gave."""

import json
from pathlib import Path
from typing import Any

import pytest

from mmreason.rewards import bind
from mmreason.types import Message, Rollout, Sample

RECORD = json.loads((Path(__file__).parents[2] / "recorded" / "r1_aqa_rewards.json").read_text(encoding="utf-8"))
FORMAT = {"pattern": "<answer>.*?</answer>"}  # as in configs/recipes/r1-aqa.yaml

OTHERWISE = {
    # Public: a gold is wrapped in answer tags and read back by a pattern that does not go over lines, so one of several
    # lines keeps its tags, and is compared with the whole answer, tags included. Our golds have no tags.
    "<answer>the dog\nbarks</answer>": 0.0,
    # Public: math-verify reads no number that touches a tag, so not that of the gold, and no text equals it.
    "there are 7, <answer>8</answer>": 1.0,
}
"""Answers that ours grades in another way, and how."""


@pytest.mark.parametrize("case", RECORD["cases"], ids=lambda case: case["input"]["completion"][:40])
def test_rewards_are_those_of_the_public_code(case: dict[str, dict[str, Any]]) -> None:
    question = Message(role="user", content=("?",))
    sample = Sample(id="q", messages=(question,), answer=case["input"]["gold"], task="exact")
    rollout = Rollout(text=case["input"]["completion"])
    (accuracy,) = bind("accuracy", {"variant": "r1_v"})(sample, [rollout])
    (shape,) = bind("format", FORMAT)(sample, [rollout])
    expected = OTHERWISE.get(rollout.text, case["output"]["accuracy"])
    assert (accuracy.total, shape.total) == (expected, case["output"]["format"])
