"""Shaping and spans through the training loop: what reaches the tokens."""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mmreason.algorithms.shaping import Change
from mmreason.config import build_config
from mmreason.demo.media import DemoFiles
from mmreason.errors import ConfigError, PluginError
from mmreason.training import open_run, run
from mmreason.training.collect import _useful, sample_groups
from mmreason.training.credit import advantages_of, credit
from mmreason.training.shaping import Shaper, Shaping, load_shaping
from mmreason.training.tally import Tally
from mmreason.types import Message, Rollout, RolloutGroup, Sample, Score, Segment
from tests.integration.runs import config, metrics

TRAIN = {"steps": 1, "prompts_per_step": 10, "save_every": 100}
SHORT = {"n": 4, "max_new_tokens": 8}
MINE = """
def length(sample, text):
    return len(text) % 5 / 4

def seen(sample, text):
    return float(len(text) % 2)
"""


@pytest.fixture
def values(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "mine.py").write_text(MINE)
    made = config(tmp_path / "run", tiny_omni, demo_data, "grpo", train=TRAIN, rollout=SHORT)
    return {**made, "rewards": [{"name": f"{tmp_path / 'mine.py'}:length", "weight": 2.0}]}


def test_t_grpo_in_the_loop(values: dict[str, Any], tmp_path: Path) -> None:
    label = values["rewards"][0]["name"]
    values["grpo"] = {**values["grpo"], "contrast_view": "shuffled", "contrast_n": 2}
    temporal = {"name": "temporal_bonus", "options": {"mode": "code", "reward": label, "mu": 0.0}}
    values["shaping"] = [temporal, {"name": "length_bonus", "options": {"accuracy": label, "low": 1, "high": 8}}]
    settings = build_config(values)
    with contextlib.closing(open_run(settings)) as opened:
        groups = sample_groups(opened, 1, 0, 10)
        shaped = replace(opened.shaping, shapers=opened.shaping.shapers[:1])(groups, Tally())
        trees = credit(shaped, advantages_of(opened, shaped, torch.zeros(10, 4)), trained=lambda rollout: True)
    for before, after in zip(groups, shaped, strict=True):
        for old, new in zip(before.scores, after.scores, strict=True):
            bonus = 0.3 if before.contrast and old.parts[label] > 0.1 else 0.0
            assert new.parts[label] == old.parts[label] + bonus
            assert new.total == pytest.approx(2 * old.parts[label] + 2 * bonus), "with the reward's weight"
    assert sum(bool(group.contrast) for group in groups) == 2
    assert [len(tree.segments) for tree in trees] == [5] * 10, "a prompt and its 4 answers: no contrast rollout"
    run(settings)
    (line,) = metrics(tmp_path / "run")
    assert line["shaping/temporal_bonus/before"] == pytest.approx(line["reward/mean"])
    assert line["shaping/length_bonus/before"] == line["shaping/temporal_bonus/after"] > line["reward/mean"]
    assert line["shaping/length_bonus/after"] > line["shaping/length_bonus/before"]
    assert line["contrast/groups"] == 0.2


def test_a_groups_factor_is_on_its_advantages(values: dict[str, Any]) -> None:
    label = values["rewards"][0]["name"]
    values["shaping"] = [{"name": "difficulty_weight", "options": {"reward": label}}]
    with contextlib.closing(open_run(build_config(values))) as opened:
        groups = sample_groups(opened, 1, 0, 4)
        shaped = opened.shaping(groups, Tally())
        blank = torch.zeros(4, 4)
        plain, weighed = advantages_of(opened, groups, blank), advantages_of(opened, shaped, blank)
    means = [sum(score.parts[label] for score in group.scores) / 4 for group in groups]
    factors = torch.tensor([2.718281828459045 ** (1 - mean) for mean in means], dtype=torch.float64)
    torch.testing.assert_close(weighed, plain * factors[:, None, None])
    assert plain.abs().max() > 0


