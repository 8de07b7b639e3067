"""docs/algorithms.md names every choice, and its configs are configs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from mmreason.config import GrpoConfig, TrainConfig, build_config, load_config
from mmreason.config.grpo_options import OPTIONS
from mmreason.config.grpo_terms import TERMS
from mmreason.rewards import check_rewards
from mmreason.training.shaping import load_shaping

PAGE = (Path(__file__).parents[3] / "docs" / "algorithms.md").read_text(encoding="utf-8")
METHODS = re.findall(r"^\| ([^|]+) \| (.*`(?:grpo|train): .*) \|$", PAGE, re.MULTILINE)


def test_every_choice_and_option_is_on_the_page() -> None:
    fields = [*GrpoConfig.model_fields.values(), TrainConfig.model_fields["aggregation"]]
    choices = {choice for field in fields for choice in get_args(field.annotation) if isinstance(choice, str)}
    named = set(re.findall(r"[\w+*]+", PAGE))
    assert choices | set(OPTIONS) <= named
    for term, options in TERMS.items():
        assert {term, *options} <= named


def test_the_terms_of_the_page_are_terms() -> None:
    blocks = [text for text in re.findall(r"```yaml\n(grpo:.*?)```", PAGE, re.DOTALL) if "terms" in text]
    assert blocks
    for text in blocks:
        values = {"run_dir": "r", "model": {"path": "m"}, "rewards": [{"name": "accuracy"}], **yaml.safe_load(text)}
        assert build_config(values, "page").grpo.terms


@pytest.mark.parametrize(("method", "cell"), METHODS, ids=[method for method, _ in METHODS])
def test_the_configs_of_methods_are_configs(method: str, cell: str, tmp_path: Path) -> None:
    parts = re.findall(r"`((?:grpo|train): \{[^`]*\})`", cell)
    assert parts
    file = tmp_path / "run.yaml"
    lines = ["run_dir: r", "model: {path: m}", "rewards: [{name: accuracy}]", *parts]
    file.write_text("\n".join(lines).replace("...", "0.01"))
    config = load_config(file)
    assert config.grpo != GrpoConfig() or config.train != TrainConfig()


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(rewards:.*?)```", PAGE, re.DOTALL))
def test_the_pages_blocks_are_configs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(f"run_dir: r\nmodel: {{path: m}}\n{block}")
    (tmp_path / "mine.py").write_text("def saw_enough(sample, text):\n    return 1.0\n")
    config = load_config(tmp_path / "run.yaml")
    check_rewards(config.rewards)
    assert len(load_shaping(config).shapers) == 2


def test_there_are_methods() -> None:
    assert len(METHODS) >= 15
