"""The reward self-test catches, on data made for it, what would train a model for the wrong thing."""

import json
from pathlib import Path
from typing import Any

import pytest

from mmreason.checking import CheckOptions, CheckReport, check
from mmreason.checking.answers import Shape, shape_of
from mmreason.checking.leaks import leak
from mmreason.config import RewardConfig
from mmreason.errors import ConfigError
from mmreason.types import Message, Sample
from tests.media_files import picture, write_image
from tests.unit.checking.test_check import lines, row, write_run


def report(folder: Path, rows: list[str], rewards: list[dict[str, Any]], **sections: Any) -> CheckReport:
    return check(write_run(folder, sections.pop("model", "m"), rows, rewards=rewards, **sections), (), CheckOptions())


def colours(**keys: Any) -> list[str]:
    return [row(answer=answer, **keys) for answer in ("red", "green", "blue", "white")]


ACCURACY: dict[str, Any] = {"name": "accuracy"}


def test_right_data_and_rewards_pass(tmp_path: Path) -> None:
    found = report(tmp_path, colours(), [ACCURACY, {"name": "format"}])
    assert not [f for f in found.findings if f.kind in ("gold", "reward", "leak")], str(found)


def test_rewards_of_tasks_and_gates(tmp_path: Path) -> None:
    rows = [*colours(task="exact"), row(answer="3", task="counting"), row(answer="4", task="counting")]
    gated = {"name": "format", "gate": "accuracy", "tasks": ["exact"]}
    found = report(tmp_path, rows, [ACCURACY, gated])
    assert not [f for f in found.findings if f.kind in ("gold", "reward")], str(found)
    misspelt = {"name": "format", "tasks": ["exat"]}
    (line,) = lines(report(tmp_path, rows, [ACCURACY, misspelt]), "reward")
    assert line == "reward format: tasks exat, but the rows have counting, exact only"
    unscored = {"name": "accuracy", "tasks": ["exact"]}
    golds = lines(report(tmp_path, rows, [unscored]), "gold")
    assert len(golds) == 2
    assert all("none of the rewards (accuracy) applies to this sample" in line for line in golds)


def test_a_penalty_for_length_is_no_constant(tmp_path: Path) -> None:
    overlong = {"name": "length_overlong", "options": {"max_length": 20480, "buffer": 4096}}
    found = report(tmp_path, colours(), [ACCURACY, overlong, {"name": "repetition"}])
    assert not lines(found, "reward"), str(found)


def test_rewards_that_ask_a_model_elsewhere_are_not_tried(tmp_path: Path) -> None:
    judge = {"name": "judge", "options": {"url": "http://127.0.0.1:9/v1", "model": "m"}}
    for rewards in ([judge], [judge, ACCURACY], [judge, ACCURACY, {"name": "format", "gate": "judge"}]):
        found = report(tmp_path, colours(), rewards)
        assert not lines(found, "reward")
        assert "reward judge: asks a model elsewhere, so it is left out of the self-test" in found.tables


# ---- a gold in the wrong coordinate frame


def boxes(folder: Path, *golds: Any) -> list[str]:
    write_image(folder / "wide.png", picture(640, 480))
    media = ("image", "wide.png")
    return [row("Where is it?", media=media, task="grounding", answer=None, golds={"box": gold}) for gold in golds]


def test_the_frame_is_that_of_the_image_that_the_box_is_in(tmp_path: Path, tiny_vl: Path) -> None:
    write_image(tmp_path / "small.png", picture(64, 64))
    write_image(tmp_path / "wide.png", picture(640, 480))
    media = [{"type": "image", "image": name} for name in ("small.png", "wide.png")]
    messages = [{"role": "user", "content": [*media, {"type": "text", "text": "Where?"}]}]
    boxes = ([100, 100, 500, 300], [300, 200, 600, 400])
    rows = [json.dumps({"messages": messages, "task": "grounding", "golds": {"box": b, "image": 1}}) for b in boxes]
    found = report(tmp_path, rows, [{"name": "iou"}], model=str(tiny_vl))
    assert not lines(found, "gold"), str(found)


@pytest.mark.parametrize(
    ("task", "golds", "reward"),
    [
        (
            "detection",
            {"boxes": [{"bbox_2d": [100, 100, 500, 300], "label": "cat"}, {"bbox_2d": [1, 2, 33, 44]}]},
            "det_ap",
        ),
        ("detection", {"boxes": [[100, 100, 500, 300]]}, "det_iou"),
        ("tracking", {"track": [[100, 100, 500, 300], [110, 100, 510, 300]]}, "tracking"),
        ("temporal", {"spans": [[1.5, 3], [7, 9]]}, "tiou"),
    ],
)
def test_lists_of_places_and_times_are_tried_as_well(
    tmp_path: Path, tiny_vl: Path, task: str, golds: dict[str, Any], reward: str
) -> None:
    write_image(tmp_path / "wide.png", picture(640, 480))
    rows = [row("Where is it?", media=("image", "wide.png"), task=task, answer=None, golds=golds)] * 2
    found = report(tmp_path, rows, [{"name": reward}], model=str(tiny_vl))
    assert not [f for f in found.findings if f.kind in ("gold", "reward")], str(found)
    assert any(line.startswith("2 golds") for line in found.tables), found.tables


