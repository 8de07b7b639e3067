"""Mutation run: change one thing in the algorithms or rewards, and see whether a test goes red.

    python benchmarks/mutation.py                          all modules, 12 mutants of each, by a seed
    python benchmarks/mutation.py --each 0 clips rloo      every mutant of the modules with these words in their path
    python benchmarks/mutation.py --read found.jsonl       the table of an earlier run's --out
    python benchmarks/mutation.py ... --out found.jsonl --again    what survived there is tried again

mutants.py says what is changed. A mutant counts as found when a test fails, crashes or comes to no end; a test counts
only if it passed with nothing changed. The change is made in place, and tests that run the changed function run, up to
`--seconds` of processor: first those in files named alike, then the quick ones that run little else. What cannot be put
in place is imported anew, and so is what survives outside of functions, where others may hold the old value. Tests left
out can only make the result worse. A run that was stopped goes on with the same --out; lines about code that has
changed since do not count.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mutants import Mutant, mutants
from mutation_tests import Seen, Session, Verdict, forked, imported_anew, in_place, in_session, look

ROOT = Path(__file__).resolve().parent.parent
PARTS = {
    "mmreason/algorithms": ("tests/unit/algorithms",),
    "mmreason/rewards": ("tests/unit/rewards", "tests/unit/serving/test_service.py"),
}
"""The modules, and the tests that are to find what is changed in them."""
PROCESSES = ("pool", "worker")
"""Modules about processes: they are not formulas, and their tests take seconds each. Only when they are named."""
PRELOADED = (
    *("torch", "numpy", "scipy.optimize", "transformers", "pydantic", "math_verify", "rouge_score.rouge_scorer"),
    *("hypothesis", "pytest"),
)
SPARE_S = 15.0
FILES = 6
"""Test files collected for a change that has to be imported: each costs time."""


def chosen(part: str, words: Sequence[str], each: int, seed: int) -> list[Mutant]:
    """The mutants to run of a part: `each` of every module (0: all)."""
    picked: list[Mutant] = []
    for path in sorted((ROOT / part).glob("*.py")):
        name = f"{part}/{path.name}"
        named = any(word in name for word in words)
        if (words and not named) or (path.stem in PROCESSES and path.stem not in words):
            continue
        found = mutants(path, name)
        some = found if each == 0 or len(found) <= each else random.Random(f"{seed} {name}").sample(found, each)
        picked += some
    random.Random(seed).shuffle(picked)  # so that what a stopped run has tried is a fair sample of all
    return picked


def tests_of(mutant: Mutant, seen: Mapping[str, Seen], seconds: float) -> list[str]:
    """Tests that run the changed function (else: any of its module), the nearest first."""
    passed = {test: one for test, one in seen.items() if one.passed}
    near = [test for test, one in passed.items() if (mutant.path, mutant.function) in one.functions]
    near = near or [test for test, one in passed.items() if any(path == mutant.path for path, _ in one.functions)]
    near += [test for test in passed if named_after(mutant, test) and test not in set(near)]
    picked: list[str] = []
    spent = 0.0
    for test in sorted(near, key=lambda test: order(mutant, test, passed[test])):
        spent += passed[test].seconds
        if spent > seconds and picked:
            break
        picked.append(test)
    return picked


def order(mutant: Mutant, test: str, seen: Seen) -> tuple[Any, ...]:
    """First tests in files named alike, then the quick ones, then those that run little else."""
    return not named_after(mutant, test), round(seen.seconds, 1), len(seen.functions), test


def named_after(mutant: Mutant, test: str) -> bool:
    """Whether the file of a test has the name of the module in its own, or the other way round."""
    module, file = Path(mutant.path).stem, Path(test.split("::")[0]).stem.removeprefix("test_")
    return module in file or file in module


def in_few_files(tests: Sequence[str]) -> list[str]:
    """Of these tests, those of the files that come first."""
    files = list(dict.fromkeys(test.split("::")[0] for test in tests))[:FILES]
    return [test for test in tests if test.split("::")[0] in files]


def run_part(
    part: str, picked: Sequence[Mutant], shadow: Path, known: Path | None, seconds: float, say: Callable[..., None]
) -> None:
    """Try every mutant of a part and `say` each one's verdict. `known`: where it is kept which test runs what."""
    notes = shadow.parent / f"{Path(part).name}.jsonl"
    modules = sorted(f"{part}/{path.name}" for path in (ROOT / part).glob("[!_]*.py"))

    def first(session: Session) -> None:
        items = {item.nodeid: item for item in session.items}
        path = known or notes.with_suffix(".seen")
        if not path.exists():
            look_apart(session, modules, path)
        seen = {test: one for test, one in read_seen(path).items() if test in items}
        for mutant in picked:
            tests = tests_of(mutant, seen, seconds)
            limit = SPARE_S + 5 * sum(seen[test].seconds for test in tests)
            verdict = in_place(session, mutant, [items[test] for test in tests], limit) if tests else Verdict(None)
            if verdict.found or (verdict.found is False and mutant.function):
                say(mutant, verdict)
            else:
                write(notes, {"mutant": asdict(mutant), "tests": in_few_files(tests), "limit": limit})

    notes.touch()
    in_session(shadow, modules, PARTS[part], first)
    left = lines_of(notes)
    if any(imported_anew(shadow, None, one["tests"], one["limit"]).found for one in left[:1] if one["tests"]):
        raise SystemExit(f"{part}: its tests fail with nothing changed")
    for one in left:
        mutant = mutant_of(one["mutant"])
        say(mutant, imported_anew(shadow, mutant, one["tests"], one["limit"]) if one["tests"] else Verdict(False))


