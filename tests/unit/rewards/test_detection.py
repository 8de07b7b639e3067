"""Golden values: research notes "rewards", sections 2.1, 2.2, 2.6, 3.6 and 8."""

import json
from typing import Any

import pytest

from mmreason.errors import ConfigError
from mmreason.rewards import bind
from mmreason.types import Geometry, Rollout, Score
from tests.unit.rewards.helpers import answered, sample

A, B = [0, 0, 100, 100], [200, 200, 300, 300]
FAR, FARTHER = [500, 500, 600, 600], [700, 700, 800, 800]


def score(name: str, answer: Any, golds: Any = (A, B), frame: Any = "original_pixels", **options: Any) -> Score:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    question = sample(task="detection", golds={"boxes": list(golds)})
    (result,) = bind(name, {"frame": frame, **options})(question, answered(text))
    assert result.error is None
    return result


def value(name: str, answer: Any, golds: Any = (A, B), **options: Any) -> float | None:
    return score(name, answer, golds, **options).total


def sure(*boxes: tuple[Any, float]) -> list[dict[str, Any]]:
    return [{"Position": box, "Confidence": confidence} for box, confidence in boxes]


def named(*boxes: tuple[Any, str]) -> list[dict[str, Any]]:
    return [{"bbox_2d": box, "label": label} for box, label in boxes]


@pytest.mark.parametrize(
    ("answer", "golds", "overlap", "confidence"),
    [
        (sure((A, 1), (B, 1)), (A, B), 1, 1),
        (sure(([0, 0, 100, 80], 0.9), (FAR, 0.3)), (A, B), 0.4, 0.8),
        (sure((A, 0.7)), (A, B), 0.5, 0.7),
        (sure((A, 0.9), (A, 0.9), (B, 0.8)), (A, B), 1.0, 0.85),
        (sure((A, 0.9), (FAR, 0.8), (FARTHER, 0.1)), (A,), 1 / 3, 2 / 3),
        (sure(([0, 0, 100, 50], 0.9)), (A,), 0, 0.1),  # an IoU of 0.5 is none
        (sure(([0, 0, 100, 50], 0.9), (A, 0.2)), (A,), 0.5, 0.15),  # and leaves the gold to others
        (sure((A, 0.5), ([*A], 0.9)), (A,), 1, 0.5),  # the first of two
        ([], (A,), 0, 0),
        ([], (), 1, 1),
        ("No Objects", (), 1, 1),
        (sure((A, 0.25)), (), 0, 0.75),
        ([{"Position": A}, {"Position": B, "Confidence": 1.5}], (A, B), 1, 0),
    ],
)
def test_visual_rft(answer: Any, golds: Any, overlap: float, confidence: float) -> None:
    assert value("det_iou", answer, golds) == pytest.approx(overlap, abs=1e-6)
    assert value("det_confidence", answer, golds) == pytest.approx(confidence, abs=1e-6)
    assert "correct" not in score("det_confidence", answer, golds).flags


def test_the_surer_box_chooses_first() -> None:
    poor, good = [0, 0, 100, 60], [0, 0, 100, 90]
    assert value("det_iou", sure((poor, 0.9), (good, 0.1)), (A,)) == pytest.approx(0.3)
    assert value("det_iou", sure((poor, 0.1), (good, 0.9)), (A,)) == pytest.approx(0.45)


def test_a_list_that_is_cut_off() -> None:
    text = json.dumps(sure((A, 1), (B, 1)))[:-10]
    assert value("det_iou", text) == 0
    assert value("det_iou", text, repair=True) == 0.5


CAT_AND_DOG = named((A, "cat"), (B, "dog"))


@pytest.mark.parametrize(
    ("answer", "precision", "weighted"),
    [
        (CAT_AND_DOG, 1, 1),
        (CAT_AND_DOG[:1], 0.5, 0.575),
        (named((A, "dog")), 0, 0.225),
        ([*CAT_AND_DOG, *named((FAR, "cat"))], 2 / 3, 0.95),
        (named((A, " Cat."), (B, "DOG")), 1, 1),
        (named((A, "cat"), (B, "dog"), (FAR, "fish"), (FARTHER, "fish")), 0.5, 0.7 + 0.3 * 0.75),
        ([], 0, 0),
        ([[*A], [*B]], 0, 0.3),  # no labels
    ],
)
def test_labelled_boxes(answer: Any, precision: float, weighted: float) -> None:
    assert value("det_ap", answer, CAT_AND_DOG) == pytest.approx(precision)
    assert value("det_weighted", answer, CAT_AND_DOG) == pytest.approx(weighted)


