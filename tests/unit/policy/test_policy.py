"""Loading, freezing, adapters, reference, saving, on tiny checkpoints of all families."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoProcessor

from mmreason.collate import pack
from mmreason.config import LoraConfig, ModelConfig
from mmreason.errors import CheckpointError, ModelError
from mmreason.policy.families import FAMILIES
from mmreason.policy.policy import Policy, load_policy
from mmreason.policy.self_check import self_check
from mmreason.types import Batch, Segment, Span, Tree


@pytest.fixture
def checkpoints(tiny: Callable[[str], Path]) -> dict[str, Path]:
    return {name: tiny(name) for name in FAMILIES}


def make(folder: Path, **settings: Any) -> Policy:
    return load_policy(ModelConfig(path=str(folder), **settings))


def row_of(policy: Policy) -> Batch:
    """A prompt with an image (or a sound, where the family sees nothing) and two answers."""
    prompt = policy.dummy_tree(list(policy.rules.placeholder)[:1]).segments[0]
    answers = [
        Segment(kind="policy", parent=0, ids=torch.tensor(ids), loss_mask=torch.ones(len(ids), dtype=torch.bool))
        for ids in ([5, 6, 7], [8, 9, 10, 11])
    ]
    (row,) = pack([Tree(id="t", segments=(prompt, *answers))], 100, policy.positions)
    return row


def logprobs(policy: Policy) -> Tensor:
    return policy.token_scores(row_of(policy), grad=False).logprob


def disturb(policy: Policy) -> None:
    """What training does, quickly."""
    with torch.no_grad():
        for _, parameter in policy.trained():
            parameter.add_(0.02 * torch.randn_like(parameter))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("family", FAMILIES)
def test_probabilities_of_all_next_tokens_add_up_to_one(
    checkpoints: dict[str, Path], family: str, temperature: float
) -> None:
    """One prompt with every token that may be sampled as an answer of its own; entropy is that of the same numbers."""
    policy = make(checkpoints[family])
    prompt = policy.dummy_tree(list(policy.rules.placeholder)[:1]).segments[0]
    allowed = sorted(set(range(policy.head.out_features)) - set(policy.banned.tolist()))
    answers = [
        Segment(kind="policy", parent=0, ids=torch.tensor([token]), loss_mask=torch.ones(1, dtype=torch.bool))
        for token in allowed
    ]
    (row,) = pack([Tree(id="t", segments=(prompt, *answers))], 10_000, policy.positions)
    scores = policy.token_scores(row, temperature=temperature, grad=False)
    logprob = scores.logprob[row.loss_mask]
    assert (scores.logprob[~row.loss_mask] == 0).all()
    assert float(logprob.exp().sum()) == pytest.approx(1.0, abs=1e-5)
    entropy = -(logprob.exp() * logprob).sum()
    assert (scores.entropy[row.loss_mask] - entropy).abs().max() < 1e-4


def test_banned_and_end_ids(checkpoints: dict[str, Path]) -> None:
    policy = make(checkpoints["qwen2_5_omni"])
    named = policy.tokenizer.convert_ids_to_tokens(policy.banned.tolist())
    assert set(named) == {
        "<|AUDIO|>", "<|IMAGE|>", "<|VIDEO|>", "<|audio_bos|>", "<|audio_eos|>", "<|vision_bos|>", "<|vision_eos|>",
    }  # fmt: skip
    assert set(policy.tokenizer.convert_ids_to_tokens(list(policy.end_ids))) == {"<|im_end|>", "<|endoftext|>"}


# ---- what is trained -----------------------------------------------------------------------------------------------


def test_default_trains_projector_and_language(checkpoints: dict[str, Path]) -> None:
    policy = make(checkpoints["qwen2_5_omni"])
    assert {policy.family.part_of(name) for name, _ in policy.trained()} == {"projector", "language"}


@pytest.mark.parametrize("part", ["vision", "audio", "projector", "language"])
def test_freezing_one_part(checkpoints: dict[str, Path], part: str) -> None:
    policy = make(checkpoints["qwen2_5_omni"], freeze=(part,))
    trained = {policy.family.part_of(name) for name, _ in policy.trained()}
    assert trained == {"vision", "audio", "projector", "language"} - {part}


NEVER_TRAINED = {
    "qwen2_audio": {"model.audio_tower.embed_positions.weight"},  # sinusoids, which the model freezes itself
    "qwen2_5_omni": {"audio_tower.audio_bos_eos_token.weight"},  # no forward uses it
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_dummy_of_every_kind_reaches_every_trained_parameter(checkpoints: dict[str, Path], family: str) -> None:
    """DDP and ZeRO wait for the gradient of each trained parameter; those that no forward uses are frozen."""
    policy = make(checkpoints[family], freeze=())
    kinds = list(policy.rules.placeholder)
    assert {kind for kinds in policy.tower_kinds() for kind in kinds} == set(kinds)
    smallest = sorted({kinds[0] for kinds in policy.tower_kinds()})  # as `collate.equalize` asks for them
    (row,) = pack([policy.dummy_tree(smallest)], 100, policy.positions)
    scores = policy.token_scores(row)
    torch.autograd.backward(scores.logprob.sum())
    assert [name for name, parameter in policy.trained() if parameter.grad is None] == []
    frozen = {name for name, parameter in policy.base.named_parameters() if not parameter.requires_grad}
    assert frozen == NEVER_TRAINED.get(family, set())


def test_parameter_groups(checkpoints: dict[str, Path]) -> None:
    policy = make(checkpoints["qwen2_5_omni"], freeze=("vision",))
    groups = policy.parameter_groups(1e-3, {"projector": 1e-2}, 0.1)
    rates = {group["name"]: (group["lr"], group["weight_decay"]) for group in groups}
    assert rates["projector"] == (1e-2, 0.1)
    assert rates["language"] == (1e-3, 0.1)
    assert rates["language, no decay"] == (1e-3, 0.0)
    assert sum(len(group["params"]) for group in groups) == len(list(policy.trained()))


def test_master_dtype(checkpoints: dict[str, Path]) -> None:
    assert {p.dtype for p in make(checkpoints["qwen2_5_vl"]).base.parameters()} == {torch.float32}
    half = make(checkpoints["qwen2_5_vl"], dtype="bfloat16")
    assert {p.dtype for p in half.base.parameters()} == {torch.bfloat16}
    assert (logprobs(half) - logprobs(make(checkpoints["qwen2_5_vl"]))).abs().max() < 0.1


# ---- adapters and reference ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_train_alone_and_reference_switches_them_off(checkpoints: dict[str, Path], family: str) -> None:
    policy = make(checkpoints[family], lora=LoraConfig(rank=4, alpha=8.0))
    assert {name.split(".")[-3] for name, _ in policy.trained()} == {"lora_A", "lora_B"}
    before = logprobs(policy)
    assert torch.equal(before, logprobs(make(checkpoints[family])))
    disturb(policy)
    assert not torch.equal(logprobs(policy), before)
    assert torch.equal(policy.reference_scores(row_of(policy)).logprob, before)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapter_gradients(checkpoints: dict[str, Path], checkpointing: bool) -> None:
    policy = make(checkpoints["qwen2_5_vl"], lora=LoraConfig(rank=4), gradient_checkpointing=checkpointing)
    disturb(policy)
    torch.autograd.backward(policy.token_scores(row_of(policy)).logprob.sum())
    assert all(parameter.grad is not None and parameter.grad.any() for _, parameter in policy.trained())


def test_frozen_copy_as_reference(checkpoints: dict[str, Path]) -> None:
    config = ModelConfig(path=str(checkpoints["qwen2_5_vl"]))
    policy = load_policy(config)
    policy.reference = load_policy(config, trained=False)
    before = logprobs(policy)
    disturb(policy)
    assert policy.reference is not None
    assert not list(policy.reference.trained())
    assert torch.equal(policy.reference_scores(row_of(policy)).logprob, before)


def test_no_reference_was_asked_for(checkpoints: dict[str, Path]) -> None:
    policy = make(checkpoints["qwen2_5_vl"])
    with pytest.raises(ModelError, match="without a reference"):
        policy.reference_scores(row_of(policy))


# ---- saving --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4, alpha=16.0)])
@pytest.mark.parametrize("family", FAMILIES)
def test_saved_checkpoint_opens_in_transformers_and_here(
    checkpoints: dict[str, Path], family: str, lora: LoraConfig | None, tmp_path: Path
) -> None:
    policy = make(checkpoints[family], lora=lora)
    disturb(policy)
    expected = logprobs(policy)
    policy.save_pretrained(tmp_path)
    assert torch.equal(logprobs(policy), expected), "saving changed the policy"
    assert (logprobs(make(tmp_path)) - expected).abs().max() < 1e-5
    _, loading = getattr(transformers, policy.family.model_class).from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert processor.tokenizer.get_vocab() == policy.tokenizer.get_vocab()
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"]


def test_omni_is_saved_in_the_published_layout(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    make(checkpoints["qwen2_5_omni"]).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "qwen2_5_omni"
    assert config["architectures"] == ["Qwen2_5OmniModel"]
    assert config["thinker_config"]["model_type"] == "qwen2_5_omni_thinker"
    assert config["thinker_config"]["tie_word_embeddings"] is False
    assert config["thinker_config"]["text_config"]["tie_word_embeddings"] is False
    assert all(name.startswith("thinker.") for name in load_file(tmp_path / "model.safetensors"))


def test_qwen2_audio_is_saved_in_the_published_layout(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """transformers 5.19 itself saves language_model.model.model.*, which engines do not open."""
    make(checkpoints["qwen2_audio"]).save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    language = {name.removeprefix("language_model.") for name in saved if name.startswith("language_model.")}
    towers = {name.split(".")[0] for name in saved if not name.startswith("language_model.")}
    assert {"lm_head.weight", "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"} <= language
    assert not any(name.startswith("model.model.") for name in language)
    assert towers == {"audio_tower", "multi_modal_projector"}


def test_gathered_state_is_what_is_saved(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Under ZeRO-3 the model's own parameters are empty; the gathered ones count."""
    policy = make(checkpoints["qwen2_5_vl"])
    gathered = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    gathered["model.language_model.norm.weight"] += 1
    policy.save_pretrained(tmp_path, state_dict=gathered)
    saved = make(tmp_path).base.state_dict()
    assert torch.equal(saved["model.language_model.norm.weight"], gathered["model.language_model.norm.weight"])


