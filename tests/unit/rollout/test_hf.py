"""Our decode loop against the policy's own scores, transformers' generate, and itself in other batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from mmreason.collate import merge_media, pack
from mmreason.config import LoraConfig, ModelConfig
from mmreason.policy.families import FAMILIES
from mmreason.policy.policy import Policy, load_policy
from mmreason.rollout.base import SamplingParams, cut
from mmreason.rollout.hf import HFEngine, _batches
from mmreason.types import MediaTensors, Rollout, Segment, Tree
from tests.parity.trees import Maker


class Bench:
    """A policy with an engine and prompts of every kind of media its family has."""

    def __init__(self, policy: Policy, max_rows: int = 64) -> None:
        self.policy, self.maker = policy, Maker(policy)
        self.engine = HFEngine(policy, self, max_rows)
        make = self.maker
        items: list[list[MediaTensors]] = [[], [make.crop(6)]]
        sees, hears = make.traits.vision, make.traits.audio_rate is not None
        if sees:
            mixed = [make.image(4, 4), make.image(6, 4), make.video(2, 4, 4, 1.0)]
            items += [[make.video(3, 4, 4, 0.5)], mixed]
        if hears:
            items += [[make.audio(50)], [make.audio(97), make.audio(8)]]
        if sees and hears:
            items += [[make.video(4, 4, 4, 1.0), make.audio(120, joined=True), make.image(4, 4)]]
        self.prompts = [make.segment(policy, media) for media in items]

    def text(self, ids: Tensor) -> str:
        text: str = self.policy.tokenizer.decode(ids)
        return text

    def own_scores(self, path: Sequence[Segment], temperature: float = 1.0) -> Tensor:
        """The policy's scores of the last segment of a path."""
        chain = tuple(replace(segment, parent=index - 1) for index, segment in enumerate(path))
        (row,) = pack([Tree(id="path", segments=chain)], 8192, self.policy.positions)
        scores = self.policy.token_scores(row, temperature=temperature, grad=False)
        return scores.logprob[-len(path[-1].ids) :]


def seeds_for(prompts: int, n: int) -> list[list[int]]:
    return [[100 * prompt + answer for answer in range(n)] for prompt in range(prompts)]


def ids_of(rollouts: Sequence[tuple[Rollout, ...]]) -> list[list[list[int]]]:
    return [[answer.segments[0].ids.tolist() for answer in group] for group in rollouts]


@pytest.fixture(scope="module", params=FAMILIES)
def bench(request: pytest.FixtureRequest, tiny: Callable[[str], Path]) -> Bench:
    return Bench(load_policy(ModelConfig(path=str(tiny(request.param)))))


SAMPLING = SamplingParams(temperature=0.8, max_new_tokens=16)


def test_recorded_log_probs_are_the_policys_own(bench: Bench) -> None:
    groups = bench.engine.generate(bench.prompts, 3, SAMPLING, seeds_for(len(bench.prompts), 3))
    for prompt, group in zip(bench.prompts, groups, strict=True):
        for rollout in group:
            (answer,) = rollout.segments
            own = bench.own_scores((prompt, answer), temperature=0.8)
            torch.testing.assert_close(answer.columns["logprob.sampling"], own, atol=1e-5, rtol=0)


@pytest.mark.parametrize("narrow", [{"top_p": 0.9}, {"top_k": 7, "top_p": 0.8, "temperature": 0.7}])
def test_narrowed_choices_are_scored_as_they_were_made(bench: Bench, narrow: dict[str, float]) -> None:
    params = SamplingParams(max_new_tokens=9, keep_support=True, **narrow)  # type: ignore[arg-type]
    groups = bench.engine.generate(bench.prompts, 3, params, seeds_for(len(bench.prompts), 3))
    plain = bench.engine.generate(
        bench.prompts, 3, replace(params, keep_support=False), seeds_for(len(bench.prompts), 3)
    )
    assert ids_of(groups) == ids_of(plain)
    for prompt, group, others in zip(bench.prompts, groups, plain, strict=True):
        for answer, other in zip(group, others, strict=True):
            (segment,) = answer.segments
            assert segment.support is not None
            assert 1 <= int(segment.support.counts.min())
            recorded = segment.columns["logprob.sampling"]
            torch.testing.assert_close(
                recorded, bench.own_scores((prompt, segment), params.temperature), atol=1e-5, rtol=0
            )
            assert (recorded - other.segments[0].columns["logprob.sampling"]).min() > 0.01, "less mass to share"


