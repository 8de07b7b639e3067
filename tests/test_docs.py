"""What the pages show is true: links lead somewhere, examples are what the program takes and prints."""

import json
import re
import textwrap
from pathlib import Path

import pytest
import yaml

from mmreason.algorithms.advantages import ADVANTAGES
from mmreason.algorithms.clips import CLIPS
from mmreason.algorithms.kl import KL_ESTIMATORS
from mmreason.config import RewardConfig, build_config, load_plan
from mmreason.data import OPTIONS, sample_from_row
from mmreason.policy.families import FAMILIES
from mmreason.recipes.listing import table
from mmreason.recipes.smoke import smoke
from mmreason.rewards import REWARDS
from mmreason.rewards.accuracy import TASKS
from mmreason.scoring import score_file

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: str, language: str) -> list[str]:
    """The fenced code blocks of one language."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^ *```{language}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:mmreason|tests|docs|configs|rewards|processors)/[\w./-]*)`", text)
    assert not [name for name in named if not (ROOT / name).exists()]


def test_yaml_of_the_data_page_is_a_data_section() -> None:
    values = {"run_dir": "r", "model": {"path": "m"}, "rewards": [{"name": "accuracy"}]}
    pages = [yaml.safe_load(text) for text in blocks("docs/data.md", "yaml")]
    sources, order, again = (build_config({**values, **page}) for page in pages)
    assert sources.data.train[2].streaming
    assert order.data.mix["charts"] == 1
    assert again.grpo.option("replay") == 0.25


def test_the_readme_counts_what_there_is() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    counts = {"of them": REWARDS, "advantages": ADVANTAGES, "clips": CLIPS, "KL estimators": KL_ESTIMATORS}
    for what, many in counts.items():
        assert f"{len(many)} {what}" in text


def test_yaml_of_the_rewards_page_is_a_config() -> None:
    for text in blocks("docs/rewards.md", "yaml"):
        build_config({"run_dir": "r", "model": {"path": "m"}, **yaml.safe_load(text)})


def test_rows_of_the_pages_are_samples(tmp_path: Path) -> None:
    page, readme = blocks("docs/data.md", "json")[0], blocks("README.md", "json")[0]
    sample = sample_from_row(json.loads(page), "page:1", tmp_path)
    assert sample.modality == "audio+image+video+sound"
    assert sample_from_row(json.loads(readme), "page:1", tmp_path).modality == "video"


def test_scores_of_the_data_page_are_what_is_printed(tmp_path: Path) -> None:
    _, given, printed = blocks("docs/data.md", "json")
    (tmp_path / "in.jsonl").write_text(given)
    score_file(tmp_path / "in.jsonl", [RewardConfig(name="accuracy")], tmp_path / "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text()) == json.loads(printed)


def test_pages_name_every_task_option_and_family() -> None:
    data = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    assert not [task for task in TASKS if f"| `{task}` |" not in data]
    ours = {name for options in OPTIONS.values() for name in options.values()}
    assert not [name for name in ours if f"`{name}`" not in data]
    families = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    for family in FAMILIES.values():
        (line,) = [line for line in families.splitlines() if line.startswith(f"| `{family.name}` |")]
        assert all(f"`{name}`" in line for name in (*family.model_types, family.model_class))


def test_rewards_of_the_readme_are_taken() -> None:
    (text,) = [text for text in blocks("README.md", "yaml") if "rewards:" in text]
    values = {"run_dir": "r", "model": {"path": "m"}, **yaml.safe_load(text)}
    assert {reward.name for reward in build_config(values).rewards} <= {*REWARDS, "my_reward.py:fn"}


def test_the_reward_of_contributing_works_as_it_stands(tmp_path: Path) -> None:
    """Under 30 lines, taken literally, used without a change to this project."""
    (block,) = [text for text in blocks("CONTRIBUTING.md", "python") if "def brevity" in text]
    code = textwrap.dedent(block)
    imports = "from collections.abc import Sequence\nfrom mmreason.types import Rollout, Sample, Score\n\n\n"
    assert len((imports + code).splitlines()) < 30
    (tmp_path / "brief.py").write_text(imports + code)
    (tmp_path / "in.jsonl").write_text(json.dumps({"answer": "B", "completions": ["one two three", "one"]}) + "\n")
    reward = RewardConfig(name=f"{tmp_path}/brief.py:brevity", options={"limit": 2})
    score_file(tmp_path / "in.jsonl", [reward], tmp_path / "out.jsonl")
    assert [score["total"] for score in json.loads((tmp_path / "out.jsonl").read_text())["scores"]] == [0.0, 1.0]


def test_the_recipe_of_the_recipes_page_works_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under 30 lines, in a user's own folder."""
    (code,) = blocks("docs/recipes.md", "python")
    (text,) = [text for text in blocks("docs/recipes.md", "yaml") if "# mine.yaml" in text]
    assert len(text.splitlines()) < 30
    (tmp_path / "brief.py").write_text(code)
    (tmp_path / "mine.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert "mine" in "\n".join(table(Path(".")))
    model = smoke(load_plan("mine.yaml"), tmp_path / "small", say=lambda line: None)
    assert (model / "config.json").is_file()


def test_yaml_of_the_recipes_page_is_taken(tmp_path: Path) -> None:
    stages, header, *_ = blocks("docs/recipes.md", "yaml")
    (tmp_path / "two.yaml").write_text(header + stages)
    assert [stage.name for stage in load_plan(tmp_path / "two.yaml").stages] == ["cold_start", "rl"]
