"""The real vLLM in the test's own process, with the tiny omni model: prompts, answers, weights, a run.

One engine serves the whole file: `vllm_local` keeps the process's engine open for whoever asks with the same settings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mmreason
from mmreason.collate import pack
from mmreason.config import LoraConfig, ModelConfig, build_config
from mmreason.demo.media import DemoFiles
from mmreason.errors import EngineError
from mmreason.policy.policy import Policy, load_policy
from mmreason.rollout import vllm_local
from mmreason.rollout.base import SamplingParams
from mmreason.rollout.engines import rollout_engine
from mmreason.rollout.hf import HFEngine
from mmreason.rollout.vllm_local import VLLMEngine
from mmreason.types import MediaTensors, Segment, Tree
from tests.integration import runs
from tests.parity.trees import Maker

pytestmark = [
    pytest.mark.xdist_group("vllm"),
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (pip install 'mmreason[vllm]')"),
    pytest.mark.filterwarnings("ignore"),  # vLLM's own, and those of what it imports
]

GRPO = {"off_policy": "token_truncate"}
EXACT = 1e-5


class Bench:
    """A policy, its engine, and prompts with random media."""

    def __init__(self, policy: Policy, config: Any) -> None:
        self.policy, self.make, self._keys = policy, Maker(policy), 0
        engine = rollout_engine(config, policy, self, [])
        assert isinstance(engine, VLLMEngine)
        self.engine = engine

    def text(self, ids: Tensor) -> str:
        text: str = self.policy.tokenizer.decode(ids)
        return text

    def prompt(self, *items: MediaTensors) -> Segment:
        self._keys += 1
        named = [replace(item, key=f"{self._keys}.{place}") for place, item in enumerate(items)]
        return self.make.segment(self.policy, named)

    def gap(self, path: Sequence[Segment], temperature: float) -> float:
        """Largest difference between the engine's log-probs of the last segment and the trainer's."""
        chain = tuple(replace(segment, parent=index - 1) for index, segment in enumerate(path))
        (row,) = pack([Tree(id="path", segments=chain)], 8192, self.policy.positions)
        scores = self.policy.token_scores(row, temperature=temperature, grad=False).logprob[-len(path[-1].ids) :]
        return float((scores - path[-1].columns["logprob.sampling"]).abs().max())


def settings(run_dir: Path, model: Path, data: DemoFiles, **sections: Any) -> dict[str, Any]:
    """A run of a few steps whose engine has the same arguments as every other's in this file."""
    rollout = {"engine": "vllm", "options": {"max_model_len": 1024}, **sections.pop("rollout", {})}
    return runs.config(run_dir, model, data, "grpo", rollout=rollout, grpo=GRPO, **sections)


