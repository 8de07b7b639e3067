"""How much memory training needs per device, before any weight is loaded.

The model is built without storage (torch's "meta" device) from the checkpoint's config. Weights, gradients and
optimizer states follow from the numbers of its parameters; what the language model keeps for backward is read off the
real forward of one full row, by counting the tensors that autograd saves. What depends on libraries and luck is not in
it: fragmentation, communication buffers, the towers' own activations.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AttentionInterface

from mmreason.config import RunConfig
from mmreason.config.extras import read_deepspeed, zero_stage
from mmreason.config.grpo_terms import TERMS
from mmreason.policy.families import Family, adapter_pattern, opening, require_targets
from mmreason.policy.teacher import described

_FORECAST = "mmreason_forecast"


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Bytes per device by what they are for. Example: `Forecast(title="1 process", parts={"weights": 12 << 30},
    notes=())`"""

    title: str
    parts: dict[str, int]
    notes: tuple[str, ...]

    @property
    def total(self) -> int:
        """What is held at the worst moment: sampling and updating do not happen at once."""
        held = {name: size for name, size in self.parts.items() if not name.startswith(("update:", "sampling:"))}
        moments = [sum(size for name, size in self.parts.items() if name.startswith(stage)) for stage in _STAGES]
        return sum(held.values()) + max(moments)

    def table(self) -> list[str]:
        """Lines of text."""
        lines = [f"memory per device, {self.title}"]
        named = {**self.parts, "at the worst moment": self.total}
        lines += [f"{name:56}{_size(size):>12}" for name, size in named.items()]
        return [*lines, *(f"({note})" for note in self.notes)]


_STAGES = ("update:", "sampling:")


