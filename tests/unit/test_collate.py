"""Packing, splitting and equalising, with positions that simply count (or with a real policy's where media matter)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor

from mmreason.collate import equalize, merge_media, pack, split_tree, to_device
from mmreason.config import ModelConfig
from mmreason.demo.tiny import build_tiny
from mmreason.errors import AlignmentError, DataError
from mmreason.policy.policy import Policy, load_policy
from mmreason.types import MediaTensors, Segment, Span, Tree


def count(segment: Segment, start: int) -> tuple[Tensor, int]:
    length = segment.ids.shape[0]
    return torch.arange(start, start + length).expand(3, -1), start + length


def segment(length: int, parent: int = -1, first_id: int = 0, **columns: float) -> Segment:
    return Segment(
        kind="prompt" if parent < 0 else "policy",
        parent=parent,
        ids=torch.arange(first_id, first_id + length),
        loss_mask=torch.full((length,), parent >= 0),
        columns={name: torch.full((length,), value) for name, value in columns.items()},
    )


def tree(name: str, prompt: int, answers: Sequence[int], first_id: int = 0) -> Tree:
    return Tree(id=name, segments=(segment(prompt, first_id=first_id), *(segment(n, 0, first_id) for n in answers)))


def test_a_row_by_hand() -> None:
    """A prompt of 3 with answers of 2 and 3, then a prompt of 2 with one answer of 1."""
    first = Tree(id="a", segments=(segment(3), segment(2, 0, advantage=1.5), segment(3, 0, advantage=-1.5)))
    (row,) = pack([first, tree("b", 2, [1])], 100, count)
    assert row.spans == (
        Span(start=0, stop=3, parent=-1, subtree_stop=8),
        Span(start=3, stop=5, parent=0, subtree_stop=5),
        Span(start=5, stop=8, parent=0, subtree_stop=8),
        Span(start=8, stop=10, parent=-1, subtree_stop=11),
        Span(start=10, stop=11, parent=3, subtree_stop=11),
    )
    assert row.source.tolist() == [-1, 0, 1, 2, 3, 2, 5, 6, -1, 8, 9]
    assert row.positions[0].tolist() == [0, 1, 2, 3, 4, 3, 4, 5, 0, 1, 2]
    assert row.loss_mask.tolist() == [False] * 3 + [True] * 5 + [False] * 2 + [True]
    assert row.columns["advantage"].tolist() == [0, 0, 0, 1.5, 1.5, -1.5, -1.5, -1.5, 0, 0, 0]
    assert row.trees == ("a", "b")
    assert row.repeated_tokens == 0


def test_source_skips_empty_segments() -> None:
    """An empty answer has no last token; its child is predicted by the prompt's."""
    nested = Tree(id="a", segments=(segment(2), segment(0, 0), segment(2, 1)))
    (row,) = pack([nested], 100, count)
    assert row.source.tolist() == [-1, 0, 1, 2]


def test_first_fit_decreasing_is_deterministic_and_keeps_order_in_a_row() -> None:
    sizes = [30, 60, 10, 40, 20, 35]
    trees = [tree(str(index), size - 1, [1]) for index, size in enumerate(sizes)]
    rows = pack(trees, 100, count)
    assert [row.trees for row in rows] == [("0", "2", "4", "5"), ("1", "3")]
    assert [row.trees for row in pack(trees, 100, count)] == [row.trees for row in rows]


def test_no_row_is_over_budget_and_nothing_is_lost() -> None:
    chance = random.Random(0)
    trees = [tree(str(i), chance.randint(1, 60), [chance.randint(1, 30) for _ in range(4)]) for i in range(40)]
    rows = pack(trees, 128, count)
    assert all(row.ids.shape[0] <= 128 for row in rows)
    assert sum(int(row.loss_mask.sum()) for row in rows) == sum(t.tokens - len(t.segments[0].ids) for t in trees)
    assert sum(row.ids.shape[0] - row.repeated_tokens for row in rows) == sum(t.tokens for t in trees)