def test_segments_are_complete(bench: Bench) -> None:
    bench.engine.weight_version = 7
    (rollout,) = bench.engine.generate(bench.prompts[:1], 1, SAMPLING, [[3]])[0]
    (answer,) = rollout.segments
    assert (answer.kind, answer.parent, answer.weight_version) == ("policy", 0, 7)
    assert answer.loss_mask.all()
    assert answer.ids.device.type == "cpu"
    assert (rollout.seed, rollout.tokens) == (3, len(answer.ids))
    assert rollout.text == bench.text(answer.ids)
    assert not answer.columns["logprob.sampling"].requires_grad
    bench.engine.weight_version = 0


def test_an_answer_does_not_depend_on_its_neighbours(bench: Bench) -> None:
    seeds = seeds_for(len(bench.prompts), 3)
    together = ids_of(bench.engine.generate(bench.prompts, 3, SAMPLING, seeds))
    alone = [
        ids_of(bench.engine.generate([prompt], 1, SAMPLING, [[row[2]]]))[0][0]
        for prompt, row in zip(bench.prompts, seeds, strict=True)
    ]
    assert alone == [group[2] for group in together]
    narrow = HFEngine(bench.policy, bench, max_rows=2)
    assert ids_of(narrow.generate(bench.prompts, 3, SAMPLING, seeds)) == together
    other = ids_of(bench.engine.generate(bench.prompts, 3, SAMPLING, [[seed + 7 for seed in row] for row in seeds]))
    assert other != together


def test_greedy_equals_transformers_generate(bench: Bench) -> None:
    """Prompts of text, and of one image or sound: there transformers' own positions agree with ours."""
    model_class = getattr(transformers, bench.policy.family.model_class)
    model = model_class.from_pretrained(bench.policy.config.path)
    params = SamplingParams(greedy=True, max_new_tokens=12)
    for prompt in bench.prompts[:2]:
        (rollout,) = bench.engine.generate([prompt], 1, params, [[0]])[0]
        inputs = {"input_ids": prompt.ids[None], "attention_mask": torch.ones(1, len(prompt.ids), dtype=torch.int64)}
        if bench.policy.family.name.endswith("_vl"):
            inputs["mm_token_type_ids"] = (prompt.ids[None] == bench.policy.rules.placeholder["image"]).int()
        expected = model.generate(
            **inputs,
            **merge_media(prompt.media),
            do_sample=False,
            max_new_tokens=12,
            suppress_tokens=bench.policy.banned.tolist(),
        )
        assert rollout.segments[0].ids.tolist() == expected[0, len(prompt.ids) :].tolist()


def test_media_tokens_are_never_sampled(bench: Bench) -> None:
    head = bench.policy.head
    kept = head.weight.detach().clone()
    with torch.no_grad():  # a head that wants nothing but media tokens
        head.weight[bench.policy.banned] *= 1000
    try:
        params = SamplingParams(temperature=3.0, max_new_tokens=20)
        groups = bench.engine.generate(bench.prompts[:2], 8, params, seeds_for(2, 8))
    finally:
        with torch.no_grad():
            head.weight.copy_(kept)
    sampled = torch.cat([answer.segments[0].ids for group in groups for answer in group])
    assert not torch.isin(sampled, bench.policy.banned).any()