def forecast(family: Family, model_config: Any, config: RunConfig, longest_prompt: int, processes: int) -> Forecast:
    """What one of `processes` devices will hold. longest_prompt: tokens of the longest prompt of the data.

    Raises ModelError for a config that gives no model, also a teacher's; ConfigError for `lora.targets` that name no
    layer.
    """
    with torch.device("meta"), opening(f"model.path: {config.model.path}: no model can be made from its config.json"):
        model = getattr(transformers, family.model_class)(model_config)
    train, width = config.train, torch.finfo(getattr(torch, config.model.dtype)).bits // 8
    trained, total = _trained(model, family, config), sum(p.numel() for p in model.parameters())
    stage = _zero_stage(config)
    parts = _states(total, trained, width, config, stage, processes)
    if train.method != "sft" and config.grpo.kl_coef and not config.model.lora:
        parts["reference model"] = total * width // (processes if stage == 3 else 1)
    parts |= _teachers(config, width, processes if stage == 3 else 1)
    half = 2 if train.precision == "bf16" or width == 2 else 1
    kept = saved_for_backward(model, family, train.row_tokens)
    text = model_config.get_text_config()
    if config.model.gradient_checkpointing:
        inputs = text.num_hidden_layers * train.row_tokens * text.hidden_size * 4
        kept = inputs + kept // text.num_hidden_layers
    parts[f"update: activations of a row of {train.row_tokens} tokens"] = kept // half
    if copies := 0 if stage else _copies(model, family, config):
        parts["update: bfloat16 copies of weights"] = copies
    chunk = min(config.model.head_chunk, train.row_tokens)
    parts[f"update: logits of {chunk} tokens"] = 3 * chunk * text.vocab_size * 4
    if train.method == "grpo":
        rows = min(config.rollout.max_rows, train.prompts_per_step * config.rollout.n)
        tokens = longest_prompt + config.rollout.max_new_tokens
        parts[f"sampling: keys and values of {rows} answers"] = rows * tokens * _cache_bytes(text) * (4 // half)
        if stage == 3 and processes > 1:
            whole = total * (2 if train.precision == "bf16" else width)
            parts["sampling: weights of the other processes"] = whole - whole // processes
    where = f"{processes} process{'es' if processes > 1 else ''}" + (f", ZeRO-{stage}" if stage else "")
    return Forecast(title=where, parts=parts, notes=tuple(_notes(config)))


def _states(
    total: int, trained: int, width: int, config: RunConfig, stage: int, processes: int
) -> dict[str, int]:
    """Weights, gradients and AdamW's two moments; with DeepSpeed in bf16 its float32 master weights as well."""
    least = {"optimizer": 1, "gradients": 2, "weights": 3}
    shared = {name: processes if stage >= lowest else 1 for name, lowest in least.items()}
    if stage and config.train.precision == "bf16":
        weights, gradients, optimizer = 2 * total, 2 * trained, 12 * trained
    elif stage:  # ZeRO keeps its own flat copy of what it updates
        weights, gradients, optimizer = width * total, width * trained, (8 + 4) * trained
    else:
        weights, gradients, optimizer = width * total, width * trained, 2 * width * trained
    return {
        f"weights ({_count(total)}, {_count(trained)} trained)": weights // shared["weights"],
        "gradients": gradients // shared["gradients"],
        "optimizer": optimizer // shared["optimizer"],
    }


def _teachers(config: RunConfig, width: int, shared: int) -> dict[str, int]:
    """Bytes of the frozen model that a term of the loss learns from; its head is whole on every process."""
    terms = config.grpo.terms if config.train.method == "grpo" else ()
    found = {}
    for path in (term.option("teacher") for term in terms if "teacher" in TERMS[term.name]):
        described_by, model_class = described(path)
        with torch.device("meta"), opening(f"teacher: {path}: no model can be made from its config.json"):
            model = getattr(transformers, model_class)(described_by)
        head = 0 if shared == 1 else model.get_output_embeddings().weight.numel()
        found["teacher"] = (sum(p.numel() for p in model.parameters()) // shared + head) * width
    return found


def _copies(model: nn.Module, family: Family, config: RunConfig) -> int:
    """Bytes of the language model's weights in bfloat16, which autocast makes of float32 and keeps: for backward, or,
    with checkpointing, of trained ones until the forward ends."""
    kept = not config.model.gradient_checkpointing
    trained = config.model.lora is None and "language" not in config.model.freeze
    if config.train.precision != "bf16" or config.model.dtype != "float32" or not (kept or trained):
        return 0
    modules = model.get_submodule(family.language_model).modules()
    return sum(2 * module.weight.numel() for module in modules if isinstance(module, nn.Linear))


def _trained(model: nn.Module, family: Family, config: RunConfig) -> int:
    """Number of trained values: of the parts that are not frozen, or of the adapters."""
    lora = config.model.lora
    if lora is None:
        frozen = config.model.freeze
        named = model.named_parameters()
        return sum(p.numel() for n, p in named if family.part_of(n) not in frozen and n not in family.never_trained)
    require_targets(model, family, lora.targets)
    pattern = re.compile(adapter_pattern(family, lora.targets))
    layers = [m for n, m in model.named_modules() if isinstance(m, nn.Linear) and pattern.fullmatch(n)]
    return sum(lora.rank * (layer.in_features + layer.out_features) for layer in layers)


def saved_for_backward(model: nn.Module, family: Family, tokens: int) -> int:
    """Bytes, in float32, that autograd keeps of a row of so many tokens in the language model (nothing is computed)."""
    language: Any = model.get_submodule(family.language_model)
    AttentionInterface.register(_FORECAST, _attention)
    language.set_attn_implementation(_FORECAST)
    weights = {parameter.untyped_storage()._cdata for parameter in language.parameters()}
    seen: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            seen[storage._cdata] = storage.nbytes()
        held.append(tensor)  # else a storage that was freed could lend its address to the next
        return tensor

    held: list[Tensor] = []
    embedded = torch.zeros(1, tokens, language.config.hidden_size, device="meta", requires_grad=True)
    axes = (3, 1, tokens) if family.position_axes == 3 else (1, tokens)
    positions = torch.zeros(axes, dtype=torch.int64, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        language(
            inputs_embeds=embedded,
            position_ids=positions,
            attention_mask={"full_attention": None},
            use_cache=False,
        )
    return sum(seen.values())


class _Attend(torch.autograd.Function):
    """Keeps what an attention kernel keeps: its inputs, its output and a number per row and head."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        raise AssertionError("nothing is ever computed backward here")


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **_: Any
) -> tuple[Tensor, None]:
    out: Tensor = _Attend.apply(query, key, value)  # type: ignore[no-untyped-call]  # torch's own signature
    return out.transpose(1, 2).contiguous(), None


def _cache_bytes(text: Any) -> int:
    """Values per token in the keys and values of all layers."""
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * text.num_hidden_layers * text.num_key_value_heads * head)


def _zero_stage(config: RunConfig) -> int:
    """Stage of the DeepSpeed file, which can be read; 0 without one."""
    return zero_stage(read_deepspeed(config.train.deepspeed)) if config.train.deepspeed else 0


def _notes(config: RunConfig) -> list[str]:
    notes = ["a forecast: without fragmentation, communication buffers and media features"]
    towers = {"vision", "audio"} - set(config.model.freeze)
    if towers and not config.model.lora:
        notes.append(f"activations of the trained {' and '.join(sorted(towers))} tower are not in it")
    return notes


def _size(number: int) -> str:
    power = min(3, max(0, (number.bit_length() - 1) // 10))
    return f"{number / (1 << 10 * power):.1f} {('B', 'KiB', 'MiB', 'GiB')[power]}"


def _count(number: int) -> str:
    for power, unit in ((9, "B"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.3g} {unit}"
    return str(number)
