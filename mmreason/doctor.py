"""`mmreason doctor`: what is installed here, what works, and how to mend what is missing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version

import torch

from mmreason import __version__
from mmreason.errors import ConfigError
from mmreason.processors.backends import MEND, READERS, choose_decoder, problem

REQUIRED = (
    "torch",
    "torchvision",
    "torchaudio",
    "transformers",
    "accelerate",
    "peft",
    "qwen-vl-utils",
    "av",
    "soundfile",
    "pillow",
    "numpy",
    "pyarrow",
    "datasets",
    "safetensors",
    "pydantic",
    "math-verify",
)
OPTIONAL = {
    "deepspeed": "pip install 'mmreason[train]'; needed only for train.deepspeed",
    "vllm": "pip install 'mmreason[vllm]'; needed only for a vLLM rollout engine",
}


def doctor(families: Sequence[str] = ()) -> tuple[list[str], bool]:
    """Lines to print, and whether everything that a run needs is there.

    families: names of the model families that the family table knows.
    """
    packages = list(_packages())
    decoders = list(_decoders())
    lines = [
        f"mmreason {__version__}, Python {platform.python_version()}, {platform.platform()}",
        *_section("packages", packages),
        *_section("engines", _engines()),
        *_section("devices", _devices()),
        *_section("video decoders", decoders),
        *_section("model families", families or ["(none given)"]),
    ]
    lacking = [line for line in [*packages, *decoders] if line.startswith(_BAD)]
    lines.append("all that a run needs is here" if not lacking else f"to mend: {len(lacking)} (lines with {_BAD!r})")
    return lines, not lacking


_GOOD, _BAD, _NONE = "ok  ", "LACK", "--  "


def _section(title: str, lines: Sequence[str] | Iterator[str]) -> list[str]:
    return [f"{title}:", *(f"  {line}" for line in lines)]


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _packages() -> Iterator[str]:
    for package in REQUIRED:
        found = _installed(package)
        yield f"{_GOOD} {package} {found}" if found else f"{_BAD} {package}: pip install {package}"


def _engines() -> Iterator[str]:
    yield f"{_GOOD} hf (our own decode loop)"
    for package, mend in OPTIONAL.items():
        # vLLM's build for machines without a GPU is another distribution of the same module.
        found = _installed(package) or _installed(f"{package}-cpu")
        yield f"{_GOOD} {package} {found}" if found else f"{_NONE} {package}: {mend}"


def _devices() -> Iterator[str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    yield f"{_GOOD} CPU: {cores} cores, {memory:.0f} GB"
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = (
            f"torch is built for CUDA {built}, the driver is missing or too old"
            if built
            else "torch is built without it"
        )
        yield f"{_NONE} CUDA: no device ({why}); training runs on the CPU, which suits tiny models only"
        return
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        yield f"{_GOOD} cuda:{index}: {device.name}, {device.total_memory / 1e9:.0f} GB"


def _decoders() -> Iterator[str]:
    for name in READERS:
        trouble = problem(name)
        yield f"{_GOOD} {name}" if trouble is None else f"{_NONE} {name}: {trouble}; to mend: {MEND[name]}"
    try:
        yield f"{_GOOD} media.decoder: auto is {choose_decoder('auto')} here"
    except ConfigError as error:
        yield f"{_BAD} {error}"
    if shutil.which("ffmpeg") is None:
        yield f"{_NONE} the ffmpeg program: not found; nothing here needs it"
