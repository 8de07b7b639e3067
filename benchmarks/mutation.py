"""Mutation run: change one thing in the algorithms or rewards, and see whether a test goes red.

    python benchmarks/mutation.py                          all modules, 12 mutants of each, by a seed
    python benchmarks/mutation.py --each 0 clips rloo      every mutant of the modules with these words in their path

Mutants: a flipped sign or operator, a moved boundary, an index or constant one off, `min` for `max`, an upper bound
for a lower one, `and` for `or`, a dropped `not`, True for False. Not touched: docstrings, messages, annotations,
assertions, defaults of dataclass fields that only describe. A mutant counts as found when a test fails or hangs.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = {"mmreason/algorithms": "tests/unit/algorithms", "rewards": "tests/unit/rewards"}
PROCESSES = ("pool", "worker", "__init__")
"""Modules about processes and loading: they are not formulas, and their tests take seconds each."""
PRELOADED = ("torch", "numpy", "scipy.optimize", "transformers", "pydantic", "math_verify", "rouge_score.rouge_scorer")
LIMIT_S = 120.0
OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
NAMES = {
    "min": "max",
    "max": "min",
    "minimum": "maximum",
    "maximum": "minimum",
    "amin": "amax",
    "amax": "amin",
    "any": "all",
    "all": "any",
    "low": "high",
    "high": "low",
    "low_T": "high_T",
    "high_T": "low_T",
}


@dataclass(frozen=True)
class Mutant:
    """One change. Example: `Mutant(path="rewards/iou.py", line=9, what="Sub -> Add", source="...")`"""

    path: str
    line: int
    what: str
    source: str


def mutants(path: Path, name: str) -> list[Mutant]:
    """Every mutant of one file, in the order of its lines."""
    tree = ast.parse(path.read_text())
    skipped = _untouched(tree)
    count = len(list(ast.walk(tree)))
    found: list[Mutant] = []
    for place in range(count):
        node = _nth(tree, place)
        if id(node) in skipped:
            continue
        for what, change in _changes(node):
            changed = copy.deepcopy(tree)
            change(_nth(changed, place))
            source = ast.unparse(ast.fix_missing_locations(changed))
            found.append(Mutant(name, getattr(node, "lineno", 0), what, source))
    return found


def _nth(tree: ast.AST, place: int) -> ast.AST:
    return next(node for i, node in enumerate(ast.walk(tree)) if i == place)


def _untouched(tree: ast.AST) -> set[int]:
    """Ids of nodes whose change no user could notice: annotations, docstrings, messages, assertions."""
    roots: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assert, ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom)):
            roots.append(node)
        roots += [part for part in (getattr(node, "annotation", None), getattr(node, "returns", None)) if part]
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("Literal", "Callable"):
            roots.append(node)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            roots.append(node)
        if isinstance(node, ast.Call) and "lru_cache" in ast.unparse(node.func):
            roots.append(node)
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            roots += node.decorator_list
    return {id(inner) for root in roots for inner in ast.walk(root)}


def _changes(node: ast.AST) -> Iterator[tuple[str, Callable[[ast.AST], None]]]:
    if isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in OPERATORS:
        yield _swap(node.op, lambda target, new: setattr(target, "op", new))
    if isinstance(node, ast.AugAssign) and type(node.op) in OPERATORS:
        yield _swap(node.op, lambda target, new: setattr(target, "op", new))
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in OPERATORS:
        yield _swap(node.ops[0], lambda target, new: setattr(target, "ops", [new]))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not, ast.Invert)):
        yield f"without {type(node.op).__name__}", lambda target: setattr(target, "op", ast.UAdd()) if isinstance(
            node.op, ast.USub
        ) else _replace_not(target)
    if isinstance(node, ast.Constant):
        yield from _constants(node)
    if isinstance(node, ast.Attribute) and node.attr in NAMES:
        yield f"{node.attr} -> {NAMES[node.attr]}", lambda target: setattr(target, "attr", NAMES[node.attr])
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in NAMES:
        new = NAMES[node.func.id]
        yield f"{node.func.id} -> {new}", lambda target: setattr(target, "func", ast.Name(id=new, ctx=ast.Load()))
    if isinstance(node, ast.keyword) and node.arg in ("min", "max"):
        yield f"{node.arg}= -> {NAMES[node.arg]}=", lambda target: setattr(target, "arg", NAMES[str(node.arg)])


def _swap(operator: ast.AST, put: Callable[[ast.AST, ast.AST], None]) -> tuple[str, Callable[[ast.AST], None]]:
    new = OPERATORS[type(operator)]
    return f"{type(operator).__name__} -> {new.__name__}", lambda target: put(target, new())


def _replace_not(target: ast.AST) -> None:
    """`not x` becomes `bool(x)`-like, `~x` becomes `x`: a second negation takes the first one back."""
    assert isinstance(target, ast.UnaryOp)
    target.operand = ast.UnaryOp(op=copy.deepcopy(target.op), operand=target.operand)


def _constants(node: ast.Constant) -> Iterator[tuple[str, Callable[[ast.AST], None]]]:
    value = node.value
    if isinstance(value, bool):
        yield f"{value} -> {not value}", lambda target: setattr(target, "value", not value)
    elif isinstance(value, int):
        yield f"{value} -> {value + 1}", lambda target: setattr(target, "value", value + 1)
    elif isinstance(value, float):
        yield f"{value} -> {value * 2 + 0.25}", lambda target: setattr(target, "value", value * 2 + 0.25)


def chosen(words: Sequence[str], each: int, seed: int) -> list[Mutant]:
    """The mutants to run: `each` of every module (0: all)."""
    picked: list[Mutant] = []
    for part in PARTS:
        for path in sorted((ROOT / part).glob("*.py")):
            name = f"{part}/{path.name}"
            if path.stem in PROCESSES or (words and not any(word in name for word in words)):
                continue
            found = mutants(path, name)
            picker = random.Random(f"{seed} {name}")
            some = found if each == 0 or len(found) <= each else picker.sample(found, each)
            picked += sorted(some, key=lambda mutant: mutant.line)
    return picked


def tests_for(mutant: Mutant) -> list[str]:
    """The folder's tests, those named after the module first: the first failure ends the run."""
    folder = next(tests for part, tests in PARTS.items() if mutant.path.startswith(part))
    stem = Path(mutant.path).stem
    files = sorted((ROOT / folder).glob("test_*.py"))
    slow = ("test_pool", "test_oracle")
    return [
        f"{folder}/{file.name}"
        for file in sorted(files, key=lambda f: (stem not in f.stem and f.stem[5:] not in stem, f.stem in slow, f.stem))
    ]


