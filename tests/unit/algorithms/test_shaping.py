"""Shapers by the worked numbers of research notes "algorithms" 1 and 3 and "rewards" 2.7, and by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch

from mmreason.algorithms.advantages import group as normalised
from mmreason.algorithms.advantages import group_mean
from mmreason.algorithms.shaping import (
    Change,
    apply,
    difficulty_weight,
    length_bonus,
    resample_correct,
    temporal_bonus,
)
from mmreason.types import Message, Rollout, RolloutGroup, Sample, Score, Segment


def answer(tokens: int = 400, text: str = "", seed: int = 0, **spans: tuple[int, int]) -> Rollout:
    segment = Segment(kind="policy", ids=torch.zeros(tokens, dtype=torch.int64), loss_mask=torch.ones(tokens) > 0)
    return Rollout(text=text, segments=(segment,), spans=spans, seed=seed)


def scored(
    accuracy: Sequence[float | None],
    contrast: Sequence[float | None] = (),
    lengths: Sequence[int] = (),
    texts: Sequence[str] = (),
) -> RolloutGroup:
    """A group by accuracy and format; every format is right. None: the reward failed."""

    def score(value: float | None) -> Score:
        return Score(total=None) if value is None else Score(total=value + 1, parts={"accuracy": value, "format": 1.0})

    count = len(accuracy)
    return RolloutGroup(
        sample=Sample(id="q", messages=(Message(role="user", content=("?",)),)),
        prompt=Segment(kind="prompt", ids=torch.zeros(1, dtype=torch.int64), loss_mask=torch.zeros(1) > 0),
        rollouts=tuple(
            answer(length, text, seed)
            for seed, (length, text) in enumerate(
                zip(lengths or [100] * count, texts or ["<answer>a</answer>"] * count, strict=True)
            )
        ),
        scores=tuple(map(score, accuracy)),
        contrast=tuple(map(score, contrast)),
    )


def totals(group: RolloutGroup) -> list[float]:
    return [math.nan if score.total is None else score.total for score in group.scores]


def after(group: RolloutGroup, *changes: Any) -> RolloutGroup:
    """All shapers in order, as the training loop applies them."""
    for shaper, options in changes:
        group = apply(group, shaper(group, **options), shaper.__name__, 1.0)
    return group


def advantages(group: RolloutGroup) -> list[float]:
    return normalised(torch.tensor([totals(group)], dtype=torch.float64))[0].tolist()


HALF = [1.0] * 4 + [0.0] * 4
CODE = (temporal_bonus, {"mode": "code"})
PAPER = (temporal_bonus, {"mode": "paper"})


@pytest.mark.parametrize(
    ("ordered", "shuffled", "rewards", "expected"),
    [
        (HALF, [1, 1, 1, 0], [2] * 4 + [1] * 4, [0.9352] * 4 + [-0.9352] * 4),
        (HALF, [1, 1, 0, 0], [2.3] * 4 + [1] * 4, [0.9353] * 4 + [-0.9353] * 4),
        (HALF, [1, 0.5, 0.5, 0.5], [2.3] * 4 + [1] * 4, [0.9353] * 4 + [-0.9353] * 4),
        ([1] + [0] * 7, [0] * 4, [2.3] + [1] * 7, [2.4743] + [-0.3535] * 7),
        (
            [0.05, 0.3, 0.6] + [0] * 5,
            [0] * 4,
            [1.05, 1.6, 1.9] + [1] * 5,
            [-0.4071, 1.1506, 2.0002] + [-0.5487] * 5,
        ),
        ([0] * 8, [0] * 4, [1] * 8, [0] * 8),
    ],
)  # fmt: skip
def test_t_grpo_by_the_notes_table(
    ordered: list[float], shuffled: list[float], rewards: list[float], expected: list[float]
) -> None:
    shaped = after(scored(ordered, shuffled), CODE)
    assert totals(shaped) == pytest.approx(rewards, abs=1e-12)
    assert advantages(shaped) == pytest.approx(expected, abs=5e-5)


def test_a_bonus_makes_no_reward_of_one_that_does_not_apply() -> None:
    group = scored([1, 0], [0])
    bare = Score(total=1.0, parts={"format": 1.0})
    shaped = after(replace(group, scores=(group.scores[0], bare)), PAPER)
    assert shaped.scores[0].parts["accuracy"] == pytest.approx(1.3)
    assert shaped.scores[1] == bare


def test_a_change_without_a_bonus_adds_nothing() -> None:
    group = scored([1, 0])
    assert apply(group, Change(into="accuracy"), "some", 1.0) == group


def test_a_bonus_is_for_what_is_over_the_threshold() -> None:
    change = temporal_bonus(scored([0.5, 0.6], [0.0, 0.0]), threshold=0.5)
    assert [bonus > 0 for bonus in change.bonus] == [False, True]


def test_where_paper_and_code_differ() -> None:
    group = scored(HALF, [1, 0.5, 0.5, 0.5])
    assert totals(after(group, CODE)) == [2.3] * 4 + [1] * 4
    assert totals(after(group, PAPER)) == [2] * 4 + [1] * 4, "0.5 < 1 x 0.625"
    assert temporal_bonus(group) == temporal_bonus(group, mode="paper"), "the default"
    assert totals(after(group, (temporal_bonus, {"mode": "paper", "mu": 0.8}))) == [2.3] * 4 + [1] * 4
    low = scored([0.3, 0.6, 0.0], [0.0])
    assert totals(after(low, CODE)) == pytest.approx([1.6, 1.9, 1.0])
    assert totals(after(low, PAPER)) == pytest.approx([1.3, 1.9, 1.0])
    assert totals(after(low, (temporal_bonus, {"alpha": 1.0, "threshold": 0.2}))) == pytest.approx([2.3, 2.6, 1.0])


def test_normalising_hides_the_bonus_and_dr_grpo_shows_it() -> None:
    """The notes' insight: with rewards of 0 and 1 it is invisible after division by the deviation."""
    group = scored(HALF, [1, 1, 0, 0])
    before, shaped = advantages(group), advantages(after(group, CODE))
    assert max(abs(a - b) for a, b in zip(before, shaped, strict=True)) < 1e-4
    without, with_it = (group_mean(torch.tensor([totals(g)]))[0, 0].item() for g in (group, after(group, CODE)))
    assert (without, with_it) == pytest.approx((0.5, 0.65))


