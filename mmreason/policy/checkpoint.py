"""Writing a model as an ordinary transformers checkpoint, in the layout that `from_pretrained` and engines open."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import PreTrainedModel

from mmreason.errors import CheckpointError
from mmreason.policy.families import Family


def write_checkpoint(
    folder: Path, family: Family, model: PreTrainedModel, state: dict[str, Tensor], adapter_scale: float
) -> None:
    """Write weights (safetensors), config and generation config to `folder`.

    state: names and full tensors of the model, possibly with LoRA adapters, which are merged into copies of their
    weights (the model itself does not change). Raises CheckpointError where the folder cannot be written or a name of
    the model is missing from `state`.
    """
    merged = merge_adapters(state, adapter_scale).items()
    weights = {name: _own(tensor) for name, tensor in merged if not is_critic(name)}
    expected = {
        name.replace(".base_layer.", ".") for name in model.state_dict() if not (_is_adapter(name) or is_critic(name))
    }
    if weights.keys() != expected:
        odd = sorted(weights.keys() ^ expected)
        raise CheckpointError(f"{folder}: the state to save and the model differ in {len(odd)} names, first {odd[0]}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if family.wrapper_class is not None:
            _write_wrapped(folder, family, model, weights)
        elif family.published_names:
            named = {family.saved_name(name): tensor for name, tensor in weights.items()}
            model.save_pretrained(folder, state_dict=named, save_original_format=False)
        else:
            model.save_pretrained(folder, state_dict=weights)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written ({error.strerror or error})") from error


def merge_adapters(state: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Names and weights of the plain model: W + scale x B A for each adapted layer (LoRA, arXiv 2106.09685, eq. 3)."""
    plain = {}
    for name, tensor in state.items():
        if _is_adapter(name):
            continue
        if name.endswith(".base_layer.weight"):
            layer = name.removesuffix(".base_layer.weight")
            low, high = (state[f"{layer}.lora_{side}.default.weight"].float() for side in "AB")
            tensor = (tensor.float() + scale * (high.to(tensor.device) @ low.to(tensor.device))).to(tensor.dtype)
        plain[name.removeprefix("base_model.model.").replace(".base_layer.", ".")] = tensor
    return plain


def _own(tensor: Tensor) -> Tensor:
    """A copy where the tensor is a window into a larger buffer (ZeRO-1 and 2 make those): windows cannot be saved."""
    window = tensor.untyped_storage().nbytes() != tensor.nbytes
    return tensor.detach().clone() if window else tensor


def is_critic(name: str) -> bool:
    """Whether a parameter belongs to the critic, which is trained beside the model and no part of it."""
    return ".critic." in name


def _is_adapter(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


def _write_wrapped(folder: Path, family: Family, model: PreTrainedModel, weights: dict[str, Tensor]) -> None:
    """The published layout of a model that is one part of a larger one (Qwen2.5-Omni's thinker, without the talker).

    Every key is written out, defaults too: engines read a missing tie_word_embeddings as true.
    """
    inner = model.config.to_dict()
    wrapper = getattr(transformers, family.wrapper_class or "")(
        **{family.wrapper_key: inner}, enable_audio_output=False, tie_word_embeddings=model.config.tie_word_embeddings
    )
    wrapper.architectures = [family.wrapper_architecture]
    wrapper.dtype = next(iter(weights.values())).dtype
    wrapper.to_json_file(folder / "config.json", use_diff=False)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    named = {family.saved_name(name): tensor.detach().cpu() for name, tensor in weights.items()}
    with torch.no_grad():
        save_torch_state_dict(named, folder)
