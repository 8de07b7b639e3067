"""Tiny checkpoints of the real architectures, built once per test session."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from mmreason.demo.tiny import build_tiny

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # processes that tests start would compile this package every time

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # where the tests run in the background; it would be inherited
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("mmreason", deadline=None)  # a busy machine must not fail a property test
settings.load_profile("mmreason")


LONGEST = ("processes", "vllm", "integration/test_demo", "integration/test_smokes", "integration/")
"""What the names of groups of tests begin with that take longest, the longest first."""


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in its own hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file is a group, which one worker runs, so that its fixtures are made once; the longest groups go first, so
    that no core is left with one of them at the end."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(f"{item.path.parent.name}/{item.path.stem}"))
    items.sort(key=_place)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Groups are marked in the names of tests. With pytest 9.2 they no longer were, and files were torn apart."""
    if session.config.getoption("loadgroup", False):
        assert all("@" in item.nodeid for item in session.items), "pytest-xdist has not marked the groups of tests"


def _place(item: pytest.Item) -> int:
    """Of an item's group in `LONGEST`, or behind it."""
    (group,) = {mark.args[0] for mark in item.iter_markers("xdist_group")}
    return next((place for place, start in enumerate(LONGEST) if group.startswith(start)), len(LONGEST))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # tiny tensors: threads cost more than they give, and results do not depend on the machine


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """tiny(family): folder of a tiny checkpoint, made when first asked for. Do not write into it."""
    return functools.cache(lambda family: build_tiny(family, tmp_path_factory.mktemp("tiny") / family))


@pytest.fixture(scope="session")
def tiny_vl(tiny: Callable[[str], Path]) -> Path:
    """Folder of a tiny Qwen2.5-VL checkpoint. Do not write into it."""
    return tiny("qwen2_5_vl")


@pytest.fixture(scope="session")
def tiny_omni(tiny: Callable[[str], Path]) -> Path:
    """Folder of a tiny Qwen2.5-Omni checkpoint. Do not write into it."""
    return tiny("qwen2_5_omni")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes real file systems of a size ("40m"), and takes them away afterwards."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        folder = tmp_path / f"disk-{size}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a file system needs root")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # a run in this process may hold a file
