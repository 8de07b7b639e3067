"""`mmreason doctor`: what is installed here, what works, and how to mend what is missing.

It must start where everything is missing: each check imports what it needs, and says so when that fails.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from mmreason import __version__

REQUIRED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "torchaudio": "torchaudio",
    "transformers": "transformers",
    "accelerate": "accelerate",
    "peft": "peft",
    "qwen-vl-utils": "qwen_vl_utils",
    "av": "av",
    "soundfile": "soundfile",
    "pillow": "PIL.Image",
    "numpy": "numpy",
    "pyarrow": "pyarrow",
    "datasets": "datasets",
    "safetensors": "safetensors",
    "pydantic": "pydantic",
    "pyyaml": "yaml",
    "math-verify": "math_verify",
    "rouge-score": "rouge_score.rouge_scorer",
    "tqdm": "tqdm",
    "tensorboard": "tensorboard.summary.writer.event_file_writer",
}
"""Distribution -> module that must import. The dependencies of pyproject.toml but the optional decoders."""
OPTIONAL = {
    "deepspeed": "pip install 'mmreason[train]'; needed only for train.deepspeed",
    "vllm": "pip install 'mmreason[vllm]'; needed only for a vLLM rollout engine",
}
MEND = {
    "soundfile": "pip install --force-reinstall soundfile, or install libsndfile (Debian, Ubuntu: apt-get install "
    "libsndfile1)",
}
"""How to mend a package that is installed and does not import, where installing it again may not do."""


class Diagnosis(NamedTuple):
    """What `doctor` found: lines to print, and whether everything that a run needs is there."""

    lines: list[str]
    works: bool

    def __repr__(self) -> str:
        return "\n".join(self.lines)


def doctor() -> Diagnosis:
    """Look at every part once."""
    packages = list(_packages())
    decoders = list(_decoders())
    lines = [
        f"mmreason {__version__}, Python {platform.python_version()}, {platform.platform()}",
        *_section("packages", packages),
        *_section("engines", _engines()),
        *_section("devices", _devices()),
        *_section("video decoders", decoders),
        *_section("model families", _families()),
    ]
    lacking = [line for line in [*packages, *decoders] if line.startswith(_BAD)]
    lines.append("all that a run needs is here" if not lacking else f"to mend: {len(lacking)} (lines with {_BAD!r})")
    return Diagnosis(lines, not lacking)


_GOOD, _BAD, _NONE = "ok  ", "LACK", "--  "


def _section(title: str, lines: Sequence[str] | Iterator[str]) -> list[str]:
    return [f"{title}:", *(f"  {line}" for line in lines)]


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _packages() -> Iterator[str]:
    for package, module in REQUIRED.items():
        found, trouble = _installed(package), _import_trouble(module)
        if trouble is None:
            yield f"{_GOOD} {package} {found or '(no version known)'}"
        elif found is None:
            yield f"{_BAD} {package}: not installed; to mend: pip install {package}"
        else:
            mend = MEND.get(package, f"pip install --force-reinstall {package}")
            yield f"{_BAD} {package} {found}: does not import ({trouble}); to mend: {mend}"


def _import_trouble(module: str) -> str | None:
    """Why a module does not import, in a line, or None. A broken installation may raise anything."""
    try:
        import_module(module)
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return None


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
    if trouble := _import_trouble("torch"):
        yield f"{_NONE} CUDA: not known without torch ({trouble})"
        return
    import torch

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
    if trouble := _import_trouble("mmreason.processors.backends"):
        yield f"{_NONE} not known before the packages above are mended ({trouble})"
        return
    from mmreason.errors import ConfigError
    from mmreason.processors.backends import MEND as MEND_DECODER
    from mmreason.processors.backends import READERS, choose_decoder, problem

    for name in READERS:
        why = problem(name)
        yield f"{_GOOD} {name}" if why is None else f"{_NONE} {name}: {why}; to mend: {MEND_DECODER[name]}"
    try:
        yield f"{_GOOD} media.decoder: auto is {choose_decoder('auto')} here"
    except ConfigError as error:
        yield f"{_BAD} {error}"
    if shutil.which("ffmpeg") is None:
        yield f"{_NONE} the ffmpeg program: not found; nothing here needs it"


def _families() -> Iterator[str]:
    if trouble := _import_trouble("mmreason.policy.families"):
        yield f"{_NONE} not known before the packages above are mended ({trouble})"
        return
    from mmreason.policy.families import FAMILIES

    yield from FAMILIES
