"""Golden values: research notes "algorithms", section 1 (Video-R1), and "rewards", sections 2.1, 2.3, 8."""

import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmreason.rewards import bind
from mmreason.rewards.base import BAD_GOLD, extract_answer
from mmreason.rewards.numbers import read_number
from mmreason.rewards.symbolic import LONGEST, parse_math
from mmreason.rewards.texts import words
from mmreason.types import Rollout
from tests.unit.rewards.helpers import answered, grade, sample, value_of

COLOURS = ("red", "green", "blue", "a dog")


def test_only_the_last_answer_counts() -> None:
    assert extract_answer("<answer>A</answer> no, <answer> B\n</answer>") == "B"
    assert extract_answer("<answer><answer>B</answer>") == "B"
    assert extract_answer("<answer>A</answer></answer>") == "A"
    assert extract_answer("B") is None
    assert extract_answer("<answer> </answer>") is None
    assert extract_answer("<answer>A</answer><answer></answer>") is None
    assert extract_answer("<answer>A") is None
    assert grade("accuracy", sample("B", "mcq"), "<answer>A</answer><answer>B</answer>").total == 1
    assert grade("accuracy", sample("A", "mcq"), "<answer>A</answer><answer>B</answer>").total == 0


@given(st.lists(st.sampled_from(["<answer>", "</answer>", "a", " ", "\n"]), max_size=12).map("".join))
def test_extracted_answers_hold_no_tags(text: str) -> None:
    answer = extract_answer(text)
    assert answer is None or (answer and "answer>" not in answer and answer in text)


def test_tags_are_required_unless_told_otherwise() -> None:
    question = sample("5", "numeric")
    assert grade("accuracy", question, "5").total == 0
    assert grade("accuracy", question, "<think>7</think> 5", require_tags=False).total == 1
    assert grade("accuracy", question, "<think>5</think> <answer>6</answer>", require_tags=False).total == 0
    assert grade("accuracy", question, "5 <answer></answer>", require_tags=False).total == 0


@pytest.mark.parametrize(
    "answer",
    [
        "B", "b", "(B)", "B.", "B)", "B) green", "B. green", "B: Green", "(B) green", "B green", "green", "Green.",
        "Answer: B", "The answer is (B) green.", "the answer is green", "Option B", "B is the correct answer", "**B**",
        "\\boxed{B}", "\\boxed{\\text{B}}", "\\boxed{\\text{\\textbf{B}}}", "B, because it is green", "It is (b)",
    ],
)  # fmt: skip
def test_ways_to_say_b(answer: str) -> None:
    assert value_of(answer, sample("B", "mcq", options=COLOURS)) == 1


@pytest.mark.parametrize(
    "answer", ["", "A or B", "A, B", "B/A", "A and B", "AB", "E", "B. red", "B. Not A", "B) or C)", "bee", "A B C D"]
)
def test_no_answer(answer: str) -> None:
    (score,) = bind("accuracy", {})(sample("B", "mcq", options=COLOURS), answered(answer))
    assert score.total == 0
    assert score.flags == {"correct": False, "answered": False}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("answer", ["the answer is " * 2500, "is " * 20_000, "A " * 20_000, "b" * 100_000])
def test_a_long_answer_names_no_option(answer: str) -> None:
    assert value_of(answer, sample("B", "mcq", options=COLOURS)) == 0


def test_more_options_than_letters() -> None:
    options = tuple(f"option {index}" for index in range(40))
    for index in (0, 25, 27, 28, 39):
        question = sample(options[index], "mcq", options=options)
        assert value_of(options[index], question) == 1
        assert value_of(options[index - 1], question) == 0
    assert value_of("B", sample("B", "mcq", options=options)) == 1


def test_wrong_letter_is_an_answer() -> None:
    (score,) = bind("accuracy", {})(sample("B", "mcq", options=COLOURS), answered("C"))
    assert (score.total, score.flags["answered"]) == (0, True)


def test_option_texts_with_traps() -> None:
    assert value_of("A dog", sample("D", "mcq", options=COLOURS)) == 1
    assert value_of("D. A dog", sample("D", "mcq", options=COLOURS)) == 1
    assert value_of("Answer: right", sample("B", "mcq", options=("left", "right"))) == 1
    assert value_of("12", sample("B", "mcq", options=("A. 7", "B. 12"))) == 1
    assert value_of("y", sample("B", "mcq", options=("x", "y"))) == 1
    assert value_of("same", sample("A", "mcq", options=("same", "same"))) == 0


