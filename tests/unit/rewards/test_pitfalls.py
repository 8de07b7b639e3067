"""What went wrong in published rewards (research notes "rewards", section 8), one test per pitfall, over many rewards.

1 (frames): test_every_convention.py has the property over all families; here one box. 7 and parts of 8 are about tools
and turns, which are not here yet. 9 (statistics per group, not per process): tests/integration/test_processes.py.
"""

from dataclasses import dataclass, field
from typing import Any

import pytest

from mmreason.config import ScoringConfig
from mmreason.rewards import bind
from mmreason.rewards.combine import combine
from mmreason.rewards.length_curves import COSINES, cosine_value
from mmreason.types import Geometry, Rollout, Sample, Score
from tests.unit.rewards.helpers import sample

GEOMETRY = (Geometry(original=(640, 480), resized=(644, 476), frame="original_pixels"),)
BOX, OTHER = "[100, 100, 300, 200]", "[400, 300, 500, 400]"


@dataclass(frozen=True)
class Case:
    """A reward with a question, a right answer and a wrong one."""

    name: str
    question: Sample
    right: str
    wrong: str
    options: dict[str, Any] = field(default_factory=dict)
    best: float = 1.0
    bad_gold: Any = None
    """The same question with a gold that nobody can read."""

    def score(self, text: str) -> Score:
        (score,) = bind(self.name, self.options)(self.question, [Rollout(text=text)])
        return score


def placed(task: str, **golds: Any) -> Sample:
    return sample(task=task, golds=golds, geometry=GEOMETRY)


def boxed(box: str, label: str = "cat") -> str:
    return f'[{{"bbox_2d": {box}, "label": "{label}"}}]'


CAT = placed("detection", boxes=[{"bbox_2d": [100, 100, 300, 200], "label": "cat"}])
BAD_BOXES = placed("detection", boxes=[{"bbox_2d": "here", "label": "cat"}])
CASES = [
    Case("accuracy", sample("B", "mcq", options=("owl", "tit")), "B", "A", bad_gold=sample("?", "mcq", options=("a",))),
    Case("accuracy", sample("12", "numeric"), "12", "13", bad_gold=sample("many", "numeric")),
    Case("accuracy", sample("red kite"), "red kite", "owl", bad_gold=sample("")),
    Case("accuracy", sample("yes", "yes_no"), "yes", "no", bad_gold=sample("perhaps", "yes_no")),
    Case("substring", sample("Paris"), "Paris", "Rome", bad_gold=sample("")),
    Case("iou", placed("grounding", box=[100, 100, 300, 200]), BOX, OTHER, bad_gold=placed("grounding", box=[1, 2])),
    Case("giou", placed("grounding", box=[100, 100, 300, 200]), BOX, OTHER, {"form": "unit"},
         bad_gold=placed("grounding", box=[1, 2])),
    *(Case(name, CAT, boxed(BOX), boxed(OTHER), bad_gold=BAD_BOXES)
      for name in ("det_ap", "det_iou", "det_miou", "det_weighted", "set_f1")),
    Case("tiou", placed("temporal", spans=[[10, 20]], duration=60), "10 to 20", "30 to 40",
         bad_gold=placed("temporal", spans="long")),
]  # fmt: skip
IDS = [f"{case.name}-{case.question.task}" for case in CASES]
each = pytest.mark.parametrize("case", CASES, ids=IDS)


def said(answer: str, thought: str = "hm") -> str:
    return f"<think>{thought}</think>\n<answer>{answer}</answer>"


def value(score: Score) -> float:
    assert score.error is None, score.error
    assert score.total is not None
    return score.total


@each
def test_the_right_answer_is_best_and_the_wrong_one_is_not(case: Case) -> None:
    assert value(case.score(said(case.right))) == pytest.approx(case.best)
    assert value(case.score(said(case.wrong))) < 0.7 * case.best


# ---- 1. frames