def test_no_contrast_no_bonus() -> None:
    assert temporal_bonus(scored(HALF)) == Change(), "a group without the modality"
    assert temporal_bonus(scored(HALF, [None, None])) == Change(), "none of them could be scored"
    assert temporal_bonus(scored([None, None], [0.0])) == Change()
    assert temporal_bonus(scored(HALF, [None, 1, 0])).bonus == (0.3,) * 4 + (0.0,) * 4, "the mean of those that could"
    shaped = after(scored([None, 1.0], [0.0]), CODE)
    assert shaped.scores[0] == Score(total=None), "an answer without a score stays without one"
    assert shaped.scores[1].parts == {"accuracy": 1.3, "format": 1.0}, "a part of the accuracy"


def test_temporal_then_length_by_the_notes() -> None:
    group = scored(HALF, [1, 0, 0, 0], [319, 320, 512, 513] + [400] * 4)
    shaped = after(group, CODE, (length_bonus, {}))
    assert totals(shaped) == pytest.approx([2.3, 2.5, 2.5, 2.3, 1, 1, 1, 1])
    assert advantages(shaped) == pytest.approx([0.7976, 1.0635, 1.0635, 0.7976] + [-0.9306] * 4, abs=5e-5)
    assert shaped.scores[1].parts == {"accuracy": 1.3, "format": 1.0, "length_bonus": 0.2}
    assert shaped.scores[0].parts["length_bonus"] == 0
    assert group.scores[1].parts == {"accuracy": 1.0, "format": 1.0}, "what was before is as it was"


def test_the_order_is_that_of_the_config() -> None:
    """A length bonus that asks for more than 1.2 sees what the temporal bonus left."""
    group = scored([1.0, 1.0, 0.0], [0.0], [400] * 3)
    strict: tuple[Any, dict[str, Any]] = (length_bonus, {"threshold": 1.2})
    assert totals(after(group, PAPER, strict)) == pytest.approx([2.5, 2.5, 1.0])
    assert totals(after(group, strict, PAPER)) == pytest.approx([2.3, 2.3, 1.0])


