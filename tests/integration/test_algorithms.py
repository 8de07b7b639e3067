"""Algorithms through the whole loop, in this process: what reaches the loss, and what a resume carries on."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mmreason.algorithms.advantages import Outcomes
from mmreason.config import build_config
from mmreason.demo.media import DemoFiles
from mmreason.errors import ConfigError, PluginError
from mmreason.rollout.base import SamplingParams
from mmreason.training import open_run, run
from mmreason.training.collect import sample_groups
from mmreason.training.credit import advantage_rule, advantages_of, credit
from mmreason.training.grpo import penalties, with_logprobs
from mmreason.training.outcomes import outcomes_of
from mmreason.training.update import rows_of
from tests.integration.runs import config, metrics, weights
from tests.test_docs import blocks

TRAIN = {"steps": 2, "prompts_per_step": 2, "save_every": 100}
SHORT = {"n": 4, "max_new_tokens": 8}


def _train(folder: Path, model: Path, data: DemoFiles, /, **sections: Any) -> list[dict[str, Any]]:
    values = config(folder, model, data, "grpo", **{"train": TRAIN, "rollout": SHORT, **sections})
    run(build_config(values, "test"))
    return metrics(folder)


@pytest.mark.parametrize(
    "grpo",
    [
        {"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4, "advantage": "reinforce_pp_baseline_tokens"},
        {"clip": "cispo", "clip_schedule": "shrink", "advantage": "gdpo"},
        {"clip": "geometric", "advantage": "rloo", "kl_coef": 0.1, "kl_estimator": "k3*", "kl_schedule": "accuracy",
         "options": {"kl_end": 0.3}},
    ],
    ids=["gspo", "cispo", "gmpo"],
)  # fmt: skip
def test_on_policy_no_clip_acts_and_the_ratio_is_1(
    grpo: dict[str, Any], tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path
) -> None:
    lines = _train(tmp_path / "run", tiny_omni, demo_data, grpo=grpo)
    assert [line["ratio"] for line in lines] == pytest.approx([1, 1], abs=1e-5)
    assert [line["clip_fraction"] for line in lines] == [0, 0]
    if "kl_coef" in grpo:
        assert [line["kl_coef"] for line in lines] == pytest.approx([0.1 + 0.2 * line["correct"] for line in lines])


def test_weights_where_sampling_rounds_otherwise(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> None:
    """In bfloat16, decoding and scoring differ a little: the weight says by how much, and the ratio no longer does."""
    train = {**TRAIN, "steps": 1, "precision": "bf16"}
    (plain,) = _train(tmp_path / "plain", tiny_omni, demo_data, train=train)
    (weighed,) = _train(tmp_path / "weighed", tiny_omni, demo_data, train=train, grpo={"off_policy": "token_truncate"})
    assert weighed["ratio"] == pytest.approx(1, abs=1e-6)
    assert 1e-8 < abs(weighed["off_policy/weight"] - 1) < 0.02
    assert abs(plain["ratio"] - 1) > 1e-8
    assert weighed["off_policy/bounded"] == 0


def test_kl_in_the_reward_is_the_sum_over_each_answer(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> None:
    grpo = {"kl_coef": 0.5, "kl_in": "reward", "kl_estimator": "k1", "drop_constant_groups": False}
    values = config(tmp_path / "run", tiny_omni, demo_data, "grpo", grpo=grpo, train=TRAIN, rollout=SHORT)
    with contextlib.closing(open_run(build_config(values, "test"))) as opened:
        with torch.no_grad():
            for parameter in opened.policy.model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        groups = sample_groups(opened, 1, 0, 2)
        found_NG, logged = penalties(opened, groups, 0.5)
        trees = credit(groups, torch.ones(2, 4, 1), trained=lambda rollout: True)
        rows = [with_logprobs(opened, row, reference=True) for row in rows_of(opened, trees)]
        sums = dict.fromkeys(range(1, 9), 0.0)
        for row in rows:
            gaps = row.columns["logprob.old"] - row.columns["logprob.ref"]
            for place in row.loss_mask.nonzero().flatten().tolist():
                sums[int(row.columns["answer"][place])] += 0.5 * float(gaps[place])
        assert found_NG.flatten().tolist() == pytest.approx(list(sums.values()), abs=1e-5)
        assert found_NG.abs().min() > 1e-3
        tokens = sum(rollout.tokens for group in groups for rollout in group.rollouts)
        assert logged["kl"] == pytest.approx(2 * sum(sums.values()) / tokens, abs=1e-6)
        outcomes = outcomes_of(opened.config, groups)
        assert outcomes.parts_NGK.shape == (2, 4, 2)
        torch.testing.assert_close((outcomes.parts_NGK * outcomes.weights_K).sum(-1), outcomes.total_NG)
        assert outcomes_of(opened.config, []).parts_NGK.shape == (0, 4, 2)


def test_answers_are_numbered_through_and_left_out_ones_keep_their_number(
    tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path
) -> None:
    values = config(tmp_path / "run", tiny_omni, demo_data, "grpo", train=TRAIN, rollout=SHORT)
    with contextlib.closing(open_run(build_config(values, "test"))) as opened:
        groups = sample_groups(opened, 1, 0, 2)
    left_out = groups[0].rollouts[1]
    trees = credit(groups, torch.arange(8.0).reshape(2, 4, 1), trained=lambda rollout: rollout is not left_out)
    leaves = [segment for tree in trees for segment in tree.segments if "answer" in segment.columns]
    assert [set(leaf.columns["answer"].tolist()) for leaf in leaves] == [{n} for n in (1, 3, 4, 5, 6, 7, 8)]
    assert [float(leaf.columns["advantage"].max()) for leaf in leaves] == [0, 2, 3, 4, 5, 6, 7]


def test_an_adaptive_coefficient_goes_on_where_a_run_was_stopped(
    tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path
) -> None:
    grpo = {"kl_coef": 0.1, "kl_schedule": "adaptive", "options": {"kl_target": 1e-9}}
    file = tmp_path / "length.py"
    file.write_text("def reward(sample, text):\n    return len(text) % 5 / 5\n")

    def steps(folder: str, steps: int) -> list[dict[str, Any]]:
        train, rewards = {**TRAIN, "steps": steps, "learning_rate": 1e-3}, [{"name": f"{file}:reward"}]
        return _train(tmp_path / folder, tiny_omni, demo_data, grpo=grpo, train=train, rewards=rewards)

    whole = steps("whole", 4)
    steps("parts", 3)
    parts = steps("parts", 4)
    coefficients = [line["kl_coef"] for line in whole]
    assert coefficients == [line["kl_coef"] for line in parts]
    # Nothing has moved before the first update, so its KL is 0; after that it is far over the target.
    assert coefficients == pytest.approx([0.1, 0.098, 0.09996, 0.1019592])
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_groups_outside_the_range_are_left_out(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> None:
    grpo = {"keep_mean": [50.0, 60.0], "max_refills": 1}
    (line, _) = _train(tmp_path / "run", tiny_omni, demo_data, grpo=grpo)
    assert (line["groups/sampled"], line["groups/kept"]) == (4, 0)


def test_an_accuracy_schedule_without_an_accuracy_is_one_line(
    tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path
) -> None:
    grpo = {"kl_coef": 0.1, "kl_schedule": "accuracy", "options": {"kl_end": 0.3}}
    with pytest.raises(ConfigError, match=r"^grpo.kl_schedule: accuracy, but no reward says which answers are right"):
        _train(tmp_path / "run", tiny_omni, demo_data, grpo=grpo, rewards=[{"name": "format"}])


def test_disco_sees_whole_groups_or_says_what_to_do(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> None:
    grpo = {"clip": "disco", "advantage": "contrast", "options": {"tau": 10.0}, "updates_per_batch": 2}
    train = {**TRAIN, "steps": 1, "learning_rate": 1e-2, "aggregation": "sequence_mean"}
    file = tmp_path / "length.py"
    file.write_text("def reward(sample, text):\n    return float(len(text) % 2)\n")
    rewards = [{"name": f"{file}:reward"}]
    (line,) = _train(tmp_path / "run", tiny_omni, demo_data, grpo=grpo, train=train, rewards=rewards)
    assert line["updates"] == 2
    assert line["grad_norm"] > 0
    assert line["ratio"] != pytest.approx(1, abs=1e-7), "the second update is off-policy"
    values = config(tmp_path / "small", tiny_omni, demo_data, "grpo", grpo=grpo, train=train, rollout=SHORT)
    with contextlib.closing(open_run(build_config(values, "test"))) as opened:
        (_, prompt), *_ = opened.feed.take(1)
    small = {**train, "row_tokens": prompt.ids.shape[0] + 20}
    with pytest.raises(ConfigError, match=r"^train.row_tokens: \d+ is too little for a prompt with all its answers"):
        _train(tmp_path / "split", tiny_omni, demo_data, grpo=grpo, train=small, rewards=rewards)


def test_remax_compares_with_a_greedy_answer_even_alone(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> None:
    file = tmp_path / "length.py"
    file.write_text("def reward(sample, text):\n    return float(len(text) % 3)\n")
    sections: dict[str, Any] = {
        "grpo": {"advantage": "remax"},
        "train": {**TRAIN, "prompts_per_step": 4},
        "rollout": {**SHORT, "n": 1},
        "rewards": [{"name": f"{file}:reward"}],
    }
    values = config(tmp_path / "opened", tiny_omni, demo_data, "grpo", **sections)
    with contextlib.closing(open_run(build_config(values, "test"))) as opened:
        groups = sample_groups(opened, 1, 0, 4)
        greedy = [group.greedy.total or 0.0 for group in groups if group.greedy is not None]
        params = SamplingParams(greedy=True, max_new_tokens=8)
        answers = opened.rollouts.generate([group.prompt for group in groups], 1, params, [[5]] * 4)
        assert greedy == [len(answer.text) % 3 for (answer,) in answers]
        found_NG = advantages_of(opened, groups, torch.zeros(4, 1))
        assert found_NG.flatten().tolist() == [
            len(group.rollouts[0].text) % 3 - best for group, best in zip(groups, greedy, strict=True)
        ]
    (line, _) = _train(tmp_path / "run", tiny_omni, demo_data, **sections)
    assert line["groups/kept"] == 4
    assert line["grad_norm"] > 0


def test_the_advantage_of_the_algorithms_page_trains_as_it_stands(
    tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path
) -> None:
    """Under 30 lines with its config, in a user's own folder."""
    (code,) = blocks("docs/algorithms.md", "python")
    (text,) = [text for text in blocks("docs/algorithms.md", "yaml") if "median.py" in text]
    assert len((code + text).splitlines()) < 30
    (tmp_path / "median.py").write_text(code)
    (tmp_path / "three.py").write_text("def reward(sample, text):\n    return float(len(text) % 3)\n")
    grpo = {"advantage": str(tmp_path / yaml.safe_load(text)["grpo"]["advantage"])}
    rewards = [{"name": f"{tmp_path}/three.py:reward"}]
    sections: dict[str, Any] = {"grpo": grpo, "rewards": rewards, "train": {**TRAIN, "steps": 1}}
    values = config(tmp_path / "opened", tiny_omni, demo_data, "grpo", **sections, rollout=SHORT)
    with contextlib.closing(open_run(build_config(values, "test"))) as opened:
        groups = sample_groups(opened, 1, 0, 2)
        found = advantages_of(opened, groups, torch.zeros(2, 4))[..., 0]
    sorted_NG = [sorted(float(score.total or 0) for score in group.scores) for group in groups]
    # nanmedian takes the lower of the two in the middle
    assert found.sort().values.tolist() == [[reward - row[1] for reward in row] for row in sorted_NG]
    (line,) = _train(tmp_path / "run", tiny_omni, demo_data, **sections)
    assert line["grad_norm"] > 0


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("3", "is a int; expected a function of Outcomes"),
        ("lambda outcomes: 3", r"gave a int; expected a tensor \[1, 2\] of finite numbers, 0 where total_NG is NaN"),
        ("lambda outcomes: outcomes.greedy_N", r"gave a tensor \[1\]; expected a tensor \[1, 2\]"),
        ("lambda outcomes: outcomes.total_NG / 0", "gave 2 numbers not finite; expected"),
    ],
)
def test_what_is_no_advantage(tmp_path: Path, body: str, line: str) -> None:
    (tmp_path / "mine.py").write_text(f"rule = {body}\n")
    name = f"{tmp_path}/mine.py:rule"
    values = {"run_dir": "r", "model": {"path": "m"}, "grpo": {"advantage": name}, "rewards": [{"name": "accuracy"}]}
    none = torch.zeros(1)
    one = Outcomes(
        total_NG=torch.tensor([[1.0, 0.0]]),
        parts_NGK=torch.zeros(1, 2, 1),
        weights_K=none,
        tokens_NG=torch.ones(1, 2),
        greedy_N=none,
    )
    with pytest.raises(PluginError, match=f"^grpo.advantage: {name} {line}"):
        advantage_rule(build_config(values, "test"))(one)