@pytest.mark.parametrize("frame", ["original_pixels", "resized_pixels", "per_thousand", "unit"])
def test_a_box_in_the_frame_of_the_model_is_right_and_in_another_is_not(frame: Any) -> None:
    geometry = (Geometry(original=(640, 480), resized=(1288, 952), frame=frame),)
    question = sample(task="grounding", golds={"box": [160, 120, 480, 360]}, geometry=geometry)
    spoken = {"original_pixels": "[160, 120, 480, 360]", "resized_pixels": "[322, 238, 966, 714]",
              "per_thousand": "[250, 250, 750, 750]", "unit": "[0.25, 0.25, 0.75, 0.75]"}  # fmt: skip
    scores = {name: value(*bind("iou", {})(question, [Rollout(text=said(box))])) for name, box in spoken.items()}
    assert scores.pop(frame) == pytest.approx(1)
    assert max(scores.values()) < 0.7


# ---- 2. empty answers, lists of everything, broken shapes


@each
@pytest.mark.parametrize(
    "text", ["", "<answer></answer>", "<answer> \n</answer>", "<think>x</think>", "<answer>", "</answer>"]
)
def test_an_empty_answer_is_worth_nothing(case: Case, text: str) -> None:
    score = case.score(text)
    assert value(score) == 0
    assert not score.flags.get("correct", False)


@pytest.mark.parametrize("answer", ["A or B", "A, B", "A B C D", "A or B or C", "not A, so A or B", "AB"])
def test_a_list_of_all_letters_is_no_choice(answer: str) -> None:
    assert value(CASES[0].score(said(answer))) == 0


def test_a_list_of_all_labels_is_no_label() -> None:
    question = sample("cat", options=("cat", "dog"))
    (score,) = bind("accuracy", {})(question, [Rollout(text=said("cat or dog"))])
    assert value(score) == 0


@pytest.mark.parametrize("name", ["det_iou", "det_ap", "det_weighted", "set_f1", "det_miou"])
def test_a_box_said_twice_gains_nothing(name: str) -> None:
    case = next(case for case in CASES if case.name == name)
    twice = f'[{{"bbox_2d": {BOX}, "label": "cat"}}, {{"bbox_2d": {BOX}, "label": "cat"}}]'
    assert value(case.score(said(twice))) <= case.best


def test_an_id_said_twice_gains_nothing() -> None:
    question = sample(golds={"rerank": {"positives": [3], "total": 4}})
    texts = [Rollout(text=said(order)) for order in ("[3, 1, 2, 4]", "[3, 3, 3, 3]", "[1, 1, 1, 1]")]
    assert [value(score) for score in bind("rerank", {})(question, texts)] == [1, 1, 0]
    full, thrice, same = bind("rerank_format", {})(question, texts)
    assert value(full) == 1
    assert value(thrice) == value(same) < 0.5


