"""Which weights an engine is given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mmreason.config import LoraConfig, ModelConfig
from mmreason.config.engines import LocalOptions
from mmreason.errors import EngineError
from mmreason.policy.policy import Policy, load_policy
from mmreason.rollout.hf import HFEngine
from mmreason.rollout.vllm_local import VLLMEngine
from mmreason.rollout.weights import Canary, engine_weights, write_weights


@pytest.mark.parametrize(
    ("targets", "joined"),
    [
        (("q_proj", "v_proj"), {"q_proj", "k_proj", "v_proj"}),
        (("o_proj", "up_proj"), {"o_proj", "gate_proj", "up_proj"}),
    ],
)
def test_what_vllm_joins_is_given_whole_where_only_a_part_has_adapters(
    tiny_vl: Path, targets: tuple[str, ...], joined: set[str]
) -> None:
    policy = load_policy(ModelConfig(path=str(tiny_vl), lora=LoraConfig(rank=2, targets=targets)))
    given = [name for name, _ in engine_weights(policy)]
    assert len(set(given)) == len(given)
    assert {name.split(".")[-2] for name in given} == joined
    plain = {name for name, _ in engine_weights(load_policy(ModelConfig(path=str(tiny_vl))), whole=True)}
    assert set(given) == {name for name in plain if name.split(".")[-2] in joined and "layers." in name}
    assert {name for name, _ in engine_weights(policy, whole=True)} == plain


@pytest.fixture
def policy(tiny_vl: Path) -> Policy:
    return load_policy(ModelConfig(path=str(tiny_vl), freeze=("vision",)))


def test_a_folder_of_weights_is_there_as_a_whole(policy: Policy, tmp_path: Path) -> None:
    folder = tmp_path / "weights-3"
    for left in (folder, tmp_path / "weights-3.partial"):  # by a run that was killed
        left.mkdir()
        (left / "model.safetensors").write_text("half")
    given = dict(engine_weights(policy))
    first, second, *_ = (parameter for _, parameter in policy.trained() if parameter.shape == (128,))
    second.data = first.data  # one tensor under two names, which safetensors does not take
    write_weights(policy, folder)
    assert load_file(folder / "model.safetensors").keys() == given.keys()
    assert [left.name for left in tmp_path.iterdir()] == ["weights-3"]


def test_the_optimizer_makes_room_while_the_engine_is_awake(policy: Policy) -> None:
    moved: list[str] = []
    options = LocalOptions(offload_optimizer=True)
    arguments = {"dtype": "float32", "max_model_len": 64}
    engine = VLLMEngine(policy, Texts(), arguments, options, optimizer_to=lambda device: moved.append(str(device)))
    engine._make_room()
    engine.rest()
    assert moved == ["cpu", str(policy.device)]
    plain = VLLMEngine(policy, Texts(), arguments, LocalOptions(), optimizer_to=lambda device: moved.append("never"))
    plain._make_room()
    plain.rest()
    assert len(moved) == 2


class Texts:
    def text(self, ids: Tensor) -> str:
        return " ".join(map(str, ids.tolist()))


def unnoticed_updates(policy: Policy, canary: Canary, engine: HFEngine) -> int:
    """How many small updates the canary lets pass until it says that the engine has not even one of them."""
    canary.check(engine)
    for count in range(50):
        with torch.no_grad():
            for _, parameter in policy.trained():
                parameter.mul_(1 + 2e-4)
        try:
            canary.check(engine)
        except EngineError as error:
            return count if "exactly those of before the update" in str(error) else -1
    return 50


def test_an_update_that_rounding_hides_is_no_error_until_it_shows(policy: Policy, tiny_vl: Path) -> None:
    """The engine never takes new weights: in float32 the first update shows it, else many together."""
    engine = HFEngine(load_policy(ModelConfig(path=str(tiny_vl))), Texts())
    assert unnoticed_updates(policy, Canary(policy, gap=0.05, exact=False), engine) in range(2, 50)
    assert unnoticed_updates(policy, Canary(policy, gap=1.0, exact=True), engine) == 0