def test_left_out_answers_have_no_loss_and_no_part_in_the_statistics(values: dict[str, Any], tmp_path: Path) -> None:
    label = values["rewards"][0]["name"]
    options = {"keep": 2, "min_right": 1, "min_wrong": 1, "accuracy": label}
    values["shaping"] = [{"name": "resample_correct", "options": options}]
    settings = build_config(values)
    with contextlib.closing(open_run(settings)) as opened:
        (group,) = sample_groups(opened, 1, 0, 1)
        marks = tuple(Score(total=2 * value, parts={label: value}) for value in (1.0, 0.0, 0.5, 0.0))
        group = replace(group, scores=marks)
        (shaped,) = opened.shaping([group], Tally())
        advantages_1GS = advantages_of(opened, [shaped], torch.zeros(1, 4))
        assert _useful(opened, group, shaped), "an answer that is left out is no failed one"
        assert [score.total for score in shaped.scores].count(None) == 2
        assert sorted(advantages_1GS.flatten().tolist()) == pytest.approx([-0.7071, 0, 0, 0.7071], abs=1e-3)
        (tree,) = credit([shaped], advantages_1GS, trained=lambda rollout: True)
        assert len(tree.segments) == 3
    run(settings)
    (line,) = metrics(tmp_path / "run")
    assert 0.5 <= line["shaping/resample_correct/kept"] <= 1


def with_parts(group: RolloutGroup, perception: list[float], reasoning: list[float], labels: list[str]) -> RolloutGroup:
    """Answers whose first three tokens are the observation."""
    scores = tuple(
        Score(total=sum(pair), parts=dict(zip(labels, pair, strict=True)))
        for pair in zip(perception, reasoning, strict=True)
    )
    rollouts = tuple(replace(rollout, spans={"observation": (0, 3)}) for rollout in group.rollouts)
    return replace(group, scores=scores, rollouts=rollouts)


def test_pa_grpo_by_the_notes(values: dict[str, Any]) -> None:
    """R_P = [2.2, 1, 2, 0], R_R = [2, 2.2, 1, 1]: answers 2 and 3 are pushed two ways, and not as one sum would."""
    name = values["rewards"][0]["name"].rpartition(":")[0]
    labels = [f"{name}:seen", f"{name}:length"]
    values["rewards"] = [{"name": labels[0], "span": "observation"}, {"name": labels[1], "span": "rest"}]
    values["grpo"] = {**values["grpo"], "options": {"epsilon": 1e-9}}
    with contextlib.closing(open_run(build_config(values))) as opened:
        (group,) = sample_groups(opened, 1, 0, 1)
        group = with_parts(group, [2.2, 1, 2, 0], [2, 2.2, 1, 1], labels)
        advantages_1GS = advantages_of(opened, [group], torch.zeros(1, 4))
        (tree,) = credit([group], advantages_1GS, ("observation", "rest"), trained=lambda rollout: True)
    found = [segment.columns["advantage"] for segment in tree.segments[1:]]
    perception, reasoning = [0.8882, -0.2961, 0.6908, -1.2830], [0.7028, 1.0151, -0.8590, -0.8590]
    assert [float(column[0]) for column in found] == pytest.approx(perception, abs=1e-4)
    assert [float(column[-1]) for column in found] == pytest.approx(reasoning, abs=1e-4)
    for column in found:
        assert len(set(column[:3].tolist())) == len(set(column[3:].tolist())) == 1
    merged = [1.0072, 0.2611, 0.1119, -1.3802]
    assert found[1][0] < 0 < merged[1]
    assert found[2][-1] < 0 < merged[2]


@pytest.mark.parametrize(
    "advantage",
    ["group", "group_mean", "batch", "rloo", "reinforce_pp", "reinforce_pp_tokens", "reinforce_pp_baseline",
     "reinforce_pp_baseline_tokens", "remax", "gdpo"],
)  # fmt: skip
def test_spans_with_every_advantage(values: dict[str, Any], advantage: str) -> None:
    """A reward of one span moves that span's tokens alone."""
    name = values["rewards"][0]["name"].rpartition(":")[0]
    labels = [f"{name}:seen", f"{name}:length"]
    values["rewards"] = [{"name": labels[0], "span": "observation"}, {"name": labels[1], "span": "rest"}]
    values["grpo"] = {**values["grpo"], "advantage": advantage}
    settings = build_config(values)
    with contextlib.closing(open_run(settings)) as opened:
        (group,) = sample_groups(opened, 1, 0, 1)
        first = with_parts(group, [1, 0, 1, 0], [1, 0, 0, 0], labels)
        other = with_parts(group, [1, 0, 1, 0], [0, 0, 1, 0], labels)
        one, two = (advantages_of(opened, [made], torch.zeros(1, 4)) for made in (first, other))
    assert one.shape == (1, 4, 2)
    assert torch.equal(one[..., 0], two[..., 0])
    assert not torch.equal(one[..., 1], two[..., 1])
    assert one[0, 0, 0] > one[0, 1, 0]


