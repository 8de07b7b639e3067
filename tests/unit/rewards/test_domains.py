"""Golden values: research notes "rewards" section 6, "algorithms" section 6.8, and the pitfalls of section 8."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmreason.errors import ConfigError, RewardError
from mmreason.rewards import bind
from mmreason.rewards.arithmetic import read_expression
from mmreason.rewards.base import BAD_GOLD, TextRollout, extract_answer
from mmreason.rewards.diagnosis import LONGEST, path_scores
from mmreason.rewards.golds import block
from mmreason.rewards.judging import content
from mmreason.rewards.lengths import limited
from mmreason.rewards.ranking import completeness, gain
from mmreason.rewards.safety import guard_value, logistic, safe_value
from mmreason.rewards.tables import bleu, jaccard
from mmreason.types import Sample, Score
from tests.unit.rewards.helpers import answered, grade, sample


def value(name: str, gold: Any, text: str, *, kind: str = "", **options: Any) -> float:
    """The total of a whole completion."""
    score = grade(name, sample(golds={kind or name: gold}), text, **options)
    assert score.error is None
    assert score.total is not None
    return score.total


def said(answer: str, tag: str = "answer", think: str = "think") -> str:
    return f"<{think}>hm</{think}><{tag}>{answer}</{tag}>"


def sampled(text: str, tokens: int, **fields: Any) -> TextRollout:
    return TextRollout(text=text, token_count=tokens, **fields)


# ---- MM-R5 and ranked lists


@pytest.mark.parametrize(
    ("order", "positives", "expected"),
    [([3, 1, 2, 4], [3], 1), ([1, 3, 2, 4], [3], 0.125), ([1, 3, 2, 4], [1, 2], 0.921811), ([2, 1, 3], [1, 2], 1)],
)
def test_rerank(order: list[int], positives: list[int], expected: float) -> None:
    assert gain(order, positives, 3) == pytest.approx(expected, abs=1e-6)
    text = said(str(order))
    assert value("rerank", {"positives": positives, "total": 4}, text) == pytest.approx(expected, abs=1e-6)
    assert value("rerank", [positives, 4], text, variant="published") == pytest.approx(expected, abs=1e-6)


def test_repeated_pages_take_no_rank() -> None:
    gold = [[2], 4]
    assert value("rerank", gold, said("[1, 1, 1, 2]")) == 0.125
    assert value("rerank", gold, said("[1, 1, 1, 2]"), variant="published") == 1 / 64
    assert value("rerank", gold, said("[1, 2]"), power=1) == 0.5


@pytest.mark.parametrize(
    ("order", "sane", "published"),
    [
        ([3, 1, 2, 4], 1, 1),
        ([3, 1], 0.5, 0.5),
        ([1, 9, 2, 3], 0.75, 0.75),
        ([1, 1, 1, 1], 0.25, 1),
        (list(range(1, 10)), 0, -1 / 9),
    ],
)
def test_rerank_format(order: list[int], sane: float, published: float) -> None:
    assert completeness(order, 4) == sane
    assert value("rerank_format", [[3], 4], said(str(order)), kind="rerank") == sane
    text = said(str(order))
    assert value("rerank_format", [[3], 4], text, kind="rerank", variant="published") == pytest.approx(published)


def test_rerank_format_wants_both_blocks() -> None:
    for text in ("<answer>[1,2]</answer>", said("1, 2"), said("[]"), said("[1,,2]"), "<think>x</think>[1, 2]"):
        assert value("rerank_format", [[1], 2], text, kind="rerank") == 0
        assert value("rerank_format", [[1], 2], text, kind="rerank", variant="published") == 0
    for text in (said(" [1, 2]"), said("[1 , 2]")):
        assert value("rerank_format", [[1], 2], text, kind="rerank") == 1
        assert value("rerank_format", [[1], 2], text, kind="rerank", variant="published") == 0


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("cat, dog, owl", 0.5),
        ("1. Dog\n2. cat", 1),
        ('["owl", "cat", "dog"]', 1 / 3),
        ("[cat; cat; dog]", 0.5),
        ("owl", 0),
        ("", 0),
        ("a dog or a cat", 0),
        ("- cat\n- dog.", 0.5),
    ],
)
def test_ranked_list(answer: str, expected: float) -> None:
    assert value("ranked_list", ["dog", "hound"], said(answer)) == pytest.approx(expected)


def test_a_ranked_list_is_read_up_to_its_longest() -> None:
    assert value("ranked_list", "dog", said("cat, owl, dog"), longest=2) == 0


# ---- medicine

PATH = ["skin", "melanocytic", "malignant melanocytic", "melanoma"]
OPTIONS = ("melanoma", "nevus", "melanocytic", "eczema")


def test_path_scores() -> None:
    assert list(path_scores(PATH, PATH, 0.75).values()) == [0.1875, 0.375, 0.5625, 0.75]
    assert path_scores(PATH, OPTIONS, 0.75) == {"A": 0.75, "B": 0, "C": 0.375, "D": 0}
    assert path_scores(PATH, ["eczema", "A lesion", "C. melanocytic"], 0.75) == {"A": 0, "B": 0, "C": 0.75}


def test_the_best_option_on_offer_is_correct_whatever_the_class() -> None:
    question = sample(golds={"hierarchy": {"path": PATH, "class": "malignant"}}, options=OPTIONS)
    texts = [said(f"{letter}, benign", "final diagnosis") for letter in "AC"]
    assert [grade("hierarchy", question, text).flags["correct"] for text in texts] == [True, False]


def skin(answer: str, **options: Any) -> float | None:
    question = sample(golds={"hierarchy": {"path": PATH, "class": "malignant"}}, options=OPTIONS)
    text = f"<thinking>hm</thinking><final diagnosis>{answer}</final diagnosis>"
    score = grade("hierarchy", question, text, **options)
    assert score.error is None
    return score.total


@pytest.mark.parametrize(
    ("answer", "sane", "published"),
    [
        ("A: melanoma, malignant", 1, 1),
        ("A", 0.75, 0.75),
        ("C: melanocytic (malignant)", 0.625, 0.625),
        ("B: nevus, benign", 0, 0),
        ("melanoma, malignant", 1, 0.25),  # the first letter is M
        ("a nevus", 0, 0.75),  # the first letter is A
        ("A: melanoma, benign or malignant", 0.75, 0.75),
        ("A: melanoma, malignant or benign", 0.75, 1),
        ("", 0, 0),
        ("A or C", 0, 0.75),
    ],
)
def test_hierarchy(answer: str, sane: float, published: float) -> None:
    assert skin(answer) == sane
    assert skin(answer, variant="published") == published


def test_a_diagnosis_is_read_up_to_its_longest() -> None:
    said = "A: melanoma, malignant"
    assert skin(f"{said}{'.' * (LONGEST - len(said))}") == 1
    assert skin(f"{said}{'.' * (LONGEST - len(said) + 1)}") == 0


def test_perfect_total_of_skin_r1_is_2() -> None:
    text = "<thinking>hm</thinking><final diagnosis>A: melanoma, malignant</final diagnosis>"
    form = grade("format", sample(), text, think_tag="thinking", answer_tag="final diagnosis").total
    assert (skin("A: melanoma, malignant") or 0) + (form or 0) == 2


def test_scores_of_a_hierarchy_may_be_given() -> None:
    gold = {"scores": {"A": 0.75, "B": 0.375, "C": 0}, "class": "precancerous_in_situ"}
    text = "<final diagnosis>B, precancerous in situ</final diagnosis>"
    assert value("hierarchy", gold, text) == 0.625
    assert value("hierarchy", gold, text, variant="published") == 0.625


@pytest.mark.parametrize(
    ("gold", "answer", "sane", "published"),
    [
        ("Mass|Nodule", "Nodule, Mass", 1, 2),
        ("Mass|Nodule", "Mass", 2 / 3, 1),
        ("Mass|Nodule", "Mass, Edema", 0.5, 0),
        ("No Finding", "No Finding", 1, 0.25),
        ("No Finding", "Mass", 0, 0),
        ("Pleural_Thickening", "pleural thickening.", 1, 0),
        ("Mass", "no Mass", 0, 1),
        ("Mass", "", 0, 0),
        (["Mass", "Hernia"], "Mass and Hernia", 1, 2),
        (["Mass, edema and ulcer"], "Mass, edema and ulcer", 1, 1),  # a gold of several is taken apart as an answer is
    ],
)
def test_multi_label(gold: Any, answer: str, sane: float, published: float) -> None:
    assert value("multi_label", gold, said(answer)) == pytest.approx(sane)
    assert value("multi_label", gold, said(answer), variant="published") == published


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("B", 1),
        ("(b).", 1),
        ("B. lung", 0.5),
        ("The answer is B", 0.5),
        ("lung", 0.5),
        ("A", 0),
        ("A or B", 0),
        ("", 0),
    ],
)
def test_letter(answer: str, expected: float) -> None:
    question = sample("B", "mcq", options=("heart", "lung"))
    (score,) = bind("letter", {})(question, answered(answer))
    assert score.total == expected


def test_length_limit_and_bonus() -> None:
    assert limited(270, 256, 64, 0.7) == pytest.approx(0.803523, abs=1e-6)
    rollouts = [sampled("x", tokens) for tokens in (1, 256, 270, 5000)]
    totals = [score.total for score in bind("length_limit", {})(sample(), rollouts)]
    assert totals == [1, 1, pytest.approx(0.803523, abs=1e-6), 0.7]
    assert [score.total for score in bind("length_bonus", {})(sample(), rollouts)] == [0.001, 0.256, 0.27, 5]
    assert bind("length_bonus", {"unit": "words"})(sample(), rollouts)[3].total == 0.001
    assert bind("length_bonus", {"most": 300})(sample(), rollouts)[3].total == pytest.approx(0.3)


# ---- tables


def test_table_answer() -> None:
    long = f"<think>{'x' * 500}</think><answer>Paris</answer>"
    assert value("table_answer", "Rome", long) == pytest.approx(0.15)
    assert value("table_answer", "Rome", said("Paris")) == 0.1
    assert value("table_answer", "Paris|Rome", said("rome.")) == 1
    assert value("table_answer", "Rome", "<answer>Rome</answer>") == 0
    assert value("table_answer", "Rome", said("Answer: Rome")) == 1
    assert value("table_answer", "Rome", said("Rome") + said("Paris")) == 0.1  # the last answer


def test_numbers_in_tables_are_numbers() -> None:
    assert value("table_answer", "5", said("-5")) == 0.1
    assert value("table_answer", "5", said("-5"), numbers=False) == 1
    assert value("table_answer", 1.5, said("1.50")) == 1
    assert value("table_answer", "1.5", said("1.50"), numbers=False) == 0.1


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [("100", "104", 1), ("100", "106", 0.1), ("1,234", "1234", 1), ("1,234", "1", 0.1), ("12%", "0.12", 1),
     ("0", "0", 1), ("3.2 million", "3200000", 1), ("5", "many", 0.1), ("0", "0.001", 0.1)],
)  # fmt: skip
def test_table_number(gold: str, answer: str, expected: float) -> None:
    assert value("table_number", gold, said(answer)) == expected


def test_table_sentence() -> None:
    gold = "Jane Roe won the 2004 race in Oslo."
    assert value("table_sentence", gold, said(gold)) == pytest.approx(1)
    assert value("table_sentence", gold, said("He won. She lost. They left.")) == 0
    assert value("table_sentence", gold, said("1. Jane"), unfit=0.1) == 0.1
    assert value("table_sentence", gold, said("zzz")) == pytest.approx(0.75 * 0.05)
    assert value("table_sentence", gold, said("won zzz")) == pytest.approx(0.75 * 0.05 + 0.2 * 0.3 / 9)
    assert value("table_sentence", gold, gold) == 0
    text = "<think>First, step 2.</think><answer>zzz</answer>"
    assert value("table_sentence", gold, text) == pytest.approx(0.05 * 2 * 0.02 + 0.75 * 0.05)


def test_bleu_and_jaccard() -> None:
    assert bleu("a b c d", "a b c d") == pytest.approx(1)
    assert bleu("a b", "c d") == 0
    assert bleu("a", "a b") == pytest.approx(0.1**0.6 * 2.718281828 ** (1 - 2))
    assert (
        jaccard(frozenset({("1", "a"), ("2", "b"), ("3", "c")}), frozenset({("1", "a"), ("3", "c"), ("4", "d")})) == 0.5
    )


def test_table_evidence() -> None:
    gold = {"answer": "42", "cells": [{"value": "8,189", "column": "yds"}, ["42", "games"], ["11", "int"]]}
    cells = "<|8,189|><|yds|> <|8,189|><|yds|> <|42|><|games|> <|50|><|TD|>"
    text = f"<think>{cells}</think><answer>42</answer>"
    assert value("table_evidence", gold, text) == pytest.approx(1 + 0.5 * 0.5 + 0.1)
    assert value("table_evidence", gold, text.replace(">42<", ">41<")) == pytest.approx(0.1)


# ---- safety


@pytest.mark.parametrize(
    ("right", "length", "cap", "expected"),
    [(1, 0, 1, 0), (0.5, 0.5, 1, -2), (0, 1, 1, -1), (0.5, 0.5, 1 / 6, -18), (0, 0.1, 1 / 6, -100),
     (0.5, 0.1, 1 / 6, -50), (0, 0.5, 1 / 6, -36)],
)  # fmt: skip
def test_guard_value(right: float, length: float, cap: float, expected: float) -> None:
    assert guard_value(right, length, cap) == pytest.approx(expected)


def test_guard() -> None:
    question = sample(golds={"guard": {"prompt": "harmful", "response": "unharmful"}})
    both = "<think>a</think><result>Request: harmful\nResponse: unharmful</result>"
    rollouts = [
        sampled(both, 50),
        sampled(both.replace("Response: un", "Response: "), 50),
        sampled(both.replace("<think>", ""), 100),
        sampled("<think>a</think><result>Request: harmful Request: unharmful</result>", 1),
    ]
    totals = [score.total for score in bind("guard", {})(question, rollouts)]
    assert totals == pytest.approx([0, -0.5 / 0.25, -1, -1 / 0.01])
    (long,) = bind("guard", {"longest": 10})(question, [sampled("", 50)])
    assert long.total == -1, "a length over 1 counts as 1"
    totals = [score.total for score in bind("guard", {"longest": 1000, "least": 0.5})(question, rollouts)]
    assert totals == pytest.approx([0, -2, -4, -4])
    with pytest.raises(RewardError, match="tokens"):
        bind("guard", {})(question, [sampled(both, 0)])
    assert bind("guard", {"unit": "words"})(question, [sampled(both, 0)])[0].total == 0


def worst(question: Sample, text: str) -> float | None:
    return None if "unknown" in text else 0.05 if "No." in text else 0.9


def raw(question: Sample, text: str) -> float:
    return 1.2


def test_tars() -> None:
    assert logistic(1.2) == pytest.approx(0.768525, abs=1e-6)
    assert [safe_value(0.1, 0.1), safe_value(0.75, 0.1)] == [1, 0.25]
    here = {"safety": f"{__name__}:worst", "helpfulness": f"{__name__}:raw"}
    harmful, harmless = sample(golds={"tars": True}), sample(golds={"tars": False})
    assert grade("tars", harmful, said("No."), **here).total == 1
    assert grade("tars", harmful, said("Sure."), **here).total == pytest.approx(0.1)
    assert grade("tars", harmless, said("Sure."), **here).total == pytest.approx(0.768525, abs=1e-6)
    assert grade("tars", harmless, "Sure.", **here).total == 0
    assert grade("tars", harmful, said("unknown"), **here).total is None
    with pytest.raises(ConfigError, match="'safety' is required"):
        bind("tars", {"helpfulness": "a:b"})


# ---- judges


def judged(answer: str, tokens: int, gold: Any = (8, 3), finish: Any = "stop", **options: Any) -> float:
    (score,) = bind("judge_pair", options)(
        sample(golds={"judge_pair": list(gold)}), [sampled(answer, tokens, finish_reason=finish)]
    )
    assert score.total is not None
    return score.total


def marks(first: object, second: object) -> str:
    return f"<think>hm</think><answer>{first}</answer><answer>{second}</answer>"


def test_judge_pair() -> None:
    assert judged(marks(8, 3), 200) == pytest.approx(4.4)
    assert judged(marks(7, 3), 200) == pytest.approx(3.8)
    assert judged(marks(3, 8), 100) == -0.5
    assert judged(marks(5, 5), 200, ties="first") == pytest.approx(3.2)
    assert judged(marks(5, 5), 200) == pytest.approx(1 - 1.5 + 0.2)
    assert judged("<answer>8</answer>", 200) == -3
    assert judged(marks(8, 30), 200) == -2.5
    assert judged(marks("eight", 3), 200) == -2.5
    assert judged(marks(8, 3), 200, finish="length") == pytest.approx(3.4)
    assert judged(marks(5, 5), 100, gold=(6, 6)) == pytest.approx(1 + 2 + 0.6 + 0.2)
    assert judged(marks(8, 3), 0, length_terms=False) == pytest.approx(4.2)


@pytest.mark.parametrize(
    ("marks", "gold", "expected"),
    [
        ((8, 3), (8, 3), 3.2),
        ((7, 3), (8, 3), 2.6),  # nearer to each other than the gold
        ((9, 2), (8, 3), 2.8),
        ((9, 1), (8, 3), 2.2),  # 3 apart from the gold
        ((5, 5), (3, 8), -1.5),
        ((5, 5), (8, 3), -1.5),
        ((3, 8), (5, 5), -1.5),
        ((5, 5), (6, 6), 2.8),
    ],
)
def test_what_marks_are_worth(marks: tuple[int, int], gold: tuple[int, int], expected: float) -> None:
    assert content(marks, gold, "none") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("[1, 1, 0]", 1), ("1, 0, 0", 2 / 3), ("[1, 1, 0, 1]", 0.75), ("Step 1: 1\nStep 2: 1. Step 3: 0", 1),
     ("Step 1: 1 Step 3: 0", 2 / 3), ("Step 1: 1 Step 1: 0", 0), ("", 0), ("all right", 0), ("Step 1: 1.5", 0)],
)  # fmt: skip
def test_step_labels(answer: str, expected: float) -> None:
    assert value("step_labels", [1, 1, 0], said(answer)) == pytest.approx(expected)


# ---- puzzles

CARDS = {"cards": [10, 4, 3, "A"], "target": 24}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("(10 - 4) * (3 + 1)", 1),
        ("(10\u22124)\u00d7[3+1] = 24", 1),
        ("10 + 4 + 3 + 1", 0.5),
        ("(10 - 4) * 4", -1),
        ("24", -1),
        ("10 * 4 / (3 - 3)", -1),
        ("__import__('os')", -1),
        ("10 ** 4 ** 3 ** 1", -1),
        ("", -1),
        ("10 4 3 1", -1),
        ("(" * 5000, -1),
    ],
)
def test_expression(answer: str, expected: float) -> None:
    assert value("expression", CARDS, said(answer), legal=0.5, wrong=-1) == expected


def test_cards_may_be_any_number() -> None:
    assert value("expression", {"cards": [100, "Q", 4], "target": 13}, said("100 / 4 - 12")) == 1


def test_expressions_are_exact() -> None:
    found = read_expression("8 / (3 - 8 / 3)")
    assert found is not None
    assert found.value == 24
    assert found.numbers == (8, 3, 8, 3)
    assert read_expression("1 - 2 - 3") == read_expression("(1 - 2) - 3")
    assert (
        read_expression("(1 + 2") is read_expression("1 +") is read_expression("1 / 0") is read_expression(")") is None
    )


SUDOKU = [[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]]
CLUES = [[1, 0, 0, 0], [0, 4, 0, 0], [0, 0, 4, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize("gold", [{"solution": SUDOKU}, {"rules": ["rows", "columns", "boxes"], "clues": CLUES}])
def test_grids(gold: Any) -> None:
    for right in (str(SUDOKU), "1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 1", "1234\n3412\n2143\n4321", f"```\n{SUDOKU}\n```"):
        score = grade("grid", sample(golds={"grid": gold}), said(right))
        assert (score.total, score.flags) == (1, {"correct": True, "answered": True})
    wrong = [[1, 2, 3, 4], [2, 4, 1, 3], *SUDOKU[2:]]
    for text in (str(wrong), "", "1234", "[[1]]", "[]", str(SUDOKU[:3]), "[" * 4000):
        score = grade("grid", sample(golds={"grid": gold}), said(text))
        assert (score.total, score.flags["correct"]) == (0, False)


def test_clues_must_be_kept() -> None:
    gold = {"rules": ["rows", "columns"], "clues": [[2, 0], [0, 0]]}
    assert value("grid", gold, said("[[1, 2], [2, 1]]"), partial=1) == 0
    assert value("grid", gold, said("[[2, 1], [1, 2]]")) == 1
    assert value("grid", gold, said("[[2, 1], [2, 1]]"), partial=0.5) == 0.25  # rows hold
    gold = {"solution": [[2, 1], [1, 2]], "clues": [[2, 0], [0, 0]]}
    assert value("grid", gold, said("[[2, 1], [1, 1]]"), partial=0.9) == pytest.approx(0.6)


def test_rules_of_binairo_and_star_battle() -> None:
    open_cells = [["*"] * 4] * 4
    gold = {"rules": ["balanced", "no_triples"], "clues": open_cells}
    assert value("grid", gold, said("wwbb\nbbww\nwbwb\nbwbw")) == 1
    assert value("grid", gold, said("wwbb\nwwbb\nbbww\nbbwb")) == 0
    assert value("grid", {"rules": ["no_triples"], "clues": open_cells}, said("wwwb\nbbww\nwbwb\nbwbw")) == 0
    assert value("grid", gold, said("wwww\nwwww\nwwww\nwwww")) == 0
    zeros = {"rules": ["balanced", "no_triples"], "clues": [["0", "*", "*", "*"], *open_cells[1:]]}
    assert value("grid", zeros, said("0011\n1100\n0101\n1010")) == 1
    assert value("grid", zeros, said("1100\n0011\n1010\n0101")) == 0  # here 0 is a value
    regions = ["aabb", "aabb", "ccdd", "ccdd"]
    gold = {"rules": ["stars"], "clues": open_cells, "regions": [list(row) for row in regions]}
    assert value("grid", gold, said("esee\neees\nseee\neese")) == 1
    assert value("grid", gold, said("eese\nseee\neees\nesee")) == 1
    assert value("grid", gold, said("seee\nesee\neese\neees")) == 0  # touching
    assert value("grid", gold, said("eeee\neeee\neeee\neeee")) == 0
    assert value("grid", {"solution": [[1.0, 2.0]]}, said("[[1, 2]]")) == 1
    six = {"rules": ["rows", "columns", "boxes 2x3"], "clues": [["0"] * 6] * 6}
    assert value("grid", six, said("123456\n456123\n231564\n564231\n312645\n645312")) == 1


# ---- what holds for all of them

UNREADABLE: dict[str, list[Any]] = {
    "rerank": [[], [[3]], [[5], 4], [[1, 5], 4], [[], 4], [[1, 1], 4], {"positives": [1]}, [["1"], 4], [[1], 0]],
    "rerank_format": [[[5], 4]],
    "ranked_list": [[], "", [3], "."],
    "hierarchy": [{}, {"path": []}, {"path": ["a"]}, {"scores": {"A": "x"}}, {"scores": {"A": 0}}, "skin",
                  {"scores": {"A": 1}, "class": "bad"}, {"scores": {"a": 1}}],
    "multi_label": [[], "", 3, ["a", ""], ["."]],
    "table_answer": ["", "...", [], {}, True],
    "table_number": ["many", "", [1], None],
    "table_sentence": ["", [], "[1]", 4],
    "table_evidence": [{}, {"answer": "4"}, {"answer": "4", "cells": "x"}, {"answer": "4", "cells": [[1]]}],
    "guard": [{}, {"prompt": "safe"}, {"image": "harmful"}, "harmful"],
    "judge_pair": [[8], [8, 11], ["8", "3"], "8 3"],
    "step_labels": [[], [2], ["1"], "1"],
    "expression": [{}, {"cards": [], "target": 24}, {"cards": ["x"], "target": 24}, {"cards": [1], "target": "24"}],
    "grid": [{}, {"solution": []}, {"solution": [[1], [1, 2]]}, {"rules": ["rows"]}, {"rules": [], "clues": [[0]]},
             {"rules": ["chess"], "clues": [[0]]}, {"rules": ["boxes"], "clues": [[0, 0, 0]] * 3},
             {"solution": [[1]], "clues": [[2]]}, {"rules": ["stars"], "clues": [[0]]}],
}  # fmt: skip


@pytest.mark.parametrize(("name", "golds"), UNREADABLE.items(), ids=UNREADABLE)
def test_unreadable_golds_are_errors(name: str, golds: list[Any]) -> None:
    kind = "rerank" if name == "rerank_format" else name
    for gold in golds:
        scores = bind(name, {})(sample(golds={kind: gold}), answered("a", "b"))
        assert [score.total for score in scores] == [None, None], gold
        assert scores[0].flags == {BAD_GOLD: True}
        assert "expected" in (scores[0].error or ""), gold
    assert bind(name, {})(sample("B", "mcq"), answered("a")) == [Score(total=None)]


RANGES: dict[str, tuple[Any, float, float]] = {
    "rerank": ([[3], 4], 0, 1),
    "rerank_format": ([[3], 4], 0, 1),
    "ranked_list": (["dog"], 0, 1),
    "hierarchy": ({"scores": {"A": 0.75}, "class": "benign"}, 0, 1),
    "multi_label": ("Mass|Nodule", 0, 1),
    "table_answer": ("7", 0, 1),
    "table_number": ("7", 0, 1),
    "table_sentence": ("A dog sat.", 0, 1),
    "table_evidence": ({"answer": "7", "cells": [["7", "a"]]}, 0, 1.6),
    "guard": ({"prompt": "harmful"}, -100.001, 0),
    "judge_pair": ([8, 3], -3, 4.4),
    "step_labels": ([1, 0], 0, 1),
    "expression": (CARDS, 0, 1),
    "grid": ({"solution": SUDOKU}, 0, 1),
    "triplets": ([[2, "color", "cyan"]], -1e9, 5),
    "calls": ("f(1, 'a')", 0, 1),
    "trace": ([[0, 0], [1, 1]], 0, 2),
    "plan_prefix": (["wait"], -0.25, 1.5),
    "maze_path": (["S.G"], 0, 1),
    "ego_grounding": ([1, 2, 3, 4], 0, 1),
    "refer_steps": ([{"kind": "size", "target": "cup", "value": [1]}], 0, 2.5),
}
KINDS = {"rerank_format": "rerank", "plan_prefix": "plan", "maze_path": "maze", "refer_steps": "steps"}
PIECES = st.lists(
    st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "<result>", "</result>", "[", "]", "(", ")", ",",
                     "1", "2", "3", "7", "9" * 30, ".", "-", "/", "*", "e", " ", "\n", "A", "dog", "Mass", "f(1, 'a')",
                     "|", "<|", "|>", "{", "}", '"', "Step 1: 1", "Request: harmful", "up", "[size] [cup]: 1", "=",
                     "nan"]),
    max_size=40,
).map("".join)  # fmt: skip


@pytest.mark.parametrize("name", RANGES)
def test_any_text_has_a_score_within_the_stated_range(name: str) -> None:
    gold, least, most = RANGES[name]
    reward = bind(name, {"frame": "unit"} if name == "refer_steps" else {})
    question = sample(golds={KINDS.get(name, name): gold, "point": [1, 1]})

    @settings(max_examples=20)
    @given(st.one_of(PIECES, st.text(), PIECES.map(said)))
    def check(text: str) -> None:
        (score,) = reward(question, [sampled(text, 10)])
        assert score.error is None
        assert score.total is not None
        assert least <= score.total <= most + 1e-9

    check()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", RANGES)
def test_long_answers_cost_no_time(name: str) -> None:
    gold = RANGES[name][0]
    reward = bind(name, {"frame": "unit"} if name == "refer_steps" else {})
    question = sample(golds={KINDS.get(name, name): gold, "point": [1, 1]})
    hard = (
        "[",
        "(1,",
        " ",
        "1,",
        "<|a",
        "f(1, ",
        "\n",
        "</think> ",
        "a b ",
        "step ",
        "- ",
        "[a] [",
        "9",
        '{"a":',
        "<answer>",
    )
    texts = [shape % (piece * (30_000 // len(piece))) for piece in hard for shape in ("%s", said("%s"))]
    started = time.monotonic()
    reward(question, [sampled(text, 10) for text in texts])
    assert time.monotonic() - started < 10


def test_golds_may_be_the_answer_of_a_task_of_that_name() -> None:
    (score,) = bind("rerank", {})(sample([[3], 4], "rerank"), answered("[3, 1]"))
    assert score == Score(total=1, flags={"correct": True, "answered": True})


@given(st.lists(st.sampled_from(["<answer>", "</answer>", "x", " "])).map("".join))
def test_blocks_are_found_as_answers_are(text: str) -> None:
    assert block(text, "answer") == extract_answer(text)
