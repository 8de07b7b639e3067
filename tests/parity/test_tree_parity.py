"""Packed tree rows against unmodified transformers: one padded sequence per answer, our position ids, float32.

Log-probs agree within 1e-5, every gradient within 1e-5 (norm of the difference over norm of the oracle's, per tensor).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from mmreason.collate import pack
from mmreason.policy.families import FAMILIES
from mmreason.policy.policy import Policy
from mmreason.types import Batch, Tree
from tests.parity.trees import GAPS, Maker, gradients, padded_scores

MakePolicy = Callable[..., Policy]
MakeOracle = Callable[[str], PreTrainedModel]

LOGPROB, GRADIENT, FLOOR = 1e-5, 1e-5, 1e-7

ALL = tuple(FAMILIES)
SEE = tuple(name for name, family in FAMILIES.items() if "image" in family.placeholders)
HEAR = tuple(name for name, family in FAMILIES.items() if "audio" in family.placeholders)
BOTH = tuple(name for name in SEE if name in HEAR)
ROWS: dict[str, tuple[tuple[str, ...], Callable[[Maker, Policy], list[Tree]]]] = {
    "image and text": (
        SEE,
        lambda m, p: [m.tree(p, "image", [m.image(4, 6)], [5, 9, 3, 7]), m.tree(p, "text", [], [6, 3, 3, 5])],
    ),
    "several images and video": (
        SEE,
        lambda m, p: [
            m.tree(p, "images", [m.image(4, 6), m.image(8, 4), m.image(4, 4)], [5, 1, 3, 7]),
            m.tree(p, "video", [m.video(3, 4, 4, 0.5)], [4, 6, 2, 8]),
        ],
    ),
    "mixed prompt, long video, equal lengths": (
        SEE,
        lambda m, p: [
            m.tree(p, "mix", [m.image(6, 4), m.video(2, 4, 6, 1.0), m.image(4, 4)], [5, 5, 5, 5]),
            m.tree(p, "long", [m.video(20, 4, 4, 1.0)], [9, 4, 4, 4, 4, 4, 4, 4]),
        ],
    ),
    "sounds and text": (
        HEAR,
        lambda m, p: [
            m.tree(p, "sound", [m.audio(97)], [5, 9, 3, 7]),
            m.tree(p, "sounds", [m.audio(230), m.audio(8), m.audio(61)], [4, 4, 8, 2]),
            m.tree(p, "text", [], [6, 3, 3, 5]),
        ],
    ),
    "image, video, audio and text": (
        BOTH,
        lambda m, p: [
            m.tree(p, "image", [m.image(4, 6)], [5, 9, 3, 7]),
            m.tree(p, "video", [m.video(3, 4, 4, 0.5)], [4, 6, 2, 8]),
            m.tree(p, "audio", [m.audio(97)], [4, 4, 8, 2]),
            m.tree(p, "text", [], [6, 3, 3, 5]),
        ],
    ),
    "sounds of different length, everything in one prompt": (
        BOTH,
        lambda m, p: [
            m.tree(p, "audio", [m.audio(4)], [3, 5, 6, 2]),
            m.tree(p, "all", [m.audio(230), m.image(4, 4), m.video(2, 4, 6, 1.0), m.audio(61)], [3, 5, 6, 2]),
        ],
    ),
    "video with its own sound": (
        BOTH,
        lambda m, p: [
            m.tree(p, "short", [m.video(2, 4, 4, 1.0), m.audio(130, joined=True)], [3, 5, 6, 2]),
            m.tree(p, "long", [m.video(5, 4, 4, 1.0), m.audio(430, joined=True), m.audio(30)], [5, 4, 3, 2]),
        ],
    ),
}
CASES = [pytest.param(name, family, id=f"{family}: {name}") for name, row in ROWS.items() for family in row[0]]


@pytest.mark.parametrize("formulation", ["dense", "merge"])
@pytest.mark.parametrize(("row", "family"), CASES)
def test_row_equals_padded_sequences(
    row: str, family: str, formulation: str, make_policy: MakePolicy, make_oracle: MakeOracle
) -> None:
    policy = make_policy(family, attention=formulation)
    trees = ROWS[row][1](Maker(policy), policy)
    assert_parity(policy, make_oracle(family), trees, pack(trees, 4096, policy.positions))


@pytest.mark.parametrize("formulation", ["dense", "merge"])
@pytest.mark.parametrize("family", ALL)
def test_with_gradient_checkpointing(
    family: str, formulation: str, make_policy: MakePolicy, make_oracle: MakeOracle
) -> None:
    policy = make_policy(family, attention=formulation, gradient_checkpointing=True)
    maker = Maker(policy)
    rows = ("image and text", "several images and video") if family in SEE else ("sounds and text",)
    trees = [tree for name in rows for tree in ROWS[name][1](maker, policy)]
    assert_parity(policy, make_oracle(family), trees, pack(trees, 4096, policy.positions))


@pytest.mark.parametrize("formulation", ["dense", "merge"])
@pytest.mark.parametrize("family", ALL)
def test_depth_three_with_media_inside_branches(
    family: str, formulation: str, make_policy: MakePolicy, make_oracle: MakeOracle
) -> None:
    policy = make_policy(family, attention=formulation)
    maker = Maker(policy)
    trees = [deep_tree(maker, policy), maker.tree(policy, "text", [], [6, 3, 3, 5])]
    assert_parity(policy, make_oracle(family), trees, pack(trees, 4096, policy.positions))


@pytest.mark.parametrize("formulation", ["dense", "merge"])
@pytest.mark.parametrize("family", ALL)
def test_tree_split_over_rows(family: str, formulation: str, make_policy: MakePolicy, make_oracle: MakeOracle) -> None:
    policy = make_policy(family, attention=formulation)
    trees = [deep_tree(Maker(policy), policy)]
    rows = pack(trees, 70, policy.positions)
    assert len(rows) >= 2
    assert sum(row.repeated_tokens for row in rows) > 0
    assert_parity(policy, make_oracle(family), trees, rows)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")  # on the CPU it is a reference only
@pytest.mark.parametrize("family", ALL)
def test_flex_forward(family: str, make_policy: MakePolicy, make_oracle: MakeOracle) -> None:
    """FlexAttention has no backward on the CPU; its forward takes the same spans to the same log-probs."""
    policy = make_policy(family, attention="flex")
    maker = Maker(policy)
    item = maker.video(3, 4, 4, 0.5) if family in SEE else maker.audio(97)
    trees = [deep_tree(maker, policy), maker.tree(policy, "other", [item], [4, 6, 2, 8])]
    (row,) = pack(trees, 4096, policy.positions)
    with torch.no_grad():
        expected = padded_scores(make_oracle(family), policy, trees)
    scores = policy.token_scores(row, grad=False).logprob[row.loss_mask]
    assert (scores - expected).abs().max() < LOGPROB


def test_temperature(make_policy: MakePolicy, make_oracle: MakeOracle) -> None:
    policy = make_policy("qwen2_5_vl")
    maker = Maker(policy)
    trees = [maker.tree(policy, "image", [maker.image(4, 4)], [5, 3, 4, 6])]
    (row,) = pack(trees, 4096, policy.positions)
    scores = policy.token_scores(row, temperature=0.6, grad=False).logprob[row.loss_mask]
    expected = padded_scores(make_oracle("qwen2_5_vl"), policy, trees, temperature=0.6)
    assert (scores - expected).abs().max() < LOGPROB


def test_a_branch_that_sees_its_sibling_is_noticed(make_policy: MakePolicy, make_oracle: MakeOracle) -> None:
    """The comparison itself can fail: let the second answer see the first."""
    policy = make_policy("qwen2_5_vl", attention="dense")
    maker = Maker(policy)
    trees = [maker.tree(policy, "text", [], [5, 5])]
    (row,) = pack(trees, 4096, policy.positions)
    prompt, first, second = row.spans
    row = replace(row, spans=(prompt, replace(first, subtree_stop=second.stop), second))
    with pytest.raises(AssertionError, match="log-probs"):
        assert_parity(policy, make_oracle("qwen2_5_vl"), trees, [row])


def deep_tree(maker: Maker, policy: Policy) -> Tree:
    """Prompt -> two first turns -> an observation with a crop -> continuations; the first turns are trained as well."""
    prompt = maker.segment(policy, [maker.crop(6)])
    crop = maker.segment(policy, [maker.crop(4)], parent=1, kind="observation")
    other_crop = maker.segment(policy, [maker.crop(8)], parent=5, kind="observation")
    return Tree(
        id="deep",
        segments=(
            prompt,
            maker.answer(6),
            crop,
            maker.answer(5, parent=2),
            maker.answer(7, parent=2),
            maker.answer(8),
            other_crop,
            maker.answer(4, parent=6),
        ),
    )


def assert_parity(policy: Policy, oracle: PreTrainedModel, trees: list[Tree], rows: list[Batch]) -> None:
    """Log-probs and every gradient of sum(w * log-prob), w different for every token."""
    scores = torch.cat([policy.token_scores(row).logprob[row.loss_mask] for row in rows])
    expected = padded_scores(oracle, policy, trees)
    worst = float((scores - expected).detach().abs().max())
    assert worst < LOGPROB, f"log-probs differ by {worst:.1e}"
    weights = torch.sin(torch.arange(len(expected), dtype=torch.float32) + 1)
    torch.autograd.backward((scores * weights).sum())
    torch.autograd.backward((expected * weights).sum())
    fixed = policy.family.never_trained
    ours, theirs = gradients(policy.base, fixed), gradients(oracle, fixed)
    assert ours.keys() == theirs.keys()
    silent = {name for name, gradient in theirs.items() if not gradient.any()}
    assert silent <= {name for name in theirs if policy.family.part_of(name) != "language"}, silent
    shares = [
        float((ours[name] - theirs[name]).norm() / theirs[name].norm().clamp(min=FLOOR / GRADIENT)) for name in theirs
    ]
    GAPS.setdefault(policy.family.name, []).append((worst, max(shares)))
    for name in theirs:
        assert _close(ours[name], theirs[name]), f"{name}: {(ours[name] - theirs[name]).norm():.1e}"


def _close(ours: Tensor, theirs: Tensor) -> bool:
    return bool((ours - theirs).norm() <= GRADIENT * theirs.norm() + FLOOR)
