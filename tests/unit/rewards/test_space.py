"""Golden values: research notes "rewards", section 4, and the pitfalls of section 8."""

import json
from typing import Any

import pytest

from mmreason.rewards import bind
from mmreason.rewards.base import BAD_GOLD
from mmreason.rewards.golds import KINDS
from mmreason.rewards.plans import read_moves
from mmreason.rewards.referring import resampled
from mmreason.types import Geometry, Score
from tests.unit.rewards.helpers import answered, grade, sample

STAR = [[2, "color", "cyan"], [5, "size", "small"]]


def of_answer(name: str, gold_kind: str, gold: Any, answer: str, **options: Any) -> Score:
    (score,) = bind(name, options)(sample(golds={gold_kind: gold}), answered(answer))
    assert score.error is None
    return score


def value(name: str, gold_kind: str, gold: Any, answer: str, **options: Any) -> float:
    total = of_answer(name, gold_kind, gold, answer, **options).total
    assert total is not None
    return total


# ---- STAR-R1


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("(2, color, cyan), (5, size, small)", 10),
        ("[[2, 'Color', 'CYAN'], [5, 'size', 'small']]", 10),
        ("(2, color, cyan)", 4),
        ("(2, color, red), (5, shape, cube)", 0),
        ("", -2),
        ("none", -2),
        ("(2, color, cyan), (5, size, small), (7, color, red)", 9),
        ("(2, color, cyan), (2, color, cyan), (5, size, small)", 10),  # said twice
        ("(5, color, small), (2, shape, cyan)", -1),  # two objects: .5 + .5 - 2
    ],
)
def test_triplets(answer: str, expected: float) -> None:
    assert value("triplets", "triplets", STAR, answer) == expected


def test_triplets_are_counted_by_kind() -> None:
    parts = of_answer("triplets", "triplets", STAR, "(2, color, cyan), (5, size, big)").parts
    assert parts == {"full": 1, "partial": 1, "wrong": 1, "missing": 0}
    parts = of_answer("triplets", "triplets", STAR, "(2, color, cyan), (5, size, small)").parts
    assert parts == {"full": 2, "partial": 0, "wrong": 0, "missing": 0}


def test_partial_matches_may_be_free() -> None:
    answer = "(2, color, red), (5, shape, cube), (9, color, red)"
    assert value("triplets", "triplets", STAR, answer) == 1.5 + 0.5 - 3
    assert value("triplets", "triplets", STAR, answer, partial_is_wrong=False) == 1.5 + 0.5 - 1


def test_guesses_for_one_object_cost_unless_golds_are_used_again() -> None:
    guesses = "(2, color, cyan), (2, color, red), (2, color, blue), (2, color, green)"
    gold = [[2, "color", "cyan"]]
    assert value("triplets", "triplets", gold, guesses) == 5 - 3
    assert value("triplets", "triplets", gold, guesses, reuse_golds=True) == 5 + 3 * 1.5 - 3


def test_penalties_can_be_switched_off() -> None:
    assert value("triplets", "triplets", STAR, "(9, color, red)", wrong_penalty=0) == -1
    assert value("triplets", "triplets", STAR, "(9, color, red)", missing_penalty=0) == -1
    assert value("triplets", "triplets", STAR, "", missing_penalty=0) == 0


def test_the_gold_of_a_triplets_task_may_be_its_answer() -> None:
    (score,) = bind("triplets", {})(sample("(2,color,cyan),(5,size,small)", "triplets"), answered("(2,color,cyan)"))
    assert score.total == 4
    assert score.flags == {"correct": False, "answered": True}


# ---- Reason-RFT


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("change_color(2, 'cyan'), change_size(5, 'small')", 1),
        ("change_color(2,cyan)", 0.5),
        ("change_color(2, 'red'), change_size(4, 'small')", 0.5),  # (func, obj) and (func, val)
        ("change_color(7, 'red')", 0.125),
        ("change_color(2, 'cyan'), change_color(2, 'cyan'), change_size(5, 'small')", 2 / 3),
        ("move(1, 'left')", 0),
        ("", 0),
    ],
)
def test_calls(answer: str, expected: float) -> None:
    gold = "change_color(2, 'cyan'), change_size(5, 'small')"
    assert value("calls", "calls", gold, answer) == pytest.approx(expected)


def test_numbers_of_a_gold_may_be_floats() -> None:
    assert value("triplets", "triplets", [[2.0, "color", "cyan"]], "(2, color, cyan)") == 5