def test_an_end_token_ends_and_is_kept(bench: Bench) -> None:
    (free,) = bench.engine.generate(bench.prompts[:1], 1, SAMPLING, [[1]])[0]
    ids = free.segments[0].ids
    third = int(ids[2])
    assert third not in ids[:2].tolist()
    policy = replace(bench.policy, end_ids=(third,))
    (ended,) = HFEngine(policy, bench).generate(bench.prompts[:1], 1, SAMPLING, [[1]])[0]
    assert ended.segments[0].ids.tolist() == ids[:3].tolist()
    assert (ended.finish_reason, free.finish_reason) == ("stop", "length")
    assert free.tokens == SAMPLING.max_new_tokens


def test_rows_of_different_length(bench: Bench) -> None:
    """Half of the vocabulary ends an answer: rows leave the batch at every step, the rest must not notice."""
    policy = replace(bench.policy, end_ids=tuple(range(0, 400, 8)))
    engine, params = HFEngine(policy, bench), SamplingParams(max_new_tokens=24)
    groups = engine.generate(bench.prompts, 8, params, seeds_for(len(bench.prompts), 8))
    lengths = {answer.tokens for group in groups for answer in group}
    assert len(lengths) > 5
    for prompt, group in zip(bench.prompts, groups, strict=True):
        for rollout in group:
            (answer,) = rollout.segments
            ends = [token % 8 == 0 and token < 400 for token in answer.ids.tolist()]
            assert ends[:-1] == [False] * (len(ends) - 1)
            assert ends[-1] == (rollout.finish_reason == "stop")
        own = bench.own_scores((prompt, group[-1].segments[0]))
        torch.testing.assert_close(group[-1].segments[0].columns["logprob.sampling"], own, atol=1e-5, rtol=0)


def test_a_stop_text_ends_and_stays(bench: Bench) -> None:
    params = SamplingParams(max_new_tokens=40)
    (free,) = bench.engine.generate(bench.prompts[:1], 1, params, [[5]])[0]
    letters = [(i, c) for i, c in enumerate(free.text) if c.isascii() and c.isalnum() and free.text.index(c) == i]
    at, letter = letters[3]
    (cut,) = bench.engine.generate(bench.prompts[:1], 1, replace(params, stop=("never", letter)), [[5]])[0]
    assert cut.text == free.text[: at + len(letter)]
    assert cut.finish_reason == "stop"
    ids = cut.segments[0].ids
    assert torch.equal(ids, free.segments[0].ids[: len(ids)])
    assert letter in bench.text(ids)
    assert letter not in bench.text(ids[:-1])


def test_a_stop_text_of_several_tokens(bench: Bench) -> None:
    params = SamplingParams(max_new_tokens=40)
    (free,) = bench.engine.generate(bench.prompts[:1], 1, params, [[5]])[0]
    ids = free.segments[0].ids
    texts = [bench.text(ids[start : start + 3]) for start in range(len(ids) - 2)]
    start = next(i for i, text in enumerate(texts) if i > 2 and "\ufffd" not in text and len(text) >= 3)
    (cut,) = bench.engine.generate(bench.prompts[:1], 1, replace(params, stop=(texts[start],)), [[5]])[0]
    assert torch.equal(cut.segments[0].ids, ids[: start + 3])
    assert cut.text == bench.text(ids[: start + 3])


def test_cut_takes_the_first_of_several() -> None:
    assert cut("a b c", ("c", "b")) == "a b"
    assert cut("<answer>4</answer> so", ("</answer>",)) == "<answer>4</answer>"
    assert cut("a b c", ("x",)) == "a b c"


