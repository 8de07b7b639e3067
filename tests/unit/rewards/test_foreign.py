"""Rewards in a user's file, written the way the documentation of TRL, verl, EasyR1 and ms-swift writes them."""

from pathlib import Path
from typing import Any

import pytest

from mmreason.config import RewardConfig, ScoringConfig
from mmreason.errors import ConfigError, PluginError, RewardError
from mmreason.rewards import bind
from mmreason.rewards.base import TextRollout
from mmreason.rewards.foreign import as_native
from mmreason.rewards.pool import RewardPool
from mmreason.types import MediaRef, Message, Rollout, Sample, Score
from tests.unit.rewards.helpers import sample

TRL = r"""
import asyncio
import re

def by_tokens(completion_ids, **kwargs):
    return [float(len(ids)) for ids in completion_ids]

def by_characters(completions, **kwargs):
    return [float(len(completion)) for completion in completions]

def by_form(completions, **kwargs):
    contents = [completion[0]["content"] for completion in completions]
    return [1.0 if re.match(r"^<think>.*?</think><answer>.*?</answer>$", text) else 0.0 for text in contents]

def boxed(completions, ground_truth, **kwargs):
    found = [re.search(r"\\boxed\{(.*?)\}", completion) for completion in completions]
    return [1.0 if m and m.group(1) == gold else 0.0 for m, gold in zip(found, ground_truth)]

def maths_only(prompts, completions, task, **kwargs):
    return [(1.0 if prompt.count("?") else -1.0) if t == "math" else None for prompt, t in zip(prompts, task)]

async def slow(prompts, completions, **kwargs):
    await asyncio.sleep(0.01)
    return [0.5 for _ in completions]

def logs(completions, solution, difficulty, log_extra=None, log_metric=None, bonus=1.0):
    return [bonus * d if c == s else 0.0 for c, s, d in zip(completions, solution, difficulty)]

def by_step(completions, trainer_state):
    return [trainer_state.global_step for _ in completions]

def hidden(completions, **kwargs):
    return [float(len(_inside(completion))) for completion in completions]

def _inside(completion):
    return completion[0]["content"]

def sees(prompts, completions, golds, meta, answer, id, **kwargs):
    assert completions[0][0]["content"] and prompts[0][0]["role"] == "user"
    return [float(len(prompts[0][0]["content"])) for _ in completions]

def short(completions, **kwargs):
    return [1.0]
"""

VERL = r"""
def my_reward_fn(data_source, solution_str, ground_truth, extra_info=None):
    return len(solution_str) / 100

def compute_score(data_source, solution_str, ground_truth, extra_info, scale=1.0):
    right = ground_truth in solution_str and data_source == "geo" and extra_info["split"] == "train"
    return {"score": scale * right, "acc": right, "pred": solution_str}

def batched(data_sources, solution_strs, ground_truths, extra_infos, **kwargs):
    return [float(g in s) for s, g in zip(solution_strs, ground_truths)]

def routed(data_source, solution_str, ground_truth, extra_info, reward_router_address):
    return 0.0
"""

EASYR1_BATCH = r"""
REWARD_NAME = "mine"
REWARD_TYPE = "batch"

def compute_score(reward_inputs: list[dict], limit: int, weight: float = 0.5) -> list[dict[str, float]]:
    scores = []
    for given in reward_inputs:
        right = float(given["ground_truth"].strip() in given["response"])
        long = float(given["response_length"] > limit)
        scores.append({"overall": right - weight * long, "accuracy": right, "overlong": long})
    return scores
"""

EASYR1_ONE = r"""
REWARD_TYPE = "sequential"

def compute_score(given, format_weight: float = 0.5):
    right = float(given["response"] == given["ground_truth"])
    return {"overall": (1 - format_weight) * right, "accuracy": right}
"""