def test_calls_with_penalties_and_without_partial_credit() -> None:
    gold = ["f(1, 'a')", "g(2, 'b')"]
    assert value("calls", "calls", gold, "f(1, 'x'), g(9, 'y')", credit="penalty") == -0.375
    assert value("calls", "calls", gold, "f(1, 'x'), g(2, 'b')", credit="full") == 0.5
    assert value("calls", "calls", gold, "f(1, 'a'), f(1, 'a')", duplicates_cost=False) == 0.5


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("104", 1), ("105", 1), ("110", 0.75), ("112.5", 0.5), ("87.5", 0.5), ("115", 0.25), ("120", 0), ("121", 0),
     ("many", 0), ("-100", 0)],
)  # fmt: skip
def test_numeric_band(answer: str, expected: float) -> None:
    (score,) = bind("numeric_band", {})(sample(100, "numeric"), answered(answer))
    assert score.total == pytest.approx(expected, abs=1e-9)
    assert expected == 0.5 or score.flags["correct"] == (expected > 0.5)


def test_numeric_band_of_zero_and_of_other_tasks() -> None:
    reward = bind("numeric_band", {})
    assert [score.total for score in reward(sample("0", "numeric"), answered("0", "0.001"))] == [1, 0]
    assert reward(sample("A", "mcq"), answered("A"))[0] == Score(total=None)


# ---- RoboRefer and RoboTracer

STEPS = [
    {"kind": "position", "target": "red cup", "value": [320, 240]},
    {"kind": "orientation", "target": "handle", "value": [1, 0]},
    {"kind": "size", "target": "cup", "value": [0.1, 0.2]},
    {"kind": "position", "target": "table", "value": [100, 400]},
]
RIGHT_STEPS = "[Position] [Red cup]: (330, 250)\n[Orientation] [handle]: (0.9, 0.3)\n[Size] [cup]: 0.11 x 0.19\n"


def refer(thought: str, answer: str, **options: Any) -> Score:
    question = sample(golds={"steps": STEPS, "point": [400, 300]})
    text = f"<think>{thought}</think><answer>{answer}</answer>"
    score = grade("refer_steps", question, text, frame="original_pixels", **options)
    assert score.error is None
    return score


def test_refer_steps() -> None:
    everything = RIGHT_STEPS + "so [Position] [table]: (90, 410)"
    assert refer(everything, "[(400, 310)]").total == 2.5
    assert refer(everything, "[(400, 310)]", steps="sum").total == 1 + 1 + 0.25 * (1 + 4)
    half = "[Position] [red cup]: (320, 240)\n[Size] [cup]: (0.1, 0.2)\n[Orientation] [handle]: (0, 1)"
    assert refer(half, "(10, 10)").total == 1.375
    assert refer("I just know.", "(400, 300)").total == 2


@pytest.mark.parametrize("answer", ["", "(400)", "(400, 300), (10, 10)", "(449, 301)", "(nan, 300)", "(1, 2, 3)"])
def test_points_that_are_not_right(answer: str) -> None:
    assert refer("", answer).parts["point"] == 0


@pytest.mark.parametrize(("size", "right"), [("0.1, 0.2", 1), ("0.11, 0.2", 1), ("0.1, 0.3", 0), ("0.2, 0.2", 0)])
def test_each_side_of_a_size_is_within_15_percent(size: str, right: int) -> None:
    question = sample(golds={"steps": [{"kind": "size", "target": "cup", "value": [0.1, 0.2]}], "point": [1, 1]})
    text = f"<think>[Size] [cup]: ({size})</think><answer></answer>"
    assert (grade("refer_steps", question, text, frame="unit").parts["steps"] > 0) == right


@pytest.mark.parametrize(
    ("kind", "meant", "line", "right"),
    [("size", [100], "115", 1), ("size", [100], "116", 0), ("orientation", [1, 0], "(0, 0)", 0)],
)
def test_sizes_and_directions_at_their_limits(kind: str, meant: list[int], line: str, right: int) -> None:
    question = sample(golds={"steps": [{"kind": kind, "target": "cup", "value": meant}], "point": [1, 1]})
    text = f"<think>[{kind}] [cup]: {line}</think><answer></answer>"
    assert grade("refer_steps", question, text, frame="unit").parts["steps"] == right


def test_the_last_line_on_a_step_counts() -> None:
    said = "[Position] [red cup]: (320, 240)\n[Position] [red cup]: (0, 0)"
    assert refer(said, "").parts["steps"] == 0
    assert refer("\n".join(reversed(said.splitlines())), "").parts["steps"] == 0.25


