"""`mmreason sample`: rows that the next stage reads, another selection without a model, going on after a stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import mmreason
from mmreason.cli import main
from mmreason.config import build_config
from mmreason.data import load_all
from mmreason.demo.media import DemoFiles
from mmreason.errors import ConfigError, MMReasonError
from mmreason.evaluation.verb import Parts, opened_parts, sampling_engine
from mmreason.rollout.base import cut
from mmreason.training import run
from mmreason.types import Segment
from tests.integration.runs import config, metrics

ODD = '''
from mmreason.types import Score

def odd(sample, rollouts):
    """Texts of odd length stand for right answers of an untrained model."""
    return [Score(total=1.0, flags={"correct": len(rollout.text) % 2 == 1}) for rollout in rollouts]
'''


@pytest.fixture
def values(tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path) -> dict[str, Any]:
    rows = demo_data.sft.read_text().splitlines()[:6]
    (tmp_path / "train.jsonl").write_text("".join(line + "\n" for line in rows))
    (tmp_path / "mine.py").write_text(ODD)
    made = config(tmp_path / "run", tiny_omni, demo_data, "grpo", rollout={"max_rows": 8, "n": 4, "max_new_tokens": 8})
    made["rewards"] = [{"name": str(tmp_path / "mine.py:odd")}]
    made["data"] = {"train": [{"path": str(tmp_path / "train.jsonl")}], "media_root": str(demo_data.sft.parent)}
    return made


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_answers_are_the_next_stages_data(values: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "next.jsonl"
    # Answers of this model are cut at 8 tokens, so that only those that end by themselves could be kept.
    found = mmreason.sample(values, "rollout.stop=[e,a,o,t]", out=out, every_row=True)
    assert (found.questions, found.rows, found.unanswered) == (6, 6, 0)
    rows, answers = lines(out), lines(tmp_path / "next.jsonl.answers/eval.jsonl")
    assert len({row["id"] for row in rows}) == 6
    for row, answered in zip(rows, answers, strict=True):
        right = [answer for answer in answered["answers"] if answer["correct"]]
        assert row["meta"]["pass_rate"] == len(right) / 4
        assert all(answer["score"] == 1 for answer in answered["answers"])
        kept = list(dict.fromkeys(" ".join(answer["text"].split()) for answer in right if not answer["truncated"]))
        if kept:
            assert [" ".join(text.split()) for text in row["demos"]] == kept
    before = (tmp_path / "next.jsonl.answers/eval.jsonl").read_bytes()
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    command = ["sample", str(tmp_path / "run.yaml"), "rollout.stop=[e,a,o,t]", "--out", str(out), "--keep", "all"]
    assert main([*command, "--per-question", "1"]) == 0
    assert (tmp_path / "next.jsonl.answers/eval.jsonl").read_bytes() == before, "no question was asked again"
    assert all(len(row["demos"]) == 1 for row in lines(out))
    sft = {**values, "train": {**values["train"], "method": "sft", "steps": 1}, "run_dir": str(tmp_path / "sft")}
    sft["grpo"], sft["data"] = {}, {**values["data"], "train": [{"path": str(out)}]}
    run(build_config(sft, "test"))
    assert metrics(tmp_path / "sft")[0]["nll"] > 0
    with pytest.raises(ConfigError, match=r"other settings \(.*; --fresh starts over"):
        mmreason.sample(values, "rollout.temperature=0.5", out=out)


def plain_greedy(parts: Parts, prompt: Segment, ids: list[int], budget: int) -> tuple[str, list[int], bool]:
    """A continuation token by token, each with a forward over everything so far; and the ids by falling probability
    where it began."""
    policy = parts.policy
    ids, ranked = list(ids), list[int]()
    for _ in range(budget):
        with torch.no_grad():
            logits = policy.model(input_ids=torch.cat([prompt.ids, torch.tensor(ids, dtype=torch.int64)])[None]).logits
        last = logits[0, -1].float()
        last[policy.banned] = float("-inf")
        ranked = ranked or last.argsort(descending=True).tolist()
        ids.append(int(last.argmax()))
        text = parts.encoder.text(torch.tensor(ids))
        if ids[-1] in policy.end_ids or any(mark in text for mark in parts.params.stop):
            return text, ranked, True
    return parts.encoder.text(torch.tensor(ids)), ranked, False


def test_critical_tokens_are_those_that_no_continuation_survives(values: dict[str, Any], tmp_path: Path) -> None:
    """Against a decoding without cache or batch, for every token of every kept answer."""
    stop = ["e", "a", "o", "t"]
    values["rollout"] |= {"stop": stop}
    texts = [line for line in (tmp_path / "train.jsonl").read_text().splitlines() if '"compare"' in line]
    (tmp_path / "train.jsonl").write_text("".join(line + "\n" for line in texts[:2]))
    out, log = tmp_path / "next.jsonl", tmp_path / "next.jsonl.answers/critical.jsonl"
    mmreason.sample(values, out=out, critical=0, every_row=True)
    found = {
        (line["id"], text): [tuple(span) for span in spans]
        for line in lines(out)
        if "demos" in line
        for text, spans in zip(line["demos"], line.get("demo_weights", ()), strict=False)
    }
    config_ = build_config(values, "test")
    samples = load_all(config_.data, "train")
    checked = critical = 0
    with opened_parts(config_, sampling_engine(config_)) as parts:
        for sample, answered in zip(samples, lines(log.with_name("eval.jsonl")), strict=True):
            (encoded,) = parts.encoder.prompts([sample])
            assert not isinstance(encoded, MMReasonError)
            right = {a["text"] for a in answered["answers"] if a["correct"] and not a["truncated"]}
            for text in right:
                expected, places = [], parts.encoder.places(text)
                ids = parts.encoder.demo(text).ids.tolist()[:-1]
                for place, own in enumerate(ids):
                    _, ranked, _ = plain_greedy(parts, encoded[1], ids[:place], 1)
                    fails = 0
                    for other in [one for one in ranked if one != own][:2]:
                        begun = parts.encoder.text(torch.tensor([*ids[:place], other]))
                        ended = other in parts.policy.end_ids or any(mark in begun for mark in stop)
                        whole, _, stopped = (
                            (begun, [], True) if ended else plain_greedy(parts, encoded[1], [*ids[:place], other], 8)
                        )
                        fails += not (stopped and len(cut(whole, stop)) % 2 == 1)
                    if fails == 2:
                        expected.append((*places[place], 1.0))
                    checked += 1
                critical += len(expected)
                assert sorted(set(expected)) == found.get((sample.id, text), []), text
    assert checked > critical > 0
    before = log.read_bytes()
    mmreason.sample(values, out=out, critical=0, every_row=True)
    assert log.read_bytes() == before, "nothing was tried again"
    rows = out.read_bytes()
    log.write_bytes(before[: len(before) // 2])  # killed
    mmreason.sample(values, out=out, critical=0, every_row=True)
    assert out.read_bytes() == rows
    mmreason.sample(values, out=out, critical=1)
    assert sum(len(spans) for line in lines(out) for spans in line["demo_weights"]) <= critical


def test_wrong_answers_are_shown_again(values: dict[str, Any], tmp_path: Path) -> None:
    values["rollout"] |= {"stop": ["e", "a", "o", "t"]}
    out = tmp_path / "pairs.jsonl"
    found = mmreason.sample(values, out=out, pairs="self_refine")
    assert found.pairs == found.rows > 0
    drafts = {line["id"]: line["answers"] for line in lines(tmp_path / "pairs.jsonl.answers/eval.jsonl")}
    refined = {line["id"]: line["answers"] for line in lines(tmp_path / "pairs.jsonl.answers/refined/eval.jsonl")}
    for row in lines(out):
        ((pair,), id) = row["pairs"], row["id"]
        ended = [answer for answer in drafts[id] if not answer["truncated"]]
        assert pair["rejected"] == next(answer["text"] for answer in ended if not answer["correct"])
        ended = [answer for answer in refined[id] if not answer["truncated"]]
        assert pair["chosen"] == next(answer["text"] for answer in ended if answer["correct"])
    dpo = {**values, "run_dir": str(tmp_path / "dpo"), "data": {**values["data"], "train": [{"path": str(out)}]}}
    dpo |= {"train": {**values["train"], "method": "dpo", "steps": 1, "aggregation": "sequence_sum"}}
    run(build_config({**dpo, "grpo": {"kl_coef": 0.1}}, "test"))
    assert metrics(tmp_path / "dpo")[0]["pairs"] > 0


def test_a_stop_in_the_middle_changes_nothing(values: dict[str, Any], tmp_path: Path) -> None:
    mmreason.sample(values, out=tmp_path / "whole.jsonl", every_row=True)
    mmreason.sample(values, out=tmp_path / "parts.jsonl", every_row=True)
    answers = tmp_path / "parts.jsonl.answers/eval.jsonl"
    answers.write_text("".join(answers.read_text().splitlines(keepends=True)[:2]) + '{"torn')
    (tmp_path / "parts.jsonl").unlink()
    mmreason.sample(values, out=tmp_path / "parts.jsonl", every_row=True)
    assert (tmp_path / "parts.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert len(lines(answers)) == 6
