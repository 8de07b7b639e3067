"""Which weights an engine is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmreason.config import LoraConfig, ModelConfig
from mmreason.policy.policy import load_policy
from mmreason.rollout.weights import engine_weights


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