IOU = {"name": "iou"}


def test_a_gold_box_in_the_wrong_frame(tiny_vl: Path, tmp_path: Path) -> None:
    right, thousandths, unit, frame = [10, 20, 300, 400], [100, 200, 900, 950], [0.1, 0.2, 0.9, 0.95], "per_thousand"
    rows = boxes(tmp_path, right, thousandths, unit, {"value": thousandths, "frame": frame}, [5, 5, 200, 100])
    found = report(tmp_path, rows, [IOU], model=tiny_vl)
    outside, tiny = lines(found, "gold")
    assert outside.startswith(f"{tmp_path}/train.jsonl:2: gold box [100, 200, 900, 950] in original_pixels reaches")
    assert outside.endswith("(640 x 480 pixels); it looks like per_thousand")
    assert tiny.startswith(f"{tmp_path}/train.jsonl:3: gold box [0.1, 0.2, 0.9, 0.95]")
    assert tiny.endswith("it looks like unit")
    (head,) = [line for line in found.tables if line.startswith("mean score of")]
    (scores,) = [line for line in found.tables if line.startswith("iou ")]
    assert float(scores.split()[1]) == pytest.approx(1, abs=1e-3)
    assert "wrong frame" in head
    assert float(scores.split()[head.split().index("frame") - 4]) < 0.9


# ---- a format that no parser accepts


def test_a_format_that_the_other_reward_does_not_read(tmp_path: Path) -> None:
    tags = {"name": "format", "options": {"answer_tag": "final"}}
    (line,) = lines(report(tmp_path, colours(), [ACCURACY, tags]), "reward")
    assert line.startswith("reward accuracy: 0 for every gold written as '<think>...</think>\\n<final>...</final>'")


def test_a_pattern_that_nothing_fits(tmp_path: Path) -> None:
    pattern = {"name": "format", "options": {"pattern": "<a>.*</b>"}}
    found = report(tmp_path, colours(), [ACCURACY, pattern])
    assert "fits none of the usual ways" in lines(found, "reward")[0]


def test_a_format_of_ones_own_is_taken(tmp_path: Path) -> None:
    file = write_run(tmp_path, "m", colours(), rewards=[ACCURACY, {"name": "format", "options": {"pattern": "#.*#"}}])
    found = check(file, (), CheckOptions(answer_format="#<answer>{answer}</answer>#"))
    assert not [f for f in found.findings if f.kind in ("gold", "reward")], str(found)


# ---- a reward that is constant


def plug_in(folder: Path, body: str) -> dict[str, Any]:
    (folder / "mine.py").write_text(f"def mine(sample, text):\n    {body}\n")
    return {"name": f"{folder}/mine.py:mine"}


def test_a_reward_that_is_constant(tmp_path: Path) -> None:
    (line,) = lines(report(tmp_path, colours(), [ACCURACY, plug_in(tmp_path, "return 0.5")]), "reward")
    assert "0.5 for every answer of the self-test, right, wrong or empty" in line


def test_a_reward_of_length_is_not_constant(tmp_path: Path) -> None:
    found = report(tmp_path, colours(), [ACCURACY, plug_in(tmp_path, "return min(1.0, len(text) / 5000)")])
    assert not lines(found, "reward")


# ---- golds that do not win


def test_a_reward_that_prefers_another_answer(tmp_path: Path) -> None:
    found = report(tmp_path, colours(), [plug_in(tmp_path, "return float('red' in text)")])
    assert [line.split(":")[1] for line in lines(found, "gold")] == ["2", "3", "4"]
    assert all("and so does an answer of kind 'empty'" in line for line in lines(found, "gold"))


def test_a_reward_for_the_format_alone_is_seen(tmp_path: Path) -> None:
    found = report(tmp_path, colours(), [{"name": "format"}])
    assert all("and so does an answer of kind 'format only'" in line for line in lines(found, "gold"))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"task": "numeric", "answer": "many"}, "has no score"),
        ({"task": "mcq", "answer": "F", "options": ["a cat", "a dog"]}, "has no score"),
        ({"task": "nonsense", "answer": "red"}, "unknown task 'nonsense'"),
        ({"task": "grounding", "golds": {"box": [1, 2, 3]}, "answer": None}, "expected [x1, y1, x2, y2]"),
    ],
)
def test_golds_that_cannot_be_scored(keys: dict[str, Any], expected: str, tmp_path: Path) -> None:
    (line,) = lines(report(tmp_path, [*colours(), row(**keys)], [ACCURACY, IOU]), "gold")
    assert line.startswith(f"{tmp_path}/train.jsonl:5: ")
    assert expected in line


