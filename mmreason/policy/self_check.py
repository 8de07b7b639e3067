"""A check before training: does the tree forward in use compute what an ordinary forward of each answer computes?

It takes the real config at tiny size (few layers, small towers, few ids; head shapes, rotary sections, windows and
merging as they are), random weights in float32, one row with a tree per modality and one deeper tree, and compares
with transformers' own forward, one sequence per answer. A library update that changes what a mask, a position or a
keyword means stops the run here instead of spoiling it. Takes seconds.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from mmreason.collate import merge_media, pack
from mmreason.errors import ModelError
from mmreason.policy.families import Family
from mmreason.policy.head import ScoringHead
from mmreason.policy.policy import Policy, prepare_attention
from mmreason.types import Batch, Segment, Tree

TOLERANCE = 1e-4
"""Largest difference of a log-prob, and of a gradient relative to its norm. Rounding gives 1e-6; a wrong mask 1e-2."""

_VOCABULARY = 64


def self_check(policy: Policy) -> dict[str, float]:
    """Compare and return the differences found. Raises ModelError, naming the check, when one is over TOLERANCE.

    Leaves the policy, its gradients and the random state as they were.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = _tiny_model(policy.family, policy.base.config)
        plain.to(policy.device)  # type: ignore[arg-type]  # the decorator around `to` loses its signature
        tiny = _tiny_policy(policy, copy.deepcopy(plain))
        trees = _trees(tiny)
        found = {
            **_against_plain(tiny, plain, trees),
            **_step_zero(tiny, trees),
            "order of packing": _order_of_packing(tiny, trees),
        }
    wrong = {name: value for name, value in found.items() if not value <= TOLERANCE}
    if wrong:
        name, value = max(wrong.items(), key=lambda item: item[1])
        raise ModelError(
            f"start-up self-check of {policy.family.name} with {policy.formulation} attention failed: {name} differs "
            f"by {value:.2e} (at most {TOLERANCE:.0e}); these versions of torch {torch.__version__} and transformers "
            f"{transformers.__version__} do not compute packed rows as trained; see docs/families.md, or set "
            "model.self_check to false if you know why"
        )
    return found


def _tiny_model(family: Family, config: Any) -> PreTrainedModel:
    """The real architecture and conventions with small sizes and few ids."""
    tiny = copy.deepcopy(config)
    text = tiny.text_config
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    group = text.num_attention_heads // text.num_key_value_heads
    text.num_key_value_heads = min(text.num_key_value_heads, 2)
    text.num_attention_heads = text.num_key_value_heads * min(group, 2)
    text.hidden_size, text.intermediate_size = head_dim * text.num_attention_heads, 64
    text.num_hidden_layers = 2
    if hasattr(text, "layer_types"):
        text.layer_types = text.layer_types[:2]
    text.vocab_size, text.pad_token_id = _VOCABULARY, None
    family.shrink(tiny, text.hidden_size)
    rules = family.rules(config)
    for name in _token_names(config):
        if getattr(config, name) in rules.special_ids:
            setattr(tiny, name, 1 + rules.special_ids.index(getattr(config, name)))
    model: PreTrainedModel = getattr(transformers, family.model_class)(tiny).float()
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1) if parameter.ndim > 1 else parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def _token_names(config: Any) -> list[str]:
    return [name for name in dir(config) if name.endswith(("_token_id", "_token_index"))]


def _tiny_policy(policy: Policy, model: PreTrainedModel) -> Policy:
    prepare_attention(model)
    head = ScoringHead.install(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in policy.family.never_trained)
    if policy.config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    rules = policy.family.rules(model.config)
    return replace(
        policy,
        config=policy.config.model_copy(update={"lora": None, "head_chunk": 5}),
        model=model,
        base=model,
        head=head,
        rules=rules,
        banned=torch.tensor(rules.special_ids),
        reference=None,
    )


def _trees(tiny: Policy) -> list[Tree]:
    """A tree per kind of media, one of text, one three levels deep with media inside a branch."""
    kinds = list(tiny.rules.placeholder)
    shallow = [_tree(tiny, [kind], index) for index, kind in enumerate(kinds)]
    inner = _tree(tiny, kinds[:1], 7).segments
    nested = replace(inner[0], parent=1, kind="observation")
    prompt, first, second = _tree(tiny, kinds[-1:], 8).segments
    deep = (prompt, first, nested, *(replace(answer, parent=2) for answer in inner[1:]), second)
    return [*shallow, _tree(tiny, [], 9), Tree(id="deep", segments=deep)]