def is_found(mutant: Mutant, shadow: Path) -> bool:
    """Run the tests over the changed file in a child process; whether one of them failed, crashed or hung."""
    target = shadow / mutant.path
    if mutant.path.startswith("rewards"):
        target = shadow / "mmreason" / mutant.path
    original = target.read_text()
    target.write_text(mutant.source)
    try:
        child = os.fork()
        if child == 0:
            _run_tests(shadow, tests_for(mutant))
        return _ended(child) != 0
    finally:
        target.write_text(original)


def _run_tests(shadow: Path, tests: Sequence[str]) -> None:
    os.setsid()
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    os.chdir(shadow)
    sys.path.insert(0, str(shadow))
    os.environ["PYTHONPATH"] = str(shadow)
    status = 1
    try:
        # Plugins of preloaded modules complain that their assertions cannot be rewritten any more.
        options = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        status = int(pytest.main([*options, "--timeout", str(int(LIMIT_S)), *tests]))
    finally:
        sys.stdout.flush()
        os._exit(status)


def _ended(child: int) -> int:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1


def shadow_of(folder: Path) -> Path:
    """A copy of the sources in which files may be changed; links become folders."""
    ignore = shutil.ignore_patterns("__pycache__")
    for part in ("mmreason", "tests", "configs", "docs"):
        shutil.copytree(ROOT / part, folder / part, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("words", nargs="*", help="only modules with one of these in their path")
    parser.add_argument("--each", type=int, default=12, help="mutants per module; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="", help="JSON lines of all mutants and whether they were found")
    arguments = parser.parse_args()
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for name in PRELOADED:
        importlib.import_module(name)
    picked = chosen(arguments.words, arguments.each, arguments.seed)
    survivors, done = [], 0
    with tempfile.TemporaryDirectory() as folder:
        shadow = shadow_of(Path(folder) / "tree")
        for part in PARTS:  # with nothing changed all tests must pass, or every mutant would count as found
            first = next(path for path in sorted((ROOT / part).glob("*.py")))
            unchanged = Mutant(f"{part}/{first.name}", 0, "nothing", first.read_text())
            if is_found(unchanged, shadow):
                raise SystemExit(f"{part}: its tests fail, or take over {LIMIT_S:.0f} s, with nothing changed")
        for mutant in picked:
            found = is_found(mutant, shadow)
            done += 1
            survivors += [] if found else [mutant]
            if not found:
                print(f"survived  {mutant.path}:{mutant.line}  {mutant.what}", flush=True)
            if arguments.out:
                record = {"path": mutant.path, "line": mutant.line, "what": mutant.what, "found": found}
                with open(arguments.out, "a") as file:
                    file.write(json.dumps(record) + "\n")
    print(f"{done - len(survivors)} of {done} mutants found ({100 * (1 - len(survivors) / max(done, 1)):.1f} %)")


if __name__ == "__main__":
    main()
