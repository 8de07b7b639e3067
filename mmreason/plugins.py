"""Loading what users plug in: a built-in name, `pkg.mod:attr`, `path/file.py:attr`, or an installed entry point.

Plug-ins are code and run with the user's rights, like the config that names them.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from mmreason.errors import PluginError


def load_symbol(spec: str, builtins: Mapping[str, Any], group: str) -> Any:
    """Find what `spec` names. `group` is the entry-point group ("mmreason.rewards") and the word in messages.

    A module is also looked for in the current folder, and a file's own imports in the file's folder, as Python does
    for scripts. Raises PluginError: unknown name (with the nearest known), file or module that cannot be imported,
    or one without that attribute.
    """
    if spec in builtins:
        return builtins[spec]
    if spec.endswith(".py"):
        raise PluginError(f"{spec}: names a file; name what is in it too, as {spec}:attr")
    if ":" in spec:
        location, _, attribute = spec.rpartition(":")
        module = _load_file(Path(location)) if location.endswith(".py") else _load_module(location)
        if not hasattr(module, attribute):
            raise PluginError(f"{spec}: {location} has no attribute {attribute!r}; it defines {_public(module)}")
        return getattr(module, attribute)
    return _load_entry_point(spec, builtins, group)


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the closest known word, else the list of known words, else nothing."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(words)}" if words else ""


def _load_entry_point(name: str, builtins: Mapping[str, Any], group: str) -> Any:
    from importlib.metadata import entry_points  # slow to load, and hardly ever needed

    installed = entry_points(group=group)
    found = [entry for entry in installed if entry.name == name]
    if len(found) > 1:
        raise PluginError(f"{name}: {len(found)} installed packages offer it in {group}; name one as pkg.mod:attr")
    if not found:
        hint = nearest(name, {*builtins, *installed.names})
        raise PluginError(f"{name}: no such name in {group}{hint}; or give pkg.mod:attr or file.py:attr")
    with _importing(f"{name} ({found[0].value})"):
        return found[0].load()


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise PluginError(f"{path}: no such plug-in file (relative paths start at the current folder, {Path.cwd()})")
    # One module per file, under a name of its own, so that it neither shadows nor is shadowed by another module.
    name = f"mmreason_plugin_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _importing(str(path)), _first_on_path(path.resolve().parent):
            spec.loader.exec_module(module)
    except PluginError:
        del sys.modules[name]
        raise
    return module


def _load_module(name: str) -> ModuleType:
    with _importing(name), _first_on_path(Path.cwd()):
        return importlib.import_module(name)


@contextmanager
def _importing(what: str) -> Iterator[None]:
    """Turn whatever a plug-in's import raises into one line: a plug-in is foreign code, and may even call sys.exit."""
    try:
        yield
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split())
        raise PluginError(f"{what}: importing this plug-in failed with {type(error).__name__}: {reason}") from error


@contextmanager
def _first_on_path(folder: Path) -> Iterator[None]:
    """Imports look in `folder` first meanwhile, and last ever after: later imports of our own are not shadowed."""
    entry = str(folder)
    before = entry in sys.path
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)
        if not before:
            sys.path.append(entry)


def _public(module: ModuleType) -> str:
    names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
    return ", ".join(names) or "nothing callable"