def test_nothing_where_there_is_nothing() -> None:
    for name in ("det_ap", "det_weighted", "det_iou", "set_f1", "det_miou"):
        assert [value(name, "None", ()), value(name, [A], ()), value(name, [], (A,))] == [1, 0, 0]
        assert value(name, "nothing to see", ()) == 0


def test_length_factor() -> None:
    """Section 2.2: as many boxes as there are, or fewer, cost nothing; twice as many halve it."""
    four = [*CAT_AND_DOG, *named((FAR, "fish"), (FARTHER, "fish"))]
    assert value("det_ap", four, CAT_AND_DOG, length=False) == 1
    assert score("det_ap", four, CAT_AND_DOG).parts == {"ap": 1, "length": 0.5}
    assert score("det_ap", CAT_AND_DOG[:1], CAT_AND_DOG).parts == {"ap": 0.5, "length": 1}


def test_precision_at_one_threshold_and_by_confidence() -> None:
    assert value("det_ap", named(([0, 0, 100, 72], "cat")), named((A, "cat"))) == pytest.approx(0.5)
    assert value("det_ap", named(([0, 0, 100, 72], "cat")), named((A, "cat")), at="50") == 1
    both = [{"box": FAR, "score": 0.1}, {"box": A, "score": 0.9}]
    assert value("det_ap", both, (A,), length=False) == pytest.approx(0.5)
    assert value("det_ap", both, (A,), length=False, confidences=True) == 1


def test_the_best_overlap_is_matched_first_down_to_the_threshold() -> None:
    poor, good = ([0, 0, 100, 60], "cat"), ([0, 0, 100, 90], "cat")
    assert value("det_weighted", named(poor, good), named((A, "cat"))) == pytest.approx(0.7 * 0.9 + 0.3 * 0.75)
    assert value("det_weighted", named(([0, 0, 100, 50], "cat")), named((A, "cat"))) == pytest.approx(0.7 * 0.5 + 0.3)


def test_golds_without_labels_take_any() -> None:
    assert value("det_ap", CAT_AND_DOG, (A, B)) == value("det_weighted", CAT_AND_DOG, (A, B)) == 1


def test_only_a_fence_counts_where_that_is_wanted() -> None:
    text = json.dumps(CAT_AND_DOG)
    for name in ("det_ap", "det_weighted"):
        assert value(name, text, CAT_AND_DOG, fence=True) == 0
        assert value(name, f"```json\n{text}\n```", CAT_AND_DOG, fence=True) == 1


def test_weights_of_the_weighted_sum() -> None:
    wrong_label = named((A, "dog"))
    assert score("det_weighted", wrong_label, CAT_AND_DOG).parts == {"position": 0, "label": 0, "completeness": 0.75}
    assert value("det_weighted", CAT_AND_DOG[:1], CAT_AND_DOG, position=0, label=1, completeness=0) == 0.5
    assert value("det_weighted", named(([0, 0, 100, 45], "cat")), named((A, "cat"))) == 0
    assert value("det_weighted", named(([0, 0, 100, 45], "cat")), named((A, "cat")), threshold=0.4) == pytest.approx(
        0.615
    )


@pytest.mark.parametrize(
    ("answer", "total"),
    [
        ([A, B], 1),
        ([B], 2 / 3),
        ([A, FAR], 0.5),
        ([A, A], 0),
        ([A, B, A], 0),
        ([[0.4, 0, 100.4, 100], B], 1),
        ([[1, 0, 100, 100], B], 0.5),
        ("<|box_start|>(0,0),(100,100)<|box_end|>", 2 / 3),
    ],
)
def test_set_f1(answer: Any, total: float) -> None:
    assert value("set_f1", answer) == pytest.approx(total)