@pytest.mark.parametrize("gold", ["B", "B.", "(B)", "green", "B. green", "<answer>B</answer>", ["B"]])
def test_gold_of_a_choice(gold: Any) -> None:
    assert value_of("B", sample(gold, "mcq", options=COLOURS)) == 1


@given(st.sampled_from("ABCD"), st.sampled_from("ABCD"), st.sampled_from(["{}", "({})", "{}.", "Answer: {}", "{}) x"]))
def test_a_letter_is_right_only_for_itself(gold: str, said: str, shape: str) -> None:
    options = ("one", "two", "three", "four")
    assert value_of(shape.format(said), sample(gold, "mcq", options=options)) == float(gold == said)


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ("5", "5", 1), ("5", "5.0", 1), ("5", "+5", 1), ("1000", "1,000", 1), ("1,000", "1,000.00", 1),
        ("5", "5 cm", 1), ("5", "5 cm^2", 1), ("0.5", "1/2", 1), ("0.5", "\\frac{1}{2}", 1),
        ("1.5", "1 1/2", 1), ("1000", "1e3", 1),
        ("2000", "2 \\times 10^3", 1), ("-5", "\u22125", 1), ("-5", "minus 5", 1), ("5", "-5", 0), ("5", "five", 1),
        ("5", "There are 5 apples.", 1), ("5", "$5", 1), ("5", "x = 5", 1), ("3500000", "3.5 million", 1),
        ("50", "50%", 1), ("0.5", "50%", 1), ("50%", "0.5", 1), ("50%", "50", 1), ("50%", "50 percent", 1),
        ("50%", "0.5%", 0), ("3.14", "3.14159", 0), ("2.01", "2.005", 0), (5, "5.0", 1), (0.5, ".5", 1),
        ("5", "4 or 5", 0), ("5", "4, 5", 0), ("5", "5:30", 0), ("5", "", 0), ("1000", "1,00", 0), ("5", "x-5", 0),
        ("5", "5 x 105", 0), ("5", "nan", 0), ("5", "1e999", 0), ("5", "5/0", 0),
    ],
)  # fmt: skip
def test_numeric(gold: Any, answer: str, expected: int) -> None:
    assert value_of(answer, sample(gold, "numeric")) == expected


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("five hundred", 500), ("twenty-five", 25), ("twenty five", 25), ("one hundred and twenty", 120),
        ("A hundred", 100), ("fifty-two thousand three hundred and one", 52301), ("two million", 2_000_000),
        ("fifteen hundred", 1500), ("minus five", -5), ("five percent", 5), ("There is one dog.", 1), ("zero", 0),
        ("5 (five) apples", 5), ("one of them is 5", 5), ("5cm", 5), ("50kg", 50), ("12km/h", 12), ("2nd", 2),
        ("90^\\circ", 90), ("5 times", 5), ("**5** apples", 5), ("No, 5", 5), ("No. 5", 5), ("answer(5)", 5), ("5m", 5),
        ("I am not sure, but 5", 5), ("5(approx.)", 5), ("5个", 5),
    ],
)  # fmt: skip
def test_numbers_are_read_whole(answer: str, value: float) -> None:
    number = read_number(answer)
    assert number is not None
    assert number.value == value


@pytest.mark.parametrize(
    "answer",
    [
        "five six", "one two", "twenty eleven", "five or six", "two thirds", "one half", "two point five", "two dozen",
        "twenty-first", "no one", "not two", "hundreds", "one and two", "5 or six", "3 apples and two pears",
        "1k", "5K", "5 k", "3.5k", "5M", "2x", "2 x", "-2x", "2a", "2pi", "2\u03c0", "5e", "2!", "2^n", "2 + x", "2*x",
        "x/2", "x + 2", "x^2", "5/x", "f(2)", "sqrt(2)", "\\sqrt{2}", "square root of 4", "log 2", "log(2)", "\\log 2",
        "sin 30", "3 squared", "2 dozen", "half of 10", "twice 2", "5 and a half", "not 2", "The answer is not 2",
        "no 2", "is not equal to 2", "isn't 2", "5\u4e07", "1" * 5000,
    ],
)  # fmt: skip
def test_no_number_is_read_out_of_another(answer: str) -> None:
    assert read_number(answer) is None


