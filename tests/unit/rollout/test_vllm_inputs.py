"""Where media lie in a prompt, and what requests and answers of vLLM look like: all that needs no vLLM."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmreason.config import ModelConfig
from mmreason.errors import AlignmentError, EngineError
from mmreason.policy.families import FAMILIES
from mmreason.policy.policy import Policy, load_policy
from mmreason.rollout.base import SamplingParams
from mmreason.rollout.vllm_inputs import placed
from mmreason.rollout.vllm_params import Sampled, answer_of, request_params, support_of, wanted_logprobs
from mmreason.rollout.vllm_worker import engine_positions, rules_of, rules_text
from mmreason.types import MediaTensors, Segment
from tests.parity.trees import Maker


@pytest.fixture(scope="module")
def policies(tiny: Callable[[str], Path]) -> Callable[[str], Policy]:
    return functools.cache(lambda family: load_policy(ModelConfig(path=str(tiny(family)))))


def check_places(policy: Policy, media: list[MediaTensors]) -> None:
    """Every place holds as many placeholders of the item's kind as the item has tokens, in order."""
    prompt = Maker(policy).segment(policy, media)
    found = placed(prompt.ids, prompt.media, policy.rules)
    assert [place.item for place in found] == media
    for place in found:
        own = prompt.ids[place.start : place.stop] == policy.rules.placeholder[place.item.kind]
        assert int(own.sum()) == place.item.tokens
        assert (place.mask is None) == bool(own.all())
        assert place.mask is None or torch.equal(place.mask, own)
    covered = sum(place.item.tokens for place in found)
    placeholders = torch.tensor(list(policy.rules.placeholder.values()))
    assert covered == int(torch.isin(prompt.ids, placeholders).sum())


def test_places_of_omni(policies: Callable[[str], Policy]) -> None:
    policy = policies("qwen2_5_omni")
    make = Maker(policy)
    check_places(policy, [make.image(4, 4), make.audio(50), make.image(6, 4), make.video(2, 4, 4, 1.0), make.audio(9)])
    check_places(policy, [make.video(4, 4, 4, 1.0), make.audio(120, joined=True), make.image(4, 4)])


def test_steps_that_stand_apart_share_a_place_from_the_first_start_token_on(
    policies: Callable[[str], Policy],
) -> None:
    policy = policies("qwen3_vl")
    make = Maker(policy)
    check_places(policy, [make.image(4, 4), make.video(3, 4, 4, 0.5)])
    prompt = make.segment(policy, [make.video(3, 4, 4, 0.5)])
    (place,) = placed(prompt.ids, prompt.media, policy.rules)
    assert int(prompt.ids[place.start]) == policy.rules.wrapper["video"][0]


def test_ids_and_media_of_different_prompts_are_refused(policies: Callable[[str], Policy]) -> None:
    policy = policies("qwen2_5_omni")
    make = Maker(policy)
    prompt = make.segment(policy, [make.image(4, 4), make.audio(50)])
    with pytest.raises(AlignmentError, match="1 media items"):
        placed(prompt.ids, prompt.media[1:], policy.rules)
    with pytest.raises(AlignmentError, match="more than its 1 media items"):
        placed(prompt.ids, prompt.media[:1], policy.rules)
    with pytest.raises(AlignmentError, match="do not fit its 2 media items"):
        placed(prompt.ids, prompt.media[::-1], policy.rules)


def test_every_tensor_of_a_forward_has_a_field(policies: Callable[[str], Policy]) -> None:
    for name, family in FAMILIES.items():
        policy = policies(name)
        make = Maker(policy)
        items = [make.audio(50)] if policy.traits.audio_rate is not None else []
        items += [make.image(4, 4), make.video(2, 4, 4, 1.0)] if policy.traits.vision else []
        assert {item.kind for item in items} == set(family.engine_fields) == set(policy.rules.placeholder)
        for item in items:
            for field in family.engine_fields[item.kind]:
                assert isinstance(field.make(item), Tensor), (name, field.name)


@dataclass
class Element:
    data: Tensor


@dataclass
class Range:
    offset: int
    features: int

    def get_num_embeds(self) -> int:
        return self.features


