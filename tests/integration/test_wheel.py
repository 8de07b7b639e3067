"""The built wheel, used from a folder whose own names are the same as ours: nothing of the user's is shadowed."""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from mmreason.demo.media import DemoFiles
from tests.integration.runs import config, metrics

ROOT = Path(__file__).parents[2]

MY_REWARD = """
import rewards
from helper import BONUS

OWNER = rewards.OWNER

def fn(sample, text):
    return BONUS if sample.answer in text else 0.0
"""


def build(source: Path, target: str, folder: Path) -> Path:
    """The wheel or sdist that hatchling builds from `source`."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


def contents(wheel: Path) -> dict[str, bytes]:
    """Every file of the package in a wheel, without its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}


def test_wheel_has_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    found = contents(wheel)
    assert {name.split("/")[0] for name in found} == {"mmreason"}
    for folder in ("processors", "rewards"):
        for file in (ROOT / folder).rglob("*.py"):
            name = f"mmreason/{folder}/{file.relative_to(ROOT / folder)}"
            assert found[name] == file.read_bytes(), name
    shipped = {file.relative_to(ROOT).as_posix() for file in (ROOT / "mmreason").rglob("*") if file.is_file()}
    missing = {name for name in shipped if "__pycache__" not in name and name not in found}
    assert not missing


def test_wheel_has_the_license_and_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name.split(".dist-info/")[1] for name in archive.namelist() if ".dist-info/" in name}
        (entry_points,) = (archive.read(n).decode() for n in archive.namelist() if n.endswith("entry_points.txt"))
    assert {"licenses/LICENSE", "licenses/NOTICE"} <= names
    assert "mmreason = mmreason.cli:main" in entry_points


def test_sdist_has_no_links_and_makes_the_same_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        assert not [member.name for member in archive if member.issym() or member.islnk()]
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    assert (source / "configs" / "quickstart.yaml").is_file()
    assert contents(build(source, "wheel", tmp_path / "wheel")) == contents(wheel)


@dataclass(frozen=True)
class UserProject:
    """A folder with its own `rewards` package, `helper.py` and `my_reward.py`, and a venv that has the wheel."""

    folder: Path
    venv: Path

    def run(self, *command: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """A command of the venv, run in the folder."""
        program = str(self.venv / "bin" / command[0])
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        return subprocess.run(
            [program, *command[1:]],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


@pytest.fixture(scope="module")
def project(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> UserProject:
    venv = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True, timeout=120)
    install = [str(venv / "bin" / "pip"), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, timeout=120)
    # Our dependencies come from the environment of the tests. Its own .pth files are not read, so that the checkout,
    # which is installed editable there, is not on the module path.
    (site,) = (venv / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    folder = tmp_path_factory.mktemp("user")
    (folder / "rewards").mkdir()
    (folder / "rewards" / "__init__.py").write_text("OWNER = 'the user'\n")
    (folder / "helper.py").write_text("BONUS = 0.75\n")
    (folder / "my_reward.py").write_text(MY_REWARD)
    return UserProject(folder, venv)


def test_the_installed_package_is_not_the_checkout(project: UserProject) -> None:
    done = project.run("python", "-c", "import mmreason.rewards; print(mmreason.rewards.__file__)")
    assert done.stdout.startswith(str(project.venv)), done.stderr


def test_command_line_runs(project: UserProject) -> None:
    done = project.run("mmreason", "--help")
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout


def test_nothing_of_the_users_is_shadowed(project: UserProject) -> None:
    # The installed command, whose module path lacks the current folder, and `python -c`, whose path begins with it.
    code = """
from mmreason.plugins import load_symbol
from mmreason.rewards import REWARDS, load_reward
from mmreason.config import RewardConfig
assert load_symbol("my_reward.py:OWNER", REWARDS, "mmreason.rewards") == "the user"
load_reward(RewardConfig(name="my_reward.py:fn"))
import rewards
assert rewards.OWNER == "the user"
"""
    for options in ([], ["-P"]):
        done = project.run("python", *options, "-c", code)
        assert done.returncode == 0, done.stderr


def test_the_users_reward_scores_a_file(project: UserProject) -> None:
    lines = [{"id": "a", "answer": "red", "completions": ["it is red", "it is blue"]}]
    (project.folder / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = project.run("mmreason", "score", "texts.jsonl", "--reward", "my_reward.py:fn")
    assert done.returncode == 0, done.stderr
    (scored,) = (json.loads(line) for line in done.stdout.splitlines())
    assert [score["total"] for score in scored["scores"]] == [0.75, 0.0]


@pytest.mark.slow
def test_training_with_the_users_reward(project: UserProject, demo_data: DemoFiles, tiny_omni: Path) -> None:
    values = config(project.folder / "run", tiny_omni, demo_data, "grpo", train={"steps": 1, "prompts_per_step": 2})
    values["rewards"] = [{"name": "my_reward.py:fn"}]
    (project.folder / "run.yaml").write_text(yaml.safe_dump(values))
    done = project.run("mmreason", "train", "run.yaml", timeout=240)
    assert done.returncode == 0, done.stderr
    (step,) = metrics(project.folder / "run")
    assert 0 <= step["reward/my_reward.py:fn"] <= 0.75
    assert (project.folder / "run" / "model" / "config.json").is_file()
