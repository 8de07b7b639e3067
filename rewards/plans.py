"""Plans of actions, in a household (embodied planning) or through a maze."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from mmreason.rewards.accuracy import answer_of
from mmreason.rewards.base import extract_answer
from mmreason.rewards.golds import bad_gold, by_gold, texts
from mmreason.types import Rollout, Sample, Score

KEYS = ("reasoning_and_reflection", "visual_state_description", "language_plan", "executable_plan")
_WAYS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
_MOVES = {
    **{name: name for name in _WAYS},
    "u": "up", "d": "down", "l": "left", "r": "right",
    "north": "up", "south": "down", "west": "left", "east": "right", "n": "up", "s": "down", "w": "left", "e": "right",
    "\u2191": "up", "\u2193": "down", "\u2190": "left", "\u2192": "right",
}  # fmt: skip
_MOVE_WORD = re.compile(r"[A-Za-z]+|[\u2190-\u2193]")
Cell = tuple[int, int]


class Maze(NamedTuple):
    """Rows of text: "#" is a wall, "S" the start, "G" the goal, anything else is free."""

    rows: tuple[str, ...]
    start: Cell
    goal: Cell

    def is_free(self, cell: Cell) -> bool:
        row, column = cell
        return 0 <= row < len(self.rows) and 0 <= column < len(self.rows[row]) and self.rows[row][column] != "#"


def plan_prefix(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    format: bool = True,
    extra_penalty: float = 0.25,
    extra: Literal["single", "any"] = "single",
) -> list[Score]:
    """k (k + 1) / n (n + 1) for the first k of n steps right, plus up to 0.5 for the form (embodied planning).

    The answer is one JSON object with the keys reasoning_and_reflection, visual_state_description, language_plan and
    executable_plan: [{"action_id": 3, "action_name": "pick up the mug"}, ..]; in `<answer>`, in a fence or alone. Names
    are compared without case. `format`: .125 for the keys, .125 x share of steps with a whole number and a text, .25 x
    share of steps whose number and name agree with `golds["actions"]` ({"3": "pick up the mug"}; 0 without it).
    `extra_penalty`: what steps beyond the gold plan cost; `extra`: as in the public code in a plan of one step only,
    or in any plan (ours: otherwise a right plan may go on for ever at no cost).

    Source: mail-taii/Reinforced-Reasoning-for-Embodied-Planning, reward_func_embench_alfred_nonlinear.py. There a step
    that is no object is passed over, or ends the whole reward at 0; here it is a wrong step. Gold "plan": a list of
    names. Range: -extra_penalty to 1.5.
    """
    table = _action_table(sample.golds.get("actions"))

    def grade(rollout: Rollout, gold: list[str]) -> Score:
        answer = read_plan(answer_of(rollout.text, require_tags=False) or "")
        if answer is None:
            return Score(total=0.0, flags={"correct": False, "answered": False})
        given = answer.get("executable_plan")
        steps = given if isinstance(given, list) else []
        first = prefix(steps, gold)
        parts = {"prefix": first * (first + 1) / (len(gold) * (len(gold) + 1))}
        if len(steps) > len(gold) and (extra == "any" or len(gold) == 1):
            parts["extra"] = -extra_penalty
        if format:
            parts["format"] = plan_format(answer, steps, table)
        correct = first == len(gold) == len(steps)
        return Score(total=sum(parts.values()), parts=parts, flags={"correct": correct, "answered": bool(steps)})

    return by_gold(sample, rollouts, "plan", lambda given: texts(given, "a list of action names"), grade)


def maze_path(
    sample: Sample, rollouts: Sequence[Rollout], *, shortest: bool = False, progress: float = 0.0
) -> list[Score]:
    """1 if the moves of the answer lead from start to goal of a maze without running into a wall, else 0.

    Moves are words, letters or arrows: "up, right", "UR", "north east". `shortest`: only a shortest way is right.
    `progress`: what a way that fails is worth at most; of that, the share of the shortest way that is behind the last
    cell it reached before a wall or another word. Our own definition (short-CoT maze papers check the path).
    Gold "maze": rows of equal length, "#" a wall, "S" the start, "G" the goal. Range: 0 to 1.
    """

    def grade(rollout: Rollout, maze: Maze) -> Score:
        left = distances(maze)
        moves = read_moves(extract_answer(rollout.text) or "")
        end, clean = walk(maze, moves)
        solved = clean and end == maze.goal and (not shortest or len(moves) == left[maze.start])
        value = 1.0 if solved else progress * max(0.0, 1.0 - left[end] / left[maze.start])
        return Score(total=value, flags={"correct": solved, "answered": bool(moves)})

    return by_gold(sample, rollouts, "maze", _gold_maze, grade)


def prefix(steps: Sequence[Any], gold: Sequence[str]) -> int:
    """How many steps are right before the first that is not."""
    count = 0
    for step, wanted in zip(steps, gold, strict=False):
        name = step.get("action_name") if isinstance(step, Mapping) else None
        if not isinstance(name, str) or name.lower() != wanted.lower():
            break
        count += 1
    return count


def plan_format(answer: Mapping[str, Any], steps: Sequence[Any], table: Mapping[str, str]) -> float:
    """0 to 0.5, as `plan_prefix` describes it."""
    keys = 0.125 * all(key in answer for key in KEYS)
    if not steps:
        return keys
    pairs = [(s.get("action_id"), s.get("action_name")) if isinstance(s, Mapping) else (None, None) for s in steps]
    typed = [(number, name) for number, name in pairs if _is_whole(number) and isinstance(name, str)]
    known = [name for number, name in typed if table.get(str(number)) == name.lower()]
    return float(keys + 0.125 * len(typed) / len(steps) + 0.25 * len(known) / len(steps))


def read_plan(text: str) -> Mapping[str, Any] | None:
    """The JSON object that the text is, alone or in a code fence; None for anything else."""
    text = text.strip()
    if text.startswith("```"):
        text = text.partition("\n")[2].removesuffix("```")
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return given if isinstance(given, dict) else None


def read_moves(answer: str) -> list[str]:
    """Moves as up, down, left, right; a word that is none stands as it is, and is a wrong move."""
    moves: list[str] = []
    for word in _MOVE_WORD.findall(answer.lower()):
        letters = word if word not in _MOVES and set(word) <= set("udlr") else [word]
        moves += [_MOVES.get(letter, letter) for letter in letters]
    return moves


def walk(maze: Maze, moves: Sequence[str]) -> tuple[Cell, bool]:
    """(last cell that was reached, whether every move was possible)."""
    cell = maze.start
    for move in moves:
        down, right = _WAYS.get(move, (0, 0))
        after = (cell[0] + down, cell[1] + right)
        if move not in _WAYS or not maze.is_free(after):
            return cell, False
        cell = after
    return cell, True


def distances(maze: Maze) -> dict[Cell, int]:
    """Moves from every cell that can be reached to the goal."""
    left, queue = {maze.goal: 0}, deque([maze.goal])
    while queue:
        cell = queue.popleft()
        for down, right in _WAYS.values():
            after = (cell[0] + down, cell[1] + right)
            if maze.is_free(after) and after not in left:
                left[after] = left[cell] + 1
                queue.append(after)
    return left


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _action_table(given: Any) -> dict[str, str]:
    """Number, as text, -> name in lower case; empty where the row has none."""
    if not isinstance(given, Mapping):
        return {}
    return {str(number): name.lower() for number, name in given.items() if isinstance(name, str)}


def _gold_maze(given: Any) -> Maze:
    wants = 'rows of equal length with one "S", one "G" and a way between them'
    rows = tuple(given.splitlines() if isinstance(given, str) else given if isinstance(given, (list, tuple)) else ())
    if not rows or not all(isinstance(row, str) for row in rows):
        bad_gold(given, wants)
    if len({len(row) for row in rows}) != 1 or any("".join(rows).count(mark) != 1 for mark in "SG"):
        bad_gold(given, wants)
    places = {mark: (i, row.index(mark)) for i, row in enumerate(rows) for mark in "SG" if mark in row}
    maze = Maze(rows, places["S"], places["G"])
    return maze if maze.start in distances(maze) else bad_gold(given, wants)
