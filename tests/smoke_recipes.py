"""Runs the smoke of recipes one after another and prints a table of seconds: `make test-recipes`.

    python -m tests.smoke_recipes [RECIPE ...]

All recipes by default. One process for all, so that libraries are imported once; tiny models are made once per family.
Exit status 1 if a recipe fails or takes over 60 s.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from mmreason.config import load_plan, recipe_files
from mmreason.errors import MMReasonError
from mmreason.recipes.smoke import Workshop, smoke

LIMIT_S = 60.0


def main(names: Sequence[str]) -> int:
    torch.set_num_threads(1)  # tiny tensors: threads cost more than they give
    failed: list[str] = []
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="mmreason-recipes-") as folder:
        workshop = Workshop(Path(folder) / "models")
        for name in names or list(recipe_files()):
            begun = time.perf_counter()
            problem = run_one(name, Path(folder) / name, workshop)
            seconds = time.perf_counter() - begun
            problem = problem or (f"over {LIMIT_S:g} s" if seconds > LIMIT_S else "")
            print(f"{name:24}{len(load_plan(name).stages):3} stage(s){seconds:7.1f} s  {problem or 'ok'}", flush=True)
            failed += [name] if problem else []
    print(f"{time.perf_counter() - started:.0f} s in all; failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


def run_one(name: str, folder: Path, workshop: Workshop) -> str:
    """What is wrong with a recipe's smoke; empty for nothing."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars
            smoke(load_plan(name), folder, workshop, say=lambda line: None)
    except MMReasonError as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