def test_a_tree_over_budget_is_split_by_branches() -> None:
    rows = pack([tree("big", 10, [4, 4, 4, 4])], 20, count)
    assert [[span.stop - span.start for span in row.spans] for row in rows] == [[10, 4, 4], [10, 4, 4]]
    assert [row.repeated_tokens for row in rows] == [0, 10]
    assert [row.positions[0, 10:].tolist() for row in rows] == [[10, 11, 12, 13] * 2] * 2


def test_an_inner_answer_keeps_its_loss_in_one_copy_only() -> None:
    """prompt(4) -> answer(3) -> two continuations(5): split in two, the inner answer is trained on once."""
    deep = Tree(id="deep", segments=(segment(4), segment(3, 0), segment(5, 1), segment(5, 1)))
    first, second = split_tree(deep, 12)
    assert [int(s.loss_mask.sum()) for s in first.tree.segments] == [0, 3, 5]
    assert [int(s.loss_mask.sum()) for s in second.tree.segments] == [0, 0, 5]
    assert (first.repeated, second.repeated) == (0, 7)


def test_one_path_over_budget_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(DataError, match=r"q7: one path of 33 tokens .* row of 32; raise train.row_tokens"):
        pack([tree("q7", 30, [2, 3])], 32, count)


def test_a_loss_without_context_is_refused() -> None:
    answer = Segment(kind="policy", ids=torch.arange(3), loss_mask=torch.ones(3, dtype=torch.bool))
    with pytest.raises(AssertionError, match="no context"):
        pack([Tree(id="x", segments=(answer,))], 100, count)


