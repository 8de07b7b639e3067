"""Reading lists of boxes and points."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmreason.rewards.boxes import Item, items_of, read_items, read_points
from mmreason.rewards.notation import DEPTH, LONGEST, fenced, read_value

CAT = Item(box=(10, 20, 30, 40), label="cat")
DOG = Item(box=(50, 60, 70.5, 80), label="dog")


@pytest.mark.parametrize(
    "text",
    [
        '[{"bbox_2d": [10, 20, 30, 40], "label": "cat"}, {"bbox_2d": [50, 60, 70.5, 80], "label": "dog"}]',
        "[{'bbox_2d': [10, 20, 30, 40], 'label': 'cat'}, {'bbox_2d': [50, 60, 70.5, 80], 'label': 'dog'},]",
        '```json\n[{"bbox": (10, 20, 30, 40), "name": "cat"}, {"Box": [50, 60, 7.05e1, 80], "class": "dog"}]\n```',
        'Two: [{"label": "cat", "bbox_2d": [10, 20, 30, 40]}, {"label": "dog", "bbox_2d": [50, 60, 70.5, 80]}].',
        '{"objects": [{"box": [10, 20, 30, 40], "label": "cat"}, {"box": [50, 60, 70.5, 80], "label": "dog"}]}',
        "[[{'Position': [10, 20, 30, 40], 'label': 'cat'}, {'Position': [50, 60, 70.5, 80], 'label': 'dog'}]]",
        "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(10,20),(30,40)<|box_end|>\n"
        "<|object_ref_start|>dog<|object_ref_end|><|box_start|>(50,60),(70.5,80)<|box_end|>",
    ],
)
def test_ways_to_write_a_list(text: str) -> None:
    assert read_items(text) == [CAT, DOG]


def test_one_name_before_several_boxes() -> None:
    boxes = "<|box_start|>(1,2),(3,4)<|box_end|><|box_start|>(5,6),(7,8)<|box_end|>"
    text = f"<|object_ref_start|>cat<|object_ref_end|>{boxes}"
    assert read_items(text) == [Item(box=(1, 2, 3, 4), label="cat"), Item(box=(5, 6, 7, 8), label="cat")]


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ('{"bbox_2d": [10, 20, 30, 40]}', [(10, 20, 30, 40)]),  # a lone dict
        ("[10, 20, 30, 40]", [(10, 20, 30, 40)]),
        ('{"objects": [[1, 2, 3, 4], [5, 6, 7, 8]]}', [(1, 2, 3, 4), (5, 6, 7, 8)]),
        ("[[10, 20, 30, 40], (1, 2, 3, 4)]", [(10, 20, 30, 40), (1, 2, 3, 4)]),
        ("(10,20),(30,40) and (1,2),(3,4)", [(10, 20, 30, 40), (1, 2, 3, 4)]),
        ("[-10, +.5, 3e1, 40.]", [(-10, 0.5, 30, 40)]),
        ("[30, 40, 10, 20]", [(30, 40, 10, 20)]),  # inverted: read, and refused when it is scored
        ("[[1, 2, 3, 4], [1, 2, 3, 4]]", [(1, 2, 3, 4), (1, 2, 3, 4)]),
        ('[{"bbox_2d": [1, 2, 3]}, {"label": "cat"}, 7]', [None, None, None]),
        ('{"label": "cat"}', [None]),
        ('[{"bbox_2d": ["1", 2, 3, 4]}, {"bbox_2d": [true, 2, 3, 4]}]', [None, None]),
        ("[]", []),
        ("None", []),
        ("No Objects", []),
        ("```json\n[]\n```", []),
    ],
)
def test_what_is_in_a_list(text: str, boxes: Any) -> None:
    items = read_items(text)
    assert items is not None
    assert [item.box for item in items] == boxes


def test_a_lone_label_is_a_thing() -> None:
    assert read_items('{"label": "cat"}') == [Item(label="cat")]


@pytest.mark.parametrize(
    "text",
    ["", "a cat", "[", "{", '[{"bbox_2d": [1, 2', "[{'label': 'it's'}]", '{"a" 1}', "{1: 2}", "[1 2 3 4]",
     "[" * 50 + "]" * 50, '[{"bbox_2d": [1, 2, 3, 4]', "[" + "1," * LONGEST + "1]", "[rm -rf]", "(10, 20) 7"],
)  # fmt: skip
def test_what_is_no_list(text: str) -> None:
    items = read_items(text)
    assert items is None or all(item.box is None for item in items)


def test_a_list_that_is_cut_off_counts_where_that_is_wanted() -> None:
    text = "[{'Position': [1, 2, 3, 4], 'Confidence': 0.5}, {'Position': [5, 6"
    assert read_items(text) is None
    assert read_items(text, repair=True) == [Item(box=(1, 2, 3, 4), confidence=0.5)]
    assert read_items("[{'Position': [1, 2, 3", repair=True) == []
    assert read_items("[{'Position': [1, 2, 3, 4]} oops", repair=True) is None


def test_fences() -> None:
    assert fenced("```json\n1\n``` or ```2```") == "2"
    assert fenced("```1``` and ```2") == "1"
    assert (fenced("```json\n[1]```"), fenced("```json[1]```"), fenced("```None```")) == ("[1]", "[1]", "None")
    assert fenced("no fence") is None
    assert fenced("```open") is None
    assert read_items("[[1, 2, 3, 4]]", fence=True) is None
    assert read_items("```json\n[[1, 2, 3, 4]]\n```", fence=True) == [Item(box=(1, 2, 3, 4))]


def test_confidences_and_points() -> None:
    (item,) = items_of({"Position": (1, 2, 3, 4), "Confidence": 0.5, "point_2d": [5, 6], "points": [[7, 8], [9, 10]]})
    assert item == Item(box=(1, 2, 3, 4), confidence=0.5, points=((5, 6), (7, 8), (9, 10)))
    assert read_points("(0.5, 0.25)") == [(0.5, 0.25)]
    assert read_points('[{"point_2d": [5, 6], "label": "cat"}]') == [(5, 6)]
    assert read_points("[[5, 6], [7, 8]]") == [(5, 6), (7, 8)]
    assert read_points("it is at (5, 6), near (7, 8)") == [(5, 6), (7, 8)]
    assert read_points("nowhere") is None


def test_values() -> None:
    assert read_value("a [1, 'b\\'c', (2,), {\"d\": None, e: true}] f") == (
        [1, "b'c", [2], {"d": None, "e": True}],
        " f",
    )


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a": ', "}")])
def test_values_are_read_so_deep(opening: str, closing: str) -> None:
    read_value(f"{opening * DEPTH}1{closing * DEPTH}")
    with pytest.raises(ValueError, match="unexpected"):
        read_value(f"{opening * (DEPTH + 1)}1{closing * (DEPTH + 1)}")


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="[](){},:'\"`\\ 0123456789.-+eEnoN|<>ab_xbox2d\n", max_size=300))
def test_any_text_can_be_read(text: str) -> None:
    for options in ({}, {"repair": True}, {"fence": True}):
        items = read_items(text, **options)
        assert items is None or all(isinstance(item, Item) for item in items)
    read_points(text)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "text",
    ["[" * LONGEST, "(" * LONGEST, "[1," * (LONGEST // 3), "1" * LONGEST, "[" + " " * (LONGEST - 2), "'" * LONGEST,
     '["' + "\\" * (LONGEST - 3), "<|object_ref_start|>" * (LONGEST // 20), "```" * (LONGEST // 3),
     "[" + "1e" * (LONGEST // 2 - 1), "(1,2)," * (LONGEST // 6), "{a:" * (LONGEST // 3)],
)  # fmt: skip
def test_long_texts_cost_no_time(text: str) -> None:
    started = time.monotonic()
    read_items(text, repair=True)
    read_points(text)
    assert time.monotonic() - started < 2