def test_points_are_compared_in_pixels_of_the_file_whatever_the_model_speaks() -> None:
    steps = [{"kind": "position", "target": "cup", "value": [500, 500]}]
    geometry = (Geometry(original=(1000, 1000), resized=(500, 500), frame="resized_pixels"),)
    question = sample(golds={"steps": steps, "point": [500, 500]}, geometry=geometry)
    text = "<think>[Position] [cup]: (%s)</think><answer>(%s)</answer>"
    assert grade("refer_steps", question, text % ("250, 250", "250, 250")).total == 2.5
    assert (
        grade("refer_steps", question, text % ("500, 500", "0.5, 0.5"), frame="unit").total == 2.25
    )  # step: (500, 500)
    assert grade("refer_steps", question, text % ("274, 250", "276, 250")).total == 1 + 0.5


def test_trace() -> None:
    gold = [[0, 0], [1, 0]]
    assert value("trace", "trace", gold, "[(0, 0), (1, 0)]") == 2
    assert value("trace", "trace", gold, "[[0, 0], [0.5, 0], [0.75, 0], [1, 0]]") == pytest.approx(2)
    assert value("trace", "trace", gold, "(0, 0.5), (1, 0.5)") == pytest.approx(0.75 + 0.5)
    assert value("trace", "trace", gold, "(1, 0), (0, 0)") == pytest.approx(0 + 1 - 8 / 15)
    for bad in ("", "(0, 0)", "(0, 0, 0), (1, 0, 0)", "(a, b), (c, d)", "(1e999, 0), (1, 0)"):
        assert grade("trace", sample(golds={"trace": gold}), bad).flags == {"answered": False}
        assert value("trace", "trace", gold, bad) == 0


def test_resampled_paths_are_even() -> None:
    points = resampled([(0.0, 0.0), (1.0, 0.0), (1.0, 0.0), (1.0, 3.0)], count=5)
    assert points == [(0, 0), (1, 0), (1, 1), (1, 2), (1, 3)]
    assert resampled([(1.0, 1.0), (1.0, 1.0)], count=3) == [(1, 1)] * 3


# ---- plans

GOLD_PLAN = ["find a Mug", "pick up the Mug", "find a Sink", "put down the Mug"]
ACTIONS = {"3": "find a mug", "4": "pick up the mug", "5": "find a sink", "6": "put down the mug", "7": "wait"}


def plan(*numbers: Any, **more: Any) -> str:
    steps = [{"action_id": n, "action_name": ACTIONS.get(str(n), "fly")} for n in numbers]
    keys = {"reasoning_and_reflection": "", "visual_state_description": "", "language_plan": ""}
    return json.dumps({**keys, "executable_plan": steps, **more})


@pytest.mark.parametrize(
    ("steps", "expected"),
    [((), 0), ((7, 4), 0), ((3, 7), 0.1), ((3, 4), 0.3), ((3, 4, 5), 0.6), ((3, 4, 5, 6), 1), ((7, 3, 4, 5, 6), 0)],
)
def test_plan_prefix(steps: tuple[int, ...], expected: float) -> None:
    assert value("plan_prefix", "plan", GOLD_PLAN, plan(*steps), format=False) == pytest.approx(expected)


def test_steps_beyond_the_plan() -> None:
    assert value("plan_prefix", "plan", ["find a mug"], plan(3, 4), format=False) == 0.75
    assert value("plan_prefix", "plan", ["find a mug"], plan(7, 4), format=False) == -0.25
    assert value("plan_prefix", "plan", GOLD_PLAN, plan(3, 4, 5, 6, 7), format=False) == 1
    assert value("plan_prefix", "plan", GOLD_PLAN, plan(3, 4, 5, 6, 7), format=False, extra="any") == 0.75


def test_plan_format() -> None:
    question = sample(golds={"plan": GOLD_PLAN, "actions": ACTIONS})
    for text in (plan(3, 4, 5, 6), f"<answer>{plan(3, 4, 5, 6)}</answer>", f"```json\n{plan(3, 4, 5, 6)}\n```"):
        assert grade("plan_prefix", question, text).total == 1.5
    assert grade("plan_prefix", question, plan(3, 99)).parts["format"] == 0.125 + 0.125 + 0.125
    assert grade("plan_prefix", question, plan(True, "4")).parts["format"] == 0.125
    odd = plan(executable_plan=["find a mug", {"action_id": 3, "action_name": "find a mug"}])
    assert grade("plan_prefix", question, odd).parts == {"prefix": 0, "format": 0.125 + 0.0625 + 0.125}
    for text in ("", "no plan", "[1]", "{", "[" * 100_000, '{"executable_plan": 7}'):
        score = grade("plan_prefix", question, text)
        assert (score.total, score.flags) == (0, {"correct": False, "answered": False})


# ---- mazes

MAZE = ["S.#", "#..", "#.G"]