@pytest.mark.parametrize(
    "answer",
    [f'{{"bbox_2d": {BOX}, "label": "cat"}}', f"[{{'bbox_2d': {BOX}, 'label': 'cat'}}]",
     '[{"bbox_2d": [100.0, 100.0, 300.0, 200.0], "label": "cat"}]', f"```json\n{boxed(BOX)}\n```"],
    ids=["a lone object", "single quotes", "floats", "a fence"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["det_iou", "det_weighted", "set_f1"])
def test_other_ways_to_write_the_same_boxes(name: str, answer: str) -> None:
    case = next(case for case in CASES if case.name == name)
    assert value(case.score(said(answer))) == pytest.approx(1)


@pytest.mark.parametrize(
    "box", ["[-50, -50, -10, -10]", "[300, 200, 100, 100]", "[100, 100, 100, 100]", "[0, 0, 0, 0]"]
)
@pytest.mark.parametrize("name", ["iou", "giou"])
def test_negative_inverted_and_empty_boxes_are_not_right(name: str, box: str) -> None:
    case = next(case for case in CASES if case.name == name)
    assert value(case.score(said(box))) < 0.7


@pytest.mark.parametrize("answer", ["15 to 15", "20 to 10", "0 to 0", "5 to 5"])
def test_an_interval_without_length_takes_no_score_of_another(answer: str) -> None:
    case = CASES[-1]
    texts = [Rollout(text=said(case.right)), Rollout(text=said(answer))]
    right, empty = bind("tiou", {})(case.question, texts)
    assert (value(right), value(empty)) == (1.0, 0.0)


# ---- 3. thoughts


@each
def test_the_gold_in_the_thoughts_is_worth_nothing(case: Case) -> None:
    leaked = case.score(said(case.wrong, thought=f"It is {case.right}. <answer>{case.right}</answer>"))
    assert value(leaked) == value(case.score(said(case.wrong)))
    assert value(case.score(f"<think>{case.right}</think>")) == 0


@each
def test_the_last_answer_counts(case: Case) -> None:
    assert value(case.score(said(case.wrong) + said(case.right))) == pytest.approx(case.best)
    assert value(case.score(said(case.right) + said(case.wrong))) < 0.7 * case.best


# ---- 4. None, and ranges


@each
@pytest.mark.parametrize("answer", ["{wrong}", "nonsense", "[]", "{{", "[[1, 2", "NaN", "1e999", "\x00", "None", "0/0"])
def test_an_unreadable_answer_has_a_number_within_the_range(case: Case, answer: str) -> None:
    """Never None, which would leave the answer out, and never beyond what the reward says of itself."""
    assert 0 <= value(case.score(said(answer.replace("{wrong}", case.wrong)))) <= case.best


def test_rewards_of_other_ranges_are_named_parts_with_weights_and_not_mixed() -> None:
    """GIoU is in [0, 2]: the part keeps it, the weight is the config's."""
    score = combine([Score(total=2.0), Score(total=1.0)], ["giou", "format"], [0.5, 0.1], "sum")
    assert (score.total, score.parts) == (1.1, {"giou": 2.0, "format": 1.0})


# ---- 5. the prompt in the completion


@each
def test_a_prompt_in_the_completion_with_an_answer_in_it_is_worth_nothing(case: Case) -> None:
    prompt = f"Answer as <answer>{case.right}</answer>, thoughts in <think> </think>.\nassistant\n"
    assert value(case.score(prompt + said(case.wrong))) == value(case.score(said(case.wrong)))
    assert value(case.score(prompt + said(case.right))) == pytest.approx(case.best)


def test_special_tokens_of_boxes_are_read() -> None:
    case = next(case for case in CASES if case.name == "iou")
    text = said("<|box_start|>(100,100),(300,200)<|box_end|>")
    assert value(case.score(text)) == pytest.approx(1)


# ---- 6. a constant in the place of correctness; a cosine that turns back up


def test_a_length_reward_knows_wrong_answers_and_is_clamped() -> None:
    reward = bind("length_cosine", {"max_length": 10, "variant": "vlmr1", "unit": "words"})
    right, wrong = reward(sample("4"), [Rollout(text=said("4")), Rollout(text=said("5"))])
    assert value(right) > 0.5 > 0 > value(wrong)
    assert cosine_value(2048, True, 1024, COSINES["vlmr1"]) == cosine_value(1024, True, 1024, COSINES["vlmr1"]) == 0.5


# ---- 8. a truncated or failed answer is not a zero


def test_an_answer_that_cannot_be_scored_is_left_out_and_not_zero() -> None:
    score = combine([Score(total=None, error="late")], ["judge"], [1.0], "sum")
    assert (score.total, score.error) == (None, "late")
    assert ScoringConfig().on_error == "drop_group"


# ---- 10. a gold that cannot be read


@each
def test_a_gold_that_cannot_be_read_is_dropped_and_not_rewarded(case: Case) -> None:
    for text in (said(case.right), said(case.wrong), ""):
        (score,) = bind(case.name, case.options)(case.bad_gold, [Rollout(text=text)])
        assert score.total is None
        assert score.flags.get("bad_gold"), score
        assert score.error
