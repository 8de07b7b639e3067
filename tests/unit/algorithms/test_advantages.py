"""Hand-computed values (algorithms.md sections 6 and 7.5 of the research notes) and properties of the advantages."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmreason.algorithms.advantages import (
    ADVANTAGES,
    NEEDS_CRITIC,
    Outcomes,
    compared,
    gae,
    gdpo,
    group,
    has_signal,
    mean_within,
    reinforce_pp,
    remax,
)

NAN = float("nan")
EPSILON = 1e-4
WITHOUT_CRITIC = sorted(set(ADVANTAGES) - set(NEEDS_CRITIC))


def outcomes(rewards: list[list[float]] | Tensor, tokens: list[list[float]] | None = None) -> Outcomes:
    """These rewards as the only ones; the greedy answer has that of the group's middle."""
    total_NG = torch.as_tensor(rewards, dtype=torch.float64)
    return Outcomes(
        total_NG=total_NG,
        parts_NGK=total_NG[..., None],
        weights_K=torch.ones(1, dtype=torch.float64),
        tokens_NG=torch.ones_like(total_NG) if tokens is None else torch.tensor(tokens, dtype=torch.float64),
        greedy_N=total_NG.nanmean(-1),
    )


@pytest.mark.parametrize(
    ("name", "rewards", "expected"),
    [
        ("group", [[1, 0, 0, 1]], [[0.865875, -0.865875, -0.865875, 0.865875]]),
        ("group", [[1, 0, 0, 0, 0, 0, 0, 0]], [[2.4742] + [-0.3535] * 7]),
        ("group", [[0, 1, 1, 1, 1, 1, 1, 1]], [[-2.4742] + [0.3535] * 7]),
        ("group", [[2, 2, 2, 2, 1, 1, 1, 1]], [[0.9352] * 4 + [-0.9352] * 4]),
        ("group", [[2.3, 2.3, 2.3, 2.3, 1, 1, 1, 1]], [[0.9353] * 4 + [-0.9353] * 4]),
        ("group", [[2.3] + [1] * 7], [[2.4743] + [-0.3535] * 7]),
        ("group", [[1.05, 1.6, 1.9, 1, 1, 1, 1, 1]], [[-0.4071, 1.1506, 2.0002] + [-0.5487] * 5]),
        ("group", [[2.3, 2.5, 2.5, 2.3, 1, 1, 1, 1]], [[0.7976, 1.0635, 1.0635, 0.7976] + [-0.9306] * 4]),
        ("group", [[0.7, 0.7, 0.7]], [[0, 0, 0]]),
        ("group", [[1, 0, NAN, NAN]], [[0.707007, -0.707007, 0, 0]]),
        ("group_mean", [[1, 0, 0, 1]], [[0.5, -0.5, -0.5, 0.5]]),
        ("rloo", [[1, 0, 0, 1]], [[0.666667, -0.666667, -0.666667, 0.666667]]),
        ("rloo", [[1, NAN]], [[0, 0]]),
        ("rloo", [[1, 0]], [[1, -1]]),
        ("batch", [[1, 0, 0, 1], [1, 1, 1, 0]], [[0.9659, -0.9659, -0.9659, 0.9659], [0.483, 0.483, 0.483, -1.4489]]),
        ("contrast", [[1, 0, 0, 1], [1, 0, 0, 0]], [[2, -2, -2, 2], [4] + [-4 / 3] * 3]),
        ("contrast", [[1, 1, 1, 1], [1.2, 1, 0.2, NAN]], [[0] * 4, [1.5, 1.5, -3, 0]]),
        ("reinforce_pp", [[1, 0], [0, 0]], [[1.4997, -0.4999], [-0.4999, -0.4999]]),
        ("reinforce_pp", [[1, NAN], [0, 0]], [[1.1545, 0], [-0.5772, -0.5772]]),
        ("reinforce_pp", [[1, NAN]], [[0, 0]]),
        ("reinforce_pp", [[1, 0]], [[0.7070, -0.7070]]),
        (
            "reinforce_pp_baseline",
            [[1, 0, 0, 1], [1, 1, 1, 0]],
            [[0.9998, -0.9998, -0.9998, 0.9998], [0.4999] * 3 + [-1.4997]],
        ),
        ("reinforce_pp_baseline", [[1, NAN], [NAN, NAN]], [[0, 0], [0, 0]]),
    ],
)
def test_golden(name: str, rewards: list[list[float]], expected: list[list[float]]) -> None:
    result = ADVANTAGES[name](outcomes(rewards), EPSILON)
    torch.testing.assert_close(result, torch.tensor(expected, dtype=torch.float64), atol=1.1e-4, rtol=0)


