"""One process's engine: where the optimizer's state is."""

from __future__ import annotations

import torch
from torch import nn

from mmreason.config import TrainConfig
from mmreason.training.engine import Engine


def test_the_optimizers_state_is_moved_and_the_parameters_stay() -> None:
    engine = Engine(TrainConfig(method="sft", steps=1))
    model = nn.Linear(3, 2)
    engine.prepare(model, [{"params": list(model.parameters()), "lr": 0.1, "weight_decay": 0.0}])
    engine.backward(engine.model(torch.ones(1, 3)).sum(), last=True)
    engine.step()
    engine.move_optimizer_state(torch.device("meta"))  # the one other device that every machine has
    states = list(engine.optimizer.state.values())
    assert len(states) == 2
    assert {state[key].device.type for state in states for key in ("exp_avg", "exp_avg_sq")} == {"meta"}
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
