"""JSON files that are one list: every element, where it stands, and little memory."""

from __future__ import annotations

import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmreason import json_list
from mmreason.config import DataSource
from mmreason.errors import DataError
from mmreason.rows import read_rows

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


def rows(path: Path, content: bytes | str, **more: Any) -> list[Any]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [row for _, row in read_rows(DataSource(path=str(path), **more))]


@settings(max_examples=60)
@given(st.lists(VALUES, max_size=6), st.integers(1, 40), st.booleans(), st.sampled_from([None, 2]))
def test_any_list_is_read_as_json_reads_it(values: list[Any], chunk: int, plain: bool, indent: int | None) -> None:
    """Whatever the size of what is read at a time."""
    text = json.dumps(values, ensure_ascii=plain, indent=indent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_list, "CHUNK", chunk)
        found = list(json_list.list_elements(io.StringIO(f" {text}\n"), json.JSONDecoder(), "t.json"))
    assert [value for _, value in found] == json.loads(text)
    assert [origin for origin, _ in found] == [f"t.json:{number}" for number in range(1, len(values) + 1)]


def test_a_list_and_lines_may_both_be_named_json(tmp_path: Path) -> None:
    assert rows(tmp_path / "a.json", '\ufeff [{"a": 1},\n{"a": "é"}]\n') == [{"a": 1}, {"a": "é"}]
    assert rows(tmp_path / "b.json", '{"a": 1}\n{"a": 2}\n') == [{"a": 1}, {"a": 2}]
    assert rows(tmp_path / "c.json", "[]") == []
    assert rows(tmp_path / "d.data", '[{"a": 1}]', format="json") == [{"a": 1}]
    assert len(rows(tmp_path / "e.json", '[{"a": 1}, {"a": 2}, {"a": 3}', limit=2)) == 2


@pytest.mark.parametrize("content", ["", "  ", "5", '{\n  "data": []\n}', '"text"', b"\xff\xfe[", '{"a": 1'])
def test_what_is_neither_is_refused(content: bytes | str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t\.json: expected a JSON list of objects, or an object per line$"):
        rows(tmp_path / "t.json", content)


@pytest.mark.parametrize(
    ("element", "reason"),
    [
        ('{"a": NaN}', "NaN is no JSON number"),
        ('{"a": 1, "a": 2}', "key 'a' stands twice"),
        ('{"a": ' + "1" * 5000 + "}", "Exceeds the limit"),
    ],
)
def test_an_element_that_is_refused_costs_no_other(element: str, reason: str, tmp_path: Path) -> None:
    first, bad, last = rows(tmp_path / "t.json", f'[{{"a": 1}}, {element}, {{"a": 3}}]')
    assert (first, last) == ({"a": 1}, {"a": 3})
    assert str(bad).startswith(f"{tmp_path}/t.json:2: not a usable JSON object ({reason}")


@pytest.mark.parametrize(
    ("content", "place", "reason"),
    [
        ('[{"a": 1}, {"a" 2}]', 2, "Expecting ':' delimiter"),
        ('[{"a": 1}, {"a": 2', 2, "the file ends too early"),
        ('[{"a": 1}, {"a": "2', 2, "the file ends too early"),
        ('[{"a": 1}', 1, "the end of the file where ',' was expected"),
        ('[{"a": 1} {"a": 2}]', 1, "'{' where ',' was expected"),
        ('[{"a": 1},]', 2, "Expecting value"),
        ('[{"a": "x\ny"}]', 1, "Invalid control character at"),
        ("[" * 100_000, 1, "recursion"),
    ],
)
def test_a_broken_list_says_where(content: str, place: int, reason: str, tmp_path: Path) -> None:
    *good, bad = rows(tmp_path / "t.json", content)
    assert all(isinstance(row, dict) for row in good)
    assert str(bad).startswith(f"{tmp_path}/t.json:{place}: the list is broken here, and the rest of it not read (")
    assert reason in str(bad)


def test_text_after_the_list_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    assert "more text after the end" in str(rows(tmp_path / "a.json", '[{"a": 1}] x')[-1])
    *_, bad = rows(tmp_path / "b.json", b'[{"a": 1}, {"a": "' + b"x" * (1 << 18) + b'\xff"}]')
    assert str(bad).startswith(f"{tmp_path}/b.json:2: not UTF-8")


def test_memory_is_that_of_a_few_elements(tmp_path: Path) -> None:
    """One emoji makes a Python text four times as large: the whole file as text would be 34 MB, and json.load more."""
    element = json.dumps({"problem": "?" * 1000, "options": ["😀"] * 5, "path": "a.mp4"}, ensure_ascii=False)
    (tmp_path / "t.json").write_text("[" + ",\n".join([element] * 8_000) + "]")
    assert (tmp_path / "t.json").stat().st_size > 8e6
    tracemalloc.start()
    count = sum(isinstance(row, dict) for _, row in read_rows(DataSource(path=str(tmp_path / "t.json"))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 8_000
    assert peak < 8 << 20
