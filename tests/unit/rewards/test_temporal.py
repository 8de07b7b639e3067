"""Golden values: research notes "rewards", section 5, and "algorithms", section 5.4."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmreason.rewards import bind
from mmreason.rewards.temporal import LONGEST, merged, merged_iou, read_spans
from mmreason.types import Rollout
from tests.unit.rewards.helpers import answered, sample

SPANS = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 20)).map(lambda s: (float(s[0]), float(s[0] + s[1]))), max_size=4
)


def value(answer: str, *spans: Any, duration: Any = None, **options: Any) -> float | None:
    question = sample(task="temporal", golds={"spans": list(spans)}, meta={"duration": duration})
    (score,) = bind("tiou", options)(question, answered(answer))
    assert score.error is None, score.error
    return score.total


@pytest.mark.parametrize(
    ("answer", "plain", "of_100", "of_30"),
    [
        ("5 to 15", 0.333333, 0.300833, 0.231481),
        ("10 to 20", 1, 1, 1),
        ("30 to 40", 0, 0, 0),
        ("15 to 5", 0, 0, 0),
    ],
)
def test_time_r1(answer: str, plain: float, of_100: float, of_30: float) -> None:
    assert value(answer, (10, 20)) == pytest.approx(plain, abs=1e-6)
    assert value(answer, (10, 20), duration=100, duration_weighted=True) == pytest.approx(of_100, abs=1e-6)
    assert value(answer, (10, 20), duration=30, duration_weighted=True) == pytest.approx(of_30, abs=1e-6)


def test_the_weight_is_never_negative() -> None:
    assert value("0 to 1000", (10, 20), duration=100, duration_weighted=True) == 0


@pytest.mark.parametrize(
    ("answer", "golds", "expected"),
    [
        ("[(0,5),(3,10)]", [(5, 15)], 0.333333),
        ("[(0,2),(8,10)]", [(0, 10)], 0.4),
        ("[]", [], 1),
        ("[(1,2)]", [], 0),
        ("[]", [(1, 2)], 0),
        ("[[0,5],[5,10]]", [(0, 10)], 1),
        ("[0,10],[0,10]", [(0, 10)], 1),  # a span that is said twice
        ("[0,10]", [(5, 15)], 0.333333),
        ("(5,5)", [(0, 10)], 0),  # no length
    ],
)
def test_merged_spans(answer: str, golds: Any, expected: float) -> None:
    assert value(answer, *golds) == pytest.approx(expected, abs=1e-6)


def test_echoink_counts_a_repeated_span_twice() -> None:
    assert value("[0,10]; [0,10]", (0, 10)) == 1
    assert value("[0,5]; [5,10]", (0, 10), kind="pairwise") == 1
    assert value("[0,10]; [0,15]", (0, 20), kind="pairwise_published") == pytest.approx(25 / 20)
    assert value("[0,10]; [0,15]", (0, 20), kind="pairwise") == 1
    assert value("[0,10]; [0,10]", (0, 10), kind="pairwise_published") == 2, "the public code has no bound"
    assert value("none", (0, 20), kind="pairwise") == value("none", (0, 20), kind="pairwise_published") == 0


def test_a_time_without_length_is_not_nothing() -> None:
    assert merged_iou([], []) == merged_iou([(5, 5)], [(5, 5)]) == 1
    assert merged_iou([(5, 5)], []) == merged_iou([(5, 5)], [(7, 7)]) == 0
    assert value("5 to 5") == 0
    assert value("none") == 1


def test_the_last_span_only() -> None:
    assert value("0 to 5, or rather 10 to 20", (10, 20)) == pytest.approx(10 / 15)
    assert value("0 to 5, or rather 10 to 20", (10, 20), kind="last") == 1


def test_the_glue_block() -> None:
    text = "<think>x</think><answer>B</answer><glue>[(10, 20)]</glue>"
    question = sample("B", "mcq", golds={"spans": [[10, 20]]}, options=("a", "b"))
    assert bind("tiou", {"tag": "glue"})(question, [Rollout(text=text)])[0].total == 1
    assert bind("tiou", {})(question, [Rollout(text=text)])[0].total == 0
    assert bind("accuracy", {})(question, [Rollout(text=text)])[0].total == 1


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("12.5 to 20", [(12.5, 20)]),
        ("From 12s to 20.0 seconds.", [(12, 20)]),
        ("between 12 and 20", [(12, 20)]),
        ("12 - 20", [(12, 20)]),
        ("12-20", [(12, 20)]),
        ("12 \u2013 20", [(12, 20)]),
        ("[12.0, 19.0]; [24.0, 29.0]", [(12, 19), (24, 29)]),
        ("(12 s, 19 s)", [(12, 19)]),
        ("0:12 to 1:02:03.5", [(12, 3723.5)]),
        ("[(0, 5), (3, 10)]", [(0, 5), (3, 10)]),
        ("5 to 10 and 15 to 20", [(5, 10), (15, 20)]),
        ("-5 to 3", [(-5, 3)]),
        ("[]", []),
        ("None.", []),
        ("", None),
        ("at 12 seconds", None),
        ("12, 20", None),
        ("20 to 12", None),
        ("0 to 5, 20 to 12", None),
        ("[nan, 3]", None),
        ("0 to 1" + "0" * 400, None),
        ("[1, 2, 3]", None),
    ],
)
def test_reading_spans(text: str, spans: Any) -> None:
    assert read_spans(text) == spans


def test_longer_texts_hold_no_spans() -> None:
    assert read_spans("1 to 2".ljust(LONGEST)) == [(1, 2)]
    assert read_spans("1 to 2".ljust(LONGEST + 1)) is None


@pytest.mark.parametrize(
    ("golds", "meta", "error"),
    [
        ({}, {}, "expected [[start, end], ..]"),
        ({"spans": [[5, 1]]}, {}, "expected [[start, end], ..]"),
        ({"spans": [[1, 2, 3]]}, {}, "expected [[start, end], ..]"),
        ({"spans": [[1, "2"]]}, {}, "expected [[start, end], ..]"),
        ({"spans": [[1, float("nan")]]}, {}, "expected [[start, end], ..]"),
        ({"spans": [[3, 3]]}, {}, "have no length"),
        ({"spans": "3 to 3"}, {}, "have no length"),
        ({"spans": [[1, 2]]}, {}, "golds.duration None"),
        ({"spans": [[1, 2]], "duration": 0}, {}, "golds.duration 0"),
        ({"spans": []}, {"duration": 9}, "no gold span"),
    ],
)
def test_gold_that_cannot_be_used(golds: dict[str, Any], meta: dict[str, Any], error: str) -> None:
    question = sample(task="temporal", golds=golds, meta=meta)
    (score,) = bind("tiou", {"duration_weighted": True})(question, answered("1 to 2"))
    assert score.total is None
    assert score.flags == {"bad_gold": True}
    assert error in (score.error or "")


def test_golds_as_text_or_as_one_span() -> None:
    for golds, answer in (({"spans": [1, 2]}, None), ({}, "<answer>1 to 2</answer>"), ({"spans": "[1.0, 2.0]"}, None)):
        (score,) = bind("tiou", {})(sample(answer, "temporal", golds=golds), answered("1 to 2"))
        assert score.total == 1


def test_accuracy_leaves_places_and_times_to_others() -> None:
    for task in ("temporal", "tracking", "detection", "pointing", "grounding"):
        (score,) = bind("accuracy", {})(sample(None, task), answered("1 to 2"))
        assert (score.total, score.error) == (None, None)


@given(SPANS, SPANS)
def test_overlap_is_symmetric_bounded_and_blind_to_repetition(a: Any, b: Any) -> None:
    assert 0 <= merged_iou(a, b) <= 1
    assert merged_iou(a, b) == pytest.approx(merged_iou(b, a))
    assert merged_iou(a + a, b) == pytest.approx(merged_iou(a, b))
    assert merged(merged(a)) == merged(a)


@given(
    SPANS.filter(lambda spans: sum(end - start for start, end in spans) > 0),
    st.sampled_from(["{} to {}", "[{}, {}]", "({} - {})"]),
)
def test_the_gold_said_in_any_way_is_1(spans: Any, pattern: str) -> None:
    assert value("; ".join(pattern.format(start, end) for start, end in spans), *spans) == pytest.approx(1)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="0123456789.:-+()[],; tosecandunil", max_size=200))
def test_any_text_scores_between_0_and_1(text: str) -> None:
    for options in ({}, {"kind": "last"}, {"duration_weighted": True}):
        assert 0 <= (value(text, (1, 5), duration=60, **options) or 0) <= 1


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    [
        "1" * LONGEST,
        "1 " * (LONGEST // 2),
        "5" + " " * (LONGEST - 2),
        "[" * LONGEST,
        "1:" * (LONGEST // 2),
        "1-" * (LONGEST // 2),
        "[1" + " " * (LONGEST - 3),
    ],
)
def test_long_texts_cost_no_time(text: str) -> None:
    started = time.monotonic()
    read_spans(text)
    assert time.monotonic() - started < 1
