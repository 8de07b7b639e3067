"""Update time (forward + backward) of one prompt with G answers: packed tree row against a fair padded forward.

    python benchmarks/update_time.py [--repeats 5] [--threads 2] [--attention merge] [--clock wall]

Both sides: the same Qwen2.5-VL weights (float32, everything trained), the same chunked LM head on answer tokens only,
SDPA's causal kernel without a mask. The padded side repeats prompt and media per answer in one batch, as trainers do;
answers have equal length, so nothing is padded. The two sides take turns in one process; medians are reported.

The ceiling is what counting tokens allows: G (T + A) / (T + G A) for a prompt of T and answers of A tokens; for image
prompts, whose tower runs once instead of G times, G. The model is small enough for minutes on two cores and large
enough (5 M parameters) that arithmetic outweighs Python; the vision tower costs about as much per prompt token as the
language model, as in Qwen2.5-VL-3B.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmreason.collate import merge_media, pack
from mmreason.config import ModelConfig
from mmreason.demo.tiny import build_tiny
from mmreason.policy.head import ScoringPlan
from mmreason.policy.policy import Policy, load_policy
from mmreason.policy.positions import expand_ids
from mmreason.types import MediaTensors, Segment, Tree

ANSWER = 64
PROMPTS = (64, 256, 1024)
GROUPS = (4, 8, 16)
SIZES: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "layers": 4,
    "heads": 4,
    "kv_heads": 2,
    "vision_depth": 4,
    "vision_hidden_size": 128,
}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
IMAGES = {64: (14, 14), 256: (30, 30), 1024: (62, 62)}
"""Prompt length -> (height, width) in patches; four patches make a token."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--attention", choices=["merge", "dense"], default="merge")
    options.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: for a busy machine, 1 thread")
    options.add_argument("--prompts", type=int, nargs="+", default=PROMPTS, choices=PROMPTS)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    with tempfile.TemporaryDirectory() as folder:
        build_tiny("qwen2_5_vl", Path(folder), **SIZES)
        policy = load_policy(ModelConfig(path=folder, freeze=(), attention=chosen.attention))
    size = sum(parameter.numel() for parameter in policy.base.parameters()) / 1e6
    print(f"{size:.1f} M parameters, answers of {ANSWER} tokens, {chosen.repeats} repeats, ", end="")
    print(f"{chosen.threads} threads, {chosen.clock} time\n")
    print("| prompt | tokens | G | tree, ms | padded, ms | measured | ceiling | share |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for kind in ("text", "image"):
        for tokens in chosen.prompts:
            for group in GROUPS:
                print(measure(policy, kind, tokens, group, chosen.repeats, CLOCKS[chosen.clock]), flush=True)


def measure(policy: Policy, kind: str, tokens: int, group: int, repeats: int, clock: Callable[[], float]) -> str:
    """One row of the table."""
    tree = make_tree(policy, kind, tokens, group)
    sides = (tree_update(policy, tree), padded_update(policy, tree))
    scores = [side() for side in sides]
    assert (scores[0] - scores[1]).abs().max() < 1e-4, "the two sides compute different things"
    times: list[list[float]] = [[], []]
    for _ in range(repeats):
        for side, found in zip(sides, times, strict=True):
            start = clock()
            side()
            found.append(1000 * (clock() - start))
    tree_ms, padded_ms = (statistics.median(found) for found in times)
    ratio = padded_ms / tree_ms
    ceiling = group if kind == "image" else group * (tokens + ANSWER) / (tokens + group * ANSWER)
    numbers = f"{tree_ms:.0f} | {padded_ms:.0f} | {ratio:.2f} x | {ceiling:.2f} x | {ratio / ceiling:.2f}"
    return f"| {kind} | {tokens} | {group} | {numbers} |"


def make_tree(policy: Policy, kind: str, tokens: int, group: int) -> Tree:
    """A prompt of exactly `tokens` tokens, with or without an image, and `group` answers."""
    torch.manual_seed(0)
    media: tuple[MediaTensors, ...] = ()
    ids = torch.randint(3, 250, (tokens,))
    if kind == "image":
        grid = (1, *IMAGES[tokens])
        patches = grid[1] * grid[2]
        kwargs = {"pixel_values": torch.randn(patches, 3 * 2 * 14 * 14), "image_grid_thw": torch.tensor([grid])}
        media = (MediaTensors(kind="image", kwargs=kwargs, tokens=patches // 4, grid=grid),)
        start, end = policy.rules.wrapper["image"]
        block = expand_ids(torch.tensor([start, policy.rules.placeholder["image"], end]), media, policy.rules)
        ids = torch.cat([block, ids[len(block) :]])
    prompt = Segment(kind="prompt", ids=ids, loss_mask=torch.zeros(tokens, dtype=torch.bool), media=media)
    answers = [
        Segment(
            kind="policy",
            parent=0,
            ids=torch.randint(3, 250, (ANSWER,)),
            loss_mask=torch.ones(ANSWER, dtype=torch.bool),
        )
        for _ in range(group)
    ]
    return Tree(id="t", segments=(prompt, *answers))


def tree_update(policy: Policy, tree: Tree) -> Callable[[], Tensor]:
    (row,) = pack([tree], tree.tokens, policy.positions)

    def update() -> Tensor:
        policy.model.zero_grad()
        scores = policy.token_scores(row).logprob[row.loss_mask]
        torch.autograd.backward(scores.mean())
        return scores.detach()

    return update


def padded_update(policy: Policy, tree: Tree) -> Callable[[], Tensor]:
    """One sequence per answer in one batch; without a tree layout the attention is SDPA's causal kernel."""
    prompt, *answers = tree.segments
    ids_BT = torch.stack([torch.cat([prompt.ids, answer.ids]) for answer in answers])
    positions, following = policy.positions(prompt, 0)
    tail = torch.arange(following, following + ANSWER).expand(3, -1)
    positions_3BT = torch.cat([positions, tail], dim=1)[:, None].expand(-1, len(answers), -1)
    media = merge_media([item for _ in answers for item in prompt.media])
    rows, length = ids_BT.shape
    places = torch.cat([torch.arange(length - ANSWER, length) + row * length for row in range(rows)])
    plan = ScoringPlan(
        source=places - 1, targets=ids_BT.flatten()[places], banned=policy.banned, chunk=policy.config.head_chunk
    )

    def update() -> Tensor:
        policy.model.zero_grad()
        with policy.head.scoring(plan):
            out = policy.model(
                input_ids=ids_BT,
                position_ids=positions_3BT,
                attention_mask={"full_attention": None},
                use_cache=False,
                **media,
            )
        scores: Tensor = out.logits[0, :, 0]
        torch.autograd.backward(scores.mean())
        return scores.detach()

    return update


if __name__ == "__main__":
    main()
