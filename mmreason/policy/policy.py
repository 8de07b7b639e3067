"""The policy: a model of a known family with our attention and head, scored on packed rows.

One forward trains everything: `Policy.token_scores(batch)` gives log-prob and entropy of every loss-bearing token of a
packed row. Old, reference and policy passes are the same call on the same rows, so that rounding cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from mmreason.collate import to_device
from mmreason.config import ModelConfig
from mmreason.errors import ModelError
from mmreason.policy import attention
from mmreason.policy.attention import Formulation, TreeLayout
from mmreason.policy.checkpoint import is_critic, write_checkpoint
from mmreason.policy.dummy import dummy_tree
from mmreason.policy.families import Family, adapter_pattern, opening, require_targets
from mmreason.policy.front import CheckpointFront, load_front
from mmreason.policy.head import Against, CriticHead, ScoringHead, ScoringPlan
from mmreason.policy.positions import MediaRules, rope_positions
from mmreason.processors.base import MediaTraits
from mmreason.support import take
from mmreason.types import Batch, Segment, Tree

Forward = Callable[..., Any]
"""The model, or what DDP / DeepSpeed / accelerate made of it."""


@dataclass(frozen=True, slots=True)
class TokenScores:
    """float32 [T] each, 0 where a token was not scored."""

    logprob: Tensor
    """log_softmax(logits / temperature, banned ids at -inf) of the row's own tokens; where the row has a support, ids
    outside it are at -inf, too."""
    entropy: Tensor
    """Entropy of the distribution that each token was drawn from, in nats."""
    divergence: Tensor | None = None
    """KL(policy || teacher) of that distribution, in nats, where a teacher was given."""
    value: Tensor | None = None
    """What the critic, where there is one, expects of the text before each token."""


@dataclass(frozen=True, slots=True)
class Teaching:
    """What a teacher makes of a row's tokens: arguments of `head.Against`, per token of the row."""

    hidden: Tensor
    """[T, E]; any numbers where `taught` is False."""
    head: Tensor
    """[V, E]."""
    taught: Tensor
    """bool [T]."""


