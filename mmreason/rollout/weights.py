"""The trained weights as an engine takes them, and the canary that proves that it has them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from mmreason.collate import pack
from mmreason.errors import EngineError
from mmreason.policy.checkpoint import is_critic, merge_adapters
from mmreason.policy.policy import Policy
from mmreason.rollout.base import AnswerEngine, SamplingParams
from mmreason.types import Segment, Tree

_JOINED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers that vLLM has as one. Its reload makes such a layer anew, so that what it is not given of it is undefined."""
_CANARY_TOKENS = 4
_CHANGED = 1e-6
"""Log-probs in float32 that differ by less are those of the same weights, computed once more."""


def engine_weights(policy: Policy, *, whole: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Names, as checkpoints have them, and values of what training changes; with `whole` of everything.

    Adapters are merged into copies of their weights: vLLM loads adapters from files only, and not for towers.
    Parameters must be whole (ZeRO-3: inside of `Engine.whole_parameters`).
    """
    lora = policy.config.lora
    if policy.model is not policy.base and lora is not None:
        adapted = [name.partition(".lora_A.")[0] for name, _ in policy.model.named_parameters() if ".lora_A." in name]
        for layer in adapted:
            yield from _merged(policy, layer, lora.alpha / lora.rank)
        if not whole:
            yield from _named(policy, _joined_with(policy, adapted))
    elif not whole:
        yield from _named(policy, (name for name, _ in policy.trained()))
    if whole:
        yield from _named(policy, (name for name, _ in policy.base.named_parameters() if not _in_adapted(name)))


def _joined_with(policy: Policy, adapted: Sequence[str]) -> Iterator[str]:
    """Parameters that have no adapters, of layers that vLLM joins with adapted ones."""
    layers = {layer.removeprefix("base_model.model.") for layer in adapted}
    for name, _ in policy.base.named_parameters():
        parent, _, own = name.rpartition(".")[0].rpartition(".")
        others = next((group for group in _JOINED if own in group), ())
        if not _in_adapted(name) and any(f"{parent}.{other}" in layers for other in others):
            yield name


def _in_adapted(name: str) -> bool:
    """Whether a parameter belongs to a layer with adapters."""
    return ".base_layer." in name or ".lora_" in name


def _named(policy: Policy, names: Iterator[str]) -> Iterator[tuple[str, Tensor]]:
    parameters = dict(policy.base.named_parameters())
    return ((policy.family.saved_name(name), parameters[name].detach()) for name in names if not is_critic(name))


def _merged(policy: Policy, layer: str, scale: float) -> Iterator[tuple[str, Tensor]]:
    """The weight of one adapted layer with its adapters in it."""
    module = policy.model.get_submodule(layer)
    state = {f"{layer}.{name}": tensor.detach() for name, tensor in module.named_parameters()}
    for name, tensor in merge_adapters(state, scale).items():
        yield policy.family.saved_name(name), tensor


def write_weights(policy: Policy, folder: Path, *, whole: bool = False) -> None:
    """`engine_weights` as a folder that vLLM's `reload_weights` opens; it is there as a whole, or not at all."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in engine_weights(policy, whole=whole):
        own = tensor.cpu().contiguous()
        tensors[name] = own.clone() if own.data_ptr() in places else own  # safetensors has no tensor twice
        places.add(own.data_ptr())
    save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


@dataclass(frozen=True, slots=True)
class Sung:
    """What one canary gave: its prompt, the engine's greedy tokens, and both sides' log-probs of them [T]."""

    prompt: Segment
    answer: Segment
    engine: Tensor
    trainer: Tensor


class Canary:
    """A short fixed prompt per trained tower, and one of text: the engine's greedy log-probs against the trainer's.

    An engine with old weights is found out twice: its log-probs are further from the trainer's than `gap`, or they
    are exactly what they were while the trainer's changed - at learning rates where no gap would show it. `exact`: the
    engine computes in float32. Where it does not, small updates are lost in rounding; then the trainer's log-probs must
    have moved by a tenth of `gap`, over as many updates as that takes.
    """

    def __init__(self, policy: Policy, gap: float, *, exact: bool) -> None:
        self.policy, self.gap = policy, gap
        self._changed = _CHANGED if exact else gap / 10
        kinds = [[], *([tower[0]] for tower in policy.tower_kinds())]
        self._prompts = [(_prompt(policy, found), "/".join(found) or "text") for found in kinds]
        self._before: list[Sung] = []

    def check(self, engine: AnswerEngine) -> float:
        """Largest gap of a log-prob. Raises EngineError where the engine does not have the trainer's weights."""
        params = SamplingParams(greedy=True, max_new_tokens=_CANARY_TOKENS)
        answers = engine.sample([(prompt,) for prompt, _ in self._prompts], params, [0] * len(self._prompts))
        sung = [self._sing(prompt, answer.segment) for (prompt, _), answer in zip(self._prompts, answers, strict=True)]
        for index, (now, (_, kind)) in enumerate(zip(sung, self._prompts, strict=True)):
            before = self._before[index] if self._before else None
            if before is not None and torch.equal(before.engine, now.engine) and self._moved(before):
                raise EngineError(self._stale(kind, "its log-probs are exactly those of before the update"))
            gap = float((now.engine - now.trainer).abs().max())
            if not gap <= self.gap:
                raise EngineError(
                    self._stale(kind, f"a log-prob is {gap:.2g} from the trainer's ({self.gap:g} may be)")
                )
        # Where the engine's are still the same, the trainer's go on to be compared with the oldest of that time.
        kept = zip(self._before or sung, sung, strict=True)
        self._before = [before if torch.equal(before.engine, now.engine) else now for before, now in kept]
        return max(float((one.engine - one.trainer).abs().max()) for one in sung)

    def _sing(self, prompt: Segment, answer: Segment) -> Sung:
        return Sung(prompt, answer, answer.columns["logprob.sampling"], self._scores(prompt, answer))

    def _scores(self, prompt: Segment, answer: Segment) -> Tensor:
        tree = Tree(id="canary", segments=(prompt, replace(answer, parent=0, support=None)))
        (row,) = pack([tree], tree.tokens, self.policy.positions)
        return self.policy.token_scores(row, grad=False).logprob[-len(answer.ids) :].cpu()

    def _moved(self, before: Sung) -> bool:
        """Whether the trainer scores the earlier answer otherwise than it did."""
        return bool((self._scores(before.prompt, before.answer) - before.trainer).abs().max() > self._changed)

    def _stale(self, kind: str, why: str) -> str:
        parts = sorted({self.policy.family.part_of(name) for name, _ in self.policy.trained() if not is_critic(name)})
        where = "the language model" if kind == "text" else f"the tower for {kind} or its projector"
        return (
            f"the rollout engine does not have the trainer's weights: asked with {kind}, {why}, so those of {where} "
            f"are wrong (trained parts: {', '.join(parts)}); rollout.options.dtype and the engine's log may say why, "
            "rollout.engine: hf needs no copy of the weights"
        )


def _prompt(policy: Policy, kinds: Sequence[str]) -> Segment:
    """A prompt with the smallest item of each kind, and some words."""
    (prompt,) = policy.dummy_tree(kinds).segments
    words = torch.tensor(policy.tokenizer("What is the answer?", add_special_tokens=False)["input_ids"])
    ids = torch.cat([prompt.ids, words])
    media = tuple(replace(item, key=f"canary {item.kind}") for item in prompt.media)
    return Segment(kind="prompt", ids=ids, loss_mask=torch.zeros(len(ids), dtype=torch.bool), media=media)
