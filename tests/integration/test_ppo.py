"""PPO through the loop: the critic learns, goes on after a stop, and is not exported; with one and two processes."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mmreason.config import build_config
from mmreason.demo.media import DemoFiles
from mmreason.errors import CheckpointError
from mmreason.training import open_run, run
from mmreason.training.collect import sample_groups
from mmreason.training.credit import credit
from mmreason.training.critic import with_values
from mmreason.training.grpo import with_logprobs
from mmreason.training.update import rows_of
from tests.integration.runs import config, metrics, weights

GRPO = {"advantage": "gae", "drop_constant_groups": False, "mask_truncated": False}
REWARD = "def one(sample, text):\n    return 1.0\n\n\ndef length(sample, text):\n    return len(text) % 5 / 5\n"


def _values(folder: Path, model: Path, data: DemoFiles, reward: str = "one", /, **sections: Any) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "reward.py").write_text(REWARD)
    train = {"steps": 3, "prompts_per_step": 2, "save_every": 1, "learning_rate": 1e-3}
    given: dict[str, dict[str, Any]] = {
        "train": {**train, "learning_rates": {"critic": 0.002}},
        "rollout": {"n": 1, "max_new_tokens": 6},
        "grpo": GRPO,
        "scoring": {"workers": 1},
    }
    merged = {name: {**given.get(name, {}), **sections.get(name, {})} for name in {*given, *sections}}
    values = config(folder / "run", model, data, "grpo", **merged)
    values["rewards"] = [{"name": f"{folder / 'reward.py'}:{reward}"}]
    return values


def test_the_value_loss_falls_with_one_answer_per_prompt(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> None:
    train = {"steps": 8, "learning_rate": 0.0, "save_every": 100}
    run(build_config(_values(tmp_path, tiny_omni, demo_data, train=train), "test"))
    losses = [line["value/loss"] for line in metrics(tmp_path / "run")]
    assert losses[0] == pytest.approx(0.5), "values begin with 0, the reward is 1"
    assert losses[-1] < 0.5 * losses[0]
    assert all(line["ratio"] == pytest.approx(1, abs=1e-5) for line in metrics(tmp_path / "run"))


def test_a_resumed_run_has_the_same_critic_and_the_exported_model_none(
    tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path
) -> None:
    whole = _values(tmp_path / "whole", tiny_omni, demo_data, "length")
    run(build_config(whole, "test"))
    values = {**whole, "run_dir": str(tmp_path / "stopped" / "run")}
    run(build_config({**values, "train": {**values["train"], "steps": 1}}, "test"))
    run(build_config(values, "test"))
    first, second = tmp_path / "whole" / "run", tmp_path / "stopped" / "run"
    ours, theirs = weights(first), weights(second)
    assert not [name for name in ours if "critic" in name]
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    critics = [load_file(folder / "checkpoints" / "step-00000003" / "critic.safetensors") for folder in (first, second)]
    assert sorted(critics[0]) == ["lm_head.critic.bias", "lm_head.critic.weight"]
    assert all(torch.equal(critics[0][name], critics[1][name]) and critics[0][name].any() for name in critics[0])
    names = ("loss", "value/loss", "value/explained", "grad_norm")
    assert [[line[name] for name in names] for line in metrics(first)] == [
        [line[name] for name in names] for line in metrics(second)
    ]
    with pytest.raises(CheckpointError, match="new run_dir"):
        run(build_config({**values, "grpo": {**values["grpo"], "advantage": "remax"},
                          "train": {**values["train"], "steps": 4, "learning_rates": {}}}, "test"))  # fmt: skip


def test_adapters_and_their_critic_go_on_together(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> None:
    model = {"lora": {"rank": 2}, "freeze": ["vision", "audio"]}
    whole = _values(tmp_path / "whole", tiny_omni, demo_data, "length", model=model, train={"steps": 2})
    run(build_config(whole, "test"))
    values = {**whole, "run_dir": str(tmp_path / "stopped" / "run")}
    run(build_config({**values, "train": {**values["train"], "steps": 1}}, "test"))
    run(build_config(values, "test"))
    first, second = weights(tmp_path / "whole" / "run"), weights(tmp_path / "stopped" / "run")
    assert not [name for name in first if "critic" in name]
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_advantages_by_token(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> None:
    """Reward at the last token, the KL at every one, less the values: written out for every answer."""
    options = {"gamma": 0.9, "lam": 0.8, "whiten": 0}
    grpo = {"kl_coef": 0.5, "kl_in": "reward", "kl_estimator": "k1", "options": options}
    values = _values(tmp_path, tiny_omni, demo_data, "length", grpo={**GRPO, **grpo}, rollout={"n": 3})
    with contextlib.closing(open_run(build_config(values, "test"))) as opened:
        with torch.no_grad():
            for parameter in opened.policy.model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        groups = sample_groups(opened, 1, 0, 2)
        rewards = torch.tensor([[score.total for score in group.scores] for group in groups])
        trees, logged = with_values(opened, credit(groups, rewards[:, :, None], trained=lambda rollout: True), 0.5)
        rows = [with_logprobs(opened, row, reference=True) for row in rows_of(opened, trees)]
        gaps: dict[int, list[float]] = {number: [] for number in range(1, 7)}
        for row in rows:
            gap = row.columns["logprob.old"] - row.columns["logprob.ref"]
            for place in row.loss_mask.nonzero().flatten().tolist():
                gaps[int(row.columns["answer"][place])].append(float(gap[place]))
        everything = [gap for some in gaps.values() for gap in some]
        assert logged["kl"] == pytest.approx(sum(everything) / len(everything), abs=1e-5)
        segments = [segment for tree in trees for segment in tree.segments[1:]]
        for segment, reward, own in zip(segments, rewards.flatten().tolist(), gaps.values(), strict=True):
            value = [*segment.columns["value.old"].tolist(), 0.0]
            assert len(set(value)) == len(value)
            following = 0.0
            for t in reversed(range(len(own))):
                received = -0.5 * own[t] + (reward if t == len(own) - 1 else 0.0)
                following = received + 0.9 * value[t + 1] - value[t] + 0.9 * 0.8 * following
                assert float(segment.columns["advantage"][t]) == pytest.approx(following, abs=1e-4)
                assert float(segment.columns["value.target"][t]) == pytest.approx(following + value[t], abs=1e-4)


@pytest.mark.slow
@pytest.mark.xdist_group("processes")
@pytest.mark.timeout(1800)
def test_two_processes_train_one_critic(pair: tuple[str, Path]) -> None:
    """A stopped run goes on as if it had not been."""
    made = []
    for name in ("critic", "critic_2"):
        run_dir = pair[1] / name
        losses = [line["value/loss"] for line in metrics(run_dir)]
        assert losses[0] == pytest.approx(0.5)
        assert losses[0] > losses[1]
        made.append(weights(run_dir) | load_file(run_dir / "checkpoints" / "step-00000002" / "critic.safetensors"))
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    assert made[0]["lm_head.critic.weight"].any()
    assert not [name for name in weights(pair[1] / "critic") if "critic" in name]
