"""VLAA-Thinker's mixed reward as docs/rewards.md has it: five kinds, one per sample, in the pool."""

import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from mmreason.config import RewardConfig, ScoringConfig
from mmreason.rewards.pool import RewardPool
from mmreason.types import Rollout, Sample
from tests.unit.rewards.helpers import answered, sample

SCORES = {"the reference": 0.5, "better": 1.0, "equal": 0.5, "worse": 0.2}
"""S of the worked numbers."""


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({"values": [SCORES[text] for text in asked["texts"]]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    """A service of known scores."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join(10)


CASES: list[tuple[Sample, list[str], list[float]]] = [
    (sample("3", "counting"), ["3", "4", "three"], [1.0, 0.0, 1.0]),
    (sample("B", "mcq", options=("red", "blue")), ["B", "A", "blue"], [1.0, 0.0, 1.0]),
    (sample("$y=|x+9|$", "math"), ["$y=|x+9|$", "$y=x+9$", "y=|9+x|"], [1.0, 0.0, 1.0]),
    (
        sample(None, "grounding", golds={"box": [0.1, 0.2, 0.7, 0.5]}),
        ["[0.1,0.2,0.7,0.5]", "[0.8,0.8,0.9,0.9]", "[0.1,0.2,0.4,0.5]"],
        [1.0, 0.0, 0.5],
    ),
    (sample("the reference", "free_form"), ["better", "equal", "worse"], [0.393469, 0.0, 0.0]),
]


def test_one_kind_of_reward_per_sample(url: str) -> None:
    page = (Path(__file__).parents[3] / "docs" / "rewards.md").read_text(encoding="utf-8")
    (text,) = [block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "rm_relative" in block]
    config = yaml.safe_load(text.replace("http://127.0.0.1:8101", url))
    rewards = [RewardConfig.model_validate({**r, "tasks": tuple(r["tasks"])}) for r in config["rewards"]]
    scoring = ScoringConfig.model_validate({**config["scoring"], "workers": 1, "deadline_s": 60.0})
    unreadable = [Rollout(text="no tags"), Rollout(text="<answer></answer>"), Rollout(text="<answer>hm?")]
    with RewardPool(rewards, scoring) as pool:
        found = pool.score([(question, [*answered(*answers), *unreadable]) for question, answers, _ in CASES])
    for (question, _, values), scores in zip(CASES, found, strict=True):
        totals = [score.total for score in scores]
        assert totals == pytest.approx([*values, 0.0, 0.0, 0.0], abs=1e-6), (question.task, scores[0].error)
        assert {len([part for part in score.parts if "." not in part]) for score in scores} == {1}  # one, and no sum
