"""A run with a vLLM server of its own, as a process that a test watches and kills: `python -m ... served_run run.yaml`

Before it trains it looks at the server's answers next to the trainer's, and prints what it found as a line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mmreason.collate import pack
from mmreason.config import load_config
from mmreason.rollout.base import SamplingParams
from mmreason.rollout.hf import HFEngine
from mmreason.rollout.served import ServedEngine
from mmreason.rollout.transfer import Folder
from mmreason.training import METHODS, open_run
from mmreason.training.run import Run
from mmreason.types import MediaTensors, Segment, Tree
from tests.parity.trees import Maker

TRAINED = "trained"


def main(file: Path) -> None:
    run = open_run(load_config(file))
    run.sync()
    print(json.dumps(findings(run)), flush=True)
    METHODS["grpo"](run)
    print(TRAINED, flush=True)
    time.sleep(600)  # until it is killed


def findings(run: Run) -> dict[str, Any]:
    """Gaps of log-probs by kind of prompt, and greedy answers of both sides, before and after new weights."""
    prompts = {name: prompt(run, name, items) for name, items in media(Maker(run.policy)).items()}
    params = SamplingParams(temperature=0.8, max_new_tokens=12)
    seeds = [[1, 2, 3]] * len(prompts)
    groups = run.rollouts.generate(list(prompts.values()), 3, params, seeds)
    again = run.rollouts.generate(list(prompts.values()), 3, params, seeds)
    gaps = {
        name: max(gap(run, one, rollout.segments[0], 0.8) for rollout in group)
        for (name, one), group in zip(prompts.items(), groups, strict=True)
    }
    greedy = [both(run, list(prompts.values()))]
    served = run.rollouts
    assert isinstance(served, ServedEngine)
    assert served.fleet is not None
    through = served.fleet.transfer
    for part, transfer in (("language", through), ("vision", Folder(Path(run.config.run_dir) / "rollout", 600.0))):
        disturb(run, part)
        served.fleet.transfer = transfer
        run.rollouts.take_weights(0)
        greedy.append(both(run, list(prompts.values())))
    served.fleet.transfer = through
    run.rollouts.take_weights(0)
    return {
        "gaps": gaps,
        "again": [[a.text == b.text for a, b in zip(*pair, strict=True)] for pair in zip(groups, again, strict=True)],
        "greedy": greedy,
    }


def media(make: Maker) -> dict[str, list[MediaTensors]]:
    return {
        "text": [],
        "image": [make.image(4, 6)],
        "images": [make.image(4, 4), make.image(6, 4)],
        "video of 4 frames": [make.video(2, 4, 4, 1.0)],
        "video of 40 frames": [make.video(20, 4, 6, 0.7)],
        "audio": [make.audio(50)],
        "mix": [make.audio(33), make.image(4, 4), make.video(2, 4, 4, 3.3)],
    }


def prompt(run: Run, name: str, items: Sequence[MediaTensors]) -> Segment:
    named = [replace(item, key=f"{name} {place}") for place, item in enumerate(items)]
    return Maker(run.policy).segment(run.policy, named)


def gap(run: Run, prompt: Segment, answer: Segment, temperature: float) -> float:
    """Largest difference of a log-prob between the server and the trainer."""
    (row,) = pack([Tree(id="x", segments=(prompt, replace(answer, parent=0)))], 8192, run.policy.positions)
    scores = run.policy.token_scores(row, temperature=temperature, grad=False).logprob[-len(answer.ids) :]
    return float((scores - answer.columns["logprob.sampling"]).abs().max())


def both(run: Run, prompts: list[Segment]) -> list[list[list[int]]]:
    """Greedy answers of the server and of our own decode loop on the trainer's weights."""
    params = SamplingParams(greedy=True, max_new_tokens=8)
    contexts, seeds = [(one,) for one in prompts], [0] * len(prompts)
    engines = (run.rollouts, HFEngine(run.policy, run.encoder))
    return [[one.segment.ids.tolist() for one in engine.sample(contexts, params, seeds)] for engine in engines]


def disturb(run: Run, part: str) -> None:
    """Other weights in one part of the model."""
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in run.policy.trained():
            if run.policy.family.part_of(name) == part:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=random))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
