"""Loading what users plug in: a built-in name, `pkg.mod:attr`, `path/file.py:attr`, or an installed entry point.

Plug-ins are code and run with the user's rights, like the config that names them.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from mmreason.errors import PluginError


def load_symbol(spec: str, builtins: Mapping[str, Any], group: str) -> Any:
    """Find what `spec` names. `group` is the entry-point group ("mmreason.rewards") and the word in messages.

    Raises PluginError: unknown name (with the nearest known), file or module that cannot be imported, or one
    without that attribute.
    """
    if spec in builtins:
        return builtins[spec]
    if ":" in spec:
        location, _, attribute = spec.rpartition(":")
        module = _load_file(Path(location)) if location.endswith(".py") else _load_module(location)
        if not hasattr(module, attribute):
            raise PluginError(f"{spec}: {location} has no attribute {attribute!r}; it defines {_public(module)}")
        return getattr(module, attribute)
    found = [entry for entry in entry_points(group=group) if entry.name == spec]
    if len(found) > 1:
        raise PluginError(f"{spec}: {len(found)} installed packages offer it in {group}; name one as pkg.mod:attr")
    if found:
        return found[0].load()
    hint = nearest(spec, builtins)
    raise PluginError(f"{spec}: no such entry in {group}{hint}; or give pkg.mod:attr or file.py:attr")


def nearest(word: str, known: Mapping[str, Any] | list[str]) -> str:
    """`; did you mean 'x'?` for the closest known word, else the list of known words."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"


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
        spec.loader.exec_module(module)
    except Exception as error:  # a plug-in is foreign code: whatever it raises is the user's to see, in one line
        del sys.modules[name]
        raise PluginError(f"{path}: importing this plug-in failed with {type(error).__name__}: {error}") from error
    return module


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # as above
        raise PluginError(f"{name}: importing this module failed with {type(error).__name__}: {error}") from error


def _public(module: ModuleType) -> str:
    names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
    return ", ".join(names) or "nothing callable"
