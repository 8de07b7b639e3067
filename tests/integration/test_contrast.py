"""Contrast rollouts through the whole loop: sampled and scored where the view changes something, never trained on."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch

from mmreason.config import build_config
from mmreason.demo.media import DemoFiles
from mmreason.training import open_run, run
from mmreason.training.collect import sample_groups
from tests.integration.runs import config, metrics, weights

TRAIN = {"steps": 1, "prompts_per_step": 5, "save_every": 100}
SHORT = {"n": 3, "max_new_tokens": 6}
LENGTH = "def length(sample, text):\n    return len(text) % 7 / 7\n"


@pytest.fixture
def values(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "mine.py").write_text(LENGTH)
    made = config(tmp_path / "run", tiny_omni, demo_data, "grpo", train=TRAIN, rollout=SHORT)
    return {**made, "rewards": [{"name": f"{tmp_path / 'mine.py'}:length"}]}


def test_contrast_rollouts_are_scored_and_never_trained_on(values: dict[str, Any], tmp_path: Path) -> None:
    plain = {**values, "run_dir": str(tmp_path / "plain")}
    run(build_config(plain))
    values["grpo"] = {**values["grpo"], "contrast_view": "none", "contrast_n": 2}
    run(build_config(values))
    trained = weights(tmp_path / "run")
    assert not [name for name, tensor in weights(tmp_path / "plain").items() if not torch.equal(tensor, trained[name])]
    (line,), (other,) = metrics(tmp_path / "run"), metrics(tmp_path / "plain")
    assert line["reward/mean"] == other["reward/mean"]
    assert line["contrast/groups"] == 0.8, "four of five tasks have media"
    assert line["contrast/errors"] == 0
    assert line["contrast/gap"] != 0
    assert not [name for name in other if name.startswith("contrast/")]


def test_only_groups_with_such_media_have_them(values: dict[str, Any]) -> None:
    values["grpo"] = {**values["grpo"], "contrast_view": "shuffled", "contrast_n": 2}
    with contextlib.closing(open_run(build_config(values))) as opened:
        groups = sample_groups(opened, 1, 0, 10)
        again = sample_groups(opened, 1, 0, 0)
    assert again == []
    video = [group.sample.modality == "video" for group in groups]
    assert 0 < sum(video) < len(video)
    assert [len(group.contrast) for group in groups] == [2 * shown for shown in video]
    assert all(score.total is not None for group in groups for score in group.contrast)
    assert all(rollout.view == "ordered" for group in groups for rollout in group.rollouts)


def test_evaluations_measure_the_view(values: dict[str, Any], demo_data: DemoFiles, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from mmreason.types import Score\n"
        "def length(sample, rollouts):\n"
        "    return [Score(total=1.0, flags={'correct': len(r.text) % 2 == 1}) for r in rollouts]\n"
    )
    values["grpo"] = {**values["grpo"], "contrast_view": "muted"}
    values["data"] = {**values["data"], "eval": [{"path": str(demo_data.eval)}]}
    run(build_config(values))
    for line in metrics(tmp_path / "run", "eval"):
        gaps = {name for name in line if name.startswith("dependence/")}
        assert gaps == {
            f"dependence/muted/{group}{end}" for group in ("all", "audio") for end in ("", "/low", "/high", "/of")
        }
        assert line["dependence/muted/audio/of"] == 2
        assert line["dependence/muted/audio"] == line["dependence/muted/all"]
