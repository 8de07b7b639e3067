"""What `mmreason doctor` says, here and where something is missing."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

from mmreason.diagnosis import REQUIRED, doctor
from mmreason.policy.families import FAMILIES
from mmreason.processors.backends import READERS, choose_decoder, problem

ROOT = Path(__file__).parents[2]


def without(*modules: str) -> tuple[list[str], int]:
    """The doctor's lines and status in a process where these modules cannot be imported."""
    hide = f"import sys; sys.modules.update(dict.fromkeys({modules!r})); "
    code = hide + "from mmreason.cli import main; sys.exit(main(['doctor']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return [line.strip() for line in done.stdout.splitlines()], done.returncode


def test_doctor_names_what_works_and_how_to_mend_the_rest() -> None:
    lines, good = doctor()
    assert good
    assert lines[-1] == "all that a run needs is here"
    for package in REQUIRED:
        assert f"  ok   {package} {version(package)}" in lines
    assert f"  ok   media.decoder: auto is {choose_decoder('auto')} here" in lines
    for name in READERS:
        (line,) = [line for line in lines if re.match(rf"  (ok|--) +{name}\b(?! \d)", line)]
        assert ("to mend:" in line) == (problem(name) is not None)
    assert {f"  {name}" for name in FAMILIES} <= set(lines)
    assert any("CUDA" in line or "cuda:" in line for line in lines)
    assert all("\n" not in line for line in lines)


def test_packages_that_do_not_import_are_named() -> None:
    lines, status = without("soundfile", "PIL", "rouge_score")
    for package, mend in [
        ("soundfile", "apt-get install libsndfile1)"),
        ("pillow", "pip install --force-reinstall pillow"),
        ("rouge-score", "pip install --force-reinstall rouge-score"),
    ]:
        (line,) = [line for line in lines if line.startswith(f"LACK {package} {version(package)}: ")]
        assert "does not import (ModuleNotFoundError: " in line
        assert line.endswith(mend)
    assert lines[-1] == f"to mend: {len([line for line in lines if line.startswith('LACK')])} (lines with 'LACK')"
    assert status == 1


def test_doctor_starts_where_everything_is_missing() -> None:
    hidden = ("torch", "transformers", "av", "numpy", "PIL", "pydantic", "yaml", "tqdm")
    lines, status = without(*hidden)
    assert status == 1
    for package in ("torch", "transformers", "av", "numpy", "pillow", "pydantic", "pyyaml", "tqdm"):
        assert [line for line in lines if line.startswith(f"LACK {package} ")], package
    assert [line for line in lines if line.startswith("--   CUDA: not known without torch")]
    assert len([line for line in lines if "not known before the packages above are mended" in line]) == 2


def test_every_dependency_is_looked_at() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.split(r"[^\w-]", line)[0] for line in project["dependencies"]}
    assert names - {"decord", "torchcodec"} == set(REQUIRED)
