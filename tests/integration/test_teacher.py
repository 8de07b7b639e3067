"""A teacher without media and masked pictures, through real models: columns, exact KL, refusals, a run."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from mmreason.config import build_config
from mmreason.demo.media import DemoFiles
from mmreason.errors import ModelError
from mmreason.policy.teacher import load_teacher
from mmreason.training import open_run, run
from mmreason.training.collect import sample_groups
from mmreason.training.credit import advantages_of, credit
from mmreason.training.grpo import prepare
from mmreason.training.other_views import with_masked_pictures, without_media
from mmreason.training.run import Run
from mmreason.training.tally import Tally
from mmreason.training.term_inputs import TermInputs
from mmreason.types import Batch, RolloutGroup, Tree
from tests.integration.runs import config, metrics

TRAIN = {"steps": 2, "prompts_per_step": 3, "save_every": 100}


@pytest.fixture(scope="module")
def teacher(tiny_omni: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3 with the tokenizer of the tiny Omni, and a few more rows in its head than that has tokens."""
    folder = tmp_path_factory.mktemp("teacher")
    tokenizer = AutoTokenizer.from_pretrained(tiny_omni)
    torch.manual_seed(11)
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    heads: dict[str, Any] = {"num_key_value_heads": 1, "head_dim": 32, "vocab_size": 900, "tie_word_embeddings": False}
    model = Qwen3ForCausalLM(Qwen3Config(**sizes, **heads))
    with torch.no_grad():
        model.lm_head.weight.normal_(std=0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def values(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> dict[str, Any]:
    """Rewards of 0 and 1 by the length of the answer."""
    (tmp_path / "odd.py").write_text("def reward(sample, text):\n    return float(len(text) % 2)\n")
    made = config(tmp_path / "run", tiny_omni, demo_data, "grpo", train=TRAIN, rollout={"n": 4, "max_new_tokens": 8})
    made["rewards"] = [{"name": f"{tmp_path / 'odd.py'}:reward"}]
    return made


def opened_with(values: dict[str, Any], *terms: dict[str, Any]) -> contextlib.closing[Run]:
    grpo = {**values["grpo"], "terms": list(terms)}
    return contextlib.closing(open_run(build_config({**values, "grpo": grpo}, "test")))


def noted(opened: Run) -> tuple[TermInputs, list[RolloutGroup], list[Tree]]:
    groups = sample_groups(opened, 1, 0, 3)
    inputs = TermInputs(opened)
    return inputs, groups, inputs.noted(groups, credited(opened, groups), 1)


def credited(opened: Run, groups: list[RolloutGroup]) -> list[Tree]:
    return credit(groups, advantages_of(opened, groups, torch.zeros(3, 4)), trained=lambda rollout: True)


def expected_kl(opened: Run, groups: list[RolloutGroup], inputs: TermInputs) -> tuple[float, float]:
    """Sum over the tokens of wrong answers of KL(student || teacher), plain forwards of both; and of the log-ratios."""
    teacher = inputs._teacher
    assert teacher is not None
    total = sampled = 0.0
    prompts = without_media(opened, groups)
    for place, group in enumerate(groups):
        for rollout, score in zip(group.rollouts, group.scores, strict=True):
            if score.total != 0:
                continue
            ids = rollout.segments[0].ids
            other = torch.cat([prompts[place].ids, ids])
            with torch.no_grad():
                logits = teacher.model(input_ids=other[None]).logits[0, -len(ids) - 1 : -1, :].float()
            row = rows_of_one(opened, group, rollout)
            hidden = opened.policy.hidden_states(row)[row.loss_mask]
            mine = hidden.float() @ opened.policy.head.weight.detach().float().T
            size = mine.shape[1]
            for table in (mine, logits):
                table[:, opened.policy.banned] = float("-inf")
            logp, logq = mine.log_softmax(-1), logits[:, :size].log_softmax(-1)
            total += float((logp.exp() * (logp - logq).nan_to_num(nan=0.0)).sum())
            sampled += float((logp - logq).gather(1, ids[:, None]).sum())
    return total, sampled


def rows_of_one(opened: Run, group: RolloutGroup, rollout: Any) -> Batch:
    from mmreason.collate import pack

    segment = rollout.segments[0]
    (row,) = pack([Tree(id="one", segments=(group.prompt, segment))], 4096, opened.policy.positions)
    return row


def test_the_teacher_sees_the_answers_without_media_and_the_kl_is_exact(values: dict[str, Any], teacher: Path) -> None:
    with opened_with(values, {"name": "distill", "options": {"teacher": str(teacher)}}) as opened:
        inputs, groups, trees = noted(opened)
        assert any(group.prompt.media for group in groups)
        (rows,) = prepare(opened, trees)
        found = 0.0
        for row in rows:
            teaching = inputs.teaching(row)
            assert teaching is not None
            scores = opened.policy.token_scores(row, teaching=teaching, grad=False)
            assert scores.divergence is not None
            found += float(scores.divergence.sum())
            wrong = (row.columns["reward"] <= 0) & row.loss_mask & (row.columns["answer"] > 0)
            assert torch.equal(row.columns["taught"].bool() & row.loss_mask, wrong)
            assert bool((scores.divergence[~wrong] == 0).all())
        total, _ = expected_kl(opened, groups, inputs)
    assert total > 1
    assert found == pytest.approx(total, rel=1e-4)


def test_sampled_tokens_have_the_teachers_log_probs(values: dict[str, Any], teacher: Path) -> None:
    options = {"teacher": str(teacher), "estimator": "k2"}
    with opened_with(values, {"name": "distill", "options": options}) as opened:
        inputs, groups, trees = noted(opened)
        (rows,) = prepare(opened, trees)
        assert inputs.teaching(rows[0]) is None
        gaps = [
            (row.columns["logprob.sampling"] - row.columns["logprob.teacher"]) * row.columns["taught"] for row in rows
        ]
        _, sampled = expected_kl(opened, groups, inputs)
    assert sum(float(gap.sum()) for gap in gaps) == pytest.approx(sampled, abs=1e-2)


@pytest.mark.parametrize("estimator", ["exact", "k2"])
def test_an_answer_that_the_teacher_cannot_read_is_counted_and_not_corrected(
    values: dict[str, Any], teacher: Path, estimator: str
) -> None:
    options = {"teacher": str(teacher), "answers": "all", "estimator": estimator}
    with opened_with(values, {"name": "distill", "options": options}) as opened:
        groups, inputs = sample_groups(opened, 1, 0, 3), TermInputs(opened)
        trees = credited(opened, groups)
        segment = trees[1].segments[2]
        filling = segment.ids.clone()
        filling[-1] = 900  # one row behind the teacher's last
        odd = [*trees[1].segments[:2], replace(segment, ids=filling), *trees[1].segments[3:]]
        trees[1] = replace(trees[1], segments=tuple(odd))
        found = inputs.noted(groups, trees, 1)
    taught = [[bool(one.columns["taught"].any()) for one in tree.segments[1:]] for tree in found]
    assert taught == [[True] * 4, [True, False, True, True], [True] * 4]
    assert [segment for tree in found for segment in tree.segments if "unreadable" in segment.columns] == [
        found[1].segments[2]
    ]


def test_a_head_that_ends_before_the_tokenizer_is_refused(values: dict[str, Any], teacher: Path) -> None:
    with opened_with(values) as opened:
        last = max(set(opened.policy.tokenizer.get_vocab().values()) - set(opened.policy.banned.tolist()))
        model = Qwen3ForCausalLM.from_pretrained(teacher)
        model.resize_token_embeddings(last)
        model.save_pretrained(teacher / "short")
        opened.policy.tokenizer.save_pretrained(teacher / "short")
        line = f"short: its head has {last} rows, and the policy may sample token {last}$"
        with pytest.raises(ModelError, match=line):
            load_teacher(str(teacher / "short"), opened.policy, "cpu")


def test_masked_pictures_are_black_and_the_rest_is_as_it_was(values: dict[str, Any]) -> None:
    with opened_with(values, {"name": "perception", "options": {"mask_ratio": 0.6}}) as opened:
        _, groups, trees = noted(opened)
        seeing = [place for place, group in enumerate(groups) if any(m.kind != "audio" for m in group.prompt.media)]
        prompts = with_masked_pictures(opened, groups, 1.0, 1)
        assert sorted(prompts) == seeing
        for place in seeing:
            (item, *_) = [item for item in prompts[place].media if item.kind != "audio"]
            assert torch.equal(prompts[place].ids, groups[place].prompt.ids)
            pixels = item.kwargs["pixel_values" if item.kind == "image" else "pixel_values_videos"]
            assert bool((pixels == pixels[:1]).all())
            assert bool((pixels < 0).all()), "black, not mid-grey"
        half = with_masked_pictures(opened, groups, 0.6, 1)
        again = with_masked_pictures(opened, groups, 0.6, 1)
        other = with_masked_pictures(opened, groups, 0.6, 2)
        first = seeing[0]
        keys = [prompt[first].media[0].key for prompt in (half, again, other)]
        assert keys[0] == keys[1] != keys[2]
        (rows,) = prepare(opened, trees)
    for row in rows:
        answered = row.loss_mask & (row.columns["answer"] > 0)
        with_pictures = torch.isin((row.columns["answer"] - 1) // 4, torch.tensor(seeing, dtype=torch.float32))
        assert torch.equal(row.columns["masked"].bool() & row.loss_mask, answered & with_pictures)
        there = row.columns["masked"].bool()
        assert (row.columns["logprob.masked"][there] < 0).all()


def test_a_run_with_teacher_and_masked_pictures(values: dict[str, Any], teacher: Path) -> None:
    terms: list[dict[str, Any]] = [
        {"name": "distill", "weight": 1.0, "options": {"teacher": str(teacher), "answers": "all"}},
        {"name": "perception", "weight": 0.02},
        {"name": "entropy", "weight": 0.03},
    ]
    values["train"] |= {"learning_rate": 3e-3, "steps": 2}
    grpo = {**values["grpo"], "terms": terms, "options": {"policy_weight": 0.0}}
    run(build_config({**values, "grpo": grpo}, "test"))
    lines = metrics(Path(values["run_dir"]))
    assert lines[0]["distill/taught"] == pytest.approx(1, abs=1e-5)
    parts = [term["weight"] * lines[0][f"{term['name']}/loss"] for term in terms]
    assert lines[0]["loss"] == pytest.approx(sum(parts), abs=1e-4)
    assert 0 < lines[0]["perception/masked"] < 1
    assert lines[0]["perception/kl"] == pytest.approx(-lines[0]["perception/loss"], abs=1e-7)
    assert lines[0]["entropy/loss"] == pytest.approx(lines[0]["entropy"], abs=1e-5)


def test_another_tokenizer_is_one_line(values: dict[str, Any], tiny: Any, teacher: Path, tmp_path: Path) -> None:
    with opened_with(values) as opened:
        with pytest.raises(ModelError, match=r"^teacher: .*: another tokenizer: '.*' is token \d+ of the policy and"):
            load_teacher(str(tiny("qwen2_5_vl")), opened.policy, "cpu")
        with pytest.raises(ModelError, match=r"^teacher: .*none: no checkpoint there"):
            load_teacher(str(tmp_path / "none"), opened.policy, "cpu")
        (tmp_path / "odd").mkdir()
        found = json.loads((teacher / "config.json").read_text())
        (tmp_path / "odd/config.json").write_text(json.dumps({**found, "model_type": "gpt2"}))
        with pytest.raises(ModelError, match=r"model_type 'gpt2'; known: qwen2, qwen3, "):
            load_teacher(str(tmp_path / "odd"), opened.policy, "cpu")
        torn = shutil.copytree(teacher, tmp_path / "torn")
        tensors = load_file(torn / "model.safetensors")
        del tensors["model.layers.1.mlp.up_proj.weight"]
        save_file(tensors, torn / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match=r"torn: 1 weights are missing .*, first model\.layers\.1\.mlp"):
            load_teacher(str(torn), opened.policy, "cpu")


def test_the_threshold_is_on_the_total_after_shaping(values: dict[str, Any], teacher: Path, tmp_path: Path) -> None:
    """A bonus for all lifts wrong answers over it, and none is corrected: docs/algorithms.md says so."""
    (tmp_path / "bonus.py").write_text(
        "from mmreason.algorithms.shaping import Change\n\n\n"
        "def fn(group):\n    return Change(bonus=(0.6,) * len(group.scores))\n"
    )
    values["shaping"] = [{"name": f"{tmp_path / 'bonus.py'}:fn"}]
    options = {"teacher": str(teacher), "threshold": 0.5, "estimator": "k2"}
    with opened_with(values, {"name": "distill", "options": options}) as opened:
        groups, inputs = sample_groups(opened, 1, 0, 3), TermInputs(opened)
        assert {score.total for group in groups for score in group.scores} == {0.0, 1.0}
        taught = []
        for given in (groups, opened.shaping(groups, Tally())):
            trees = inputs.noted(given, credited(opened, given), 1)
            taught.append(sum(bool(one.columns["taught"].any()) for tree in trees for one in tree.segments[1:]))
    assert taught == [sum(score.total == 0 for group in groups for score in group.scores), 0]