@dataclass(slots=True, kw_only=True)
class Policy:
    """A model ready to be trained and sampled from. Made by `load_policy`.

    Example: `scores = policy.token_scores(pack(trees, 8192, policy.positions)[0])`
    """

    family: Family
    config: ModelConfig
    model: nn.Module
    """What is trained and wrapped for distribution: the transformers model, or a PeftModel around it."""
    base: PreTrainedModel
    """The transformers model itself."""
    head: ScoringHead
    processor: Any
    tokenizer: Any
    rules: MediaRules
    banned: Tensor
    """int64 [K]: ids that can never be sampled (media placeholders, media start and end)."""
    end_ids: tuple[int, ...]
    """Ids that end an answer."""
    formulation: Formulation
    reference: Policy | None = field(default=None)
    """A frozen copy, for `reference_scores`; None where the adapters can be switched off instead, or none is wanted."""

    @property
    def device(self) -> torch.device:
        return self.base.device

    def positions(self, segment: Segment, start: int) -> tuple[Tensor, int]:
        """Positions int64 [3, T] of a segment that begins at `start`, and the next free position."""
        return rope_positions(segment.ids, segment.media, start, self.rules)

    def position_ids(self, positions_3BT: Tensor) -> Tensor:
        """Positions as the model's forward takes them: int64 [3, B, T], or [B, T] where it knows one axis only."""
        return positions_3BT if self.family.position_axes == 3 else positions_3BT[0]

    @property
    def traits(self) -> MediaTraits:
        """What processors need to know of the family."""
        return self.family.traits(self.base.config)

    def dummy_tree(self, kinds: Sequence[str]) -> Tree:
        """A tree with one smallest item of each kind and no loss (see `collate.equalize`)."""
        return dummy_tree(kinds, self.base.config, self.rules, self.traits)

    def tower_kinds(self) -> list[tuple[str, ...]]:
        """Per tower with trained parameters, the kinds of media that use it."""
        names = [name for name, _ in self.trained()]
        return [kinds for prefix, kinds in self.family.towers if any(name.startswith(prefix) for name in names)]

    def token_scores(
        self,
        batch: Batch,
        *,
        temperature: float = 1.0,
        forward: Forward | None = None,
        grad: bool = True,
        scored: Tensor | None = None,
        teaching: Teaching | None = None,
    ) -> TokenScores:
        """Log-prob and entropy per token of a row: of its loss-bearing tokens, or of those that `scored` [T] marks.

        `forward` is the wrapped model where there is one (DDP, DeepSpeed). Also a row without any scored token takes
        part in every collective of forward and backward: its scores are zeros that still depend on the model.
        `teaching`: compare with a teacher as well.
        """
        batch = to_device(batch, self.device)
        places = _places(batch, scored)
        against = None
        if teaching is not None:
            here = [tensor.to(self.device)[places] for tensor in (teaching.hidden, teaching.taught)]
            against = Against(hidden=here[0], head=teaching.head, taught=here[1])
        scores = self._forward(batch, self._plan(batch, places, temperature, against=against), forward, grad)
        blank = torch.zeros(batch.ids.shape[0], device=self.device)
        found = [blank.index_put((places,), column) for column in scores.unbind(1)]
        value = found.pop() if self.head.critic is not None else None
        return TokenScores(found[0], found[1], divergence=found[2] if teaching is not None else None, value=value)

    def hidden_states(self, batch: Batch, *, forward: Forward | None = None) -> Tensor:
        """What the head gets for each loss-bearing token of a row, without gradient. [T, D], 0 for other tokens."""
        batch = to_device(batch, self.device)
        places = _places(batch, None)
        hidden_ND = self._forward(batch, self._plan(batch, places, 1.0, hidden=True), forward, grad=False)
        blank = hidden_ND.new_zeros(batch.ids.shape[0], hidden_ND.shape[1])
        return blank.index_put((places,), hidden_ND)

    def _plan(self, batch: Batch, places: Tensor, temperature: float, **more: Any) -> ScoringPlan:
        return ScoringPlan(
            source=batch.source[places],
            targets=batch.ids[places],
            temperature=temperature,
            banned=self.banned.to(self.device),
            chunk=self.config.head_chunk,
            support=None if batch.support is None else take(batch.support, places.cpu()),
            **more,
        )

    def _forward(self, batch: Batch, plan: ScoringPlan, forward: Forward | None, grad: bool) -> Tensor:
        """What the head gives for a plan. [N, ...]"""
        if self.model.training != grad:
            self.model.train(grad)
        with torch.set_grad_enabled(grad), self.head.scoring(plan):
            found: Tensor = (forward or self.model)(**self._inputs(batch)).logits[0]
        return found

    def add_critic(self) -> None:
        """From here on tokens have values, too; the critic is trained, and is not part of the exported model."""
        self.head.critic = CriticHead(self.head.in_features).to(self.device)

    def reference_scores(
        self, batch: Batch, *, temperature: float = 1.0, forward: Forward | None = None
    ) -> TokenScores:
        """Scores under the model before training: adapters off, or the frozen copy that `reference` holds.

        `forward`: the wrapped model - with adapters that of the policy, else that of the frozen copy.
        """
        if self.model is not self.base:
            adapted: Any = self.model
            with adapted.disable_adapter():
                return self.token_scores(batch, temperature=temperature, forward=forward, grad=False)
        if self.reference is None:
            raise ModelError("reference log-probs were asked for, but this policy was loaded without a reference")
        return self.reference.token_scores(batch, temperature=temperature, forward=forward, grad=False)

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        """Keyword arguments of the forward. Under our attention transformers makes no mask of its own."""
        layout = TreeLayout(batch.spans, self.formulation)
        return {
            "input_ids": batch.ids[None],
            "position_ids": self.position_ids(batch.positions[:, None]),
            "use_cache": False,
            "tree_layout": layout,
            **batch.media,
        }

    def parameter_groups(
        self, learning_rate: float, learning_rates: dict[str, float], weight_decay: float
    ) -> list[dict[str, Any]]:
        """Optimizer groups by part, each with its learning rate; biases and norms are not decayed."""
        groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
        for name, parameter in self.trained():
            decays = not (name.endswith("bias") or "norm" in name)
            part = "critic" if is_critic(name) else self.family.part_of(name)
            groups.setdefault((part, decays), []).append(parameter)
        return [
            {
                "name": part if decays else f"{part}, no decay",
                "params": parameters,
                "lr": learning_rates.get(part, learning_rate),
                "weight_decay": weight_decay if decays else 0.0,
            }
            for (part, decays), parameters in sorted(groups.items())
        ]

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters that get gradients."""
        return ((name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad)

    def save_pretrained(self, folder: str | Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write an ordinary transformers checkpoint: weights (adapters merged), configs, processor.

        `state_dict` is the model's own, gathered, where parameters are partitioned (ZeRO-3). Raises CheckpointError.
        """
        state = dict(self.model.state_dict()) if state_dict is None else dict(state_dict)
        lora = self.config.lora
        scale = lora.alpha / lora.rank if lora is not None else 0.0
        write_checkpoint(Path(folder), self.family, self.base, state, scale)
        self.processor.save_pretrained(folder)