@pytest.fixture(scope="module")
def bench(tiny_omni: Path, demo_data: DemoFiles, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    config = build_config(settings(tmp_path_factory.mktemp("bench"), tiny_omni, demo_data))
    bench = Bench(load_policy(ModelConfig(path=str(tiny_omni), freeze=())), config)
    bench.engine.take_weights(0)
    return bench


def media(make: Maker) -> dict[str, list[MediaTensors]]:
    return {
        "text": [],
        "image": [make.image(4, 6)],
        "images": [make.image(4, 4), make.image(6, 4), make.image(8, 4)],
        "video of 4 frames": [make.video(2, 4, 4, 1.0)],
        "video of 40 frames": [make.video(20, 4, 6, 0.7)],
        "audio": [make.audio(50)],
        "audios": [make.audio(97), make.audio(8)],
        "video with its sound": [make.video(3, 4, 4, 0.9), make.audio(99, joined=True), make.audio(20)],
        "mix": [make.audio(33), make.image(4, 4), make.video(2, 4, 4, 3.3), make.image(4, 6), make.audio(60)],
    }


def test_log_probs_are_the_trainers(bench: Bench) -> None:
    prompts = {name: bench.prompt(*items) for name, items in media(bench.make).items()}
    params = SamplingParams(temperature=0.8, max_new_tokens=12)
    groups = bench.engine.generate(list(prompts.values()), 3, params, [[1, 2, 3]] * len(prompts))
    gaps = {
        name: max(bench.gap((prompt, rollout.segments[0]), 0.8) for rollout in group)
        for (name, prompt), group in zip(prompts.items(), groups, strict=True)
    }
    print("largest gaps of a log-prob:", {name: f"{gap:.1e}" for name, gap in gaps.items()})
    assert max(gaps.values()) < EXACT, gaps
    banned = set(bench.policy.banned.tolist())
    assert not any(banned & set(r.segments[0].ids.tolist()) for group in groups for r in group)


@pytest.mark.parametrize("narrowed", [{"top_k": 5}, {"top_p": 0.5}, {"top_k": 9, "top_p": 0.7}])
def test_narrowed_sampling_says_what_it_chose_among(bench: Bench, narrowed: dict[str, Any]) -> None:
    prompt = bench.prompt(bench.make.image(4, 4))
    params = SamplingParams(max_new_tokens=6, keep_support=True, **narrowed)
    (answer,) = bench.engine.extend([(prompt,)], params, [5])
    assert answer.support is not None
    assert int(answer.support.counts.max()) <= narrowed.get("top_k", 10**6)
    assert bench.gap((prompt, answer), 1.0) < EXACT


def test_an_answer_depends_on_its_prompt_and_seed_alone(bench: Bench) -> None:
    prompts = [bench.prompt(bench.make.image(4, 4)), bench.prompt(bench.make.audio(50)), bench.prompt()]
    params = SamplingParams(max_new_tokens=8)
    together = bench.engine.generate(prompts, 2, params, [[1, 2], [3, 4], [5, 6]])
    alone = bench.engine.extend([(prompts[1],)], params, [4])
    assert torch.equal(together[1][1].segments[0].ids, alone[0].ids)
    again = bench.engine.generate(prompts, 2, params, [[1, 2], [3, 4], [5, 6]])
    assert [[r.text for r in group] for group in together] == [[r.text for r in group] for group in again]


def test_prompts_that_are_computed_in_parts_have_the_same_answers(bench: Bench) -> None:
    """More tokens than vLLM computes at a time (2048), each request with a seed of its own."""
    prompts = [bench.prompt(bench.make.video(20, 4, 12, 0.7)) for _ in range(12)]
    params = SamplingParams(max_new_tokens=4)
    seeds = [[seed] for seed in range(len(prompts))]
    assert sum(len(prompt.ids) for prompt in prompts) > 2048
    together = bench.engine.generate(prompts, 1, params, seeds)
    alone = [bench.engine.generate([prompt], 1, params, [seed]) for prompt, seed in zip(prompts, seeds, strict=True)]
    assert [group[0].text for group in together] == [groups[0][0].text for groups in alone]


def test_a_stop_text_ends_an_answer_and_stays_in_it(bench: Bench) -> None:
    prompt = bench.prompt()
    (plain,) = bench.engine.sample([(prompt,)], SamplingParams(max_new_tokens=24), [3])
    mark = next(letter for letter in plain.text[4:] if letter.isascii() and letter.isalpha())
    (stopped,) = bench.engine.sample([(prompt,)], SamplingParams(max_new_tokens=24, stop=(mark,)), [3])
    assert stopped.text == plain.text[: plain.text.index(mark) + 1]
    assert stopped.finish_reason == "stop"
    assert len(stopped.segment.ids) < 24


def test_an_answer_goes_on_below_a_path(bench: Bench) -> None:
    prompt = bench.prompt(bench.make.image(4, 4))
    params = SamplingParams(max_new_tokens=4)
    (first,) = bench.engine.extend([(prompt,)], params, [1])
    (second,) = bench.engine.extend([(prompt, first)], params, [2])
    assert second.parent == 1
    assert bench.gap((prompt, first, second), 1.0) < EXACT


def disturb(policy: Policy, part: str, seed: int) -> None:
    """An update of one part of the model, larger than any step of training."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in policy.trained():
            if policy.family.part_of(name) == part:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=random))


def test_updates_of_language_and_tower_change_answers_as_the_trainers(bench: Bench) -> None:
    prompt = bench.prompt(bench.make.image(4, 6), bench.make.audio(50))
    params = SamplingParams(max_new_tokens=8, greedy=True)
    ours = HFEngine(bench.policy, bench)
    seen = []
    for version, part in enumerate(("language", "vision", "audio", "projector"), start=1):
        disturb(bench.policy, part, seed=version)
        bench.engine.take_weights(version)
        (answer,) = bench.engine.sample([(prompt,)], params, [0])
        assert answer.segment.weight_version == version
        assert bench.gap((prompt, answer.segment), 1.0) < EXACT
        assert answer.segment.ids.tolist() == ours.sample([(prompt,)], params, [0])[0].segment.ids.tolist()
        seen.append(tuple(answer.segment.columns["logprob.sampling"].tolist()))
    assert len(set(seen)) == len(seen)


def test_the_canary_finds_an_update_that_did_not_arrive(bench: Bench) -> None:
    bench.engine.take_weights(10)
    with torch.no_grad():
        for _, parameter in bench.policy.trained():
            parameter.mul_(1 + 1e-5)  # less than any gap would show
    with pytest.raises(EngineError, match="exactly those of before the update"):
        bench.engine.canary.check(bench.engine)
    bench.engine.take_weights(11)
    disturb(bench.policy, "vision", seed=9)
    with pytest.raises(EngineError, match=r"asked with image, .* tower for image"):
        bench.engine.canary.check(bench.engine)
    bench.engine.take_weights(12)


def test_a_run_trains_saves_and_goes_on_as_if_it_had_not_stopped(
    bench: Bench, demo_data: DemoFiles, tiny_omni: Path, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    mmreason.train(build_config(settings(whole, tiny_omni, demo_data)))
    records = runs.metrics(whole)
    assert all(record["rollout/logprob_gap_p99"] < EXACT for record in records)
    assert all(record["rollout/logprob_correlation"] > 0.99999 for record in records)
    assert "off_policy/bounded" in records[0]
    mmreason.train(build_config(settings(parts, tiny_omni, demo_data, train={"steps": 2})))
    mmreason.train(build_config(settings(parts, tiny_omni, demo_data)))
    ours, theirs = runs.weights(whole), runs.weights(parts)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert len(vllm_local._OPENED) == 1


def test_an_evaluation_by_the_engine_is_that_of_the_decode_loop(
    bench: Bench, tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path
) -> None:
    values = settings(tmp_path, tiny_omni, demo_data)
    values["data"]["eval"] = [{"path": str(demo_data.eval)}]
    ours = mmreason.evaluate(values, out=tmp_path / "hf")
    theirs = mmreason.evaluate(values, out=tmp_path / "vllm", engine="vllm")
    texts = [[(row.id, row.answers[0].text) for row in found.result.rows] for found in (ours, theirs)]
    assert texts[0] == texts[1]
    assert len({text for _, text in texts[0]}) > 2


@pytest.mark.parametrize(("family", "lora"), [("qwen2_5_vl", None), ("qwen3_vl", LoraConfig(rank=4))])
def test_other_families_with_tied_embeddings_and_with_adapters(
    family: str, lora: LoraConfig | None, tiny: Callable[[str], Path], demo_data: DemoFiles, tmp_path: Path
) -> None:
    """Last in this file: it takes the process's engine over."""
    config = build_config(settings(tmp_path, tiny(family), demo_data))
    bench = Bench(load_policy(ModelConfig(path=str(tiny(family)), freeze=(), lora=lora)), config)
    bench.engine.take_weights(0)
    make = bench.make
    kinds = {
        "text": [],
        "images": [make.image(4, 6), make.image(6, 4)],
        "video of 40 frames": [make.video(20, 4, 6, 0.7)],
        "mix": [make.video(2, 4, 4, 3.3), make.image(4, 4)],
    }
    prompts = [bench.prompt(*items) for items in kinds.values()]
    for version, part in enumerate(("", "language", "vision")):
        disturb(bench.policy, part, seed=version)
        bench.engine.take_weights(version)
        answers = bench.engine.extend([(prompt,) for prompt in prompts], SamplingParams(max_new_tokens=8), [7] * 4)
        gaps = [bench.gap((prompt, answer), 1.0) for prompt, answer in zip(prompts, answers, strict=True)]
        print("largest gaps of a log-prob:", dict(zip(kinds, (f"{gap:.1e}" for gap in gaps), strict=True)))
        assert max(gaps) < EXACT, gaps
    vllm_local.close()
