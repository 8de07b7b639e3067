"""Puzzles whose solution can be checked: cards that must reach a number, grids with rules."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from mmreason.rewards.arithmetic import read_expression
from mmreason.rewards.base import extract_answer
from mmreason.rewards.golds import bad_gold, by_gold, entry
from mmreason.types import Rollout, Sample, Score

Grid = tuple[tuple[str, ...], ...]
LONGEST = 5000
"""Characters: a longer answer is no grid."""
OPEN = ("", "*", ".", "_", "?", "0")
"""How a cell that is not given is written in a puzzle."""
OPEN_BINARY = OPEN[:-1]
"""The same in a puzzle of two kinds of cells, which may be 0 and 1."""
_BINARY_RULES = ("balanced", "no_triples")
_FACES = {"a": 1, "j": 11, "q": 12, "k": 13, "t": 10}


class Cards(NamedTuple):
    """Numbers that must each be used once, and what they must make."""

    numbers: Counter[int]
    target: int


class Puzzle(NamedTuple):
    """A grid to fill: what is given, and either the one solution or the rules."""

    clues: Grid
    solution: Grid | None
    rules: tuple[Callable[[Grid], bool], ...]
    open: tuple[str, ...] = OPEN


def expression(
    sample: Sample, rollouts: Sequence[Rollout], *, right: float = 1.0, legal: float = 0.0, wrong: float = 0.0
) -> list[Score]:
    """`right` for an expression that makes the target out of the given cards, each used once (GeneralPoints).

    `legal`: each card once, another value; `wrong`: everything else. The answer is "(10 - 4) * (3 + 1)", a part "= 24"
    behind it is not read. After the card game of SFT-vs-RL, whose environment (LeslieTrue/SFTvsRL utils_rl.py)
    pays 5 for a solution, -1 for another value, -2 for other numbers, -3 for no formula, over several turns; here one
    turn, without the penalties of its recognition steps. The text is parsed, never run (arithmetic.py).
    Gold "expression": {"cards": [10, 4, 3, "A"], "target": 24}; A J Q K count 1 11 12 13. Range: that of the options.
    """

    def grade(rollout: Rollout, cards: Cards) -> Score:
        found = read_expression((extract_answer(rollout.text) or "").partition("=")[0])
        uses_cards = found is not None and Counter(found.numbers) == cards.numbers
        solved = uses_cards and found is not None and found.value == cards.target
        flags = {"correct": solved, "answered": found is not None}
        return Score(total=right if solved else legal if uses_cards else wrong, flags=flags)

    return by_gold(sample, rollouts, "expression", _cards, grade)


def grid(sample: Sample, rollouts: Sequence[Rollout], *, partial: float = 0.0) -> list[Score]:
    """1 for a grid that is the solution, or keeps the clues and obeys the rules, else 0 (VGRP puzzles).

    The answer is a JSON list of rows, or lines of cells with spaces or commas between them, or of one character each.
    `partial`: what a wrong grid of the right size that keeps the clues is worth at most; of that the share of open
    cells that are right (with a solution) or of rules that hold, our choice.

    Gold "grid": {"solution": rows} or {"rules": [..]}, and "clues": rows, open cells as 0, * or . (with rules always);
    with "balanced" or "no_triples" 0 is a value, and open cells are * or . alone.
    Rules: "rows" and "columns" (1 to n, each once), "boxes" or "boxes 2x3" (of 2 rows and 3 columns), "balanced" and
    "no_triples" (Binairo), "stars" (Star Battle, with "regions": rows of names; a star is s). Sudoku is rows, columns,
    boxes. Range: 0 to 1.
    """

    def grade(rollout: Rollout, puzzle: Puzzle) -> Score:
        answer = read_grid(extract_answer(rollout.text) or "")
        if answer is None or not keeps(answer, puzzle.clues, puzzle.open):
            return Score(total=0.0, flags={"correct": False, "answered": answer is not None})
        share = right_share(answer, puzzle)
        value = 1.0 if share == 1.0 else partial * share
        return Score(total=value, flags={"correct": share == 1.0, "answered": True})

    return by_gold(sample, rollouts, "grid", _gold_puzzle, grade)


def read_grid(answer: str) -> Grid | None:
    """The rows of an answer, all of one length; cells in lower case."""
    if len(answer) > LONGEST:
        return None
    text = answer.strip()
    if text.startswith("```"):
        text = text.partition("\n")[2].removesuffix("```").strip()
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        given = [_cells(line) for line in text.splitlines() if line.strip()]
    return _rows(given)


def keeps(answer: Grid, clues: Grid, open_cells: Sequence[str] = OPEN) -> bool:
    """Whether the answer has the size of the puzzle and every given cell as it was."""
    if [len(row) for row in answer] != [len(row) for row in clues]:
        return False
    pairs = (pair for rows in zip(answer, clues, strict=True) for pair in zip(*rows, strict=True))
    return all(clue in open_cells or cell == clue for cell, clue in pairs)


def right_share(answer: Grid, puzzle: Puzzle) -> float:
    """Share of the open cells that are the solution's, or of the rules that hold."""
    if puzzle.solution is None:
        return sum(rule(answer) for rule in puzzle.rules) / len(puzzle.rules)
    triples = zip(_flat(answer), _flat(puzzle.solution), _flat(puzzle.clues), strict=True)
    held = [cell == wanted for cell, wanted, clue in triples if clue in puzzle.open]
    return sum(held) / len(held) if held else 1.0