@pytest.mark.parametrize(("gold", "wrong"), [("five hundred", "5"), ("125", "one hundred and twenty"), ("1", "no one")])
def test_a_gold_in_words_is_not_its_first_word(gold: str, wrong: str) -> None:
    assert value_of(wrong, sample(gold, "numeric")) == 0
    assert value_of(gold, sample(gold, "numeric")) == 1


_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()
_ONES += ["seventeen", "eighteen", "nineteen"]
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def spelled(value: int) -> str:
    """The usual English words of a number below a million million."""
    for factor, name in [(10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred")]:
        if value >= factor:
            rest = f" {spelled(value % factor)}" if value % factor else ""
            return f"{spelled(value // factor)} {name}{rest}"
    if value < 20:
        return _ONES[value]
    return _TENS[value // 10 - 2] + (f"-{_ONES[value % 10]}" if value % 10 else "")


@given(st.integers(0, 10**12 - 1) | st.integers(0, 2000))
def test_every_number_in_words_is_read(value: int) -> None:
    number = read_number(spelled(value))
    assert number is not None
    assert number.value == value


def test_numeric_tolerance() -> None:
    assert value_of("3.14", sample("3.14159", "numeric"), rel_tol=1e-3) == 1


@given(st.floats(-1e12, 1e12, allow_subnormal=False).filter(lambda x: x == 0 or abs(x) > 1e-12))
def test_every_float_is_read_as_written(value: float) -> None:
    for text in (repr(value), f"{value:.17g}"):
        number = read_number(text)
        assert number is not None
        assert math.isclose(number.value, value, rel_tol=1e-12)


@given(st.integers(-(10**15), 10**15))
def test_integers_with_and_without_commas_are_equal(value: int) -> None:
    assert value_of(f"{value:,}", sample(str(value), "numeric")) == 1
    assert value_of(f"{value}.0", sample(f"{value:,}", "numeric")) == 1


@pytest.mark.parametrize(
    ("answer", "expected"), [("3", 1), ("three", 1), ("3.0", 1), ("3 dogs", 1), ("4", 0), ("3.4", 0)]
)
def test_counting(answer: str, expected: int) -> None:
    assert value_of(answer, sample(3, "counting")) == expected


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ("\\frac{1}{2}", "0.5", 1), ("$\\frac12$", "1/2", 1), ("y=|x+9|", "$y=|x+9|$", 1),
        ("2\\sqrt{3}", "\\sqrt{12}", 1),
        ("x^2+2x+1", "(x+1)^2", 1), ("5", "x=5", 1), ("\\{1,2\\}", "\\{2,1\\}", 1), ("5", "The result is 5", 1),
        ("\\boxed{7}", "7", 1), ("12 \\text{ cm}", "12", 1), ("3", "3 or 4", 0), ("5", "6", 0), ("(1,2)", "[1,2]", 0),
        ("5", "I do not know", 0), (5, "5", 1),
    ],
)  # fmt: skip
def test_math(gold: Any, answer: str, expected: int) -> None:
    assert value_of(answer, sample(gold, "math")) == expected


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "answer", ["9^{9^{9^{9}}}", "9^9^9^9", "10^{99999999999}", "(x+1)^{5000}", "99999999!", "1+" * 2000]
)
def test_formulas_without_end_are_no_answer(answer: str) -> None:
    (score,) = bind("accuracy", {})(sample("5", "math"), answered(answer))
    assert (score.total, score.flags["answered"]) == (0, False)
    assert value_of("2^{2024}", sample("4^{1012}", "math")) == 1


def test_longer_texts_are_no_formulas() -> None:
    assert parse_math("7".rjust(LONGEST))
    assert not parse_math("7".rjust(LONGEST + 1))


