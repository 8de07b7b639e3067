"""Ratios, clips and their schedules: hand-computed values, zero gradients, finite differences."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmreason.algorithms.aggregation import AGGREGATIONS, StepCounts
from mmreason.algorithms.clips import CLIP_SCHEDULES, CLIPS, Bounds
from mmreason.algorithms.losses import Objective, imitation_loss, policy_loss
from mmreason.algorithms.ratios import RATIOS, Tokens, answer_sum
from tests.unit.algorithms.rows import tokens_of

GAPS = [[0.3, -0.1, 0.05, 0.05], [-0.4, 0.6]]
FREE = Bounds(low=1.0, high=1e9)


@pytest.mark.parametrize(
    ("name", "expected"), [("token_mean", 0.625), ("sequence_mean", 0.75), ("constant", 0.3125), ("sequence_sum", 2.5)]
)
def test_aggregation_golden(name: str, expected: float) -> None:
    counts = StepCounts(sequences=2, tokens=8, max_new_tokens=8)
    losses = [[1.0, 1.0], [0.5] * 6]
    assert sum(AGGREGATIONS[name](len(row), counts) * sum(row) for row in losses) == pytest.approx(expected)


def one(ratio: float, advantage: float, clip: str, bounds: Bounds) -> tuple[float, float]:
    """(surrogate, its derivative by log pi) of one token."""
    tokens, leaf = tokens_of([[math.log(ratio)]], [advantage])
    out = policy_loss(tokens, Objective(clip=clip, bounds=bounds))
    (gradient,) = torch.autograd.grad(out.loss, leaf)
    return -out.loss.item(), -gradient.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "ppo", "gppo"),
    [
        (1.0, 2.0, 2.0, 2.0, 2.0),
        (1.5, 1.0, 1.28, 0.0, 1.28),  # clipped above: no gradient, or that of the bound
        (1.5, -1.0, -1.5, -1.5, -1.5),  # the pessimistic side is not clipped
        (0.5, 1.0, 0.5, 0.5, 0.5),
        (0.5, -1.0, -0.8, 0.0, -0.8),
        (4.0, -1.0, -3.0, 0.0, 0.0),  # the dual clip ends both
        (4.0, -2.0, -6.0, 0.0, 0.0),
    ],
)
def test_ppo_and_gppo_golden(ratio: float, advantage: float, value: float, ppo: float, gppo: float) -> None:
    bounds = Bounds(low=0.2, high=0.28, dual=3.0)
    assert one(ratio, advantage, "ppo", bounds) == pytest.approx((value, ppo))
    assert one(ratio, advantage, "gppo", bounds) == pytest.approx((value, gppo))


def test_without_a_dual_bound_a_bad_token_is_pushed_all_the_way() -> None:
    assert one(4.0, -1.0, "ppo", Bounds()) == pytest.approx((-4.0, -4.0))


@pytest.mark.parametrize(
    ("low", "high", "weights"),
    [
        (1.0, 4.0, [0.5, 1.0, 1.5, 5.0]),  # TRL with epsilon_high 5
        (0.2, 0.28, [0.8, 1.0, 1.28, 1.28]),  # verl
        (0.0, 4.0, [1.0, 1.0, 1.5, 5.0]),  # EasyR1's script
    ],
)
def test_cispo_golden(low: float, high: float, weights: list[float]) -> None:
    for ratio, weight in zip([0.5, 1.0, 1.5, 6.0], weights, strict=True):
        value, gradient = one(ratio, -2.0, "cispo", Bounds(low=low, high=high))
        assert (value, gradient) == pytest.approx((-2 * weight * (math.log(ratio) - 1), -2 * weight))


@pytest.mark.parametrize(
    ("advantage", "gates"),
    [(1.0, [1.510163, 2.0, 2.489837]), (-1.0, [1.415938, 1.904762, 2.393585])],  # tau 1 and tau 1.05
)
def test_sapo_golden(advantage: float, gates: list[float]) -> None:
    for ratio, gate in zip([0.5, 1.0, 1.5], gates, strict=True):
        assert one(ratio, advantage, "sapo", Bounds())[0] == pytest.approx(advantage * gate, abs=1e-6)
    assert one(1.0, advantage, "sapo", Bounds())[1] == pytest.approx(advantage)


def test_gspo_golden() -> None:
    tokens, leaf = tokens_of([GAPS[0]], [1.0], aggregation="sequence_mean")
    bounds = Bounds(low=3e-4, high=4e-4)
    surrogate = CLIPS["ppo"](RATIOS["sequence"](tokens), tokens, bounds)
    torch.testing.assert_close(surrogate.ratio, torch.full((4,), 1.077884, dtype=torch.float64), atol=1e-6, rtol=0)
    out = policy_loss(tokens, Objective(ratio="sequence", bounds=bounds))
    assert out.loss.item() == pytest.approx(-1.0004)
    assert not torch.autograd.grad(out.loss, leaf)[0].any()
    free = policy_loss(tokens, Objective(ratio="sequence", bounds=FREE))  # each token pushes a fourth of the answer
    torch.testing.assert_close(
        torch.autograd.grad(-free.loss, leaf)[0], torch.full((4,), 1.077884 / 4, dtype=torch.float64), atol=1e-6, rtol=0
    )


def test_gspo_token_is_gspo_where_an_answer_has_one_advantage() -> None:
    losses = []
    for ratio in ("sequence", "sequence_token"):
        tokens, leaf = tokens_of(GAPS, [1.0, -0.5], aggregation="sequence_mean")
        loss = policy_loss(tokens, Objective(ratio=ratio, bounds=Bounds(low=0.05, high=0.08))).loss
        losses.append((loss.detach(), torch.autograd.grad(loss, leaf)[0]))
    torch.testing.assert_close(losses[0], losses[1])


def test_gspo_token_pushes_each_token_by_its_own_advantage() -> None:
    tokens, leaf = tokens_of([[0.1, 0.3]], [1.0])
    tokens = replace(tokens, advantage=torch.tensor([0.0, 1.0], dtype=torch.float64))
    loss = policy_loss(tokens, Objective(ratio="sequence_token", bounds=FREE)).loss
    expected = torch.tensor([0.0, -math.exp(0.2) / 2], dtype=torch.float64)
    torch.testing.assert_close(torch.autograd.grad(loss, leaf)[0], expected)


def test_geometric_golden() -> None:
    """Log-ratios .3, -.1, .6 with bounds .4: A > 0 cuts .6 to .4, A < 0 cuts nothing here."""
    for advantage, mean, pushing in ((2.0, 0.2, [1, 1, 0]), (-2.0, 0.8 / 3, [1, 1, 1])):
        tokens, leaf = tokens_of([[0.3, -0.1, 0.6]], [advantage], aggregation="sequence_mean")
        out = policy_loss(tokens, Objective(clip="geometric", bounds=Bounds(low=0.4, high=0.4)))
        assert -out.loss.item() == pytest.approx(advantage * math.exp(mean))
        expected = advantage * math.exp(mean) / 3 * torch.tensor(pushing, dtype=torch.float64)
        torch.testing.assert_close(torch.autograd.grad(-out.loss, leaf)[0], expected)


def test_geometric_bounds_are_apart_and_counted() -> None:
    """A > 0 is cut above at high, A < 0 below at low."""
    bounds = Bounds(low=0.1, high=0.3)
    for advantage, mean, side in ((1.0, 0.0, "high"), (-1.0, 0.75 / 3, "low")):
        tokens, _ = tokens_of([[0.5, -0.5, 0.2] if advantage > 0 else [0.8, -0.2, 0.05]], [advantage])
        out = policy_loss(tokens, Objective(clip="geometric", bounds=bounds))
        assert -out.loss.item() == pytest.approx(advantage * math.exp(mean))
        assert out.metrics[f"clip_fraction/{side}"] == pytest.approx(1 / 3)
        assert out.metrics["clip_fraction"] == pytest.approx(1 / 3)
    idle, _ = tokens_of([[0.8, -0.8]], [0.0])
    assert policy_loss(idle, Objective(clip="geometric", bounds=bounds)).metrics["clip_fraction"] == 0


def test_an_unclipped_geometric_mean_is_the_sequence_ratio() -> None:
    """GMPO without bounds = GSPO without bounds."""
    tokens, _ = tokens_of(GAPS, [1.0, -0.5], aggregation="sequence_mean")
    free = Bounds(low=1e9, high=1e9)
    gmpo = policy_loss(tokens, Objective(clip="geometric", bounds=free)).loss
    gspo = policy_loss(tokens, Objective(ratio="sequence", clip="none")).loss
    torch.testing.assert_close(gmpo, gspo)


@pytest.mark.parametrize("clip", sorted(CLIPS))
@pytest.mark.parametrize("ratio", sorted(RATIOS))
def test_on_policy_every_one_is_reinforce(clip: str, ratio: str) -> None:
    """At log-ratio 0 the gradient by log pi is weight x advantage; and 0 where the advantage is 0."""
    tokens, leaf = tokens_of([[0.0] * 3, [0.0], [0.0] * 2], [1.5, -0.5, 0.0], aggregation="sequence_mean")
    loss = policy_loss(tokens, Objective(ratio=ratio, clip=clip)).loss
    torch.testing.assert_close(torch.autograd.grad(-loss, leaf)[0], tokens.weight * tokens.advantage)


gaps = st.lists(st.floats(-0.7, 0.7).filter(lambda gap: abs(gap) > 1e-2), min_size=1, max_size=4)


@pytest.mark.parametrize("clip", ["none", "ppo", "sapo", "geometric"])  # the others' gradient is not their value's
@pytest.mark.parametrize("ratio", ["token", "sequence"])
@settings(max_examples=8, deadline=None)
@given(answers=st.lists(gaps, min_size=1, max_size=3), sign=st.sampled_from([-1.0, 1.0]))
def test_gradients_are_those_of_finite_differences(
    clip: str, ratio: str, answers: list[list[float]], sign: float
) -> None:
    advantages = [sign, -0.5, 0.7][: len(answers)]
    tokens, leaf = tokens_of(answers, advantages, aggregation="sequence_mean")
    objective = Objective(ratio=ratio, clip=clip, bounds=Bounds(low=0.2137, high=0.3141, dual=2.7183))

    def loss_at(logprob: torch.Tensor) -> torch.Tensor:
        return policy_loss(replace(tokens, logprob=logprob), objective).loss

    (gradient,) = torch.autograd.grad(loss_at(leaf), leaf)
    step = 1e-6
    for index in range(len(leaf)):
        nudge = torch.zeros_like(leaf).index_fill(0, torch.tensor(index), step)
        slope = (loss_at(leaf.detach() + nudge) - loss_at(leaf.detach() - nudge)) / (2 * step)
        assert gradient[index].item() == pytest.approx(slope.item(), abs=2e-7)


@pytest.mark.parametrize("clip", sorted(CLIPS))
@pytest.mark.parametrize("ratio", sorted(RATIOS))
@pytest.mark.parametrize("gap", [-1e4, 1e4])
def test_huge_gaps_give_finite_losses_and_gradients(clip: str, ratio: str, gap: float) -> None:
    logprob = torch.tensor([-1.0, -1.0], requires_grad=True)
    tokens = Tokens(
        logprob=logprob,
        old=logprob.detach() - gap,
        advantage=torch.tensor([-1.0, 1.0]),
        weight=torch.tensor([0.5, 0.5]),
        answer=torch.tensor([1, 2]),
        group=torch.tensor([1, 1]),
    )
    out = policy_loss(tokens, Objective(ratio=ratio, clip=clip, correction="sequence_truncate"), tokens.old - gap)
    assert out.loss.isfinite()
    assert torch.autograd.grad(out.loss, logprob)[0].isfinite().all()
    assert all(math.isfinite(value) for value in out.metrics.values())


def test_log_ratios_are_cut_where_it_is_asked() -> None:
    value, gradient = one(math.exp(12.0), 1.0, "none", Bounds(max_log_ratio=10.0))
    assert (value, gradient) == pytest.approx((math.exp(10.0), 0.0))
    assert one(math.exp(25.0), 1.0, "none", Bounds()) == pytest.approx((math.exp(20.0), 0.0))


def test_tokens_without_weight_belong_to_no_answer() -> None:
    tokens, _ = tokens_of([[0.4, 0.2]], [1.0])
    extra = {"logprob": 9.0, "old": 0.0, "advantage": 5.0, "weight": 0.0, "answer": 1, "group": 1}
    columns = {name: torch.cat([getattr(tokens, name).detach(), torch.tensor([extra[name]])]) for name in extra}
    padded = Tokens(**columns)
    for objective in (Objective(ratio="sequence"), Objective(clip="geometric")):
        torch.testing.assert_close(policy_loss(padded, objective).loss, policy_loss(tokens, objective).loss)
    assert answer_sum(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2, 0, 2])).tolist() == [5.0, 2.0, 5.0]


def test_metrics_count_clipped_tokens() -> None:
    tokens, _ = tokens_of([[math.log(1.5)] * 2, [0.0], [math.log(0.5)], [math.log(6.0)]], [1.0, 1.0, -1.0, -1.0])
    metrics = policy_loss(tokens, Objective()).metrics
    assert (metrics["clip_fraction"], metrics["ratio"]) == pytest.approx((0.6, 2.1))
    assert (metrics["clip_fraction/low"], metrics["clip_fraction/high"]) == pytest.approx((0.2, 0.4))
    dual = policy_loss(tokens, Objective(bounds=Bounds(dual=3.0))).metrics
    assert (dual["clip_fraction/low"], dual["clip_fraction/high"]) == pytest.approx((0.2, 0.6))
    soft = policy_loss(tokens, Objective(clip="sapo")).metrics
    assert (soft["clip_fraction/low"], soft["clip_fraction/high"]) == pytest.approx((0.2, 0.2))
    soft = policy_loss(tokens_of([[math.log(1.2)], [math.log(4.0)]], [1.0, 1.0])[0], Objective(clip="sapo")).metrics
    assert (soft["clip_fraction/low"], soft["clip_fraction/high"]) == (0, 0)  # 1.19 and 0.72 of the gradient are left
    steep = Objective(clip="sapo", bounds=Bounds(tau_positive=10.0))
    soft = policy_loss(tokens_of([[math.log(1.5)]], [1.0])[0], steep).metrics
    assert (soft["clip_fraction/low"], soft["clip_fraction/high"]) == (0, 1)
    weighted = policy_loss(tokens, Objective(clip="cispo", bounds=Bounds(low=0.2, high=1.0))).metrics
    assert (weighted["clip_fraction/low"], weighted["clip_fraction/high"]) == pytest.approx((0.2, 0.2))


@pytest.mark.parametrize(
    ("finished", "bound"),
    [(0, 0.2), (1, 0.18), (2, 0.144), (3, 0.1008), (5, 0.03024), (9, 7.258e-5), (10, 0.0)],
)
def test_shrinking_clip_golden(finished: int, bound: float) -> None:
    assert 0.2 * CLIP_SCHEDULES["shrink"](finished, 10) == pytest.approx(bound, rel=1e-4)
    assert CLIP_SCHEDULES["constant"](finished, 10) == 1.0


def test_imitation_is_the_weighted_cross_entropy() -> None:
    logprob = torch.tensor([-1.0, -3.0, -9.0], requires_grad=True)
    out = imitation_loss(logprob, torch.tensor([0.25, 0.75, 0.0]))
    assert (out.loss.item(), out.metrics["nll"]) == pytest.approx((2.5, 2.5))
    assert torch.autograd.grad(out.loss, logprob)[0].tolist() == [-0.25, -0.75, 0.0]


@pytest.mark.parametrize(
    ("ratio", "advantage", "low", "high"),
    [
        (0.81, -1.0, 0, 0),
        (0.79, -1.0, 1, 0),
        (0.79, 1.0, 0, 0),
        (1.1, -1.0, 0, 0),
        (1.27, 1.0, 0, 0),
        (1.29, 1.0, 0, 1),
        (0.5, 0.0, 0, 0),  # nothing pushes it
        (1.5, 0.0, 0, 0),
    ],
)
def test_a_token_counts_as_clipped_just_beyond_its_bound(ratio: float, advantage: float, low: int, high: int) -> None:
    tokens, _ = tokens_of([[math.log(ratio)]], [advantage])
    for clip in ("ppo", "gppo"):
        metrics = policy_loss(tokens, Objective(clip=clip)).metrics
        assert (metrics["clip_fraction/low"], metrics["clip_fraction/high"]) == (low, high)


@pytest.mark.parametrize("clip", ["ppo", "gppo", "geometric"])
@pytest.mark.parametrize("advantage", [-1.0, 1.0])
def test_a_token_at_its_bounds_is_not_clipped(clip: str, advantage: float) -> None:
    """On-policy all ratios are 1, which is what these bounds are."""
    tokens, _ = tokens_of([[0.0, 0.0]], [advantage])
    metrics = policy_loss(tokens, Objective(clip=clip, bounds=Bounds(low=0.0, high=0.0, dual=1.0))).metrics
    assert (metrics["clip_fraction/low"], metrics["clip_fraction/high"]) == (0, 0)