@dataclass
class Feature:
    """vLLM's MultiModalFeatureSpec, as far as it is read."""

    modality: str
    data: dict[str, Element]
    mm_position: Range


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen2_5_omni"])
def test_a_worker_computes_the_trainers_positions(policies: Callable[[str], Policy], family: str) -> None:
    policy = policies(family)
    make = Maker(policy)
    media = [make.image(4, 4), make.video(5, 4, 6, 0.7), make.image(6, 4)]
    if policy.traits.audio_rate is not None:
        media += [make.audio(50), make.video(3, 4, 4, 0.9), make.audio(120, joined=True), make.audio(9)]
    prompt = make.segment(policy, media)
    features = [
        Feature(
            place.item.kind,
            {field.name: Element(field.make(place.item)) for field in policy.family.engine_fields[place.item.kind]},
            Range(place.start, place.item.tokens),
        )
        for place in placed(prompt.ids, prompt.media, policy.rules)
    ]
    features.sort(key=lambda feature: feature.modality)
    rules = rules_of(rules_text(policy.rules))
    assert rules == policy.rules
    positions, beyond = engine_positions(prompt.ids.tolist(), features, rules=rules)
    expected, following = policy.positions(prompt, 0)
    assert torch.equal(positions, expected)
    assert len(prompt.ids) + beyond == following


def test_a_request_is_plain_values() -> None:
    params = SamplingParams(temperature=0.7, max_new_tokens=9, stop=("</answer>",))
    request = request_params(params, 2**62, [5, 6], [1, 2])
    assert json.loads(json.dumps(request))["seed"] == 2**62
    assert request["logit_bias"] == {5: -1e9, 6: -1e9}
    assert request["stop_token_ids"] == [1, 2]
    assert (request["temperature"], request["max_tokens"], request["logprobs"]) == (0.7, 9, 0)
    assert request_params(SamplingParams(greedy=True), 0, [], [1])["temperature"] == 0.0


def test_only_narrowed_sampling_asks_for_candidates() -> None:
    assert wanted_logprobs(SamplingParams(keep_support=True)) == 0
    assert wanted_logprobs(SamplingParams(top_k=7)) == 0
    assert wanted_logprobs(SamplingParams(top_k=7, keep_support=True)) == 7
    assert wanted_logprobs(SamplingParams(top_k=7, top_p=0.5, keep_support=True)) == 7
    assert wanted_logprobs(SamplingParams(top_p=0.5, keep_support=True)) == -1
    assert wanted_logprobs(SamplingParams(top_p=0.5, keep_support=True, greedy=True)) == 0


class Numbers:
    def text(self, ids: Tensor) -> str:
        return " ".join(map(str, ids.tolist()))


PROMPT = Segment(kind="prompt", ids=torch.tensor([3, 4]), loss_mask=torch.zeros(2, dtype=torch.bool))


def answer(sampled: Sampled, params: SamplingParams) -> Segment:
    return answer_of(sampled, (PROMPT,), params, Numbers(), 4).segment


def test_an_answer_has_its_log_probs_and_weights_version() -> None:
    sampled = Sampled(ids=[7, 8], logprobs=[-0.5, -1.5], finish_reason="length")
    found = answer_of(sampled, (PROMPT, PROMPT), SamplingParams(stop=("7",)), Numbers(), 4)
    assert (found.text, found.finish_reason) == ("7", "length")
    assert found.segment.ids.tolist() == [7, 8]
    assert found.segment.loss_mask.all()
    assert (found.segment.parent, found.segment.weight_version, found.segment.support) == (1, 4, None)
    assert found.segment.columns["logprob.sampling"].tolist() == [-0.5, -1.5]


def test_log_probs_of_another_definition_are_left_out() -> None:
    sampled = Sampled(ids=[7], logprobs=[-0.5], finish_reason="stop")
    assert "logprob.sampling" not in answer(sampled, SamplingParams(greedy=True, temperature=0.5)).columns
    assert "logprob.sampling" in answer(sampled, SamplingParams(greedy=True)).columns
    assert "logprob.sampling" not in answer(sampled, SamplingParams(top_k=3)).columns


def test_the_support_is_every_candidate_that_has_a_probability() -> None:
    half = math.log(0.5)
    candidates = [[(7, half), (9, half), (1, -math.inf)], [(8, 0.0), (2, -9999.0)]]
    sampled = Sampled(ids=[7, 8], logprobs=[half, 0.0], candidates=candidates, finish_reason="stop")
    support = answer(sampled, SamplingParams(top_k=3, keep_support=True)).support
    assert support is not None
    assert support.counts.tolist() == [2, 1]
    assert support.ids.tolist() == [7, 9, 8]


def test_candidates_that_do_not_make_up_the_whole_are_an_error() -> None:
    sampled = Sampled(
        ids=[7], logprobs=[-1.0], candidates=[[(7, math.log(0.4)), (9, math.log(0.4))]], finish_reason="stop"
    )
    with pytest.raises(EngineError, match="more than the 2 tokens"):
        support_of(sampled)


def test_a_request_that_vllm_gave_up_on_is_an_error() -> None:
    with pytest.raises(EngineError, match="'abort' after 1 tokens"):
        answer(Sampled(ids=[7], logprobs=[-1.0], finish_reason="abort"), SamplingParams())
