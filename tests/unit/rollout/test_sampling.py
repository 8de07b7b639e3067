"""Choosing tokens: against hand-computed sets, against transformers' own filters, and reproducibility."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from mmreason.errors import ConfigError
from mmreason.rollout.base import SamplingParams
from mmreason.rollout.sampling import choose, draw, log_probs, uniforms

NONE = torch.tensor([], dtype=torch.int64)


def logits_of(*probabilities: float) -> torch.Tensor:
    return torch.tensor([probabilities]).log()


def chosen(logits_1V: torch.Tensor, params: SamplingParams, steps: int = 1000) -> list[int]:
    """What evenly spread uniform numbers choose from one row of logits."""
    numbers = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    logp = log_probs(logits_1V, params.temperature, NONE).expand(steps, -1)
    return choose(logp, numbers, params).tolist()


def test_uniforms_depend_on_their_own_seed_alone() -> None:
    both = uniforms([5, 2**62], 40)
    assert torch.equal(both[1:], uniforms([2**62], 40))
    assert torch.equal(both[:, :7], uniforms([5, 2**62], 7))
    assert not torch.equal(both[0], both[1])
    assert both.dtype == torch.float64
    assert ((both >= 0) & (both < 1)).all()
    assert uniforms([], 3).shape == (0, 3)


def test_log_probs_by_hand() -> None:
    logp = log_probs(torch.tensor([[0.0, 2.0, 5.0]]), 2.0, torch.tensor([2]))
    expected = torch.log_softmax(torch.tensor([0.0, 1.0]), -1)
    torch.testing.assert_close(logp[0, :2], expected)
    assert logp[0, 2] == float("-inf")


def test_log_probs_leave_their_input_alone() -> None:
    logits = torch.zeros(1, 3)
    log_probs(logits, 1.0, torch.tensor([0]))
    assert torch.equal(logits, torch.zeros(1, 3))


def test_shares_are_the_probabilities() -> None:
    found = chosen(logits_of(0.5, 0.2, 0.3), SamplingParams())
    assert [found.count(token) for token in range(3)] == [500, 200, 300]


def test_temperature_changes_the_shares() -> None:
    found = chosen(logits_of(0.8, 0.2), SamplingParams(temperature=2.0))
    assert found.count(0) / 1000 == pytest.approx(0.8**0.5 / (0.8**0.5 + 0.2**0.5), abs=2e-3)


def test_ends_of_the_range_never_choose_the_impossible() -> None:
    logits = torch.tensor([[float("-inf"), 1.0, 2.0, float("-inf")]])
    logp = log_probs(logits, 1.0, NONE).expand(2, -1)
    ends = torch.tensor([0.0, 1.0 - 2**-53], dtype=torch.float64)
    assert choose(logp, ends, SamplingParams()).tolist() == [1, 2]
    assert choose(logp, ends, SamplingParams(top_p=0.9)).tolist() == [2, 1]


def test_large_vocabulary_is_summed_exactly() -> None:
    """In float32 the sum over 150 000 equal tokens is off by more than one token's probability."""
    size = 150_000
    logp = log_probs(torch.zeros(1, size), 1.0, NONE)
    for token in (1, 75_000, size - 1):
        number = torch.tensor([(token + 0.5) / size], dtype=torch.float64)
        assert choose(logp, number, SamplingParams()).item() == token


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(top_k=3),
        SamplingParams(top_p=0.6),
        SamplingParams(top_p=0.95, temperature=1.7),
        SamplingParams(top_k=4, top_p=0.7, temperature=0.6),
        SamplingParams(top_k=100),
        SamplingParams(top_p=1e-6),
    ],
)
def test_filters_are_transformers(params: SamplingParams) -> None:
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(3)) * 2
    warped = TemperatureLogitsWarper(params.temperature)(None, logits)
    if params.top_k:
        warped = TopKLogitsWarper(params.top_k)(None, warped)
    if params.top_p < 1:
        warped = TopPLogitsWarper(params.top_p)(None, warped)
    expected = warped.softmax(-1)[0]
    found = torch.bincount(torch.tensor(chosen(logits, params, 20_000)), minlength=12) / 20_000
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)


def test_greedy_ignores_the_numbers() -> None:
    assert set(chosen(logits_of(0.2, 0.5, 0.3), SamplingParams(greedy=True), 10)) == {1}


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -1}, {"max_new_tokens": 0}, {"stop": ("",)}],
)
def test_impossible_parameters_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SamplingParams(**wrong)  # type: ignore[arg-type]


def test_what_was_left_to_choose_among_is_kept_and_recorded_log_probs_are_over_it() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -2.0], [0.0, 0.0, 9.0, 0.0, 0.0]])
    logp = log_probs(logits, 1.0, NONE)
    uniform = torch.tensor([0.95, 0.5], dtype=torch.float64)
    for params, kept in [
        (SamplingParams(top_p=0.8, keep_support=True), [[0, 1], [2]]),
        (SamplingParams(top_k=3, keep_support=True), [[0, 1, 2], [0, 1, 2]]),
        (SamplingParams(top_k=4, top_p=0.99, keep_support=True), [[0, 1, 2, 3], [2]]),
    ]:
        drawn = draw(logp, uniform, params)
        assert drawn.kept is not None
        every = iter(drawn.kept[1].tolist())
        found = [sorted(next(every) for _ in range(count)) for count in drawn.kept[0].tolist()]
        if params.top_k != 3:  # which of four equal ones are kept is not said
            assert found == kept
        for row, ids in enumerate(found):
            inside = torch.log_softmax(logits[row, ids], -1)[ids.index(int(drawn.tokens[row]))]
            assert float(drawn.logprobs[row]) == pytest.approx(float(inside), abs=1e-6)
        plain = draw(logp, uniform, replace(params, keep_support=False))
        assert plain.kept is None
        assert plain.tokens.tolist() == drawn.tokens.tolist()
        assert plain.logprobs.tolist() == logp.gather(1, plain.tokens[:, None])[:, 0].tolist()
    assert draw(logp, uniform, SamplingParams(keep_support=True)).kept is None
