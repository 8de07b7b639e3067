"""Every shipped recipe is whole: it parses, is short, says what it is, and its proofs are there."""

import json
import re
from pathlib import Path

import pytest

from mmreason.config import RecipeHeader, load_plan, read_header, recipe_files
from mmreason.errors import ConfigError
from mmreason.recipes.kinds import KINDS
from mmreason.recipes.listing import shown, table
from mmreason.recipes.rows import write_rows
from mmreason.recipes.scenes import MEDIA
from mmreason.rewards import check_rewards

ROOT = Path(__file__).parents[1]
RECIPES = recipe_files()


def header(name: str) -> RecipeHeader:
    found = read_header(RECIPES[name])
    assert found is not None, f"{name}: no section recipe:"
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_whole(name: str) -> None:
    plan = load_plan(name)
    if "chart_code" in {reward.name for stage in plan.stages for reward in stage.config.rewards}:
        pytest.importorskip("matplotlib")
    for stage in plan.stages:
        check_rewards(stage.config.rewards)
        assert stage.config.data.train, f"{name}: no data"
    assert len(RECIPES[name].read_text(encoding="utf-8").splitlines()) < 60
    about = header(name)
    assert about.differs, f"{name}: says nothing about what is not the paper's"
    assert {row.partition(" ")[0] for row in about.rows} <= set(MEDIA)
    assert {row.partition(" ")[2] for row in about.rows} <= set(KINDS)


@pytest.mark.parametrize("name", RECIPES)
def test_fidelity_is_shown_by_files_that_exist(name: str) -> None:
    about = header(name)
    if about.fidelity == "inspired":
        return
    assert about.checked_by, f"{name}: {about.fidelity}, but no file that shows it"
    for file in about.checked_by:
        assert (ROOT / file).is_file(), f"{name}: {file} does not exist"
        assert file.startswith("tests/")
    recorded = [file for file in about.checked_by if file.startswith("tests/recorded/")]
    assert bool(recorded) == (about.fidelity == "differential"), f"{name}: differential is what names recorded inputs"
    for file in recorded:
        record = json.loads((ROOT / file).read_text(encoding="utf-8"))
        assert {"repository", "commit", "cases"} <= record.keys()
        pages = [page.read_text(encoding="utf-8") for page in (ROOT / "tests").rglob("test_*.py")]
        stem = Path(file).stem
        names = (stem, stem.split("_")[0] + "_")  # a test may read several by a pattern
        read = any("recorded" in page and any(name in page for name in names) for page in pages)
        assert read, f"{file}: no test reads it"


LOSS_IS_SHOWN_BY = {
    ("none", "sequence_mean"): "tests/recorded/video_r1_loss.json",
    ("gppo", "token_mean"): "tests/recorded/klear_gppo.json",
    ("ppo", "sequence_mean"): "tests/unit/algorithms/test_trl.py",
    ("ppo", "token_mean"): "tests/unit/algorithms/test_trl.py",
}


@pytest.mark.parametrize("name", [name for name in RECIPES if header(name).fidelity == "differential"])
def test_a_differential_recipe_names_what_its_loss_equals(name: str) -> None:
    about = header(name)
    for stage in load_plan(name).stages:
        config = stage.config
        if config.train.method != "grpo" or stage.sample is not None:
            continue
        proof = LOSS_IS_SHOWN_BY[config.grpo.clip, config.train.aggregation]
        assert proof in about.checked_by, f"{name}: its loss is that of {proof}"
        own = Path(proof).stem.startswith(name.replace("-", "_").partition("_gppo")[0])
        says = any("loss" in line and ("TRL" in line or "Video-R1" in line) for line in about.differs)
        assert own or says, f"{name}: does not say whose loss it is compared with"


def test_at_most_ten_are_inspired() -> None:
    assert len([name for name in RECIPES if header(name).fidelity == "inspired"]) <= 10


def test_the_listing_has_them_all() -> None:
    lines = list(table())
    assert [line.split()[0] for line in lines[1:] if not line.startswith(" ")] == list(RECIPES)
    for name, file in RECIPES.items():
        text = "\n".join(shown(name))
        assert str(file) in text
        assert all(part in text for part in (header(name).paper, *header(name).rows))


def test_listing_of_what_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no recipes there"):
        list(table(tmp_path))
    with pytest.raises(ConfigError, match="r1-aqqa: no such recipe or file; did you mean the recipe 'r1-aqa'"):
        list(shown("r1-aqqa"))
    with pytest.raises(ConfigError, match="thinker: no such recipe or file; did you mean the recipe 'egothinker'"):
        list(shown("thinker"))
    with pytest.raises(ConfigError, match="nope: no such recipe or file; `mmreason recipes` lists them"):
        list(shown("nope"))
    with pytest.raises(ConfigError, match="no recipe; a recipe has a section recipe:"):
        list(shown(str(ROOT / "configs" / "quickstart.yaml")))


def test_made_up_rows_are_the_same_again_and_of_known_kinds(tmp_path: Path) -> None:
    specs = [f"{media} {kind}" for media in MEDIA for kind in ("mcq", "numeric")]
    first, second = (write_rows(tmp_path / n / "a.jsonl", specs, "{answer}", count=6).read_text() for n in "xy")
    assert first == second
    with pytest.raises(ConfigError, match=r"recipe.rows: 'vido mcq': no media 'vido'; did you mean 'video'\?"):
        write_rows(tmp_path / "b.jsonl", ["vido mcq"], "", count=1)
    with pytest.raises(ConfigError, match=r"recipe.rows: 'video mcc': no kind 'mcc'; did you mean 'mcq'\?"):
        write_rows(tmp_path / "b.jsonl", ["video mcc"], "", count=1)


def test_the_readme_has_every_recipe_as_its_file_says() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| `([\w-]+)` \| (.*?) \| (.*?) \| (.*?) \| (\w+) \|$", readme, re.MULTILINE)
    expected = {}
    for name in RECIPES:
        about = header(name)
        paper = f"{about.paper} ([{about.arxiv}](https://arxiv.org/abs/{about.arxiv}))" if about.arxiv else about.paper
        expected[name] = (paper, about.method, about.modality, about.fidelity)
    assert {line[0]: line[1:] for line in lines} == expected
