"""RL-with-Cold-Start's reward on recorded answers: ours gives what its public code gave."""

import json
from pathlib import Path
from typing import Any

import pytest

from mmreason.rewards import bind
from mmreason.types import Message, Rollout, Sample

RECORD = json.loads((Path(__file__).parents[2] / "recorded" / "cold_start_rewards.json").read_text("utf-8"))
OTHERWISE: dict[tuple[str, str], float] = {}
"""(answer, gold) that ours grades in another way, and how."""


@pytest.mark.parametrize("case", RECORD["cases"], ids=lambda case: str(case["input"]["completion"]))
def test_the_reward_is_that_of_the_public_code(case: dict[str, Any]) -> None:
    completion, gold = case["input"]["completion"], case["input"]["gold"]
    sample = Sample(id="q", messages=(Message(role="user", content=("?",)),), answer=gold, task="exact")
    (score,) = bind("accuracy", {"variant": "boxed"})(sample, [Rollout(text=completion)])
    assert score.total == OTHERWISE.get((completion, gold), case["output"])