def _tree(tiny: Policy, kinds: Sequence[str], seed: int) -> Tree:
    """A prompt with one item of each kind, filled with noise, and two answers of different length."""
    random = torch.Generator().manual_seed(seed)
    prompt = tiny.dummy_tree(kinds).segments[0]
    noisy = tuple(
        replace(item, kwargs={name: _noise(tensor, random) for name, tensor in item.kwargs.items()})
        for item in prompt.media
    )
    first = len(tiny.rules.special_ids) + 1
    answers = [torch.randint(first, _VOCABULARY, (length,), generator=random) for length in (4, 7)]
    return Tree(
        id=f"{'+'.join(kinds)}{seed}",
        segments=(
            replace(prompt, media=noisy),
            *(
                Segment(kind="policy", parent=0, ids=ids, loss_mask=torch.ones(len(ids), dtype=torch.bool))
                for ids in answers
            ),
        ),
    )


def _noise(tensor: Tensor, random: torch.Generator) -> Tensor:
    if tensor.is_floating_point() and tensor.ndim > 1:
        return torch.randn(tensor.shape, generator=random)
    return tensor


def _against_plain(tiny: Policy, plain: PreTrainedModel, trees: Sequence[Tree]) -> dict[str, float]:
    """Log-probs and gradients of the packed row, against one plain forward per answer."""
    row = _row(tiny, trees)
    scores = tiny.token_scores(row).logprob[row.loss_mask.to(tiny.device)]
    torch.autograd.backward(scores.sum())
    answers = [(tree, i) for tree in trees for i, segment in enumerate(tree.segments) if segment.kind == "policy"]
    expected = torch.cat([_plain_logprobs(tiny, plain, tree, index) for tree, index in answers])
    torch.autograd.backward(expected.sum())
    trained = [name for name, parameter in tiny.model.named_parameters() if parameter.requires_grad]
    gradients = [
        float((_gradient(tiny.model, name) - _gradient(plain, name)).norm() / (_gradient(plain, name).norm() + 1e-3))
        for name in trained
    ]
    return {"log-prob": _largest(scores - expected), "gradient": max(gradients)}


def _plain_logprobs(tiny: Policy, plain: PreTrainedModel, tree: Tree, index: int) -> Tensor:
    """Log-probs of one answer from transformers' own forward of the path that leads to it."""
    path: list[Segment] = []
    while index >= 0:
        path.insert(0, tree.segments[index])
        index = tree.segments[index].parent
    positions, start = [], 0
    for segment in path:
        found, start = tiny.positions(segment, start)
        positions.append(found)
    ids = torch.cat([segment.ids for segment in path]).to(plain.device)
    media = merge_media([item for segment in path for item in segment.media])
    logits = plain(
        input_ids=ids[None],
        attention_mask=torch.ones_like(ids)[None],
        position_ids=tiny.position_ids(torch.cat(positions, dim=1)[:, None]).to(plain.device),
        use_cache=False,
        **{name: tensor.to(plain.device) for name, tensor in media.items()},
    ).logits[0]
    logits[:, tiny.banned] = float("-inf")
    answer = len(path[-1].ids)
    return torch.log_softmax(logits[-answer - 1 : -1], -1).gather(1, ids[-answer:, None])[:, 0]


def _step_zero(tiny: Policy, trees: Sequence[Tree]) -> dict[str, float]:
    """Before any update the ratio of new to old is 1 and their KL is 0; without advantage there is no gradient."""
    row = _row(tiny, trees)
    old = tiny.token_scores(row, grad=False).logprob
    tiny.model.zero_grad()
    ratio = (tiny.token_scores(row).logprob - old).exp()
    torch.autograd.backward((ratio * torch.zeros_like(ratio)).sum())
    gradients = [parameter.grad for parameter in tiny.model.parameters() if parameter.grad is not None]
    return {
        "ratio at step 0": _largest(ratio - 1),
        "KL at step 0": _largest(1 / ratio - 1 + ratio.log()),
        "gradient without advantage": max(_largest(gradient) for gradient in gradients),
    }


def _order_of_packing(tiny: Policy, trees: Sequence[Tree]) -> float:
    """The same trees in another order give the same log-probs."""
    found = []
    for order in (list(trees), list(reversed(trees))):
        row = _row(tiny, order)
        scores = tiny.token_scores(row, grad=False).logprob
        lengths = [tree.tokens for tree in order]
        found.append(dict(zip(row.trees, torch.split(scores, lengths), strict=True)))
    return max(_largest(found[0][name] - found[1][name]) for name in found[0])


def _row(tiny: Policy, trees: Sequence[Tree]) -> Batch:
    (row,) = pack(trees, sum(tree.tokens for tree in trees), tiny.positions)
    return row


def _gradient(model: nn.Module, name: str) -> Tensor:
    gradient = model.get_parameter(name).grad
    assert gradient is not None, f"{name} took no part in the forward"
    return gradient


def _largest(difference: Tensor) -> float:
    return float(difference.detach().abs().max())