def _places(batch: Batch, scored: Tensor | None) -> Tensor:
    """Indices of the tokens to score. int64 [N]"""
    wanted = (batch.loss_mask if scored is None else scored.to(batch.ids.device)) & (batch.source >= 0)
    return wanted.nonzero()[:, 0]


def load_policy(config: ModelConfig, device: torch.device | str = "cpu", *, trained: bool = True) -> Policy:
    """Load a checkpoint of a known family with tree attention, scoring head, frozen parts and adapters.

    `trained=False` freezes everything (inference, evaluation, the frozen copy itself).
    Raises ModelError: unknown family or language model, weights missing, sliding-window layers, no safetensors; and
    ConfigError for `lora.targets` that name no layer.
    """
    front = load_front(config)
    family, processor = front.family, front.processor
    base = _load_model(config, front)
    base.to(device)  # type: ignore[arg-type]  # the decorator around `to` loses its signature
    head = ScoringHead.install(base)
    _freeze(base, family, config.freeze if trained else ("vision", "audio", "projector", "language"))
    model: nn.Module = base
    if config.lora is not None and trained:
        model = _with_adapters(base, family, config)
    if config.gradient_checkpointing and trained:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    rules = family.rules(base.config)
    return Policy(
        family=family,
        config=config,
        model=model,
        base=base,
        head=head,
        processor=processor,
        tokenizer=processor.tokenizer,
        rules=rules,
        banned=banned_ids(family, rules, processor.tokenizer),
        end_ids=end_ids(base.generation_config, processor.tokenizer),
        formulation=_formulation(config, base.device),
    )


def _load_model(config: ModelConfig, front: CheckpointFront) -> PreTrainedModel:
    model_class = getattr(transformers, front.family.model_class)
    with opening(f"model.path: {config.path}: cannot be loaded"):
        model, loading = model_class.from_pretrained(
            config.path,
            config=front.config,
            revision=config.revision,
            dtype=getattr(torch, config.dtype),
            attn_implementation="sdpa",
            use_safetensors=True,
            output_loading_info=True,
        )
    wrong = [*loading["missing_keys"], *loading["mismatched_keys"]]
    if wrong:
        raise ModelError(
            f"model.path: {config.path}: {len(wrong)} weights of {front.family.model_class} are missing or of another "
            f"shape, first {wrong[0]}; this is a checkpoint of another model, or a torn one"
        )
    loaded: PreTrainedModel = model
    prepare_attention(loaded)
    return loaded


def prepare_attention(model: PreTrainedModel) -> None:
    """Set tree attention on the text config, SDPA on the towers."""
    towers = {key: "sdpa" for key in model.config.sub_configs if key != "text_config"}
    model.set_attn_implementation({"": "sdpa", **towers, "text_config": attention.NAME})


def _freeze(model: nn.Module, family: Family, frozen: tuple[str, ...]) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(family.part_of(name) not in frozen and name not in family.never_trained)


def _with_adapters(base: PreTrainedModel, family: Family, config: ModelConfig) -> nn.Module:
    import peft  # takes seconds, and most runs have no adapters

    assert config.lora is not None
    require_targets(base, family, config.lora.targets)
    lora = peft.LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,  # type: ignore[arg-type]  # any number; annotated too narrowly
        lora_dropout=config.lora.dropout,
        target_modules=adapter_pattern(family, config.lora.targets),
    )
    adapted: nn.Module = peft.PeftModel(base, lora)
    return adapted


def _formulation(config: ModelConfig, device: torch.device) -> Formulation:
    if config.attention != "auto":
        return config.attention
    return "merge" if device.type == "cpu" else "flex"


def banned_ids(family: Family, rules: MediaRules, tokenizer: Any) -> Tensor:
    """int64 [K]: what may never be sampled, placeholders of media and the tokens around them."""
    vocabulary = tokenizer.get_vocab()
    around = (token for pair in family.wrappers.values() for token in pair)
    named = [*family.more_banned, *family.placeholders.values(), *around]
    return torch.tensor(sorted({*rules.special_ids, *(vocabulary[token] for token in named if token in vocabulary)}))


def end_ids(generation: GenerationConfig | None, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end an answer."""
    configured = generation.eos_token_id if generation is not None else None
    ends = configured if isinstance(configured, list) else [configured]
    return tuple(sorted({end for end in [*ends, tokenizer.eos_token_id] if end is not None}))