def test_media_are_joined_per_name_and_sounds_padded() -> None:
    sounds = [
        MediaTensors(
            kind="audio",
            kwargs={"input_features": torch.ones(1, 2, n), "feature_attention_mask": torch.ones(1, n)},
            tokens=1,
        )
        for n in (3, 5)
    ]
    picture = MediaTensors(kind="image", kwargs={"pixel_values": torch.ones(4, 6)}, tokens=1)
    merged = merge_media([sounds[0], picture, sounds[1], picture])
    assert merged["pixel_values"].shape == (8, 6)
    assert merged["input_features"].shape == (2, 2, 5)
    assert merged["feature_attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1] * 5]
    assert merge_media([]) == {}


def test_to_device_moves_every_tensor() -> None:
    (row,) = pack([tree("a", 3, [2])], 100, count)
    moved = to_device(row, "meta")
    assert {x.device.type for x in (moved.ids, moved.positions, moved.source, moved.loss_mask)} == {"meta"}


# ---- equal work on every process ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def omni_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny("qwen2_5_omni", tmp_path_factory.mktemp("omni"))


def media_tree(policy: Policy, name: str, kinds: Sequence[str]) -> Tree:
    """A prompt with one smallest item of each kind and two answers."""
    prompt = policy.dummy_tree(kinds).segments[0]
    return Tree(id=name, segments=(prompt, segment(3, 0, 300, advantage=1.0), segment(2, 0, 300, advantage=-1.0)))


def test_one_process_changes_nothing(omni_folder: Path) -> None:
    policy = load_policy(ModelConfig(path=str(omni_folder)))
    rows = pack([media_tree(policy, "a", ["image"]), media_tree(policy, "b", [])], 20, policy.positions)
    assert equalize(rows, policy, lambda value: [value]) == rows
    assert equalize([], policy, lambda value: [value]) == []


def test_every_trained_tower_takes_part_in_every_row(omni_folder: Path) -> None:
    """The default trains both projectors; with more than one process a text row gets an image and a sound."""
    policy = load_policy(ModelConfig(path=str(omni_folder)))
    rows = pack([media_tree(policy, "text", [])], 100, policy.positions)
    (row,) = equalize(rows, policy, lambda mine: [mine, mine])
    assert {"pixel_values", "input_features"} <= row.media.keys()
    language_only = load_policy(ModelConfig(path=str(omni_folder), freeze=("vision", "audio", "projector")))
    assert equalize(rows, language_only, lambda mine: [mine, mine]) == rows


def test_a_lacking_process_gets_dummies(omni_folder: Path) -> None:
    """What rank 0 does when rank 1 has two rows, the second with image and audio."""
    policy = load_policy(ModelConfig(path=str(omni_folder), freeze=("vision", "audio", "projector")))
    (row,) = pack([media_tree(policy, "mine", ["video"])], 100, policy.positions)
    other: list[set[str]] = [{"image"}, {"audio", "image"}]
    first, second = equalize([row], policy, lambda mine: [mine, other])
    assert first.trees == ("mine", "dummy")
    assert {"pixel_values", "pixel_values_videos"} <= first.media.keys()
    assert torch.equal(first.columns["advantage"][: len(row.ids)], row.columns["advantage"])
    assert int(first.loss_mask.sum()) == int(row.loss_mask.sum())
    assert second.trees == ("dummy",)
    assert {"pixel_values", "input_features"} <= second.media.keys()
    assert not second.loss_mask.any()


def test_a_dummy_tree_changes_no_score_and_no_gradient(omni_folder: Path) -> None:
    policy = load_policy(ModelConfig(path=str(omni_folder), freeze=()))
    (row,) = pack([media_tree(policy, "mine", ["video"])], 100, policy.positions)
    (padded,) = equalize([row], policy, lambda mine: [mine, [{"image", "audio", "video"}]])
    found = []
    for batch in (row, padded):
        policy.model.zero_grad()
        scores = policy.token_scores(batch).logprob[: len(row.ids)]
        torch.autograd.backward(scores.sum())
        found.append((scores.detach(), {n: p.grad.clone() for n, p in policy.trained() if p.grad is not None}))
    (scores, gradients), (padded_scores, padded_gradients) = found
    assert (scores - padded_scores).abs().max() < 1e-6
    assert gradients.keys() < padded_gradients.keys()  # the audio tower takes part now, with gradients of zero
    for name, gradient in padded_gradients.items():
        assert (gradient - gradients.get(name, torch.zeros_like(gradient))).norm() < 1e-5 * gradient.norm() + 1e-7


def test_two_processes_train_in_step(omni_folder: Path, tmp_path: Path) -> None:
    """Real gloo processes under DDP: unequal rows, unequal modalities; without dummies this would hang or fail."""
    spawn: Any = torch.multiprocessing.spawn  # type: ignore[attr-defined]
    spawn(_train_process, args=(omni_folder, tmp_path), nprocs=2)
    mine, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert mine["rows"] == other["rows"] == 2
    assert mine["weights"].keys() == other["weights"].keys()
    assert all(torch.equal(mine["weights"][name], other["weights"][name]) for name in mine["weights"])
    assert any(not torch.equal(mine["weights"][name], mine["before"][name]) for name in mine["weights"])


def _train_process(rank: int, checkpoint: Path, out: Path) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{out / 'store'}"
    limit = timedelta(seconds=60)
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=limit)
    policy = load_policy(ModelConfig(path=str(checkpoint), freeze=()))
    before = {name: parameter.detach().clone() for name, parameter in policy.trained()}
    wrapped = torch.nn.parallel.DistributedDataParallel(policy.model)
    optimizer = torch.optim.SGD([parameter for _, parameter in policy.trained()], lr=0.1)
    kinds: list[list[str]] = [[]] if rank == 0 else [["image", "audio"], ["video"]]
    rows = [row for k in kinds for row in pack([media_tree(policy, "t", k)], 100, policy.positions)]

    def gather(value: Any) -> list[Any]:
        everyone = [None, None]
        torch.distributed.all_gather_object(everyone, value)
        return everyone

    rows = equalize(rows, policy, gather)
    for row in rows:
        optimizer.zero_grad()
        torch.autograd.backward(-policy.token_scores(row, forward=wrapped).logprob.sum())
        optimizer.step()
    after = {name: parameter.detach() for name, parameter in policy.trained()}
    torch.save({"rows": len(rows), "weights": after, "before": before}, out / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_media_and_ids_that_do_not_match_are_found_when_packing(omni_folder: Path) -> None:
    policy = load_policy(ModelConfig(path=str(omni_folder)))
    prompt = policy.dummy_tree(["image"]).segments[0]
    bare = Segment(kind="prompt", ids=prompt.ids, loss_mask=prompt.loss_mask)
    with pytest.raises(AlignmentError, match="placeholder for image"):
        pack([Tree(id="x", segments=(bare,))], 100, policy.positions)