@pytest.mark.parametrize(
    ("moves", "expected"),
    [
        ("right, down, right, down", 1),
        ("RDDR", 1),
        ("\u2192\u2193\u2192\u2193", 1),
        ("East South East South", 1),
        ("right down down up right down", 1),
        ("right, down", 0),
        ("down", 0),
        ("right, down, right, down, up", 0),
        ("right down right jump down", 0),
        ("", 0),
    ],
)
def test_maze_path(moves: str, expected: float) -> None:
    assert value("maze_path", "maze", MAZE, moves) == expected


def test_maze_path_options() -> None:
    assert value("maze_path", "maze", MAZE, "right down down up right down", shortest=True) == 0
    assert value("maze_path", "maze", "\n".join(MAZE), "right, down, up up", progress=0.4) == pytest.approx(0.1)
    assert value("maze_path", "maze", MAZE, "right down", progress=0.4) == pytest.approx(0.2)
    corridor = [".SG"]
    assert value("maze_path", "maze", corridor, "left", progress=0.4) == 0, "further away than the start"
    assert read_moves("The way: UP and rr") == ["the", "way", "up", "and", "right", "right"]


# ---- EgoThinker and lengths


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ([0, 0, 100, 100], "[50, 50, 150, 150]", 1 / 7),
        ([0, 0, 100, 100], " [0,0,100,100] ", 1),
        ([0, 0, 100, 100], "(0, 0, 100, 100)", 0),
        ([0, 0, 100, 100], "[0.0, 0, 100, 100]", 0),
        ([0, 0, 100, 100], "[100, 100, 0, 0]", 0),
        ([0, 0, 100, 100], "the box is [0, 0, 100, 100]", 0),
        ([10, 20], "(5, 15)", 1 / 3),
        ([10, 20], "(15, 5)", 0),
        ([10, 20], "[5, 15]", 0),
        ([10, 20], "(20, 30)", 0),
    ],
)
def test_ego_grounding(gold: Any, answer: str, expected: float) -> None:
    assert value("ego_grounding", "ego_grounding", gold, answer) == pytest.approx(expected)


# ---- golds that cannot be read, rows of other rewards

UNREADABLE = {
    "triplets": [[], "none", [[1, 2]], 5, None, "(2, color, cyan), (5, size)"],
    "calls": [[], "red", 5, [3], ["f(1, 'a')", "g(2, 'dark blue')"]],
    "refer_steps": [[], "x", [{"kind": "colour", "target": "a", "value": [1, 2]}], [{"kind": "size"}],
                    [{"kind": "position", "target": "a", "value": [1]}],
                    [{"kind": "orientation", "target": "a", "value": [0, 0]}]],
    "trace": [[], [[0, 0]], [[0], [1]], [[0, 0], [0, 0, 0]], "path", [[0, float("nan")], [1, 1]]],
    "plan_prefix": [[], [3], "find a mug", [""]],
    "maze_path": [[], ["S.."], ["SG", "."], ["S#G"], ["SSG"], 5, [3]],
    "ego_grounding": [[], [1, 2, 3], [5, 1], [0, 0, 0, 5], "x", [True, 2]],
}  # fmt: skip
KIND_OF = {"refer_steps": "steps", "plan_prefix": "plan", "maze_path": "maze"}


@pytest.mark.parametrize(("name", "golds"), UNREADABLE.items(), ids=UNREADABLE)
def test_unreadable_golds_are_errors(name: str, golds: list[Any]) -> None:
    options = {"frame": "unit"} if name == "refer_steps" else {}
    kind = KIND_OF.get(name, name)
    for gold in golds:
        scores = bind(name, options)(sample(golds={kind: gold, "point": [1, 1]}), answered("a", "b"))
        assert [score.total for score in scores] == [None, None], gold
        assert scores[0].flags == {BAD_GOLD: True}
        assert scores[0].error
        assert "expected" in scores[0].error
        assert "\n" not in scores[0].error
    assert bind(name, options)(sample("B", "mcq"), answered("a")) == [Score(total=None)]


def test_steps_need_a_point_and_a_frame() -> None:
    question = sample(golds={"steps": STEPS})
    assert "point" in (grade("refer_steps", question, "x", frame="unit").error or "")
    question = sample(golds={"steps": STEPS, "point": [1, 1]})
    assert "option frame" in (grade("refer_steps", question, "x").error or "")


def test_accuracy_leaves_tasks_of_other_rewards_alone() -> None:
    for kind in KINDS:
        assert bind("accuracy", {})(sample([1], kind), answered("a")) == [Score(total=None)]
    (score,) = bind("accuracy", {"skip_tasks": ["mcq"]})(sample([1], "plan"), answered("a"))
    assert "unknown task" in (score.error or "")