def look_apart(session: Session, modules: Sequence[str], path: Path) -> None:
    """`look` in a child, whose changes for looking end with it; what it saw goes into a file."""

    def work(_: Callable[[str], None]) -> int:
        seen = look(session, modules)
        rows = {test: [one.seconds, one.passed, sorted(one.functions)] for test, one in seen.items()}
        path.write_text(json.dumps(rows))
        return 0

    forked(work, 0.0)


def read_seen(path: Path) -> dict[str, Seen]:
    rows = json.loads(path.read_text())
    return {test: Seen(s, passed, {(file, line) for file, line in ran}) for test, (s, passed, ran) in rows.items()}


def place_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["path"], row["line"], row["place"], row["nth"], row["what"]


def mutant_of(row: Mapping[str, Any]) -> Mutant:
    return Mutant(**{name: row[name] for name in Mutant.__dataclass_fields__})


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def current(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last line about each mutant, without those of code that has changed since."""
    there = {
        place_of(asdict(mutant))
        for name in sorted({row["path"] for row in rows})
        if (ROOT / name).exists()
        for mutant in mutants(ROOT / name, name)
    }
    return list({place_of(row): row for row in rows if place_of(row) in there}.values())


def write(path: Path, record: Mapping[str, Any]) -> None:
    with open(path, "a") as file:
        file.write(json.dumps(record) + "\n")


def shadow_of(folder: Path) -> Path:
    """A copy of the sources in which files may be changed; links become folders."""
    ignore = shutil.ignore_patterns("__pycache__")
    for part in ("mmreason", "tests", "configs", "docs", "examples"):
        shutil.copytree(ROOT / part, folder / part, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def report(path: Path) -> None:
    """Survivors, and how many of each module were found."""
    rows = current(lines_of(path))
    count: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for row in rows:
        for name in (row["path"], str(Path(row["path"]).parent), "all"):
            count[name][0] += row["found"]
            count[name][1] += 1
    for row in [row for row in rows if not row["found"]]:
        print(f"survived  {row['path']}:{row['line']}  {row['what']}")
    for name in sorted(count, key=lambda name: (not name.endswith(".py"), name == "all", name)):
        found, total = count[name]
        print(f"{name:40s} {found:5d} of {total:5d} {100 * found / total:6.1f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("words", nargs="*", help="only modules with one of these in their path")
    parser.add_argument("--each", type=int, default=12, help="mutants per module; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="of tests per mutant, as long as they take unchanged"
    )
    parser.add_argument(
        "--out", default="", help="JSON lines of all mutants, whether they were found, and by which test"
    )
    parser.add_argument("--seen", default="", help="a file for which test runs what, to look only once; for one part")
    parser.add_argument("--again", action="store_true", help="try what survived in --out again")
    parser.add_argument("--read", default="", help="only print the table of this file")
    arguments = parser.parse_args()
    if arguments.read:
        return report(Path(arguments.read))
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with warnings.catch_warnings(action="ignore"):
        for name in PRELOADED:
            importlib.import_module(name)
    known = Path(arguments.seen).resolve() if arguments.seen else None
    with tempfile.TemporaryDirectory() as folder:
        shadow, out = shadow_of(Path(folder) / "tree"), Path(arguments.out or f"{folder}/out.jsonl").resolve()
        os.chdir(shadow)
        os.environ["PYTHONPATH"] = str(shadow)
        sys.path.insert(0, str(shadow))

        def say(mutant: Mutant, verdict: Verdict) -> None:
            write(out, {**asdict(mutant), "found": bool(verdict.found), "by": verdict.by})

        rows = current(lines_of(out))
        done = {place_of(row) for row in rows if row["found"] or not arguments.again}
        survivors = [mutant_of(row) for row in rows if place_of(row) not in done]
        for part in PARTS:
            again = [mutant for mutant in survivors if mutant.path.startswith(part)]
            new = chosen(part, arguments.words, arguments.each, arguments.seed)
            picked = list(dict.fromkeys(one for one in [*again, *new] if place_of(asdict(one)) not in done))
            if picked:
                run_part(part, picked, shadow, known, arguments.seconds, say)
        report(out)


if __name__ == "__main__":
    main()
