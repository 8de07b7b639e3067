"""Teachers: models that score a policy's answers without its media and are never trained.

A teacher is a checkpoint of a known family, or of a language model alone. It must share the policy's tokenizer: its
probabilities are of the same tokens, one by one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer

from mmreason.config import ModelConfig
from mmreason.errors import ModelError
from mmreason.policy import attention
from mmreason.policy.families import FAMILIES, Family, opening
from mmreason.policy.head import ScoringHead
from mmreason.policy.policy import Policy, load_policy
from mmreason.policy.positions import MediaRules
from mmreason.processors.base import MediaTraits

LANGUAGE_MODELS = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
"""`model_type` -> class of transformers. Only with full causal attention in every layer."""


def load_teacher(path: str, policy: Policy, device: torch.device | str) -> Policy:
    """A frozen model that knows the policy's tokens; its banned ids are the policy's.

    Raises ModelError: no such checkpoint, weights missing, an unknown type, sliding-window layers, another tokenizer, a
    head that ends before the tokenizer does.
    """
    config, _ = described(path)
    settings = policy.config.model_copy(update={"path": path, "revision": None, "lora": None})
    if config.model_type in LANGUAGE_MODELS:
        teacher = _load_language_model(settings, config, policy, device)
    else:
        teacher = load_policy(settings, device, trained=False)
    banned = set(policy.banned.tolist())
    require_same_tokens(path, policy.tokenizer.get_vocab(), teacher.tokenizer.get_vocab(), banned)
    mine, theirs = (model.base.config.get_text_config().vocab_size for model in (policy, teacher))
    last = max(set(policy.tokenizer.get_vocab().values()) - banned)
    if last >= theirs:  # beyond the tokenizer there are only rows that fill the policy's head up
        raise ModelError(f"teacher: {path}: its head has {theirs} rows, and the policy may sample token {last}")
    lacking = torch.arange(mine, max(mine, theirs))  # rows of its head that are no tokens of the policy
    return replace(teacher, banned=torch.cat([policy.banned[policy.banned < theirs], lacking]))


def described(path: str) -> tuple[Any, str]:
    """A teacher's config and the class of transformers that its model has.

    Raises ModelError: no checkpoint there, or one of an unknown type.
    """
    with opening(f"teacher: {path}: no checkpoint there"):
        config = AutoConfig.from_pretrained(path)
    families = {name: family for family in FAMILIES.values() for name in family.model_types}
    if config.model_type in LANGUAGE_MODELS:
        return config, LANGUAGE_MODELS[config.model_type]
    if config.model_type not in families:
        raise ModelError(
            f"teacher: {path}: model_type {config.model_type!r}; known: {', '.join([*LANGUAGE_MODELS, *families])}"
        )
    family = families[config.model_type]
    return family.load_config(path), family.model_class


def require_same_tokens(path: str, mine: dict[str, int], theirs: dict[str, int], banned: set[int]) -> None:
    """Raises ModelError for the first token that the policy may sample and the teacher has elsewhere, or lacks."""
    for token, number in sorted(mine.items(), key=lambda item: item[1]):
        if number not in banned and theirs.get(token) != number:
            found = theirs.get(token, "nothing")
            raise ModelError(
                f"teacher: {path}: another tokenizer: {token!r} is token {number} of the policy and {found} of the "
                "teacher; a teacher's probabilities must be of the same tokens"
            )


def _load_language_model(settings: ModelConfig, config: Any, policy: Policy, device: torch.device | str) -> Policy:
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    if layers != {"full_attention"}:
        raise ModelError(
            f"teacher: {settings.path}: {', '.join(sorted(layers))} layers; packed rows need full attention"
        )
    with opening(f"teacher: {settings.path}: cannot be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(settings.path)
        model, loading = getattr(transformers, LANGUAGE_MODELS[config.model_type]).from_pretrained(
            settings.path,
            dtype=getattr(torch, settings.dtype),
            attn_implementation="sdpa",
            use_safetensors=True,
            output_loading_info=True,
        )
    wrong = [*loading["missing_keys"], *loading["mismatched_keys"]]
    if wrong:  # transformers would make them up
        raise ModelError(
            f"teacher: {settings.path}: {len(wrong)} weights are missing or of another shape, first {wrong[0]}; this "
            "is a torn checkpoint"
        )
    model.set_attn_implementation(attention.NAME)
    model.to(device).eval().requires_grad_(False)
    return replace(
        policy,
        family=_LANGUAGE_FAMILY,
        config=settings,
        model=model,
        base=model,
        head=ScoringHead.install(model),
        processor=tokenizer,
        tokenizer=tokenizer,
        rules=MediaRules(placeholder={}, wrapper={}),
        reference=None,
    )


_LANGUAGE_FAMILY = Family(
    name="language",
    model_types=tuple(LANGUAGE_MODELS),
    model_class="",
    config_class="",
    placeholders={},
    wrappers={},
    parts=(("", "language"),),
    language_layers=r"model\.layers\.\d+\.",
    towers=(),
    position_axes=1,
    text_types=tuple(LANGUAGE_MODELS),
    rules=lambda config: MediaRules(placeholder={}, wrapper={}),
    traits=lambda config: MediaTraits(frame="unit", vision=False),
    engine_fields={},
    shrink=lambda config, width: None,
)
