"""Demo data for the integration tests, written once, and the runs of two processes, made once."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mmreason.demo.media import DemoFiles, write_demo_data
from tests.integration import strategies
from tests.integration.pairs import ALONE, STAGES, cases_of, run_strategy, write_text_and_media


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> DemoFiles:
    return write_demo_data(tmp_path_factory.mktemp("demo-data"), seed=5, train=40, eval=10, sft=20, choices=5)


@pytest.fixture(scope="session", autouse=True)
def _no_locks_of_the_dead() -> None:
    """torch waits for ever for a lock on its compiled extensions, which a process of DeepSpeed's that was killed while
    it compiled leaves behind; compiling takes less than a minute."""
    cache = Path(os.environ.get("TORCH_EXTENSIONS_DIR", Path.home() / ".cache/torch_extensions"))
    for lock in cache.glob("**/lock"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - lock.stat().st_mtime > 600:
                lock.unlink()


@pytest.fixture(scope="session")
def text_and_media(tmp_path_factory: pytest.TempPathFactory) -> DemoFiles:
    return write_text_and_media(tmp_path_factory.mktemp("text-and-media"))


@pytest.fixture(scope="session")
def alone(tiny_omni: Path, text_and_media: DemoFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs that others are compared with, made by this one process."""
    folder = tmp_path_factory.mktemp("alone")
    cases = cases_of(folder, tiny_omni, text_and_media)
    (folder / "cases.json").write_text(json.dumps({name: cases[name] for name in ALONE}))
    strategies.main(folder)
    return folder


@pytest.fixture(scope="session")
def pairs(
    tiny_omni: Path, text_and_media: DemoFiles, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, str]]:
    """Strategy -> the folder of all its runs, made when first asked for, and what went wrong, which is not tried again
    for every test."""

    @functools.cache
    def made(strategy: str) -> tuple[Path, str]:
        folder = tmp_path_factory.mktemp(strategy)
        return folder, run_strategy(strategy, folder, tiny_omni, text_and_media)

    return made


@pytest.fixture(params=STAGES)
def pair(request: pytest.FixtureRequest, pairs: Callable[[str], tuple[Path, str]]) -> tuple[str, Path]:
    """A strategy, and the folder of all runs with two processes under it."""
    folder, problem = pairs(request.param)
    assert not problem, problem
    return request.param, folder
