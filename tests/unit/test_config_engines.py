"""`rollout.engine` and `rollout.options`: what is refused, in which words."""

from __future__ import annotations

from typing import Any

import pytest

from mmreason.config import RunConfig, build_config
from mmreason.config.engines import ENGINE_OPTIONS, vllm_missing
from mmreason.errors import ConfigError
from mmreason.rollout.engines import rollout_engine


def built(**sections: Any) -> RunConfig:
    return build_config(
        {
            "run_dir": "run",
            "model": {"path": "some/model"},
            "data": {"train": [{"path": "rows.jsonl"}]},
            "rewards": [{"name": "accuracy"}],
            **sections,
        }
    )


CORRECTED = {"off_policy": "token_truncate"}


def test_every_option_has_its_help_and_passes_by_default() -> None:
    for name, options in ENGINE_OPTIONS.items():
        assert built(rollout={"engine": name, "options": {}}, grpo=CORRECTED).rollout.engine == name
        assert all(field.description for field in options.model_fields.values())


@pytest.mark.parametrize(
    ("rollout", "grpo", "line"),
    [
        ({"engine": "vllm", "options": {"gpu_memry": 0.3}}, CORRECTED, "gpu_memry: .*did you mean 'gpu_memory'"),
        ({"engine": "vllm", "options": {"kv_cache_gb": -1}}, CORRECTED, "kv_cache_gb: got -1; input should be greater"),
        (
            {"engine": "vllm", "options": {"tensor_parallel": 2}},
            CORRECTED,
            "rollout.options.tensor_parallel: 2, but an engine in the trainer's process",
        ),
        ({"engine": "hf", "options": {"dtype": "auto"}}, {}, "no option of rollout.engine hf; it has none"),
        ({"engine": "vllm"}, {}, "grpo.off_policy: none, but rollout.engine vllm .*use token_truncate"),
        ({"engine": "server"}, {}, "grpo.off_policy: none, but rollout.engine server"),
        (
            {"engine": "vllm", "top_p": 0.9},
            {**CORRECTED, "options": {"support": 0}},
            "support: 0, but rollout.engine vllm",
        ),
    ],
)
def test_what_cannot_work_is_refused(rollout: dict[str, Any], grpo: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        built(rollout=rollout, grpo=grpo)


@pytest.mark.skipif(vllm_missing("vllm") is not None, reason="vLLM is not installed (pip install 'mmreason[vllm]')")
def test_an_engine_that_only_evaluates_has_one_gpu_too() -> None:
    config = built(rollout={"engine": "vllm", "options": {"tensor_parallel": 2}}, rewards=[], train={"method": "sft"})
    nothing: Any = None
    with pytest.raises(ConfigError, match="tensor_parallel: 2, but an engine in the trainer's process"):
        rollout_engine(config, nothing, nothing, ())


def test_room_is_made_only_for_an_engine_that_sleeps() -> None:
    with pytest.raises(ConfigError, match="offload_optimizer: true needs sleep: true"):
        built(rollout={"engine": "vllm", "options": {"offload_optimizer": True, "sleep": False}}, grpo=CORRECTED)


def test_our_own_loop_needs_no_vllm() -> None:
    assert vllm_missing("hf") is None