def each_once(lines: Sequence[Sequence[str]]) -> bool:
    """Whether every line has the numbers from 1 to its length, each once."""
    return all(sorted(line) == sorted(str(n) for n in range(1, len(line) + 1)) for line in lines)


def boxes(grid: Grid, height: int, width: int) -> list[list[str]]:
    """The cells of every box of so many rows and columns."""
    return [
        [cell for row in grid[top : top + height] for cell in row[left : left + width]]
        for top in range(0, len(grid), height)
        for left in range(0, len(grid[0]), width)
    ]


def balanced(lines: Sequence[Sequence[str]]) -> bool:
    """Whether every line holds two kinds of cells, as many of each."""
    kinds = {cell for line in lines for cell in line}
    return len(kinds) == 2 and all(2 * line.count(kind) == len(line) for line in map(list, lines) for kind in kinds)


def no_triples(lines: Sequence[Sequence[str]]) -> bool:
    """Whether no line has the same cell three times in a row."""
    return not any(a == b == c for line in lines for (a, b), (_, c) in pairwise(pairwise(line)))


def one_star_each(grid: Grid, regions: Grid) -> bool:
    """One star in every row, column and region, none beside another, corners included."""
    stars = [(i, j) for i, row in enumerate(grid) for j, cell in enumerate(row) if cell == "s"]
    apart = all(max(abs(i - k), abs(j - m)) > 1 for (i, j) in stars for (k, m) in stars if (i, j) != (k, m))
    rows, columns = sorted(i for i, _ in stars), sorted(j for _, j in stars)
    filled = rows == list(range(len(grid))) and columns == list(range(len(grid[0])))
    return apart and filled and sorted(regions[i][j] for i, j in stars) == sorted(set(_flat(regions)))


def _columns(grid: Grid) -> list[tuple[str, ...]]:
    return list(zip(*grid, strict=True))


def _flat(grid: Grid) -> list[str]:
    return [cell for row in grid for cell in row]


def _cells(line: str) -> list[str]:
    line = line.strip().strip("[],")
    cells = [cell for cell in re.split(r"[\s,|]+", line) if cell]
    return list(cells[0]) if len(cells) == 1 else cells


def _rows(given: Any) -> Grid | None:
    if not isinstance(given, (list, tuple)) or not all(isinstance(row, (list, tuple)) and row for row in given):
        return None
    if not given or len({len(row) for row in given}) != 1:
        return None
    return tuple(tuple(_cell(cell) for cell in row) for row in given)


def _cell(cell: Any) -> str:
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return str(cell).strip().strip("'\"").lower()


def _gold_puzzle(given: Any) -> Puzzle:
    wants = '{"solution": rows}, or {"rules": [..], "clues": rows}, of a size that the rules fit'
    if not isinstance(given, Mapping) or ("solution" in given) == ("rules" in given):
        bad_gold(given, wants)
    solution = _rows(given["solution"]) if "solution" in given else None
    open_cells = [["0"] * len(row) for row in solution] if solution else None
    clues = _rows(given.get("clues", open_cells))
    if clues is None or (solution is not None and not keeps(solution, clues)):
        bad_gold(given, wants)
    names = given.get("rules", ())
    if not isinstance(names, (list, tuple)) or (solution is None and not names):
        bad_gold(given, wants)
    rules = tuple(_rule(name, clues, _rows(given.get("regions"))) or bad_gold(name, wants) for name in names)
    return Puzzle(clues, solution, rules, OPEN_BINARY if any(name in _BINARY_RULES for name in names) else OPEN)


def _rule(name: Any, clues: Grid, regions: Grid | None) -> Callable[[Grid], bool] | None:
    """A rule by its name; None for one that is unknown or does not fit a grid of this size."""
    size = len(clues)
    square = size == len(clues[0])
    match = re.fullmatch(r"boxes(?: (\d)x(\d))?", name) if isinstance(name, str) else None
    if match and square:
        root = round(size**0.5)
        high, wide = (int(match[1]), int(match[2])) if match[1] else (root, root)
        return (lambda g: each_once(boxes(g, high, wide))) if high * wide == size else None
    if name == "stars" and regions and square and [*map(len, regions)] == [*map(len, clues)]:
        return lambda g: one_star_each(g, regions)
    return _LINE_RULES.get(name) if isinstance(name, str) else None


_LINE_RULES: dict[str, Callable[[Grid], bool]] = {
    "rows": each_once,
    "columns": lambda g: each_once(_columns(g)),
    "balanced": lambda g: balanced(g) and balanced(_columns(g)),
    "no_triples": lambda g: no_triples(g) and no_triples(_columns(g)),
}


def _cards(given: Any) -> Cards:
    wants = '{"cards": [10, 4, 3, "A"], "target": 24}'
    cards, target = entry(given, "cards", wants), entry(given, "target", wants)
    if not isinstance(cards, (list, tuple)) or not cards or not isinstance(target, int) or isinstance(target, bool):
        bad_gold(given, wants)
    numbers = [_card(card) for card in cards]
    if None in numbers:
        bad_gold(given, wants)
    return Cards(Counter(number for number in numbers if number is not None), target)


def _card(card: Any) -> int | None:
    if isinstance(card, str):
        return _FACES.get(card.strip().lower(), int(card) if card.isascii() and card.strip().isdigit() else None)
    return card if isinstance(card, int) and not isinstance(card, bool) and 0 <= card < 10**9 else None
