"""Which sampled answers become data, and samples as rows that are read back as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmreason.data import sample_from_row
from mmreason.errors import ConfigError
from mmreason.evaluation.critical import spread
from mmreason.evaluation.refining import to_refine
from mmreason.evaluation.rows import EvalAnswer, EvalRow
from mmreason.evaluation.selection import Second, Selection, as_row, reasoning_signature, selected
from mmreason.types import Message, Sample

SAMPLE = Sample(
    id="q", messages=(Message(role="user", content=("2+3?",)),), answer=5, task="numeric", demos=("long expert 5",)
)


def row(*answers: tuple[str, bool | None], truncated: tuple[int, ...] = ()) -> EvalRow:
    made = tuple(
        EvalAnswer(text=text, correct=correct, answer=text[-1:], vote=[a[0][-1:] for a in answers].index(text[-1:]),
                   truncated=index in truncated)
        for index, (text, correct) in enumerate(answers)
    )  # fmt: skip
    scored = all(correct is not None for _, correct in answers)
    return EvalRow(
        id="q", modality="text", task="numeric", source="s", status="scored" if scored else "unscored", answers=made
    )


MIXED = row(("2+3=5", True), ("no 4", False), ("2 + 3 = 5", True), ("3+2=5", True), ("cut 5", True), truncated=(4,))


def made(given: EvalRow = MIXED, sample: Sample = SAMPLE, **options: Any) -> dict[str, Any] | None:
    return selected(sample, given, Selection(**options))


def test_rejection_sampling_keeps_right_answers_that_differ() -> None:
    found = made()
    assert found is not None
    assert found["demos"] == ["2+3=5", "2 + 3 = 5", "3+2=5"]
    assert found["meta"] == {"sampled": 5, "pass_rate": 0.8}
    assert (made(unique="reasoning") or {})["demos"] == ["2+3=5", "3+2=5"]
    assert (made(unique="answer") or {})["demos"] == ["2+3=5"]
    assert (made(per_question=2) or {})["demos"] == ["2+3=5", "2 + 3 = 5"]


def test_online_sft_needs_no_reward() -> None:
    found = made(row(("anything", None)), keep="all")
    assert found is not None
    assert found["demos"] == ["anything"]
    assert "pass_rate" not in found["meta"]
    assert made(row(("anything", None))) is None


def test_metis_rise_keeps_own_answers_where_it_is_inconsistent_and_an_experts_where_it_never_is_right() -> None:
    options: dict[str, Any] = {"inconsistent": True, "expert": True}
    assert made(row(("a 5", True), ("b 5", True)), **options) is None
    assert (made(row(("a 5", True), ("b 4", False)), **options) or {})["demos"] == ["a 5"]
    never = row(("a 4", False), ("b 4", False))
    assert (made(never, **options) or {})["demos"] == ["long expert 5"]
    assert made(never) is None
    assert (made(never, every_row=True) or {})["meta"]["pass_rate"] == 0
    assert made(row(), every_row=True) is None, "nothing was answered"


def test_pairs() -> None:
    pair = {"chosen": "long expert 5", "rejected": "2+3=5"}
    assert (made(pairs="thinkpo") or {})["pairs"] == [pair]
    assert made(row(("a much longer right answer 5", True)), pairs="thinkpo") is None
    given = row(("w 4", False), ("x 3", False), ("r 5", True), ("s 5", True), ("v 4", False), ("t 5", True))
    expected = [{"chosen": "r 5", "rejected": "w 4"}, {"chosen": "t 5", "rejected": "v 4"}]
    assert (made(given, pairs="right_wrong") or {})["pairs"] == expected


def test_self_refine_prefers_what_was_made_of_the_first_wrong_answer() -> None:
    given = row(("cut 4", False), ("w 4", False), ("x 3", False), ("r 5", True), truncated=(0,))
    (asked,) = to_refine([SAMPLE, SAMPLE], [given, row(("r 5", True))])
    (question,) = asked.messages
    text = "".join(part for part in question.content if isinstance(part, str))
    assert text.startswith("2+3?\n")
    assert "\nw 4\n" in text
    assert "x 3" not in text
    second = Second(refined=row(("still 4", False), ("cut 5", True), ("better 5", True), truncated=(1,)))
    found = selected(SAMPLE, given, Selection(pairs="self_refine"), second)
    assert found is not None
    assert found["pairs"] == [{"chosen": "better 5", "rejected": "w 4"}]
    assert found["messages"] == as_row(SAMPLE)["messages"], "the pair belongs to the question itself"
    assert selected(SAMPLE, given, Selection(pairs="self_refine"), Second(refined=row(("no 4", False)))) is None
    assert selected(SAMPLE, given, Selection(pairs="self_refine")) is None


def test_answers_with_critical_tokens_are_written_with_their_weights() -> None:
    second = Second(critical={"2+3=5": ((2, 3), (4, 5)), "3+2=5": ()})
    found = selected(SAMPLE, MIXED, Selection(critical=0), second)
    assert found is not None
    assert found["demos"] == ["2+3=5"]
    assert found["demo_weights"] == [[[2, 3, 1.0], [4, 5, 1.0]]]
    assert sample_from_row(found, "f:1", None).weighed_demos == (("2+3=5", ((2, 3, 1.0), (4, 5, 1.0))),)
    assert selected(SAMPLE, MIXED, Selection(critical=0)) is None
    never = row(("a 4", False))
    assert (selected(SAMPLE, never, Selection(critical=4, expert=True)) or {})["demos"] == ["long expert 5"]
    for wrong in ({"critical": -1}, {"critical": 4, "keep": "all"}, {"critical": 4, "pairs": "thinkpo"}):
        with pytest.raises(ConfigError, match="with keep correct and without pairs"):
            Selection(**wrong)


def test_places_are_spread_over_an_answer() -> None:
    assert spread(10, 4) == [0, 2, 5, 7]
    assert spread(3, 8) == spread(3, 0) == [0, 1, 2]
    assert spread(0, 4) == []


@pytest.mark.parametrize(
    ("text", "signature"),
    [("2 + 3 = 5, so 5", "2+3=55"), ("<think>1.5*2</think><answer>3</answer>", "1.5*2"), ("A red Bird.", "a red bird")],
)
def test_signatures_of_reasoning(text: str, signature: str) -> None:
    assert reasoning_signature(text) == signature


def test_a_sample_is_written_as_it_was_read(tmp_path: Path) -> None:
    content = [
        {"type": "image", "image": "a.png", "max_pixels": 4096},
        {"type": "video", "video": "b.mp4", "fps": 2, "sound": True},
        {"type": "audio", "audio": "data:x;base64,UklGRg=="},
        {"type": "text", "text": "What?"},
    ]
    given = {"id": "q7", "messages": [{"role": "user", "content": content}], "answer": "B", "task": "mcq",
             "options": ["x", "y"], "golds": {"box": [1, 2, 3, 4]}, "demos": ["d"], "source": "s", "meta": {"k": 1},
             "pairs": [{"chosen": "a", "rejected": "b"}]}  # fmt: skip
    sample = sample_from_row(given, "f:1", tmp_path)
    again = sample_from_row(json.loads(json.dumps(as_row(sample))), "f:1", tmp_path)
    assert again == sample