def test_two_rewards_of_videop2r_golden() -> None:
    found = ADVANTAGES["group"](outcomes([[2.2, 1, 2, 0], [2, 2.2, 1, 1], [4.2, 3.2, 3, 1]]), 1e-9)
    expected = [
        [0.8882, -0.2961, 0.6908, -1.2830],
        [0.7028, 1.0151, -0.8590, -0.8590],
        [1.0072, 0.2611, 0.1119, -1.3802],
    ]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=1e-4, rtol=0)


def test_epsilon_is_that_of_verl_when_asked() -> None:
    found = ADVANTAGES["group"](outcomes([[1, 0, 0, 1]]), 1e-6)
    torch.testing.assert_close(found[0, 0].item(), 0.866024, atol=1e-6, rtol=0)


def test_gdpo_golden() -> None:
    accuracy, formatted = [[1, 1, 0, 0], [1, 0, 0, 0]], [[1, 0, 1, 0], [1, 1, 1, 1]]
    parts = torch.tensor([accuracy, formatted], dtype=torch.float64).permute(1, 2, 0)
    ones = torch.ones(2, dtype=torch.float64)
    one_group = torch.tensor([[1.2247, 0, 0, -1.2247]], dtype=torch.float64)
    torch.testing.assert_close(gdpo(parts[:1], ones), one_group, atol=1e-4, rtol=0)
    both = [[1.5274, 0, 0, -1.5274], [1.3227, -0.4409, -0.4409, -0.4409]]
    torch.testing.assert_close(gdpo(parts, ones), torch.tensor(both, dtype=torch.float64), atol=1e-4, rtol=0)
    summed = [[1.2246, 0, 0, -1.2246], [1.4997, -0.4999, -0.4999, -0.4999]]  # what it is not
    torch.testing.assert_close(group(parts.sum(-1)), torch.tensor(summed, dtype=torch.float64), atol=1e-4, rtol=0)


def test_gdpo_tells_apart_what_its_own_sum_does() -> None:
    parts = torch.tensor([[[1, 0], [0, 2]]], dtype=torch.float64)
    rewards = replace(outcomes([[1, 1]]), parts_NGK=parts, weights_K=torch.tensor([1, 0.5], dtype=torch.float64))
    assert compared("gdpo", rewards, EPSILON)[0].tolist() == pytest.approx([0.3535, -0.3535], abs=1e-4)
    assert compared("group", rewards, EPSILON).tolist() == [[1, 1]]


def test_gdpo_weights_act_after_normalisation_and_missing_rewards_say_nothing() -> None:
    parts = torch.tensor([[[1, NAN], [0, NAN], [0, NAN], [NAN, NAN]]], dtype=torch.float64)
    found = gdpo(parts, torch.tensor([3.0, 1.0], dtype=torch.float64))
    alone = reinforce_pp(group(parts[..., 0]).masked_fill(parts[..., 0].isnan(), NAN))
    torch.testing.assert_close(found, alone, atol=1e-3, rtol=0)
    assert found[0, 3] == 0
    scaled = torch.tensor([[[1, 0], [0, 1], [0, 0]]], dtype=torch.float64) * torch.tensor([1.0, 100.0])
    first, second, _ = gdpo(scaled, torch.tensor([2.0, 1.0], dtype=torch.float64))[0].tolist()
    assert first > second > 0  # the weight decides, not the size of the reward


def test_token_weights_are_as_if_an_answer_stood_there_once_per_token() -> None:
    weighted = ADVANTAGES["reinforce_pp_tokens"](outcomes([[1, 0, 0]], [[3, 1, 2]]), EPSILON)
    repeated = ADVANTAGES["reinforce_pp"](outcomes([[1, 1, 1, 0, 0, 0]]), EPSILON)
    torch.testing.assert_close(weighted[0], repeated[0, [0, 3, 4]])
    weighted = ADVANTAGES["reinforce_pp_baseline_tokens"](outcomes([[1, 0]], [[3, 1]]), EPSILON)
    torch.testing.assert_close(weighted, torch.tensor([[0.4999, -1.4997]], dtype=torch.float64), atol=1e-4, rtol=0)