def test_a_state_with_missing_names_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    policy = make(checkpoints["qwen2_5_vl"])
    state = dict(policy.model.state_dict())
    del state["model.language_model.norm.weight"]
    with pytest.raises(CheckpointError, match=r"norm\.weight"):
        policy.save_pretrained(tmp_path, state_dict=state)


def test_a_folder_that_cannot_be_written(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        make(checkpoints["qwen2_5_omni"]).save_pretrained(tmp_path / "file" / "model")


# ---- checkpoints that are refused ----------------------------------------------------------------------------------


def copy_of(folder: Path, to: Path) -> Path:
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def test_missing_weights(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(checkpoints["qwen2_5_vl"], tmp_path)
    weights = load_file(folder / "model.safetensors")
    dropped = next(name for name in weights if name.endswith("q_proj.weight"))
    del weights[dropped]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights of Qwen2_5_VL.* missing or of another shape.*q_proj"):
        make(folder)


def test_pickled_weights_are_not_opened(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(checkpoints["qwen2_5_vl"], tmp_path)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model\.path"):
        make(folder)


def test_sliding_window_layers_are_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(checkpoints["qwen2_5_vl"], tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    config["text_config"].pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="full causal attention"):
        make(folder)


def test_another_language_model_inside_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Qwen2-Audio's config may hold any text model of transformers; only its own is known to be right."""
    folder = copy_of(checkpoints["qwen2_audio"], tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] = {**config["text_config"], "model_type": "llama"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"'llama' language model: .*known with qwen2 only.*docs/families\.md"):
        make(folder)


# ---- the check before training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("formulation", ["dense", "merge"])
@pytest.mark.parametrize("family", FAMILIES)
def test_self_check_passes_and_leaves_no_trace(checkpoints: dict[str, Path], family: str, formulation: str) -> None:
    policy = make(checkpoints[family], attention=formulation, gradient_checkpointing=formulation == "dense")
    before, state = logprobs(policy), torch.get_rng_state()
    found = self_check(policy)
    assert max(found.values()) < 1e-4
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(logprobs(policy), before)
    assert all(parameter.grad is None for parameter in policy.model.parameters())


class _LeakyPolicy(Policy):
    """A policy whose rows let every segment see its left neighbours: what a wrong mask would do."""

    __slots__ = ()

    def token_scores(self, batch: Batch, **arguments: Any) -> Any:
        end = batch.spans[-1].stop
        spans = tuple(Span(start=s.start, stop=s.stop, parent=s.parent, subtree_stop=end) for s in batch.spans)
        wrong = Batch(**{name: getattr(batch, name) for name in Batch.__slots__} | {"spans": spans})
        return Policy.token_scores(self, wrong, **arguments)


def test_self_check_refuses_a_wrong_mask(checkpoints: dict[str, Path]) -> None:
    policy = make(checkpoints["qwen2_5_vl"], attention="dense")
    leaky = _LeakyPolicy(**{name: getattr(policy, name) for name in Policy.__slots__})
    with pytest.raises(ModelError, match=r"self-check of qwen2_5_vl with dense attention failed"):
        self_check(leaky)
