"""Golden values: research notes "algorithms", section 1 (Format), and "rewards", section 0.3."""

import pytest

from tests.unit.rewards.helpers import grade, sample

GOOD = "<think>a</think>\n<answer>B</answer>"
TWO_ANSWERS = "<think>a</think><answer>B</answer><answer>C</answer>"


@pytest.mark.parametrize(
    ("text", "video_r1", "default"),
    [
        (GOOD, 1, 1),
        ("<think>a</think> so <answer>B</answer>", 0, 0),
        (GOOD + "\n", 0, 1),
        (" " + GOOD, 0, 1),
        (TWO_ANSWERS, 1, 0),
        ("<think>a</think><think>b</think><answer>B</answer>", 1, 0),
        ("<think>a <answer>A</answer></think><answer>B</answer>", 1, 0),
        ("<think>a\nb</think><answer>B\nC</answer>", 1, 1),
        ("<answer>B</answer>", 0, 0),
        ("<answer>B</answer><think>a</think>", 0, 0),
        ("<think>a</think><answer>B", 0, 0),
        ("", 0, 0),
    ],
)
def test_variants(text: str, video_r1: int, default: int) -> None:
    assert grade("format", sample(), text, variant="video_r1").total == video_r1
    assert grade("format", sample(), text).total == default


def test_mm_eureka_wants_each_tag_once() -> None:
    assert grade("format", sample(), GOOD, variant="mm_eureka").total == 1
    assert grade("format", sample(), TWO_ANSWERS, variant="mm_eureka").total == 0
    assert grade("format", sample(), f"so {GOOD} yes", variant="mm_eureka").total == 1
    assert grade("format", sample(), GOOD.replace("B", ""), variant="mm_eureka").total == 0


def test_cosmos_wants_exactly_two_newlines() -> None:
    for between, expected in [("\n\n", 1), ("\n", 0), (" ", 0), ("\n\n\n", 0)]:
        text = f"<think>a</think>{between}<answer>B</answer>"
        assert grade("format", sample(), text, variant="cosmos").total == expected
    assert grade("format", sample(), TWO_ANSWERS.replace("</think>", "</think>\n\n"), variant="cosmos").total == 1


def test_other_tags_and_own_pattern() -> None:
    skin = "<thinking>a</thinking><final diagnosis>B</final diagnosis>"
    assert grade("format", sample(), skin, think_tag="thinking", answer_tag="final diagnosis").total == 1
    assert grade("format", sample(), "x\ny", pattern="x.y").total == 1
    assert grade("format", sample(), "x\nyz", pattern="x.y").total == 0


def test_prefilled_thinking() -> None:
    assert grade("format", sample(), "a</think><answer>B</answer>", prefilled=True).total == 1
    assert grade("format", sample(), "a</think><answer>B</answer>").total == 0


def test_tags_are_not_patterns() -> None:
    """Perception-R1 left | unescaped in its tags, so that any text starting with < passed."""
    assert grade("format", sample(), "<anything", think_tag="|", answer_tag="|box|").total == 0


def test_formatted_as_openmmreasoner_is_whole_or_not() -> None:
    half = "Then x = 3 + 4, which is what was asked for, and so it is 7."
    scores = [grade("openmm_format", sample("7"), text) for text in (GOOD, "\\boxed{7}", half)]
    assert [score.flags["format_ok"] for score in scores] == [True, True, False]