def test_extend_from_an_observation_with_media(bench: Bench) -> None:
    """Two turns: prompt, answer, observation with an image; beside paths of other depths that share prefixes."""
    answers = bench.engine.generate(bench.prompts[:2], 2, SAMPLING, seeds_for(2, 2))
    crop = bench.maker.segment(bench.policy, [bench.maker.crop(4)], parent=1, kind="observation")
    note = bench.maker.segment(bench.policy, [], parent=1, kind="observation")
    (first, second), (third, _) = ([answer.segments[0] for answer in group] for group in answers)
    prompt, other = bench.prompts[:2]
    contexts = [(prompt, first, crop), (prompt,), (other, third, note), (prompt, second, crop), (prompt, first, crop)]
    found = bench.engine.extend(contexts, SAMPLING, [1, 2, 3, 4, 5])
    for context, segment in zip(contexts, found, strict=True):
        assert segment.parent == len(context) - 1
        own = bench.own_scores((*context, segment), temperature=0.8)
        torch.testing.assert_close(segment.columns["logprob.sampling"], own, atol=1e-5, rtol=0)
    (again,) = bench.engine.extend([contexts[3]], SAMPLING, [4])
    assert torch.equal(again.ids, found[3].ids)


def test_each_prefix_is_prefilled_once(bench: Bench) -> None:
    fed: list[int] = []
    tower = bench.policy.base.get_submodule(bench.policy.family.towers[0][0].removesuffix("."))
    hook = tower.register_forward_hook(lambda _, inputs, output: fed.append(1))
    widths: list[tuple[int, ...]] = []
    embed = bench.policy.base.get_input_embeddings().register_forward_hook(
        lambda _, inputs, output: widths.append(tuple(inputs[0].shape))
    )
    try:
        bench.engine.generate([bench.prompts[1]], 8, SamplingParams(max_new_tokens=3), [list(range(8))])
    finally:
        hook.remove()
        embed.remove()
    assert len(fed) == 1
    assert widths == [(1, len(bench.prompts[1].ids)), (8, 1), (8, 1)]


def test_the_model_is_left_as_it_was(bench: Bench) -> None:
    for training in (True, False):
        bench.policy.model.train(training)
        bench.engine.generate(bench.prompts[:1], 2, SAMPLING, [[1, 2]])
        assert bench.policy.model.training is training
    assert not bench.policy.head._forward_pre_hooks
    assert torch.is_grad_enabled()


def test_adapters_are_sampled_with(tiny_vl: Path) -> None:
    torch.manual_seed(0)
    policy = load_policy(ModelConfig(path=str(tiny_vl), lora=LoraConfig(dropout=0.5), gradient_checkpointing=True))
    bench = Bench(policy)
    with torch.no_grad():
        for name, parameter in policy.trained():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    policy.model.train()  # dropout and checkpointing on: sampling has to switch them off
    (rollout,) = bench.engine.generate(bench.prompts[1:2], 1, SAMPLING, [[1]])[0]
    own = bench.own_scores((bench.prompts[1], rollout.segments[0]), temperature=0.8)
    torch.testing.assert_close(rollout.segments[0].columns["logprob.sampling"], own, atol=1e-5, rtol=0)


def test_batches_keep_answers_of_a_prompt_together(bench: Bench) -> None:
    text, image = bench.prompts[:2]
    contexts = [(image,), (text,), (image,), (text,), (text,)]
    assert _batches(contexts, 4, 10_000) == [[1, 3, 4], [0, 2]]
    assert _batches(contexts, 5, 10_000) == [[1, 3, 4, 0, 2]]
    assert _batches(contexts, 2, 10_000) == [[1, 3], [4], [0, 2]]
    assert _batches([], 4, 10_000) == []


def test_prompts_side_by_side_are_bounded_in_tokens(bench: Bench) -> None:
    text, image = bench.prompts[:2]
    longer = max(len(text.ids), len(image.ids))
    assert len(_batches([(text,), (image,)], 64, 2 * longer)) == 1, "the shorter one is padded to the longer"
    assert len(_batches([(text,), (image,)], 64, 2 * longer - 1)) == 2
    assert len(_batches([(text,)], 64, 1)) == 1, "one prompt alone is always taken"
