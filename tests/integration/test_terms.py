"""Further terms of the loss through the whole loop: demonstrations beside rollouts in one tree."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mmreason.config import build_config
from mmreason.demo.media import DemoFiles
from mmreason.errors import DataError
from mmreason.training import open_run, run
from mmreason.training.collect import sample_groups
from mmreason.training.credit import advantages_of, credit
from mmreason.training.grpo import prepare, with_logprobs
from mmreason.training.objective import objective_of, row_loss
from mmreason.training.run import Run
from mmreason.training.sft import demonstration_tree
from mmreason.training.sft import row_loss as sft_loss
from mmreason.training.terms import terms_of, with_demos
from mmreason.training.update import rows_of, weigh
from mmreason.types import Batch, LossOutput
from tests.integration.runs import config, metrics

TRAIN = {"steps": 2, "prompts_per_step": 2, "save_every": 100, "aggregation": "token_mean"}
SHORT = {"n": 4, "max_new_tokens": 8}
ODD = "def reward(sample, text):\n    return 1.0 if len(text) % 2 else -1.0\n"


@pytest.fixture
def values(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> dict[str, Any]:
    """A run whose rows have demonstrations."""
    (tmp_path / "odd.py").write_text(ODD)
    made = config(tmp_path / "run", tiny_omni, demo_data, "grpo", train=TRAIN, rollout=SHORT)
    made["data"] = {"train": [{"path": str(demo_data.sft)}]}
    made["rewards"] = [{"name": f"{tmp_path / 'odd.py'}:reward"}]
    return made


def lines(values: dict[str, Any], **grpo: Any) -> list[dict[str, Any]]:
    run(build_config({**values, "grpo": {**values["grpo"], **grpo}}, "test"))
    return metrics(Path(values["run_dir"]))


def rows(opened: Run, *, demos: bool = True) -> list[Batch]:
    groups = sample_groups(opened, 1, 0, 2)
    groups = with_demos(opened, groups) if demos else groups
    trees = credit(groups, advantages_of(opened, groups, torch.zeros(2, 4)), trained=lambda rollout: True)
    (found,) = prepare(opened, trees)
    return [with_logprobs(opened, row, reference=False) for row in found]


def loss_of(opened: Run, row: Batch) -> LossOutput:
    loss = row_loss(opened.config, objective_of(opened.config, 0), 0.0, terms_of(opened.config, 0))
    return loss(opened.policy.token_scores(row), row)


def test_imitation_beside_rollouts_is_sft_and_leaves_the_policy_loss_alone(values: dict[str, Any]) -> None:
    values["grpo"] |= {"terms": [{"name": "imitation", "weight": 0.5}]}
    with contextlib.closing(open_run(build_config(values, "test"))) as opened:
        state = opened.feed.state
        with_them = [loss_of(opened, row) for row in rows(opened)]
        opened.feed.restore(state)
        prompts = opened.feed.take(2)
        sft, _ = weigh(opened, [demonstration_tree(opened, *prompt) for prompt in prompts], "token_mean")
        plain = [sft_loss(opened.policy.token_scores(row), row) for row in rows_of(opened, sft)]
        opened.feed.restore(state)
        alone = [loss_of(opened, row) for row in rows(opened, demos=False)]
    nll = sum(out.metrics["imitation/nll"] for out in with_them)
    assert nll == pytest.approx(sum(out.metrics["nll"] for out in plain), abs=1e-4)
    losses = [sum(out.loss.item() for out in outs) for outs in (with_them, alone)]
    assert losses[0] == pytest.approx(losses[1] + 0.5 * nll, abs=1e-4)
    assert sum(out.metrics["ratio"] for out in with_them) == pytest.approx(1, abs=1e-4)


def test_the_prompt_stands_once_and_demonstrations_are_scored_with_the_group(values: dict[str, Any]) -> None:
    values["grpo"] |= {"terms": [{"name": "demo_policy"}]}
    with contextlib.closing(open_run(build_config(values, "test"))) as opened:
        groups = with_demos(opened, sample_groups(opened, 1, 0, 2))
        for group in groups:
            assert [score.total for score in group.demo_scores] == [1.0 if len(group.demos[0].text) % 2 else -1.0]
        advantages_NG = advantages_of(opened, groups, torch.zeros(2, 4))
        trees = credit(groups, advantages_NG, trained=lambda rollout: True)
    assert advantages_NG.shape == (2, 5, 1)
    assert advantages_NG.sum(1).abs().max() < 1e-6, "one mean over rollouts and demonstration"
    for tree, advantages_G, number in zip(trees, advantages_NG, (9, 10), strict=True):
        assert [segment.kind for segment in tree.segments] == ["prompt"] + ["policy"] * 5
        demo = tree.segments[-1]
        assert demo.parent == 0
        assert set(demo.columns["answer"].tolist()) == {number}
        torch.testing.assert_close(demo.columns["advantage"], torch.full((len(demo.ids),), float(advantages_G[4, 0])))


def test_srft_is_the_sum_of_its_terms_and_nothing_else(values: dict[str, Any]) -> None:
    terms: list[dict[str, Any]] = [
        {"name": "imitation", "weight": 0.5, "options": {"by_entropy": True}},
        {"name": "demo_policy"},
        {"name": "likelihood", "options": {"positive": 0.1, "by_entropy": True}},
    ]
    values["train"] |= {"steps": 1}
    (line,) = lines(values, clip="none", options={"policy_weight": 0.0}, terms=terms)
    assert {"likelihood/right", "likelihood/factor", "imitation/factor", "demo_policy/advantage"} <= set(line)
    parts = [line[f"{term['name']}/loss"] * term.get("weight", 1.0) for term in terms]
    assert line["loss"] == pytest.approx(sum(parts), abs=1e-4), "the policy loss itself has the factor 0"
    assert line["imitation/factor"] == pytest.approx(1 / 400, rel=0.5), "an untrained model's entropy is about 6"


def test_demonstrations_teach_where_no_answer_is_right(values: dict[str, Any]) -> None:
    values["train"] |= {"steps": 6, "learning_rate": 3e-3}
    values["rewards"] = [{"name": "accuracy"}]
    found = lines(values, terms=[{"name": "imitation"}])
    assert found[-1]["imitation/nll"] < found[0]["imitation/nll"] - 1
    assert {line["reward/mean"] for line in found} == {0.0}


def test_one_answer_to_a_prompt_will_do_for_terms_alone(values: dict[str, Any]) -> None:
    values["rollout"], values["train"] = {"n": 1, "max_new_tokens": 8}, {**values["train"], "steps": 1}
    grpo = {"drop_constant_groups": False, "options": {"policy_weight": 0.0}, "terms": [{"name": "imitation"}]}
    (line,) = lines(values, **grpo)
    assert line["loss"] == pytest.approx(line["imitation/loss"], abs=1e-5)
    assert line["loss"] > 1


def test_rows_without_demonstrations_are_trained_without_and_none_at_all_is_refused(
    values: dict[str, Any], demo_data: DemoFiles, tmp_path: Path
) -> None:
    source = [json.loads(line) for line in demo_data.sft.read_text().splitlines()][:4]
    for row in source[1:]:
        row.pop("demos")
    mixed, none = tmp_path / "mixed.jsonl", tmp_path / "none.jsonl"
    mixed.write_text("".join(json.dumps(row) + "\n" for row in source))
    none.write_text("".join(json.dumps(row) + "\n" for row in source[1:]))
    root = {"media_root": str(demo_data.sft.parent)}
    terms = [{"name": "demo_policy"}, {"name": "imitation"}]
    values["train"] |= {"prompts_per_step": 4, "steps": 1}
    (line,) = lines({**values, "data": {"train": [{"path": str(mixed)}], **root}}, terms=terms)
    assert line["imitation/nll"] > 0
    assert line["groups/kept"] == 4
    with pytest.raises(DataError, match=r"^grpo.terms need demonstrations, but no row of data.train has `demos`"):
        lines(
            {**values, "run_dir": str(tmp_path / "none"), "data": {"train": [{"path": str(none)}], **root}}, terms=terms
        )


def test_only_critical_tokens_of_a_demonstration_have_loss(values: dict[str, Any]) -> None:
    values["train"], values["grpo"] = {**values["train"], "method": "sft"}, {}
    with contextlib.closing(open_run(build_config(values, "test"))) as opened:
        (sample, prompt), *_ = opened.feed.take(1)
        (text,) = sample.demos
        at = text.index("<answer>") + len("<answer>")
        critical = replace(sample, demo_weights=(((at, at + 1, 1.0), (len(text) - 1, len(text), 3.0)),))
        (row,) = rows_of(opened, weigh(opened, [demonstration_tree(opened, critical, prompt)], "sequence_sum")[0])
        scores = opened.policy.token_scores(row, grad=False).logprob
        places = row.loss_mask.nonzero()[:, 0]
        shown = opened.policy.tokenizer.decode(row.ids[places[:1]])
        assert text[at] in shown
        assert row.ids[places[-1]] == opened.policy.tokenizer.eos_token_id, "a span to the end holds the end token"
        expected = -(scores[places[0]] + 3 * scores[places[1:]].sum())
        assert sft_loss(opened.policy.token_scores(row, grad=False), row).loss.item() == pytest.approx(expected.item())
        (whole,) = rows_of(opened, weigh(opened, [demonstration_tree(opened, sample, prompt)], "sequence_sum")[0])
        assert whole.loss_mask.sum() > len(places)