def test_one_right_answer_alone_gets_no_length_bonus() -> None:
    group = scored([1.0] + [0.0] * 7, lengths=[400] * 8)
    assert length_bonus(group) == Change()
    assert length_bonus(group, several=False).bonus == (0.2,) + (0.0,) * 7, "as Video-R1's paper has it"


def test_length_bonus_of_a_span_asks_for_its_own_accuracy_and_format() -> None:
    """VideoP2R: 128 to 320 tokens of observation, 320 to 512 of the rest."""
    rollouts = (
        answer(127 + 320, observation=(0, 127)),
        answer(128 + 320, observation=(0, 128)),
        answer(320 + 512, observation=(0, 320)),
        answer(321 + 513, observation=(0, 321)),
        answer(400),
    )
    parts = {"seen": 1.0, "accuracy": 1.0, "format": 1.0}
    group = RolloutGroup(
        sample=Sample(id="q", messages=(Message(role="user", content=("?",)),)),
        prompt=Segment(kind="prompt", ids=torch.zeros(1, dtype=torch.int64), loss_mask=torch.zeros(1) > 0),
        rollouts=rollouts,
        scores=tuple(Score(total=3.0, parts=parts) for _ in rollouts),
    )
    options: dict[str, Any] = {"threshold": 0.0, "several": False, "format": "format"}
    perception = length_bonus(group, low=128, high=320, span="observation", accuracy="seen", **options)
    assert perception.bonus == (0.0, 0.2, 0.2, 0.0, 0.0)
    reasoning = length_bonus(group, span="rest", **options)
    assert reasoning.bonus == (0.2, 0.2, 0.2, 0.0, 0.2)
    wrong = tuple(
        Score(total=2.0, parts={**parts, zero: 0.0}) for zero in ("accuracy", "format", "accuracy", "seen", "format")
    )
    group = RolloutGroup(sample=group.sample, prompt=group.prompt, rollouts=rollouts, scores=wrong)
    assert length_bonus(group, span="rest", **options).bonus == (0.0,) * 5


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({"form": "exp"}, [2.718282, 1.648721, 1.0]),
        ({"form": "log"}, [3.912023, 0.653926, 0.0]),
        ({"form": "log", "negative": "keep"}, [3.912023, 0.653926, -0.019803]),
        ({"form": "power", "power": 2.0}, [1.1025, 0.3025, 0.0025]),
        ({"form": "power"}, [1.05, 0.55, 0.05]),
    ],
)
def test_difficulty_weights_by_the_notes(options: dict[str, Any], weights: list[float]) -> None:
    for values, weight in zip(([0.0, 0.0], [1.0, 0.0], [1.0, 1.0]), weights, strict=True):
        group = scored(values)
        assert after(group, (difficulty_weight, options)).factor == pytest.approx(weight, abs=1e-6)
        assert totals(after(group, (difficulty_weight, options))) == totals(group)


def test_difficulty_weights_do_not_turn_the_sign_beyond_their_range() -> None:
    assert difficulty_weight(scored([2.0, 2.0]), form="power", power=0.5).factor == 0
    assert difficulty_weight(scored([-1.0]), form="log").factor == pytest.approx(3.912023)
    assert difficulty_weight(scored([None])) == Change()
    twice = after(scored([0.0, 0.0]), (difficulty_weight, {}), (difficulty_weight, {}))
    assert twice.factor == pytest.approx(math.e**2)


CLEAN, TWO, NONE = "<answer>a</answer>", "<answer>a</answer><answer>b</answer>", "a"


def test_resampling_keeps_clean_right_answers_and_the_ratio() -> None:
    texts = [TWO, CLEAN, NONE, CLEAN, CLEAN, NONE, TWO, CLEAN]
    group = scored([1, 1, 1, 1, 0, 0, 0, 0], texts=texts)
    change = resample_correct(group, keep=4)
    assert change.keep == (False, True, False, True, True, True, False, False)
    shaped = apply(group, change, "resample_correct", 1.0)
    assert [score.total for score in shaped.scores] == [None, 2, None, 2, 1, 1, None, None]
    assert advantages(shaped) == pytest.approx([0, 0.8659, 0, 0.8659, -0.8659, -0.8659, 0, 0], abs=5e-5)
    assert (shaped.scores[0].parts, shaped.scores[0].flags) == ({}, {"left_out": True})