def test_set_f1_knows_the_models_frame() -> None:
    geometry = (Geometry(original=(640, 480), resized=(644, 476), frame="resized_pixels"),)
    question = sample(task="detection", golds={"boxes": [[10, 20, 300, 400]]}, geometry=geometry)
    scores = bind("set_f1", {})(question, answered("[[10, 20, 302, 397]]", "[[10, 20, 300, 400]]"))
    assert [item.total for item in scores] == [1, 0]
    assert value("set_f1", [[0.123, 0.5, 0.6, 0.7]], ([0.1234, 0.5, 0.6, 0.7],), frame="unit", gold_frame="unit") == 1
    assert value("set_f1", [[0.122, 0.5, 0.6, 0.7]], ([0.1234, 0.5, 0.6, 0.7],), frame="unit", gold_frame="unit") == 0


def test_weights_that_weigh_nothing_are_refused_in_a_line() -> None:
    line = "reward det_weighted: weights position 0, label 0, completeness 0; expected numbers from 0, and not all 0"
    with pytest.raises(ConfigError, match=line):
        bind("det_weighted", {"position": 0, "completeness": 0})
    with pytest.raises(ConfigError, match="weights position -1"):
        bind("det_weighted", {"position": -1})


def test_spacetools_miou_and_the_golds_that_were_not_found() -> None:
    assert value("det_miou", [A, FAR], recall=False) == 0.5
    assert value("det_miou", [A], recall=False) == 1
    assert value("det_miou", [A]) == 0.5


@pytest.mark.parametrize("name", ["det_iou", "det_confidence", "det_ap", "det_weighted", "set_f1", "det_miou"])
@pytest.mark.parametrize(
    ("answer", "golds", "error"),
    [
        (None, {"boxes": [[5, 5, 0, 0]]}, "no area"),
        (None, {"boxes": [[0, 0, float("nan"), 5]]}, "no area"),
        (None, {"boxes": [{"label": "cat"}]}, "expected boxes"),
        (None, {"boxes": 7}, "expected boxes"),
        (None, {}, "expected boxes"),
        ("somewhere", {}, "expected a list of boxes"),
        (None, {"boxes": {"value": [A], "frame": "pixels"}}, "in frame 'pixels'"),
        (None, {"boxes": {"value": [A], "image": "second"}}, "gold image 'second'"),
    ],
)
def test_gold_that_cannot_be_used(name: str, answer: Any, golds: Any, error: str) -> None:
    (result,) = bind(name, {"frame": "original_pixels"})(sample(answer, "detection", golds=golds), answered("[]"))
    assert result.total is None
    assert result.flags == {"bad_gold": True}
    assert error in (result.error or "")


def test_the_answer_of_a_row_may_be_the_gold() -> None:
    """As Visual-RFT's and VLM-R1's files have it."""
    for text in (
        "<answer>[{'Position': [0, 0, 100, 100], 'Confidence': 1}]</answer>",
        "```json\n[[0, 0, 100, 100]]\n```",
    ):
        (result,) = bind("det_iou", {"frame": "unit"})(
            sample(text, "detection", golds={"frame": "unit"}), answered("[[0, 0, 100, 100]]")
        )
        assert result.total == 1


def test_each_image_has_its_own_size() -> None:
    geometry = (
        Geometry(original=(100, 100), resized=(56, 56), frame="resized_pixels"),
        Geometry(original=(640, 480), resized=(644, 476), frame="resized_pixels"),
    )
    said = "[[100,100,300,200]]"
    box = [99.378882, 100.840336, 298.136646, 201.680672]
    for golds in ({"boxes": [box], "image": 1}, {"boxes": {"value": [box], "image": 1}}):
        (result,) = bind("det_iou", {})(sample(task="detection", golds=golds, geometry=geometry), answered(said))
        assert result.total == pytest.approx(1, abs=1e-6)
    (result,) = bind("det_iou", {})(sample(task="detection", golds={"boxes": [box]}, geometry=geometry), answered(said))
    assert result.total == 0


def test_thoughts_and_earlier_answers_do_not_count() -> None:
    question = sample(task="detection", golds={"boxes": [A]})
    text = "<think>[[0,0,100,100]]</think><answer>[[0,0,100,100]]</answer> no: <answer>[[500,500,600,600]]</answer>"
    for name in ("det_iou", "det_ap", "det_weighted", "set_f1", "det_miou"):
        (result,) = bind(name, {"frame": "original_pixels"})(question, [Rollout(text=text)])
        assert result.total == 0


def test_other_samples_are_left_alone() -> None:
    assert bind("det_iou", {})(sample("A", "mcq"), answered("A"))[0].total is None
