"""Two processes, with DDP and with DeepSpeed ZeRO-2 and ZeRO-3, train what one process trains.

One of the two has text only, the other one video and audio only, in every step. pairs.py has the runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from mmreason.config import build_config
from mmreason.demo.media import DemoFiles
from mmreason.errors import CheckpointError
from mmreason.training import open_run
from tests.integration.pairs import CASES, ENGINES, PROMPTS, STAGES, STEPS, cases_of
from tests.integration.runs import metrics, tensors_of, weights

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]  # two of these at once would starve


def _facts(folder: Path) -> list[dict[str, dict[str, Any]]]:
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


def _apart(mine: list[dict[str, Any]], theirs: list[dict[str, Any]], name: str) -> float:
    """The largest relative difference of a metric over all steps."""
    pairs = [(float(line[name]), float(other[name])) for line, other in zip(mine, theirs, strict=True)]
    return max(abs(one - other) / abs(other) for one, other in pairs)


def _distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(float((first[name] - second[name]).square().sum()) for name in first))


@pytest.mark.timeout(1800)  # the first test of a strategy waits for all its runs
def test_processes_are_what_they_should_be(pair: tuple[str, Path]) -> None:
    strategy, folder = pair
    stage = STAGES[strategy]
    text, media = _facts(folder)
    assert text.keys() == media.keys() > {*CASES, "resumed", "bf16", "grpo", "contrast", "dpo", "terms", "critic"}
    for name in text:
        for facts in (text[name], media[name]):
            assert facts["world"] == 2
            assert facts["deepspeed"] == (stage is not None)
            assert facts["stage"] == stage
            assert facts["split"] == (stage == 3)
            assert facts["said"] == ("DDP" if stage is None else f"DeepSpeed ZeRO-{stage}") + ", 2 processes"
        assert all(kinds == [] for kinds in text[name]["kinds"])
        assert all(kinds == ["audio", "video"] for kinds in media[name]["kinds"])


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("case", [*CASES, "resumed"])
def test_every_step_is_what_one_process_does(case: str, pair: tuple[str, Path], alone: Path, tiny_omni: Path) -> None:
    whole = alone / ("full" if case == "resumed" else case)
    mine, theirs = metrics(pair[1] / case), metrics(whole)
    assert len(mine) == len(theirs) == STEPS
    apart = {name: _apart(mine, theirs, name) for name in ("loss", "nll", "grad_norm")}
    print(f"{pair[0]:6} {case:19}", *(f"{name} {value:.1e}" for name, value in apart.items()))
    assert max(apart.values()) < 1e-4
    ours, other = weights(pair[1] / case), weights(whole)
    assert ours.keys() == other.keys()
    way = _distance(other, tensors_of(tiny_omni))
    assert way > 0
    assert _distance(ours, other) < 0.15 * way, "more than Adam makes of the noise in gradients that are nearly zero"


@pytest.mark.timeout(1800)
def test_resumed_is_never_stopped_bit_for_bit(pair: tuple[str, Path]) -> None:
    whole, resumed = weights(pair[1] / "full"), weights(pair[1] / "resumed")
    assert not [name for name in whole if not torch.equal(whole[name], resumed[name])]
    losses = [[line["loss"] for line in metrics(pair[1] / name)] for name in ("full", "resumed")]
    assert losses[0] == losses[1]


@pytest.mark.timeout(1800)
def test_another_number_of_processes_is_refused(
    pair: tuple[str, Path], tiny_omni: Path, text_and_media: DemoFiles
) -> None:
    values = cases_of(pair[1], tiny_omni, text_and_media)["resumed"]
    with pytest.raises(CheckpointError, match="written with number of processes 2, this run has 1; use the same"):
        open_run(build_config(values))


@pytest.mark.timeout(1800)
def test_bf16_is_close(pair: tuple[str, Path], alone: Path) -> None:
    nll = [line["nll"] for line in metrics(pair[1] / "bf16")]
    assert nll == pytest.approx([line["nll"] for line in metrics(alone / "full")], rel=0.02)
    assert all(math.isfinite(line["grad_norm"]) for line in metrics(pair[1] / "bf16"))


@pytest.mark.timeout(1800)
def test_what_was_saved_opens_and_is_what_was_trained(pair: tuple[str, Path]) -> None:
    opened = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(pair[1] / "full/model").state_dict()
    trained = load_file(pair[1] / "full/memory.st")
    assert opened.keys() == trained.keys()
    assert not [name for name in trained if not torch.equal(opened[name], trained[name])]


@pytest.mark.timeout(1800)
def test_grpo_with_answers_of_other_lengths(pair: tuple[str, Path]) -> None:
    text, media = (facts["grpo"]["lengths"] for facts in _facts(pair[1]))
    assert len(text) == len(media) == 2
    assert text != media, "processes decode different numbers of tokens"
    steps = metrics(pair[1] / "grpo")
    assert [line["step"] for line in steps] == [1, 2]
    assert steps[0]["ratio"] == pytest.approx(1, abs=1e-4)
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert steps[0]["groups/sampled"] == PROMPTS
    assert len(list((pair[1] / "grpo/tensorboard").glob("events.*"))) == 1, "one process tracks"


@pytest.mark.timeout(1800)
def test_only_the_process_with_videos_samples_contrast_rollouts(pair: tuple[str, Path], alone: Path) -> None:
    """And nobody waits for it: under ZeRO-3 parameters are whole meanwhile."""
    text, media = (facts["contrast"]["lengths"] for facts in _facts(pair[1]))
    assert (len(text), len(media)) == (2, 4), "calls of the engine in two steps"
    mine, theirs = metrics(pair[1] / "contrast"), metrics(alone / "contrast")
    assert [line["contrast/groups"] for line in mine] == [line["contrast/groups"] for line in theirs] == [0.25] * 2
    assert mine[0]["reward/mean"] == pytest.approx(metrics(pair[1] / "grpo")[0]["reward/mean"])


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (pip install 'mmreason[vllm]')")
@pytest.mark.timeout(1800)
def test_an_engine_in_each_process_has_the_trainers_weights(pairs: Callable[[str], tuple[Path, str]]) -> None:
    """Real vLLM, colocated: after updates, whose weights ZeRO-3 gathers, log-probs are those of the trainer; and in a
    further run of the same processes, which opens engines with other settings in place of these."""
    folder, problem = pairs(ENGINES)
    assert not problem, problem
    assert [facts["vllm_2"]["stage"] for facts in _facts(folder)] == [3, 3]
    records = [*metrics(folder / "vllm"), *metrics(folder / "vllm_2")]
    assert [record["groups/sampled"] for record in records] == [PROMPTS] * 4
    assert all(record["rollout/logprob_gap_p99"] < 1e-5 for record in records), "the largest of the processes' own"
    assert all(record["grad_norm"] > 0 for record in records)
