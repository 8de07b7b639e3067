"""The memory forecast against what a real model, its gradients, its optimizer and its saved tensors take."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mmreason.checking.memory import forecast, saved_for_backward
from mmreason.config import ModelConfig, RunConfig, build_config
from mmreason.errors import ModelError
from mmreason.policy.families import FAMILIES
from mmreason.policy.policy import load_policy

GRPO: dict[str, Any] = {"run_dir": "r", "rewards": [{"name": "accuracy"}], "train": {"row_tokens": 512},
                        "rollout": {"max_new_tokens": 64}}  # fmt: skip


def settings(checkpoint: Path, /, **sections: Any) -> RunConfig:
    sections["model"] = {"path": str(checkpoint), **sections.get("model", {})}
    return build_config({**GRPO, **sections})


@pytest.mark.parametrize(
    "model", [{}, {"freeze": []}, {"dtype": "bfloat16"}, {"lora": {"rank": 4}}], ids=["default", "all", "bf16", "lora"]
)
def test_states_are_what_a_real_run_holds(model: dict[str, Any], tiny_omni: Path) -> None:
    config = settings(tiny_omni, model={**model, "self_check": False})
    policy = load_policy(config.model)
    trained = [parameter for _, parameter in policy.trained()]
    optimizer = torch.optim.AdamW(trained)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    held = {
        "weights": sum(p.nbytes for p in policy.base.parameters()),
        "gradients": sum(p.grad.nbytes for p in trained if p.grad is not None),
        "optimizer": sum(s[name].nbytes for s in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")),
    }
    parts = forecast(policy.family, policy.base.config, config, 100, 1).parts
    found = {name.partition(" ")[0]: size for name, size in parts.items()}
    if "lora" in model:  # the adapters themselves are among the weights of the model then
        held["weights"] -= sum(p.nbytes for p in trained)
        assert found["gradients"] == pytest.approx(held["gradients"] * (2 if model.get("dtype") else 1))
    for name, size in held.items():
        assert found[name] == size, name


@pytest.mark.parametrize("name", FAMILIES)
def test_saved_tensors_are_what_autograd_keeps(name: str, tiny: Callable[[str], Path]) -> None:
    """The language model alone, forward for real on the CPU, with its attention counted as a kernel keeps it."""
    policy = load_policy(ModelConfig(path=str(tiny(name)), freeze=("vision",), self_check=False))
    tokens, held = 256, dict[int, int]()
    language: Any = policy.base.get_submodule(policy.family.language_model)
    language.set_attn_implementation("sdpa")
    weights = {p.data_ptr() for p in language.parameters()}
    embedded = torch.zeros(1, tokens, language.config.hidden_size, requires_grad=True)
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        if tensor.untyped_storage().data_ptr() not in weights:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    positions = policy.position_ids(torch.arange(tokens).expand(3, 1, -1))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        language(inputs_embeds=embedded, position_ids=positions, use_cache=False)
    with torch.device("meta"):
        meta = type(policy.base)(policy.base.config)
    assert saved_for_backward(meta, policy.family, tokens) == pytest.approx(sum(held.values()), rel=0.1)


def test_processes_and_stages_share_what_they_partition(tiny_vl: Path, tmp_path: Path) -> None:
    def parts(stage: int, processes: int) -> dict[str, int]:
        (tmp_path / "ds.json").write_text(f'{{"zero_optimization": {{"stage": {stage}}}}}')
        train = {"row_tokens": 512, "deepspeed": str(tmp_path / "ds.json")}
        config = settings(tiny_vl, train=train)
        policy = load_policy(config.model, trained=False)
        found = forecast(policy.family, policy.base.config, config, 100, processes)
        assert f"ZeRO-{stage}" in found.title
        others = found.parts.get("sampling: weights of the other processes", 0)
        return {"others": others} | {name.partition(" ")[0]: size for name, size in found.parts.items()}

    alone, second, third = parts(2, 1), parts(2, 4), parts(3, 4)
    assert second["weights"] == alone["weights"]
    assert second["gradients"] == alone["gradients"] // 4
    assert third["weights"] == alone["weights"] // 4
    assert third["others"] + third["weights"] == pytest.approx(alone["weights"], abs=4)  # whole to sample
    assert second["others"] == 0
    assert third["optimizer"] == second["optimizer"] == alone["optimizer"] // 4
    # float32: AdamW's two moments, 4 bytes each, and the flat copy of the weights that ZeRO updates
    assert alone["optimizer"] == 3 * alone["gradients"]


def test_a_teacher_is_held_as_well(tiny_vl: Path, tiny_omni: Path, tmp_path: Path) -> None:
    def parts(teacher: Path, processes: int = 1, **train: Any) -> dict[str, int]:
        terms = [{"name": "distill", "options": {"teacher": str(teacher)}}]
        grpo = {"terms": terms, "drop_constant_groups": False}
        config = settings(tiny_vl, grpo=grpo, train={"row_tokens": 512, **train})
        policy = load_policy(config.model, trained=False)
        return forecast(policy.family, policy.base.config, config, 100, processes).parts

    held = load_policy(ModelConfig(path=str(tiny_omni), self_check=False), trained=False)
    weights = sum(parameter.nbytes for parameter in held.base.parameters())
    assert parts(tiny_omni)["teacher"] == weights
    file = tmp_path / "zero3.json"
    file.write_text('{"zero_optimization": {"stage": 3}}')
    split = parts(tiny_omni, 4, deepspeed=str(file))["teacher"]
    assert split == weights // 4 + held.head.weight.nbytes, "its head is whole on every process"
    with pytest.raises(ModelError, match=r"^teacher: .*: no checkpoint there"):
        parts(tmp_path / "nothing")


def test_checkpointing_and_lower_precision_need_less(tiny_vl: Path) -> None:
    def activations(**sections: Any) -> int:
        config = settings(tiny_vl, **sections)
        policy = load_policy(config.model, trained=False)
        found = forecast(policy.family, policy.base.config, config, 100, 1)
        assert found.total >= sum(size for name, size in found.parts.items() if ":" not in name)
        return next(size for name, size in found.parts.items() if name.startswith("update: activations"))

    full = activations()
    assert activations(model={"gradient_checkpointing": True}) < full
    assert activations(train={"row_tokens": 512, "precision": "bf16"}) == full // 2
    assert activations(train={"row_tokens": 1024}) == pytest.approx(2 * full, rel=0.05)


def test_what_autocast_keeps_of_weights(tiny_vl: Path) -> None:
    """The copies that a real forward under autocast saves for backward, found by their sizes."""
    bf16 = {"row_tokens": 512, "precision": "bf16"}
    config = settings(tiny_vl, train=bf16)
    policy = load_policy(config.model)
    language: Any = policy.base.get_submodule(policy.family.language_model)
    weights = [module.weight for module in language.modules() if isinstance(module, torch.nn.Linear)]
    sizes = {2 * weight.numel() for weight in weights}
    held: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        held[tensor.untyped_storage()._cdata] = tensor
        return tensor

    embedded = torch.randn(1, 7, language.config.hidden_size, requires_grad=True)
    inputs = {"inputs_embeds": embedded, "attention_mask": {"full_attention": None}, "use_cache": False}
    language.set_attn_implementation("eager")
    with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        language(**inputs)
    copies = sum(t.untyped_storage().nbytes() for t in held.values() if t.untyped_storage().nbytes() in sizes)

    def forecasted(**sections: Any) -> int:
        found = forecast(policy.family, policy.base.config, settings(tiny_vl, **sections), 100, 1)
        return found.parts.get("update: bfloat16 copies of weights", 0)

    assert forecasted(train=bf16) == copies == sum(2 * weight.numel() for weight in weights)
    assert forecasted(train=bf16, model={"gradient_checkpointing": True}) == copies
    assert forecasted(train=bf16, model={"gradient_checkpointing": True, "lora": {}}) == 0
    assert forecasted() == forecasted(train=bf16, model={"dtype": "bfloat16"}) == 0