def test_math_works_outside_the_main_thread() -> None:
    """math-verify's own time-out would raise there."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(value_of, "\\sqrt{12}", sample("2\\sqrt{3}", "math")).result() == 1


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ("New York", "new  york.", 1),
        ("New York", "York", 0),
        (5, "5.0", 1),
        ("5", "5.0", 0),
        (["cat", "kitty"], "Kitty", 1),
    ],
)
def test_exact(gold: Any, answer: str, expected: int) -> None:
    assert value_of(answer, sample(gold, "exact")) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("Yes", 1), ("yes, it is.", 1), ("True", 1), ("no", 0), ("I know: yes", 0), ("yes or no", 0)],
)
def test_yes_no(answer: str, expected: int) -> None:
    assert value_of(answer, sample("yes", "yes_no")) == expected


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [("red", "red", 1), ("the dog ran", "the dog ran home", 0.838095), ("green blue red", "red blue green", 0.444444)],
)
@pytest.mark.parametrize("variant", ["sane", "video_r1"])
def test_free_form_is_the_mean_rouge(answer: str, gold: str, expected: float, variant: str) -> None:
    wanted = 2 / 3 if gold == "red" and variant == "video_r1" else expected  # there ROUGE-2 of one word is 0
    assert value_of(answer, sample(gold, "free_form"), variant=variant) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("这是一只猫", "这是一只猫", 1),  # this is a cat
        ("这是一只狗", "这是一只猫", (4 / 5 + 3 / 4 + 4 / 5) / 3),  # a dog
        ("это кот", "Это кот!", 1),  # Cyrillic
        ("हिन्दी भाषा", "हिन्दी", 2 / 3),  # Hindi, one word of two
    ],
)  # fmt: skip
def test_free_form_knows_every_script(answer: str, gold: str, expected: float) -> None:
    assert value_of(answer, sample(gold, "free_form")) == pytest.approx(expected)


@given(st.text(st.characters(codec="ascii", exclude_characters="<>"), max_size=40))
def test_words_of_ascii_texts_are_those_of_rouge_score(text: str) -> None:
    assert words(text) == re.sub(r"[^a-z0-9]+", " ", text.lower()).split()


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("\u4f60\u597d\u4e16", "\u4f60\u597d\u4e16\u754c", 0.75),  # three characters of four
        ("\u0e2a\u0e27", "\u0e2a\u0e27", 1),
        ("OCR \u6587", "OCR \u6587\u5b57", 2 / 3),
        ("a " * 100_000, "a b c", 0),
    ],
)
def test_ocr_counts_characters_where_a_script_has_no_spaces(answer: str, gold: str, expected: float) -> None:
    assert value_of(answer, sample(gold, "ocr")) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("the cat sat", "the cat sat", 1),
        ("the cat sit", "the cat sat", 0.666667),
        ("a big fat cat sat down", "the cat sat", 0),
        ("hello", "hello world", 0.5),
    ],
)
@pytest.mark.parametrize("variant", ["sane", "video_r1"])
def test_ocr_is_one_minus_wer(answer: str, gold: str, expected: float, variant: str) -> None:
    assert value_of(answer, sample(gold, "ocr"), variant=variant) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [("10", "12", 0.83333333), ("12", "10", 0.8), ("9.5", "10", 0.95), ("30", "10", 0), ("-5", "5", 0), ("5", "0", 0)],
)
@pytest.mark.parametrize("variant", ["sane", "video_r1"])
def test_regression(answer: str, gold: str, expected: float, variant: str) -> None:
    assert value_of(answer, sample(gold, "regression"), variant=variant) == pytest.approx(expected, abs=1e-8)


def test_regression_to_zero() -> None:
    assert value_of("0", sample("0", "regression")) == 1
    assert value_of("0", sample("0", "regression"), variant="video_r1") == 0


def test_correct_flag_of_graded_tasks() -> None:
    scores = bind("accuracy", {"correct_at": 0.9})(sample("10", "regression"), answered("9.5", "8"))
    assert [score.flags["correct"] for score in scores] == [True, False]


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ("5", "5", 1), ("5.0", "5", 0), ("3.14", "3.14159", 1), ("1000", "1,000", 0), ("1,000.00", "1,000", 1),
        ("2.01", "2.005", 0),
    ],
)  # fmt: skip
def test_video_r1_numbers(gold: str, answer: str, expected: int) -> None:
    assert value_of(answer, sample(gold, "numeric"), variant="video_r1") == expected


def test_video_r1_letters_and_first_answer() -> None:
    question = sample("<answer>A</answer>", "mcq", options=COLOURS)
    assert value_of("A", question, variant="video_r1") == 1
    assert value_of("A.", question, variant="video_r1") == 0
    assert grade("accuracy", question, "<answer>A</answer><answer>B</answer>", variant="video_r1").total == 1
    assert value_of("A", sample("A", "exact"), variant="video_r1") == 0  # no such problem type


def test_r1_v_reads_the_thoughts() -> None:
    leaked = "<think>Perhaps 3 dogs.</think> <answer>four</answer>"
    assert grade("accuracy", sample("3", "numeric"), leaked, variant="r1_v").total == 1
    assert grade("accuracy", sample("3", "numeric"), leaked).total == 0
    assert value_of("red", sample("red", "exact"), variant="r1_v") == 1
    assert value_of("Red", sample("red", "exact"), variant="r1_v") == 0


@pytest.mark.parametrize(
    ("answer", "published"), [("", 1), ("tabby or siamese cat", 1), ("Siamese_Cat", 1), ("dog", 0)]
)
def test_visual_rft_takes_containment(answer: str, published: int) -> None:
    assert value_of(answer, sample("siamese cat", "exact"), variant="visual_rft") == published
    assert value_of(answer, sample("siamese cat", "exact")) == 0


def test_cosmos_ignores_case() -> None:
    assert value_of("b", sample("B", "mcq"), variant="cosmos") == 1
    assert value_of("B.", sample("B", "mcq"), variant="cosmos") == 0


@pytest.mark.parametrize(
    ("task", "gold"),
    [
        ("numeric", "abc"), ("numeric", "3 or 4"), ("numeric", True), ("numeric", None), ("numeric", []),
        ("numeric", ["5", "x"]), ("counting", "2.5"), ("counting", -1), ("mcq", "Q"), ("mcq", "purple"), ("mcq", 1),
        ("mcq", ["A", "B"]), ("mcq", ""), ("math", ""), ("math", "no solution at all"), ("math", None), ("math", True),
        ("exact", ""), ("exact", None), ("exact", {"a": 1}), ("yes_no", "maybe"), ("free_form", " "), ("ocr", 5),
        ("regression", "x"), ("free_form", "?!"), ("numeric", "2x"), ("counting", "two dozen"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("variant", ["sane", "video_r1", "r1_v"])
def test_a_gold_that_cannot_be_read_is_an_error(task: str, gold: Any, variant: str) -> None:
    scores = bind("accuracy", {"variant": variant})(sample(gold, task, options=COLOURS), answered("A", "5"))
    assert [score.total for score in scores] == [None, None]
    assert all(score.error and score.error.startswith("file.jsonl:1: the gold answer") for score in scores)


def test_unknown_task_is_an_error_and_skipped_tasks_do_not_apply() -> None:
    (score,) = bind("accuracy", {})(sample("A", "mpq"), answered("A"))
    assert score.error == "file.jsonl:1: unknown task 'mpq'; did you mean 'mcq'?; or list it in the option skip_tasks"
    assert score.flags == {BAD_GOLD: True}  # sampling it again would help nobody
    (score,) = bind("accuracy", {})(sample("A", "grounding"), answered("A"))
    assert (score.total, score.error) == (None, None)
    (score,) = bind("accuracy", {"skip_tasks": ["mine"]})(sample("A", "mine"), answered("A"))
    assert (score.total, score.error) == (None, None)


def test_task_option_wins() -> None:
    assert value_of("5.0", sample("5", "exact"), task="numeric") == 1


@given(st.text(max_size=60), st.sampled_from(["mcq", "numeric", "exact", "yes_no", "ocr", "regression", "counting"]))
def test_any_text_gets_a_value_between_0_and_1(text: str, task: str) -> None:
    golds = {"mcq": "B", "yes_no": "yes"}
    question = sample(golds.get(task, "5"), task, options=COLOURS)
    for variant in ("sane", "video_r1", "cosmos"):
        (score,) = bind("accuracy", {"variant": variant})(question, [Rollout(text=f"<answer>{text}</answer>")])
        assert score.total is not None
        assert 0 <= score.total <= 1


@pytest.mark.parametrize(
    ("text", "value"), [("10 N", 10), ("12 N/m", 12), ("300 K", 300), ("4 k", None), ("3 x", None)]
)
def test_a_unit_of_one_letter_is_told_from_a_factor(text: str, value: float | None) -> None:
    found = read_number(text)
    assert (found.value if found else None) == value
