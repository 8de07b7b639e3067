"""What a mutation run changes: every mutant of a module, and its changed syntax tree.

Mutants: a flipped sign or operator, a moved boundary, an index or constant one off, `min` for `max`, an upper bound
for a lower one, `and` for `or`, a dropped `not`, True for False. Not touched: docstrings, messages, annotations,
assertions.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

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
    """One change. Example: `Mutant(path="mmreason/rewards/iou.py", line=9, what="Sub -> Add", place=70, nth=0, ...)`"""

    path: str
    line: int
    what: str
    place: int
    """Of its node in `ast.walk`."""
    nth: int
    """Of the changes that its node allows."""
    function: int
    """First line of the innermost `def` around it, 0 for what runs when the module is imported."""


def mutants(path: Path, name: str) -> list[Mutant]:
    """Every mutant of one file, in the order of its lines."""
    tree = ast.parse(path.read_text())
    skipped, functions = _untouched(tree), _functions(tree)
    return [
        Mutant(name, getattr(node, "lineno", 0), what, place, nth, functions.get(id(node), 0))
        for place, node in enumerate(ast.walk(tree))
        if id(node) not in skipped
        for nth, (what, _) in enumerate(_changes(node))
    ]


def changed(path: Path, mutant: Mutant) -> ast.Module:
    """The syntax tree of the file with that one change."""
    tree = ast.parse(path.read_text())
    node = next(node for place, node in enumerate(ast.walk(tree)) if place == mutant.place)
    _, change = list(_changes(node))[mutant.nth]
    change(node)
    return ast.fix_missing_locations(tree)


def _functions(tree: ast.AST) -> dict[int, int]:
    """For each node that runs when a function is called: the line of the innermost one's `def`."""
    found: dict[int, int] = {}
    for node in ast.walk(tree):  # outer functions first, so that inner ones have the last word
        if isinstance(node, ast.FunctionDef):
            found |= {id(inner): node.lineno for part in node.body for inner in ast.walk(part)}
    return found


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
        if isinstance(node, ast.keyword) and node.arg == "strict":  # of zip: an assertion
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
        yield (
            f"without {type(node.op).__name__}",
            lambda target: setattr(target, "op", ast.UAdd()) if isinstance(node.op, ast.USub) else _replace_not(target),
        )
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
