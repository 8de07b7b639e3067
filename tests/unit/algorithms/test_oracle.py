"""Each objective's expected gradient: the true one, or biased in the documented way. Against enumeration of answers.

Mean over sampled groups against the exact vector, parameter by parameter: no z over 4.5 where they must agree, one over
8 where they must not.
"""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmreason.algorithms.advantages import ADVANTAGES, Outcomes
from mmreason.algorithms.clips import CLIPS, WHOLE_GROUPS, Bounds
from mmreason.algorithms.critic import judged
from mmreason.algorithms.kl import KL_ESTIMATORS
from mmreason.algorithms.losses import Objective, kl_loss, policy_loss
from mmreason.algorithms.ratios import RATIOS
from tests.unit.algorithms import toy
from tests.unit.algorithms.toy import EVERY, MASK, G, Policy

GROUPS = 20_000
AGREE, DIFFER = 4.5, 8.0
EPSILON = 1e-4

NOW, OTHER = toy.policy(1), toy.policy(2)
LENGTHS = MASK.sum(-1, keepdim=True)


def chance(policy: Policy) -> Tensor:
    """[A]"""
    return (policy.of(EVERY) * MASK).sum(-1).exp()


def truth(kind: int = 0) -> Tensor:
    """The policy gradient: sum_a pi(a) r(a) grad log pi(a)."""
    return toy.exact(NOW, toy.reward(EVERY, kind)[:, None] * torch.ones_like(MASK))


@cache
def answers(source: str) -> Tensor:
    return toy.sampled({"now": NOW, "other": OTHER}[source], GROUPS, seed=7)


def outcomes(ids: Tensor) -> Outcomes:
    parts = torch.stack([toy.reward(ids, 0), toy.reward(ids, 1)], dim=-1)
    weights = torch.tensor([1.0, 0.5], dtype=torch.float64)
    greedy = toy.reward(EVERY[chance(NOW).argmax()])
    return Outcomes(
        total_NG=parts[..., 0],
        parts_NGK=parts,
        weights_K=weights,
        tokens_NG=toy.mask_of(ids).sum(-1),
        greedy_N=greedy.expand(len(ids)),
    )


def samples(
    advantages: str | Tensor,
    *,
    objective: Objective | None = None,
    aggregation: str = "sequence_sum",
    source: str = "now",
    old: Policy = NOW,
) -> Tensor:
    """Minus the gradient of every group's share of the loss. [N, C x V]"""
    ids = answers(source)
    given = ADVANTAGES[advantages](outcomes(ids), EPSILON) if isinstance(advantages, str) else advantages
    tokens, leaf = toy.tokens_of(ids, given, now=NOW, old=old, aggregation=aggregation)
    sampling = {"now": NOW, "other": OTHER}[source].of(ids).flatten()
    loss = policy_loss(tokens, objective or Objective(), sampling).loss
    return toy.per_group(ids, torch.autograd.grad(-loss, leaf)[0], NOW)


def test_the_enumeration_is_right() -> None:
    assert chance(NOW).sum().item() == pytest.approx(1)
    assert len(EVERY) == 1 + 5 + 25 * 6
    logits = NOW.logits.clone().requires_grad_()
    total = ((Policy(logits).of(EVERY) * MASK).sum(-1).exp() * toy.reward(EVERY)).sum()
    torch.testing.assert_close(torch.autograd.grad(total, logits)[0].flatten(), truth())


@pytest.mark.parametrize("clip", sorted(set(CLIPS) - set(WHOLE_GROUPS)))
@pytest.mark.parametrize("ratio", sorted(RATIOS))
def test_on_policy_rloo_with_sequence_sum_is_unbiased_whatever_the_clip(clip: str, ratio: str) -> None:
    assert toy.largest_z(samples("rloo", objective=Objective(ratio=ratio, clip=clip)), truth()) < AGREE


def test_dr_grpo_is_smaller_by_one_answer_of_the_group() -> None:
    found = samples("group_mean")
    assert toy.largest_z(found, (G - 1) / G * truth()) < AGREE
    assert toy.largest_z(found, truth()) > DIFFER
    longest = samples("group_mean", aggregation="constant")
    assert toy.largest_z(longest, (G - 1) / G * truth() / toy.L) < AGREE


def test_a_greedy_baseline_is_unbiased() -> None:
    assert toy.largest_z(samples("remax"), truth()) < AGREE


# ---- a critic --------------------------------------------------------------------------------------------------------


def by_token(lam: float, values_AL: Tensor) -> Tensor:
    """GAE of the sampled answers with these values of the text before each token. [N, G, L]"""
    ids = answers("now")
    code = (EVERY * 6 ** torch.arange(toy.L)).sum(-1)
    place = torch.full((6**toy.L,), -1).index_put((code,), torch.arange(len(EVERY)))
    which_NG = place[(ids * 6 ** torch.arange(toy.L)).sum(-1)]
    # Answers that are equal have equal advantages: those of all answers, looked up.
    lengths = MASK.sum(-1).long().tolist()
    values = [row[:length] for row, length in zip(values_AL, lengths, strict=True)]
    found = judged(toy.reward(EVERY).tolist(), values, [torch.zeros_like(row) for row in values], gamma=1.0, lam=lam)
    return pad_sequence([one.advantage for one in found], batch_first=True)[which_NG]


