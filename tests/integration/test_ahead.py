"""One step ahead, by an engine that is what a server is to a run: weights of its own, taken over when they are pushed.

It is our own decode loop on a second copy of the model. The same with vLLM: test_vllm_server.py.
"""

from __future__ import annotations

import json
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from mmreason.config import build_config
from mmreason.demo.media import DemoFiles
from mmreason.errors import EngineError, StopRequested
from mmreason.policy.policy import load_policy
from mmreason.rollout.base import Answer, SamplingParams
from mmreason.rollout.hf import HFEngine
from mmreason.training import METHODS, open_run
from mmreason.training.run import Run
from tests.integration import runs

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="rollout.engine: server needs vLLM to be installed")


class Apart(HFEngine):
    """Samples by a copy of the run's weights."""

    def __init__(self, run: Run) -> None:
        super().__init__(load_policy(run.config.model), run.encoder)
        self._source = run.policy
        self.cancelled = False

    def take_weights(self, version: int) -> None:
        self.policy.model.load_state_dict(self._source.model.state_dict())
        self.weight_version = version

    def cancel(self) -> None:
        self.cancelled = True

    def sample(self, contexts: Any, params: SamplingParams, seeds: Any) -> list[Answer]:
        if self.cancelled:
            raise EngineError("sampling was cancelled")
        return super().sample(contexts, params, seeds)


REWARD = "def score(sample, text):\n    return (sum(map(ord, text)) % 7) / 6\n"
"""One that an untrained model's answers differ in."""


def opened(run_dir: Path, model: Path, data: DemoFiles, steps: int = 6, gap: float = 1e-4) -> Run:
    reward = run_dir.with_name("reward.py")
    reward.write_text(REWARD)
    values = runs.config(
        run_dir,
        model,
        data,
        "grpo",
        rollout={"engine": "server", "ahead": 1, "options": {"logprob_gap": gap}},
        grpo={"off_policy": "token_truncate"},
        train={"steps": steps, "save_every": 3, "keep": 9},
    )
    run = open_run(build_config({**values, "rewards": [{"name": f"{reward}:score"}]}))
    run.rollouts = Apart(run)
    return run


def trained(run: Run) -> dict[str, torch.Tensor]:
    try:
        METHODS["grpo"](run)
        run.export()
    finally:
        run.close()
    return runs.weights(run.run_dir)


def test_answers_are_one_step_old_but_not_over_a_checkpoint_and_a_killed_run_goes_on_exactly(
    tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = trained(opened(tmp_path / "whole", tiny_omni, demo_data, gap=1e-12))
    assert "off the trainer's in the mean (limit 1e-12)" in capsys.readouterr().err
    records = runs.metrics(tmp_path / "whole")
    assert [record["rollout/staleness"] for record in records] == [0, 1, 1, 0, 1, 1]
    assert all(record["time/ahead/rollout"] > 0 for record in records if record["step"] in (1, 2, 4, 5))
    assert records[0]["off_policy/weight"] == pytest.approx(1, abs=1e-5)
    assert records[1]["off_policy/weight"] != pytest.approx(1, abs=1e-5)
    parts = tmp_path / "parts"
    killed = opened(parts, tiny_omni, demo_data)
    killed.finish_step = _dies_after(4, killed)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trained(killed)
    resumed = opened(parts, tiny_omni, demo_data)
    assert resumed.step == 3
    again = trained(resumed)
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())
    assert all(record["rollout/logprob_gap"] > 1e-4 for record in records if record["rollout/staleness"])
    assert "off the trainer's" not in capsys.readouterr().err, "older weights are no fault of the engine"


def test_a_stop_waits_for_no_answers_and_forgets_what_was_taken_for_them(
    tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path
) -> None:
    run = opened(tmp_path / "run", tiny_omni, demo_data)
    finish = run.finish_step

    def stopping(step: int, *parts: Any, **more: Any) -> None:
        finish(step, *parts, **more)
        if step == 2:
            run.request_stop(signal.SIGTERM, None)

    run.finish_step = stopping  # type: ignore[method-assign]
    with pytest.raises(StopRequested):
        METHODS["grpo"](run)
    run.save(must=True)
    run.close()
    assert run.beside.under_way is None or run.beside.under_way.future.done()
    (state,) = (tmp_path / "run").rglob("*2/rank-0.json")
    assert json.loads(state.read_text())["feed"]["index"] == 8  # two steps of 4 prompts; those of step 3 are forgotten


def _dies_after(step: int, run: Run) -> Any:
    finish = run.finish_step

    def dying(number: int, *parts: Any, **more: Any) -> None:
        if number > step:
            raise KeyboardInterrupt
        finish(number, *parts, **more)

    return dying