SWIFT = r"""
class ORM:
    def __init__(self, args=None, **kwargs):
        self.args = args

    def __call__(self, **kwargs):
        raise NotImplementedError

orms = {}

class Long(ORM):
    def __call__(self, completions, **kwargs):
        return [1.0 if len(completion) > 3 else 0.0 for completion in completions]

class Right(ORM):
    def __call__(self, completions, solution, **kwargs):
        return [float(c == s) for c, s in zip(completions, solution)]

class Overlong(ORM):
    def __init__(self, args=None, **kwargs):
        super().__init__(args)
        self.most = args.soft_max_length

    async def __call__(self, completions, **kwargs):
        return [-float(len(completion) > self.most) for completion in completions]

class Plain:
    def __init__(self, most):
        self.most = most

    def __call__(self, completions, unit="x", **kwargs):
        return [float(c.count(unit) > self.most) for c in completions]

orms["long"] = Long
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    texts = {"trl": TRL, "verl": VERL, "batch": EASYR1_BATCH, "one": EASYR1_ONE, "swift": SWIFT}
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def totals(reward: str, question: Sample, *texts: str, **options: Any) -> list[float | None]:
    answers = [TextRollout(text=text, token_count=len(text), token_ids=(7,) * len(text)) for text in texts]
    return [score.total for score in bind(reward, options)(question, answers)]


QUESTION = sample("4", "math", messages=(Message(role="user", content=("What is 2+2?",)),), meta={"difficulty": 0.5})


@pytest.mark.parametrize(
    ("name", "texts", "expected"),
    [
        ("by_tokens", ["ab", "abcd"], [2.0, 4.0]),
        ("by_characters", [" blue.", " in the sky."], [6.0, 12.0]),
        ("by_form", ["<think>a</think><answer>4</answer>", "4"], [1.0, 0.0]),
        ("boxed", [r"so \boxed{4}", r"so \boxed{5}", "4"], [1.0, 0.0, 0.0]),
        ("maths_only", ["a", "b"], [1.0, 1.0]),
        ("slow", ["a"], [0.5]),
        ("logs", ["4", "5"], [0.5, 0.0]),
    ],
)
def test_trl(files: Path, name: str, texts: list[str], expected: list[float]) -> None:
    assert totals(f"{files}/trl.py:{name}", QUESTION, *texts) == expected


def test_trl_none_is_does_not_apply_and_options_are_arguments(files: Path) -> None:
    assert totals(f"{files}/trl.py:maths_only", sample("4", "code"), "a") == [None]
    assert totals(f"{files}/trl.py:logs", QUESTION, "4", bonus=3.0) == [1.5]
    assert totals(f"{files}/trl.py:logs", QUESTION, "4", difficulty=[9.0]) == [9.0]


def test_trl_messages_where_the_code_is_elsewhere(files: Path) -> None:
    """Text is given, which cannot be read as messages: an error, never a wrong number; and the option that mends it."""
    with pytest.raises(TypeError, match="string ind"):
        totals(f"{files}/trl.py:hidden", QUESTION, "four")
    assert totals(f"{files}/trl.py:hidden", QUESTION, "four", completions="messages") == [4.0]
    with pytest.raises(ConfigError, match="option completions: got 'chat', expected one of 'text', 'messages'"):
        bind(f"{files}/trl.py:hidden", {"completions": "chat"})


def test_trl_prompts_as_messages_with_media(files: Path) -> None:
    content = (MediaRef(kind="image", path="/a.png"), "What?")
    question = sample("4", messages=(Message(role="user", content=content),))
    assert totals(f"{files}/trl.py:sees", question, "a") == [2.0]
    assert totals(f"{files}/trl.py:sees", QUESTION, "a") == [float(len("What is 2+2?"))]


def test_trl_what_cannot_be_given(files: Path) -> None:
    with pytest.raises(PluginError, match=r"needs trainer_state, which only the trainer that it is written for can"):
        bind(f"{files}/trl.py:by_step", {})
    with pytest.raises(RewardError, match=r"wants the column 'difficulty'; this sample has answer, golds, .*put it"):
        totals(f"{files}/trl.py:logs", sample("4"), "4")
    with pytest.raises(RewardError, match="completion_ids: there are none where texts are scored"):
        bind(f"{files}/trl.py:by_tokens", {})(QUESTION, [Rollout(text="a")])
    with pytest.raises(RewardError, match="returned 1 values, expected a list with one value for each of 2 answers"):
        totals(f"{files}/trl.py:short", QUESTION, "a", "b")


def test_verl(files: Path) -> None:
    assert totals(f"{files}/verl.py:my_reward_fn", QUESTION, "x" * 50) == [0.5]
    assert totals(f"{files}/verl.py:batched", sample(4), "is 4", "is 5") == [1.0, 0.0]
    with pytest.raises(PluginError, match="needs reward_router_address, which only"):
        bind(f"{files}/verl.py:routed", {})


def test_verl_functions_of_two_arguments() -> None:
    def one(solution_str: str, ground_truth: str) -> float:
        return float(solution_str == ground_truth)

    def every(solution_strs: list[str], ground_truths: list[str]) -> list[float]:
        return [float(text == gold) for text, gold in zip(solution_strs, ground_truths, strict=True)]

    for function in (one, every):
        scores = as_native(function, "own", {})(sample("4"), [Rollout(text="4"), Rollout(text="5")])
        assert [score.total for score in scores] == [1, 0]


def test_our_own_signatures_stay_whatever_else_they_take() -> None:
    def single(sample: Sample, text: str, completions: int = 3) -> float:
        return 1.0

    def whole(question: Sample, rollouts: list[Rollout], completions: int = 3) -> list[Score]:
        return [Score(total=1.0) for _ in rollouts]

    assert as_native(single, "own", {}) is single
    assert as_native(whole, "own", {}) is whole


def test_verl_dicts_have_parts(files: Path) -> None:
    question = sample(4, source="geo", meta={"extra_info": {"split": "train"}})
    (score,) = bind(f"{files}/verl.py:compute_score", {"scale": 2.0})(question, [Rollout(text="is 4")])
    assert (score.total, score.parts) == (2.0, {"acc": 1})


def test_easyr1(files: Path) -> None:
    question, long = sample(4), [TextRollout(text="is 4", token_count=9), TextRollout(text="is 5", token_count=2)]
    scores = bind(f"{files}/batch.py:compute_score", {"limit": 5})(question, long)
    assert [score.total for score in scores] == [0.5, 0.0]
    assert scores[0].parts == {"accuracy": 1.0, "overlong": 1.0}
    assert totals(f"{files}/one.py:compute_score", question, "4", "5") == [0.5, 0.0]
    with pytest.raises(ConfigError, match="option 'limit' is required"):
        bind(f"{files}/batch.py:compute_score", {})
    with pytest.raises(ConfigError, match="unknown option 'lim'; did you mean 'limit'"):
        bind(f"{files}/batch.py:compute_score", {"limit": 5, "lim": 5})
    with pytest.raises(ConfigError, match="option limit: got 'x', expected int"):
        bind(f"{files}/batch.py:compute_score", {"limit": "x"})
    with pytest.raises(RewardError, match="response_length: tokens are counted where answers are sampled"):
        bind(f"{files}/batch.py:compute_score", {"limit": 5})(question, [Rollout(text="4")])
    with pytest.raises(RewardError, match="response_length"):
        bind(f"{files}/batch.py:compute_score", {"limit": 5})(question, [TextRollout(text="4")])


def test_swift(files: Path) -> None:
    assert totals(f"{files}/swift.py:Long", QUESTION, "abcd", "abc") == [1.0, 0.0]
    assert totals(f"{files}/swift.py:Right", QUESTION, "4", "5") == [1.0, 0.0]
    assert totals(f"{files}/swift.py:Overlong", QUESTION, "abcd", "abc", soft_max_length=3) == [-1.0, 0.0]
    assert totals(f"{files}/swift.py:Plain", QUESTION, "xx", "yy", most=1) == [1.0, 0.0]
    assert totals(f"{files}/swift.py:Plain", QUESTION, "xx", "yy", most=1, unit="y") == [0.0, 1.0]
    with pytest.raises(PluginError, match=r"args\.soft_max_length is not given: add soft_max_length to the options"):
        bind(f"{files}/swift.py:Overlong", {})
    with pytest.raises(PluginError, match="Plain: takes no option mots"):
        bind(f"{files}/swift.py:Plain", {"most": 1, "mots": 2})
    with pytest.raises(ConfigError, match="option completions: got 'chat', expected text or messages"):
        bind(f"{files}/swift.py:Long", {"completions": "chat"})
    with pytest.raises(PluginError, match="is a class, expected a function"):
        bind("mmreason.types:Message", {})


def test_they_run_in_workers_and_combine(files: Path) -> None:
    names = ["trl.py:boxed", "verl.py:my_reward_fn", "one.py:compute_score", "swift.py:Long"]
    rewards = [RewardConfig(name=f"{files}/{name}", gate=f"{files}/trl.py:boxed" if i else None)
               for i, name in enumerate(names)]  # fmt: skip
    with RewardPool(rewards, ScoringConfig(workers=1)) as pool:
        ((right, wrong),) = pool.score([(QUESTION, [Rollout(text=r"\boxed{4}"), Rollout(text=r"\boxed{5}")])])
    assert right.total == pytest.approx(1 + 0.09 + 0 + 1)
    assert wrong.total == 0.0


def test_sampled_token_ids_reach_a_reward(files: Path) -> None:
    import torch

    from mmreason.types import Segment

    policy = Segment(kind="policy", ids=torch.tensor([5, 6, 7]), loss_mask=torch.ones(3, dtype=torch.bool))
    with RewardPool([RewardConfig(name=f"{files}/trl.py:by_tokens")], ScoringConfig(workers=1)) as pool:
        ((score,),) = pool.score([(QUESTION, [Rollout(text="abc", segments=(policy,))])])
    assert score.total == 3.0