@cache
def true_values() -> Tensor:
    """What the policy gets on average from each prefix on. [A, L]"""
    weight = chance(NOW)
    columns = []
    for length in range(toy.L):
        same = (EVERY[:, None, :length] == EVERY[None, :, :length]).all(-1).double()
        columns.append((same @ (weight * toy.reward(EVERY))) / (same @ weight))
    return torch.stack(columns, dim=1)


ARBITRARY = torch.randn(toy.C, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def test_a_critic_with_lambda_1_is_unbiased_whatever_it_says() -> None:
    values_AL = ARBITRARY[toy.cells(EVERY)]
    assert toy.largest_z(samples(by_token(1.0, values_AL)), truth()) < AGREE
    assert toy.largest_z(samples(by_token(0.5, values_AL)), truth()) > DIFFER, "below 1 its errors are a bias"


def test_a_critic_that_is_right_is_unbiased_for_every_lambda_and_has_less_variance() -> None:
    for lam in (0.0, 0.5, 1.0):
        found = samples(by_token(lam, true_values()))
        assert toy.largest_z(found, truth()) < AGREE
    assert float(found.var(0).sum()) < 0.7 * float(samples(by_token(1.0, torch.zeros_like(MASK))).var(0).sum())


def slope_of_grpo(p: float) -> float:
    """E[A | right] - E[A | wrong] at a share p of right answers: what GRPO multiplies the gradient of p by."""
    slope = 0.0
    for others in range(G):
        weight = math.comb(G - 1, others) * p**others * (1 - p) ** (G - 1 - others)
        for own, sign in ((1.0, 1), (0.0, -1)):
            rewards = torch.tensor([[own] + [1.0] * others + [0.0] * (G - 1 - others)], dtype=torch.float64)
            slope += sign * weight * float(ADVANTAGES["group"](_alone(rewards), EPSILON)[0, 0])
    return slope


def _alone(rewards_NG: Tensor) -> Outcomes:
    one = torch.ones(1, dtype=torch.float64)
    return Outcomes(
        total_NG=rewards_NG,
        parts_NGK=rewards_NG[..., None],
        weights_K=one,
        tokens_NG=rewards_NG,
        greedy_N=rewards_NG[:, 0],
    )


def test_grpo_weighs_prompts_by_how_hard_they_are() -> None:
    """The direction of one prompt's gradient is right; its size is changed by a function of p."""
    p = float((chance(NOW) * toy.reward(EVERY)).sum())
    assert toy.largest_z(samples("group"), slope_of_grpo(p) * truth()) < AGREE
    assert toy.largest_z(samples("group"), truth()) > DIFFER
    slopes = [slope_of_grpo(share) for share in (0.02, 0.5)]
    assert (
        slopes[0] / slopes[1] > 1.05
    )  # rare successes count more than r - mean would have it; more so with a larger G
    assert slopes == pytest.approx([slope_of_grpo(share) for share in (0.98, 0.5)])


def test_batch_statistics_only_scale() -> None:
    rewards = toy.reward(answers("now"))
    std = rewards.std()
    centred = (rewards - rewards.mean(-1, keepdim=True)).std()
    assert toy.largest_z(samples("batch"), (G - 1) / G * truth() / std) < AGREE
    assert toy.largest_z(samples("reinforce_pp"), truth() / std) < AGREE
    assert toy.largest_z(samples("reinforce_pp_baseline"), (G - 1) / G * truth() / centred) < AGREE


def test_gdpo_follows_each_reward_by_its_own_slope() -> None:
    rewards = [toy.reward(EVERY, kind) for kind in (0, 1)]
    slopes = [slope_of_grpo(float((chance(NOW) * reward).sum())) for reward in rewards]
    parts = outcomes(answers("now"))
    summed = sum(
        weight * ADVANTAGES["group"](_alone(parts.parts_NGK[..., k]), EPSILON)
        for k, weight in enumerate(parts.weights_K.tolist())
    )
    assert isinstance(summed, Tensor)
    expected = (slopes[0] * truth(0) + 0.5 * slopes[1] * truth(1)) / summed.std()
    assert toy.largest_z(samples("gdpo"), expected) < AGREE


def test_a_mean_over_each_answer_favours_short_ones() -> None:
    found = samples("rloo", aggregation="sequence_mean")
    expected_reward = (chance(NOW) * toy.reward(EVERY)).sum()
    pushes = (toy.reward(EVERY)[:, None] - expected_reward) / LENGTHS * torch.ones_like(MASK)
    assert toy.largest_z(found, toy.exact(NOW, pushes)) < AGREE
    mean_length = float((chance(NOW) * LENGTHS[:, 0]).sum())
    assert toy.largest_z(found, truth() / mean_length) > DIFFER
    same = toy.largest_z(samples("rloo", aggregation="token_mean"), truth() / mean_length)
    assert same < AGREE, "a mean over all tokens only scales, when there are many answers"


def test_off_policy_weights_per_answer_are_unbiased_and_per_token_not() -> None:
    by_answer = samples("rloo", objective=Objective(correction="sequence_truncate", weight_high=1e9), source="other")
    assert toy.largest_z(by_answer, truth()) < AGREE
    by_token = samples("rloo", objective=Objective(correction="token_truncate", weight_high=1e9), source="other")
    weights = (NOW.of(EVERY) - OTHER.of(EVERY)).exp()
    expected = toy.exact(NOW, weights * toy.reward(EVERY)[:, None], source=OTHER)
    assert toy.largest_z(by_token, expected) < AGREE
    assert toy.largest_z(by_token, truth()) > DIFFER
    assert toy.largest_z(samples("rloo", source="other"), truth()) > DIFFER


@pytest.mark.parametrize("clip", ["none", "cispo"])
def test_token_ratios_leave_out_the_tokens_before_and_after(clip: str) -> None:
    """Later updates of a batch: ratio pi / pi_old per token, unbounded. PPO's surrogate, not the policy gradient."""
    free = Bounds(low=1.0, high=1e9)
    found = samples("rloo", objective=Objective(clip=clip, bounds=free), source="other", old=OTHER)
    weights = (NOW.of(EVERY) - OTHER.of(EVERY)).exp()
    assert toy.largest_z(found, toy.exact(NOW, weights * toy.reward(EVERY)[:, None], source=OTHER)) < AGREE
    assert toy.largest_z(found, truth()) > DIFFER


# ---- KL --------------------------------------------------------------------------------------------------------------

REFERENCE = toy.policy(3)


def kl_by_state(source: Policy, *, forward: bool = False) -> Tensor:
    """Gradient of sum_t E_prefix KL_t, prefixes given (drawn from `source`); reverse KL(pi || ref), or forward."""
    logits = NOW.logits.clone().requires_grad_()
    policy, reference = Policy(logits).log, REFERENCE.log
    by_cell = (reference.exp() * (reference - policy) if forward else policy.exp() * (policy - reference)).sum(-1)
    visits = torch.zeros(toy.C, dtype=torch.float64)
    # A prefix is counted in every answer that begins with it: their chances add up to its own.
    visits.index_add_(0, toy.cells(EVERY).flatten(), (chance(source)[:, None] * MASK).flatten())
    return torch.autograd.grad((visits * by_cell).sum(), logits)[0].flatten()


def kl_of_answers() -> Tensor:
    """Gradient of KL(pi || ref) over whole answers: how pi changes the prefixes is in it."""
    gap = ((NOW.of(EVERY) - REFERENCE.of(EVERY)) * MASK).sum(-1, keepdim=True)
    return toy.exact(NOW, gap * torch.ones_like(MASK))


def kl_samples(estimator: str, source: str = "now") -> Tensor:
    ids = answers(source)
    old = {"now": NOW, "other": OTHER}[source]
    tokens, leaf = toy.tokens_of(ids, torch.zeros(ids.shape[:2]), now=NOW, old=old, aggregation="sequence_sum")
    loss = kl_loss(tokens, REFERENCE.of(ids).flatten(), coefficient=1.0, estimator=estimator).loss
    return toy.per_group(ids, torch.autograd.grad(loss, leaf)[0], NOW)


@pytest.mark.parametrize("estimator", ["k2", "k1+", "k3+", "k3*"])
def test_these_have_the_reverse_kls_gradient_at_every_token(estimator: str) -> None:
    assert toy.largest_z(kl_samples(estimator), kl_by_state(NOW)) < AGREE
    assert toy.largest_z(kl_samples(estimator), kl_of_answers()) > DIFFER, "prefixes count as given"


def test_k3_has_the_forward_kls_gradient_and_k1_none() -> None:
    assert toy.largest_z(kl_samples("k3"), kl_by_state(NOW, forward=True)) < AGREE
    assert toy.largest_z(kl_samples("k3"), kl_by_state(NOW)) > DIFFER
    assert toy.largest_z(kl_samples("k1"), torch.zeros(toy.C * toy.V, dtype=torch.float64)) < AGREE


def test_off_policy_only_the_weighted_one_keeps_the_reverse_kls_gradient() -> None:
    expected = kl_by_state(OTHER)
    assert toy.largest_z(kl_samples("k3*", "other"), expected) < AGREE
    assert toy.largest_z(kl_samples("k3+", "other"), expected) > DIFFER


@pytest.mark.parametrize(("estimator", "agrees"), [("k1", True), ("k2", False), ("k3", False)])
def test_in_the_reward_k1_has_the_whole_kls_gradient(estimator: str, agrees: bool) -> None:
    ids = answers("now")
    values = KL_ESTIMATORS[estimator](NOW.of(ids), REFERENCE.of(ids), NOW.of(ids)) * toy.mask_of(ids)
    rewards = toy.reward(ids) - 0.5 * values.sum(-1)
    found = samples(ADVANTAGES["rloo"](_alone(rewards), EPSILON))
    z = toy.largest_z(found, truth() - 0.5 * kl_of_answers())
    assert z < AGREE if agrees else z > DIFFER
