"""The recipes that come first run small, and one more, drawn by the commit's hash. All: `make test-recipes`."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from mmreason.config import load_plan, recipe_files
from mmreason.errors import ConfigError
from mmreason.recipes.smoke import Workshop, family_named, shrunk, smoke, smoke_folder
from tests.integration.runs import metrics

FIRST = (
    "video-r1", "videop2r", "vlaa-thinker", "videorft", "openmmreasoner", "r1-aqa", "sari", "vlm-r1-rec", "visual-rft",
    "rl-with-cold-start", "star-r1", "mm-r5",
)  # fmt: skip
LIMIT_S = 60.0


def drawn() -> str:
    """One of the other recipes, by the hash of the commit; always the same where there is no repository."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    others = [name for name in recipe_files() if name not in FIRST]
    return others[int(done.stdout.strip() or "0", 16) % len(others)]


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Tiny models of every family, made when first asked for."""
    return Workshop(tmp_path_factory.mktemp("workshop"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*(name for name in FIRST if name in recipe_files()), drawn()])
def test_recipe_runs_small(name: str, workshop: Workshop, tmp_path: Path) -> None:
    started = time.process_time()
    plan = load_plan(name)
    if "chart_code" in {reward.name for stage in plan.stages for reward in stage.config.rewards}:
        pytest.importorskip("matplotlib")
    model = smoke(plan, tmp_path / "smoke", workshop, say=lambda line: None)
    for stage in (stage for stage in plan.stages if stage.sample is None):
        assert [line["step"] for line in metrics(tmp_path / "smoke" / (stage.name or "run"))] == [1, 2]
    assert (model / "config.json").is_file()
    assert time.process_time() - started < LIMIT_S


def test_a_smoke_keeps_what_the_recipe_is(workshop: Workshop, tmp_path: Path) -> None:
    plan = load_plan("r1-aqa")
    (small,) = shrunk(plan, tmp_path, workshop).stages
    (whole,) = plan.stages
    assert small.config.rewards == whole.config.rewards
    assert small.config.data.suffix == whole.config.data.suffix
    assert (small.config.grpo.kl_coef, small.config.grpo.clip) == (0.04, "none")
    assert small.config.train.aggregation == "sequence_mean"
    assert family_named(small.config.model.path) == "qwen2_audio"
    assert smoke_folder(plan) == Path("runs/r1-aqa-smoke")


def test_a_smoke_empties_no_folder_of_others(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(ConfigError, match="is not empty, and no earlier --smoke; give another --run-dir"):
        smoke(load_plan("r1-aqa"), tmp_path, workshop)
    assert (tmp_path / "thesis.txt").is_file()


def test_a_model_without_a_known_family() -> None:
    with pytest.raises(ConfigError, match="--smoke cannot tell its family; known: qwen2_5_omni"):
        family_named("somebody/some-model")