def test_remax() -> None:
    found = remax(torch.tensor([[1.0, NAN], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0.25, 1.0, NAN]))
    assert found.tolist() == [[0.75, 0.0], [-1.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("gamma", "lam", "expected"), [(1, 1, [0.5, 0.5, 0.5]), (1, 0, [0, 0, 0.5]), (0.9, 0.5, [0.02875, 0.175, 0.5])]
)
def test_gae_golden(gamma: float, lam: float, expected: list[float]) -> None:
    rewards, values = torch.tensor([[0.0, 0.0, 1.0, 9.0]]), torch.tensor([[0.5, 0.5, 0.5, 9.0]])
    found = gae(rewards, values, torch.tensor([[1, 1, 1, 0]]), gamma=gamma, lam=lam)
    torch.testing.assert_close(found, torch.tensor([[*expected, 0.0]]), atol=1e-4, rtol=0)


groups = st.lists(st.lists(st.integers(-8, 8).map(lambda k: k / 4), min_size=4, max_size=4), min_size=1, max_size=3)


@pytest.mark.parametrize("name", WITHOUT_CRITIC)
@settings(max_examples=25, deadline=None)
@given(rewards=groups, shift=st.floats(-3, 3), order=st.permutations(range(4)))
def test_shift_and_order(name: str, rewards: list[list[float]], shift: float, order: list[int]) -> None:
    rewards_NG = torch.tensor(rewards, dtype=torch.float64)
    found = ADVANTAGES[name](outcomes(rewards_NG), EPSILON)
    assert found.isfinite().all()
    torch.testing.assert_close(ADVANTAGES[name](outcomes(rewards_NG + shift), EPSILON), found, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(ADVANTAGES[name](outcomes(rewards_NG[:, order]), EPSILON), found[:, order])
    if not name.startswith("reinforce_pp") or "baseline" in name:
        torch.testing.assert_close(found.sum(-1), torch.zeros(len(rewards), dtype=torch.float64), atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", WITHOUT_CRITIC)
@settings(max_examples=20, deadline=None)
@given(rewards=groups, factor=st.floats(0.1, 10))
def test_scale(name: str, rewards: list[list[float]], factor: float) -> None:
    rewards_NG = torch.tensor(rewards, dtype=torch.float64)
    found = ADVANTAGES[name](outcomes(rewards_NG), 1e-12)
    scaled = ADVANTAGES[name](outcomes(rewards_NG * factor), 1e-12)
    expected = found * factor if name in ("group_mean", "rloo", "remax") else found
    torch.testing.assert_close(scaled, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", WITHOUT_CRITIC)
def test_equal_rewards_push_nothing_and_a_missing_one_takes_no_part(name: str) -> None:
    assert not ADVANTAGES[name](outcomes([[0.1 + 0.2] * 3]), EPSILON).abs().gt(1e-9).any()
    found = ADVANTAGES[name](outcomes([[1, 0, 0.5, NAN]], [[2, 2, 2, 99]]), EPSILON)
    without = ADVANTAGES[name](outcomes([[1, 0, 0.5]], [[2, 2, 2]]), EPSILON)
    torch.testing.assert_close(found, torch.cat([without, torch.zeros(1, 1, dtype=torch.float64)], dim=1))


def test_signal_is_a_matter_of_range() -> None:
    rewards = torch.tensor([[0.1, 0.1, 0.1], [0.1, 0.1, 0.2], [NAN, 1, 1], [NAN, NAN, NAN]])
    assert has_signal(rewards).tolist() == [False, True, False, False]


def test_mean_within_is_exclusive_and_wants_a_score() -> None:
    rewards = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [NAN, 0.5], [NAN, NAN]])
    assert mean_within(rewards, 0.01, 0.99).tolist() == [False, True, False, True, False]
    assert mean_within(rewards, 0.5, 1.1).tolist() == [False, False, True, False, False]
    assert mean_within(rewards, -0.1, 0.5).tolist() == [True, False, False, False, False]
