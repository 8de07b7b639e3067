"""What comes when, through the whole loop, in this process: order, filter and mixture of the data."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from mmreason.config import build_config
from mmreason.demo.media import DemoFiles
from mmreason.training import open_run, run
from tests.integration.runs import config, metrics, weights

TRAIN = {"steps": 2, "prompts_per_step": 2, "save_every": 1}
SHORT = {"n": 4, "max_new_tokens": 8}


def _values(folder: Path, model: Path, data: DemoFiles, /, method: str = "grpo", **sections: Any) -> dict[str, Any]:
    return config(folder, model, data, method, **{"train": TRAIN, "rollout": SHORT, **sections})


def _equal(first: Path, second: Path, *names: str) -> None:
    """Two runs that went the same way: weights bit for bit, and these metrics."""
    ours, theirs = weights(first), weights(second)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert [[line[name] for name in names] for line in metrics(first)] == [
        [line[name] for name in names] for line in metrics(second)
    ]


def _stopped_and_resumed(values: dict[str, Any], steps: int, stop: int) -> None:
    """A run of `steps` steps that was stopped after `stop` of them."""
    run(build_config({**values, "train": {**values["train"], "steps": stop}}, "test"))
    run(build_config({**values, "train": {**values["train"], "steps": steps}}, "test"))


@pytest.mark.parametrize("method", ["sft", "grpo"])
def test_filter_mixture_and_curriculum_in_a_run(
    method: str, tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path
) -> None:
    """Pass rates from a file; a stopped run comes to the very rows that an undisturbed one comes to."""
    lines = (demo_data.sft if method == "sft" else demo_data.train).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    rates = {row["id"]: index % 10 / 10 for index, row in enumerate(rows)}
    file = tmp_path / "rates.jsonl"
    file.write_text("".join(json.dumps({"id": id, "pass_rate": rate}) + "\n" for id, rate in rates.items()))
    counts = Counter(row["source"] for row in rows if 0.2 <= rates[row["id"]] <= 0.8)
    (one, other), *_ = [counts.most_common(2)]
    mix = {row["source"]: 0.0 for row in rows} | {one[0]: 1.0, other[0]: 1.0}
    data = {"order": "hard_to_easy", "difficulty": str(file), "pass_rate": [0.2, 0.8], "mix": mix}
    values = _values(tmp_path / "whole", tiny_omni, demo_data, method, data=data)
    with contextlib.closing(open_run(build_config(values, "test"))) as opened:
        order = opened.feed.order
        epoch = [opened.feed.samples[index] for index in order.epoch(0)]
        taken = [sample.id for sample, _ in opened.feed.take(3)]
    assert [sample.id for sample in epoch[:3]] == taken
    assert abs(Counter(sample.source for sample in epoch)[one[0]] - len(epoch) / 2) <= 0.5
    for source in (one[0], other[0]):
        own = [rates[sample.id] for sample in epoch if sample.source == source]
        assert own == sorted(own)
        assert 0.2 <= min(own)
        assert max(own) <= 0.8
    run(build_config({**values, "train": {**values["train"], "steps": 2}}, "test"))
    again = {**values, "run_dir": str(tmp_path / "stopped")}
    _stopped_and_resumed(again, steps=2, stop=1)
    _equal(tmp_path / "whole", tmp_path / "stopped", "loss", "samples_seen")


def test_hard_samples_come_again_and_a_resumed_run_draws_the_same(
    tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path
) -> None:
    grpo = {"drop_constant_groups": False, "mask_truncated": False, "options": {"replay": 0.5, "replay_below": 0.9}}
    values = _values(tmp_path / "whole", tiny_omni, demo_data, grpo=grpo, train={**TRAIN, "steps": 4})
    run(build_config(values, "test"))
    last = metrics(tmp_path / "whole")[-1]
    assert last["samples_replayed"] > 0
    assert last["samples_seen"] + last["samples_replayed"] == 4 * 2
    _stopped_and_resumed({**values, "run_dir": str(tmp_path / "stopped")}, steps=4, stop=2)
    _equal(tmp_path / "whole", tmp_path / "stopped", "loss", "samples_replayed", "samples_hard", "samples_seen")


def test_the_temperature_follows_the_entropy_and_scores_are_taken_at_it(
    tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path
) -> None:
    rollout = {**SHORT, "entropy_target": 0.5, "temperature": 0.9}
    grpo = {"drop_constant_groups": False, "mask_truncated": False, "options": {"temperature_gain": 0.2}}
    values = _values(tmp_path / "whole", tiny_omni, demo_data, rollout=rollout, grpo=grpo, train={**TRAIN, "steps": 3})
    run(build_config(values, "test"))
    lines = metrics(tmp_path / "whole")
    moved = [line["temperature"] for line in lines]
    assert moved == pytest.approx([0.9, 0.72, 0.576]), "random weights: the entropy is far above the target"
    assert all(line["entropy/sampled"] > 2 for line in lines)
    for line in lines:  # all three of sampling, old and update at the very temperature of the step
        assert line["ratio"] == pytest.approx(1, abs=1e-5)
        assert line["entropy"] == pytest.approx(line["entropy/sampled"], rel=0.25)
    _stopped_and_resumed({**values, "run_dir": str(tmp_path / "stopped")}, steps=3, stop=1)
    _equal(tmp_path / "whole", tmp_path / "stopped", "loss", "temperature", "entropy/sampled")


def test_with_top_p_the_ratio_is_that_of_what_was_sampled(
    tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path
) -> None:
    """Log-probs over the kept ids: ratio and off-policy weight 1 on-policy, for the policy and its reference alike."""
    rollout = {**SHORT, "top_p": 0.9, "temperature": 0.6}
    grpo = {"drop_constant_groups": False, "mask_truncated": False, "off_policy": "sequence_truncate", "kl_coef": 0.1}
    values = _values(tmp_path / "kept", tiny_omni, demo_data, rollout=rollout, grpo=grpo)
    run(build_config(values, "test"))
    first = metrics(tmp_path / "kept")[0]
    assert first["off_policy/weight"] == pytest.approx(1, abs=1e-4)
    assert first["ratio"] == pytest.approx(1, abs=1e-5)
    assert first["kl"] == pytest.approx(0, abs=1e-6)
    assert 1 < first["support/size"]
    options = {"drop_constant_groups": False, "mask_truncated": False, "options": {"support": 0}}
    whole = _values(tmp_path / "all", tiny_omni, demo_data, rollout=rollout, grpo=options)
    run(build_config(whole, "test"))
    other = metrics(tmp_path / "all")[0]
    assert "support/size" not in other
    assert other["ratio"] == pytest.approx(1, abs=1e-5)
    assert other["entropy"] > first["entropy"] + 0.05, "the ids that top-p took away count again"
