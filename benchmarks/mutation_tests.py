"""The tests of a mutation run: one pytest session collects a folder's tests once, and a forked child runs some of them.

The child changes the functions in place (their code objects), so that nothing is imported a second time: a mutant
costs what its tests cost. Which tests run which function is seen once, with nothing changed.
"""

from __future__ import annotations

import ast
import builtins
import gc
import importlib
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType

import pytest
from mutants import Mutant, changed

OPTIONS = ("-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
"""Plugins of preloaded modules complain that their assertions cannot be rewritten any more."""


@dataclass
class Seen:
    """What a test did with nothing changed: how long it took, whether it passed, functions it ran as (path, line).

    Seconds are those of the processor, or a quarter of the time that passed, if that is more: some tests wait.
    """

    seconds: float
    passed: bool
    functions: set[tuple[str, int]] = field(default_factory=set)


@dataclass(frozen=True)
class Verdict:
    """`found` None: could not be tried. `by`: the test that failed, or how the process ended."""

    found: bool | None
    by: str = ""


class Session:
    """A pytest plugin that, instead of running the tests it collected, hands them to `work`."""

    def __init__(self, shadow: Path, work: Callable[[Session], None]) -> None:
        self.shadow, self.work = shadow, work
        self.items: list[pytest.Item] = []
        self.living: dict[str, list[FunctionType]] = {}
        """Functions by the file they come from."""
        self.failed = ""

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.items = session.items
        for function in [thing for thing in gc.get_objects() if type(thing) is FunctionType]:
            self.living.setdefault(function.__code__.co_filename, []).append(function)
        gc.freeze()  # a collection in a child would copy all memory
        self.work(self)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed = report.nodeid

    def run(self, items: Sequence[pytest.Item]) -> Iterator[tuple[pytest.Item, bool]]:
        """Run the tests one after the other; each with whether it passed."""
        for item, following in zip(items, (*items[1:], None), strict=True):
            self.failed = ""
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            yield item, not self.failed


def look(session: Session, modules: Sequence[str]) -> dict[str, Seen]:
    """Run every test with nothing changed, and note which functions of these modules it ran."""
    hits: set[tuple[str, int]] = set()
    builtins.mutation_hit = lambda path, line: hits.add((path, line))  # type: ignore[attr-defined]
    for path in modules:
        file = session.shadow / path
        tree = ast.parse(file.read_text())
        for node in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
            node.body.insert(0, ast.parse(f"mutation_hit({path!r}, {node.lineno})").body[0])
        put(_codes(ast.fix_missing_locations(tree), file), session.living.get(str(file), []))
    seen, busy, began = {}, time.process_time(), time.monotonic()
    for item, passed in session.run(session.items):
        seconds = max(time.process_time() - busy, (time.monotonic() - began) / 4)
        seen[item.nodeid] = Seen(seconds, passed, set(hits))
        hits.clear()
        busy, began = time.process_time(), time.monotonic()
    return seen


def _codes(tree: ast.Module, path: Path) -> dict[tuple[str, int], CodeType]:
    """Code of all functions of a module by name and first line; what is not told apart by these is left out."""
    found: list[CodeType] = []
    todo = [compile(tree, str(path), "exec", dont_inherit=True)]
    while todo:
        inner = [const for const in todo.pop().co_consts if isinstance(const, CodeType)]
        found += inner
        todo += inner
    count = Counter((code.co_qualname, code.co_firstlineno) for code in found)
    keys = {(code.co_qualname, code.co_firstlineno): code for code in found}
    return {key: code for key, code in keys.items() if count[key] == 1}


def put(codes: dict[tuple[str, int], CodeType], living: Sequence[FunctionType]) -> int:
    """Give the living functions of a file this code; how many of them it changed."""
    done = 0
    for function in living:
        old = function.__code__
        new = codes.get((old.co_qualname, old.co_firstlineno))
        if new is not None and new != old and new.co_freevars == old.co_freevars:
            function.__code__ = new
            done += 1
    return done


def put_value(tree: ast.Module, mutant: Mutant, path: Path) -> int:
    """The same for a constant, or a default of a function or dataclass: its new value goes where the old one is."""
    place = next(node for node in tree.body if node.lineno <= mutant.line <= (node.end_lineno or 0))
    module = next((module for module in sys.modules.values() if getattr(module, "__file__", None) == str(path)), None)
    if module is None:  # it runs in processes of its own
        return 0
    names = {key: getattr(module, key) for key in ("__name__", "__package__", "__file__")}
    exec(compile(tree, str(path), "exec", dont_inherit=True), names)
    match place:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            new = names[name] if isinstance(place, ast.FunctionDef) else names[name].__init__
            old = getattr(module, name) if isinstance(place, ast.FunctionDef) else getattr(module, name).__init__
            if (old.__defaults__, old.__kwdefaults__) == (new.__defaults__, new.__kwdefaults__):
                return 0
            old.__defaults__, old.__kwdefaults__ = new.__defaults__, new.__kwdefaults__
            return 1
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            old, new = getattr(module, name), names[name]
            if new == old or "0x" in repr(new):  # a table of functions would bring functions of another module
                return 0
            holders = [m for m in list(sys.modules.values()) if m and m.__dict__.get(name) is old]
            for holder in holders:
                setattr(holder, name, new)
            return len(holders)
    return 0


def in_place(session: Session, mutant: Mutant, items: Sequence[pytest.Item], seconds: float) -> Verdict:
    """Whether one of these tests fails, crashes or hangs with the function changed in place."""
    path = session.shadow / mutant.path

    def work(say: Callable[[str], None]) -> int:
        tree, living = changed(path, mutant), session.living.get(str(path), [])
        if not (put(_codes(tree, path), living) or put_value(tree, mutant, path)):
            say("untried")
            return 1
        for item, passed in session.run(items):
            if not passed:
                say(item.nodeid)
                return 1
        return 0

    status, said = forked(work, seconds)
    return Verdict(None) if said == "untried" else Verdict(status != 0, said or f"status {status}")


def imported_anew(shadow: Path, mutant: Mutant | None, chosen: Sequence[str], seconds: float) -> Verdict:
    """Whether one of these tests fails when the changed file is imported; no mutant: with nothing changed."""
    order = {nodeid: place for place, nodeid in enumerate(chosen)}

    def work(say: Callable[[str], None]) -> int:
        def run(session: Session) -> None:
            items = sorted((i for i in session.items if i.nodeid in order), key=lambda item: order[item.nodeid])
            for item, passed in session.run(items):
                if not passed:
                    say(item.nodeid)
                    os._exit(1)
            os._exit(0 if len(items) == len(order) else 1)

        say("import")
        session = Session(shadow, run)
        return int(pytest.main([*OPTIONS, *dict.fromkeys(name.split("::")[0] for name in chosen)], [session])) or 1

    target = shadow / (mutant.path if mutant else "README.md")
    original = target.read_text()
    try:
        if mutant:
            target.write_text(ast.unparse(changed(target, mutant)))
        status, said = forked(work, seconds)
        return Verdict(status != 0, said if status else "")
    finally:
        target.write_text(original)


def in_session(shadow: Path, modules: Sequence[str], places: Sequence[str], work: Callable[[Session], None]) -> None:
    """Collect the tests of these folders or files in a child, and do this work with them there.

    The modules are imported first: what tests import only as they run could not be changed in place.
    """

    def collect(_: Callable[[str], None]) -> int:
        for name in modules:
            importlib.import_module(name.removesuffix(".py").replace("/", "."))
        return int(pytest.main([*OPTIONS, *places], [Session(shadow, work)]))

    forked(collect, 0.0)


def forked(work: Callable[[Callable[[str], None]], int], seconds: float) -> tuple[int, str]:
    """Run this in a child with `seconds` of processor (0: any); its status and its last word."""
    ears, mouth = os.pipe()
    child = os.fork()
    if child == 0:
        _become_quiet()
        if seconds:
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))
        status = 1
        try:
            status = work(lambda word: _say(mouth, word))
        finally:
            os._exit(status)
    os.close(mouth)
    status = _ended(child, seconds)
    os.set_blocking(ears, False)  # a process that a test left behind may hold the other end
    with os.fdopen(ears, "rb", buffering=0) as file:
        words = (file.read(1 << 16) or b"").decode().splitlines()
    return status, words[-1] if words else ""


def _say(mouth: int, word: str) -> None:
    os.write(mouth, f"{word}\n".encode())


def _become_quiet() -> None:
    os.setsid()
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)


def _ended(child: int, seconds: float) -> int:
    """Status of the child; what sleeps instead of computing is ended as well, long after it should have ended."""
    deadline = time.monotonic() + 4 * seconds if seconds else float("inf")
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1