@pytest.mark.parametrize(
    ("right", "keep", "least", "kept"),
    [
        (8, 4, 2, (4, 0)),
        (7, 4, 2, (3, 1)),
        (6, 4, 2, (2, 2)),  # round(1.0) of 2 wrong ones is raised to min_wrong
        (1, 4, 2, (1, 3)),
        (0, 4, 2, (0, 4)),
        (5, 4, 0, (2, 2)),  # 2.5 and 1.5, rounded to even
        (4, 3, 0, (1, 2)),  # 1.5 and 1.5 would be 4 in all: the wrong ones are counted first
    ],
)
def test_how_many_are_kept(right: int, keep: int, least: int, kept: tuple[int, int]) -> None:
    group = scored([1.0] * right + [0.0] * (8 - right))
    choices: list[Literal["cleanest", "sampled"]] = ["cleanest", "sampled"]
    for choice in choices:
        keeps = resample_correct(group, keep=keep, min_right=least, min_wrong=least, choice=choice).keep
        assert (sum(keeps[:right]), sum(keeps[right:])) == kept


@pytest.mark.parametrize("right", [2, 4])
def test_too_few_of_one_kind_alone_are_filled_up(right: int) -> None:
    """Of 6 answers 3 are kept: 2 of one kind, and 1 of the other, which is raised to 2 where it is the right ones."""
    keeps = resample_correct(scored([1.0] * right + [0.0] * (6 - right)), keep=3).keep
    assert (sum(keeps[:right]), sum(keeps[right:])) == (2, 1)


def test_two_answer_blocks_in_two_turns_are_cleaner_than_in_one() -> None:
    """Penalties: no block or two in one turn 1.5 (the first is kept), two in two turns 1; without turns as with one."""
    three = TWO + CLEAN
    segment = answer().segments[0]
    said = replace(segment, kind="observation")
    for text, segments, kept in (
        (three, (segment,), 0),
        (TWO, (segment, said, segment), 1),
        (TWO, (said,), 0),
    ):
        group = scored([1.0, 1.0, 0.0], texts=[NONE, text, NONE])
        first, second, third = group.rollouts
        group = replace(group, rollouts=(first, replace(second, segments=segments), third))
        keep = resample_correct(group, keep=2, min_right=1, min_wrong=1).keep
        assert [place for place in (0, 1) if keep[place]] == [kept]
    tie = resample_correct(scored([1.0, 1.0, 0.0], texts=[three, NONE, NONE]), keep=2, min_right=1, min_wrong=1)
    assert tie.keep == (True, False, True), "more blocks than turns cost no more than none"


def test_a_group_that_is_too_small_or_not_wholly_scored_is_left_as_it_is() -> None:
    assert resample_correct(scored([1.0, 0.0]), keep=2, min_right=1, min_wrong=1) == Change()
    assert resample_correct(scored([1.0, 0.0, None, 1.0]), keep=2) == Change()
    assert resample_correct(scored([1.0, 0.0, 0.0, 1.0]), keep=2) == Change(), "1 and 1: fewer than min_ of both"


def test_resampling_by_chance_prefers_clean_answers() -> None:
    """Penalties 0.5 and 1.5: a clean one of two right answers is the first to be drawn three times as often."""
    clean = 0
    for seed in range(400):
        group = scored([1.0, 1.0, 0.0, 0.0], texts=[CLEAN, NONE, CLEAN, CLEAN])
        rollouts = tuple(answer(9, rollout.text, 10 * seed + i) for i, rollout in enumerate(group.rollouts))
        group = RolloutGroup(sample=group.sample, prompt=group.prompt, rollouts=rollouts, scores=group.scores)
        keep = resample_correct(group, keep=2, min_right=1, min_wrong=1, choice="sampled").keep
        assert sum(keep[:2]) == sum(keep[2:]) == 1
        clean += keep[0]
    assert clean / 400 == pytest.approx(0.75, abs=0.06)


@pytest.mark.parametrize("mode", ["paper", "code"])
def test_shapers_do_not_depend_on_the_order_of_a_group(mode: Literal["paper", "code"]) -> None:
    values, order = [0.2, 1.0, 0.6, 0.0], [2, 0, 3, 1]
    bonus = temporal_bonus(scored(values, [0.1]), mode=mode).bonus
    again = temporal_bonus(scored([values[i] for i in order], [0.1]), mode=mode).bonus
    assert again == tuple(bonus[i] for i in order)
