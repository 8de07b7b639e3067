"""The shape of the tree: links, import direction, what starts without torch, sizes, docstrings."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mmreason"
LINKS = ("processors", "rewards")

EXCEPTIONS = {("encode", "policy.positions")}
"""Imports against the direction; docs/architecture.md says why each is there."""

WITHOUT_TORCH = ("config", "errors", "plugins", "types", "rewards", "data", "cli")

LONG_FUNCTIONS: set[str] = set()
"""Functions over 60 lines that are clearer whole, as `path:name`. Keep it short."""


@pytest.mark.parametrize("name", LINKS)
def test_link_is_relative_and_leads_to_the_real_folder(name: str) -> None:
    link = PACKAGE / name
    assert link.is_symlink(), f"{link} is no link: clone with core.symlinks=true"
    assert not link.readlink().is_absolute()
    assert link.resolve() == ROOT / name


@pytest.mark.parametrize("name", LINKS)
def test_real_folder_is_no_link(name: str) -> None:
    assert not (ROOT / name).is_symlink()
    assert (ROOT / name / "__init__.py").is_file()


# ---- import direction ------------------------------------------------------------------------------------------------


@cache
def rooms() -> dict[str, tuple[int, int]]:
    """Top-level module -> (line of the list in docs/architecture.md, which part of a line with `|`)."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = text.split("## Rooms")[1].split("\n## ")[0]
    lines = [re.split(r"  +", line.strip())[0] for line in block.splitlines() if line.startswith("    ")]
    places: dict[str, tuple[int, int]] = {}
    for level, line in enumerate(lines):
        for part, names in enumerate(line.split("|")):
            places |= {name.strip(): (level, part) for name in names.split(",")}
    return places


def test_the_list_of_rooms_is_read_right() -> None:
    assert rooms()["types"] == rooms()["errors"] == (0, 0)
    assert rooms()["processors"][0] == rooms()["rewards"][0]
    assert rooms()["processors"] != rooms()["rewards"]
    assert rooms()["config"] < rooms()["data"] < rooms()["policy"] < rooms()["training"] < rooms()["cli"]


def modules() -> list[Path]:
    """Every Python file of the package, seen through the links."""
    return sorted({*PACKAGE.rglob("*.py"), *(file for name in LINKS for file in (PACKAGE / name).rglob("*.py"))})


def module_name(file: Path) -> str:
    """mmreason/policy/policy.py -> "policy.policy"; mmreason/policy/__init__.py -> "policy"."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, module below mmreason) of every import of ours, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: relative import; write the whole name"
            found = [node.module or ""]
            if node.module == "mmreason" or (node.module or "").count(".") == 1:
                found = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((node.lineno, name.removeprefix("mmreason.")) for name in found if name.startswith("mmreason."))


def mistake(importer: str, imported: str) -> str | None:
    """Why `importer` may not import `imported`, or None."""
    mine, theirs = importer.split(".")[0], imported.split(".")[0]
    if mine == theirs or theirs.startswith("__"):
        return None
    for name in (mine, theirs):
        if name not in rooms():
            return f"{name} has no place yet: add it to the list under Rooms in docs/architecture.md"
    if any((mine, imported) == (one, other) or imported.startswith(f"{other}.") for one, other in EXCEPTIONS):
        return None
    (level, part), (other_level, other_part) = rooms()[mine], rooms()[theirs]
    if other_level > level:
        return f"{mine} may not import {theirs}: it stands below it in docs/architecture.md (Rooms)"
    if other_level == level and part != other_part:
        return f"{mine} and {theirs} do not know each other (docs/architecture.md, Rooms)"
    return "types and errors import nothing of ours" if level == 0 else None


@pytest.mark.parametrize("file", modules(), ids=module_name)
def test_imports_point_down(file: Path) -> None:
    importer = module_name(file)
    if importer and importer.split(".")[0] not in rooms():
        pytest.fail(f"{file.relative_to(ROOT)}: " + str(mistake(importer, "types")))
    tree = ast.parse(file.read_text(encoding="utf-8"))
    wrong = [(line, mistake(importer, name)) for line, name in imports(tree)] if importer else []
    assert not [f"{file.relative_to(ROOT)}:{line}: {reason}" for line, reason in wrong if reason]


@pytest.mark.parametrize(
    ("importer", "imported", "reason"),
    [
        ("policy.policy", "collate.to_device", None),
        ("policy.policy", "rollout.hf", None),
        ("encode", "policy.positions.expand_ids", None),
        ("encode", "policy.policy", "may not import"),
        ("data", "training.run", "may not import"),
        ("rewards.iou", "processors.base", "do not know each other"),
        ("rewards.iou", "config.RewardConfig", None),
        ("errors", "types.Box", "import nothing of ours"),
        ("training", "newcomer", "newcomer has no place yet"),
    ],
)
def test_the_direction_check_itself(importer: str, imported: str, reason: str | None) -> None:
    found = mistake(importer, imported)
    assert found is None if reason is None else reason in str(found)


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_module_starts_without_torch(module: str) -> None:
    code = f"import sys, mmreason.{module}; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


# ---- sizes and docstrings --------------------------------------------------------------------------------------------

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def sources() -> Iterator[tuple[str, ast.Module]]:
    for file in modules():
        yield str(file.relative_to(PACKAGE)), ast.parse(file.read_text(encoding="utf-8"))


def definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """Functions and classes of a module with their dotted names; those inside functions are left out."""
    for node in body:
        if isinstance(node, Definition):
            yield prefix + node.name, node
        if isinstance(node, ast.ClassDef):
            yield from definitions(node.body, f"{prefix}{node.name}.")


def test_no_file_is_long() -> None:
    long = {file.name: count for file in modules() if (count := len(file.read_text().splitlines())) > 450}
    assert not long, f"over 450 lines: {long}"


def test_no_function_is_long() -> None:
    long = {
        f"{path}:{name}"
        for path, tree in sources()
        for name, node in definitions(tree.body)
        if not isinstance(node, ast.ClassDef) and (node.end_lineno or 0) - node.lineno >= 60
    }
    assert long <= LONG_FUNCTIONS, f"over 60 lines: {sorted(long - LONG_FUNCTIONS)}"
    assert long >= LONG_FUNCTIONS, f"no longer long, take them off the list: {sorted(LONG_FUNCTIONS - long)}"


def test_every_public_name_is_explained() -> None:
    silent = [
        f"{path}:{name}"
        for path, tree in sources()
        for name, node in definitions(tree.body)
        if not any(part.startswith("_") for part in name.split(".")) and not ast.get_docstring(node) and worth_it(node)
    ]
    assert not silent, f"no docstring: {silent}"


def worth_it(node: Definition) -> bool:
    """A config section explains itself key by key; what is over in a few lines is read as fast as a docstring."""
    if isinstance(node, ast.ClassDef):
        return not any(isinstance(base, ast.Name) and base.id == "Section" for base in node.bases)
    is_method = bool(node.args.args) and node.args.args[0].arg in ("self", "cls")
    return (node.end_lineno or 0) - node.lineno > (8 if is_method else 2)


def test_every_module_is_explained() -> None:
    silent = [path for path, tree in sources() if tree.body and not ast.get_docstring(tree)]
    assert not silent, f"no docstring: {silent}"