def test_choices_are_tried_against_the_other_options(tmp_path: Path) -> None:
    rows = [row(task="mcq", options=["a cat", "a dog"], answer=answer) for answer in ("A", "a dog")]
    found = report(tmp_path, rows, [ACCURACY])
    assert not lines(found, "gold")
    assert [line.split()[1:3] for line in found.tables if line.startswith("accuracy")] == [["1.000", "0.000"]]


# ---- an answer that leaks


@pytest.mark.parametrize(
    ("text", "gold", "found"),
    [
        ("What is it? <answer> B </answer>", "B", "<answer> B </answer>"),
        ("The correct answer is 42. How many?", "42", "answer is 42"),
        ("Answer: B", "B", "Answer: B"),
        ("Describe it: a red kite over the hills. Well?", "A red kite over", "a red kite over"),
        ("Is the answer 42.5?", "42", None),
        ("Which answer is best?", "B", None),
        ("Is it red or blue?", "red", None),
        ("What does the answer Blue mean?", "B", None),
        ("Is it red? Answer yes or no.", "yes", None),
        ("Which one? Answer A, B, C or D.", "A", None),
        ("Give the letter only, for example: answer: B", "B", None),
        ("Is it an apple tree or a cherry tree?", "an apple tree", None),
        ("Is it an apple tree or a cherry tree?", "a cherry tree", None),
        ("The answer is red, because of rust. Which colour?", "red", "answer is red"),
    ],
)
def test_leaks(text: str, gold: str, found: str | None) -> None:
    sample = Sample(id="q", messages=(Message(role="user", content=(text,)),), answer=gold)
    assert leak(sample, gold, None) == found
    asked = Sample(id="q", messages=(Message(role="user", content=("Well?",)),), answer=gold)
    assert leak(asked, gold, text) == found


def test_an_answer_that_leaks_is_named_with_its_row(tmp_path: Path) -> None:
    found = report(tmp_path, [*colours(), row("Hint: the answer is 7.", task="numeric", answer="7")], [ACCURACY])
    (line,) = lines(found, "leak")
    assert line == f"{tmp_path}/train.jsonl:5: the answer stands in the prompt: 'answer is 7'"


def test_a_task_of_reading_aloud_is_one_finding(tmp_path: Path) -> None:
    words = [f"the quick brown fox number {index}" for index in range(30)]
    found = report(tmp_path, [row(f"Repeat: {text}", answer=text) for text in words], [ACCURACY])
    (line,) = lines(found, "leak")
    assert line.startswith("task exact: 30 of 30 answers stand in their prompts")


# ---- shapes


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "<think>t</think>\n<answer>B</answer>"),
        ({"variant": "cosmos"}, "<think>t</think>\n\n<answer>B</answer>"),
        ({"think_tag": "why", "answer_tag": "so"}, "<why>t</why>\n<so>B</so>"),
        ({"prefilled": True}, "t</think>\n<answer>B</answer>"),
        ({"pattern": r"<think>.*</think>\s*\\boxed\{.*\}"}, "<think>t</think>\n\\boxed{B}"),
        ({"pattern": ".+"}, "<think>t</think>\n<answer>B</answer>"),
    ],
)
def test_the_shape_is_the_one_that_format_asks_for(options: dict[str, Any], expected: str) -> None:
    assert shape_of([RewardConfig(name="format", options=options)]).write("B", thought="t") == expected


def test_a_shape_of_ones_own_needs_a_place_for_the_answer() -> None:
    assert shape_of([], "{answer} {{x}}") == Shape("{answer} {{x}}")
    with pytest.raises(ConfigError, match=r"has no \{answer\} in it"):
        shape_of([], "answer")


def test_findings_can_be_read_by_programs(tmp_path: Path) -> None:
    found = report(tmp_path, [*colours(), row(task="numeric", answer="many")], [ACCURACY])
    assert json.loads(json.dumps([(f.kind, f.line) for f in found.findings if f.kind == "gold"]))[0][0] == "gold"


# ---- rows without a gold, rewards without an end


def test_a_row_without_a_gold_needs_a_reward_that_wants_none(tmp_path: Path) -> None:
    rows = [*colours(), row(answer=None)]
    (line,) = lines(report(tmp_path, rows, [ACCURACY]), "gold")
    assert line.startswith(f"{tmp_path}/train.jsonl:5: no gold answer, and no score without one: reward accuracy")
    assert not lines(report(tmp_path, [row(answer=None)], [{"name": "format"}]), "gold")
    sft = {"train": {"method": "sft"}}
    assert not lines(report(tmp_path, [row(answer=None, demos=["a"])], [ACCURACY], **sft), "gold")


def test_rewards_that_hang_are_not_waited_for_row_by_row(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\ndef slow(sample, text):\n    time.sleep(60)\n")
    rewards = [{"name": f"{tmp_path}/slow.py:slow"}]
    found = report(tmp_path, colours() * 10, rewards, scoring={"deadline_s": 0.2})
    assert "no score after the deadline for any of 4 rows; 36 rows not tried" in lines(found, "reward")
    assert len(lines(found, "gold")) == 4