def test_spans_in_the_loop(values: dict[str, Any], tmp_path: Path) -> None:
    """An untrained model writes no block, and every token gets the mean; groups of constant total are kept."""
    name = values["rewards"][0]["name"].rpartition(":")[0]
    values["rewards"] = [{"name": f"{name}:seen", "span": "observation"}, {"name": f"{name}:length", "span": "rest"}]
    values["grpo"] = {"mask_truncated": False, "max_refills": 0}
    settings = build_config(values)
    run(settings)
    (line,) = metrics(tmp_path / "run")
    assert line["groups/kept"] > 0
    assert line["grad_norm"] > 0
    with contextlib.closing(open_run(settings.model_copy(update={"run_dir": str(tmp_path / "other")}))) as opened:
        (group,) = sample_groups(opened, 1, 0, 1)
        assert all(rollout.spans == {} for rollout in group.rollouts)
        swapped = with_parts(group, [1, 0, 1, 0], [0, 1, 0, 1], [reward["name"] for reward in values["rewards"]])
        assert {score.total for score in swapped.scores} == {1.0}
        assert _useful(opened, swapped, swapped)
        constant = with_parts(group, [1] * 4, [0] * 4, [reward["name"] for reward in values["rewards"]])
        assert not _useful(opened, constant, constant)


@pytest.mark.parametrize(
    ("shaping", "lines"),
    [
        ([{"name": "lenght_bonus"}], [r"^shaping: lenght_bonus: no such name .*; did you mean 'length_bonus'"]),
        (
            [{"name": "length_bonus", "options": {"lo": 1, "high": "2"}}],
            [r"^shaping length_bonus: unknown option 'lo'; did you mean 'low'", r"option high: got '2', expected int",
             r"option accuracy: 'accuracy' is no reward of this config"],
        ),
        ([{"name": "resample_correct", "options": {"accuracy": "length"}}], [r"option 'keep' is required"]),
        (
            [{"name": "resample_correct", "options": {"keep": 3, "min_right": "2"}}],
            [r"option min_right: got '2', expected int"],
        ),
    ],
)  # fmt: skip
def test_mistakes_in_shaping_are_lines(values: dict[str, Any], shaping: list[Any], lines: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_shaping(build_config({**values, "shaping": shaping}))
    for line in lines:
        assert re.search(line, str(caught.value), re.MULTILINE), caught.value


def test_a_shaper_of_ones_own(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        MINE
        + "\nfrom mmreason.algorithms.shaping import Change\n"
        + "def first(group, *, bonus: float = 1.0):\n"
        + "    return Change(bonus=(bonus,) + (0.0,) * (len(group.scores) - 1))\n"
    )
    values["shaping"] = [{"name": f"{tmp_path / 'mine.py'}:first", "options": {"bonus": 3.0}}]
    settings = build_config(values)
    with contextlib.closing(open_run(settings)) as opened:
        (group,) = sample_groups(opened, 1, 0, 1)
        (shaped,) = opened.shaping([group], Tally())
    gained = [
        float(new.total or 0) - float(old.total or 0) for old, new in zip(group.scores, shaped.scores, strict=True)
    ]
    assert gained == pytest.approx([3, 0, 0, 0])
    assert shaped.scores[0].parts[values["shaping"][0]["name"]] == 3.0


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (None, "shaping mine: gave a NoneType, expected a Change"),
        (Change(bonus=(1.0,)), "shaping mine: gave 1 bonuses and 0 values of keep for 2 answers; expected one each"),
        (Change(bonus=(1.0, math.nan)), r"shaping mine: gave bonus \(1.0, nan\) and factor 1.0; expected finite"),
        (Change(factor=math.inf), "expected finite numbers"),
        (Change(bonus=(1.0, 0.0), into="acuracy"), "a bonus into 'acuracy'; expected None or one of accuracy"),
    ],
)
def test_a_shaper_that_gives_nonsense_is_one_line(made: Any, line: str) -> None:
    prompt = Segment(kind="prompt", ids=torch.arange(3), loss_mask=torch.zeros(3, dtype=torch.bool))
    sample = Sample(id="a", messages=(Message(role="user", content=("?",)),))
    answers = (Rollout(text="a"), Rollout(text="b"))
    group = RolloutGroup(sample=sample, prompt=prompt, rollouts=answers, scores=(Score(total=1.0), Score(total=0.0)))
    shaping = Shaping(shapers=(Shaper("mine", lambda group: made),), weights={"accuracy": 1.0})
    with pytest.raises(PluginError, match=f"^.*{line}"):
        shaping([group], Tally())
