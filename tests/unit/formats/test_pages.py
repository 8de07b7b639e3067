"""What docs/data.md and CONTRIBUTING.md say about formats is so."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

from mmreason.config import DataSource
from mmreason.data import load_samples
from mmreason.errors import DataError
from mmreason.formats import FORMATS, recognised
from mmreason.formats.video_r1 import TASKS
from mmreason.types import MediaRef

ROOT = Path(__file__).parents[3]
DATA = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").split("## Other formats")[1].split("\n## ")[0]


def test_every_format_has_a_line_and_a_row(tmp_path: Path) -> None:
    named = re.findall(r"^\| `(\w+)` \| (.*?) \|", DATA, re.MULTILINE)
    assert [name for name, _ in named] == ["adapter", *FORMATS]
    assert all(f"`{key}`" in how for name, how in named[1:] for key in FORMATS[name].keys)
    (block,) = re.findall(r"```jsonl\n(.*?)```", DATA, re.DOTALL)
    names = []
    for line in block.splitlines():
        (tmp_path / "t.jsonl").write_text(line)
        names.append(recognised([json.loads(line)], "docs/data.md"))
        (sample,) = load_samples(DataSource(path=str(tmp_path / "t.jsonl")))
        assert sample.media
        assert sample.answer is not None
    assert set(names) == set(FORMATS) - {"native"}


def test_tasks_of_video_r1_are_on_the_page() -> None:
    assert not [task for task in TASKS.values() if f"`{task}`" not in DATA]


def test_a_new_format_is_a_function_of_under_30_lines(tmp_path: Path) -> None:
    """CONTRIBUTING.md's example, as it stands there."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Add a data format")[1].split("\n## ")[0]
    (code,) = re.findall(r" *```python\n(.*?) *```", page, re.DOTALL)
    code = textwrap.dedent(code)
    assert len(code.splitlines()) < 30
    (tmp_path / "cards.py").write_text(code)
    rows = [
        {"q": "<image>Which bird?", "pics": ["a.png"], "choices": ["owl", "tit"], "right": 1, "level": 3},
        {"q": "Which bird?", "choices": ["owl", "tit"], "right": 2},
        {"q": "<image>Which bird?", "choices": ["owl", "tit"], "right": 0},
    ]
    (tmp_path / "cards.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = DataSource(path=str(tmp_path / "cards.jsonl"), adapter=f"{tmp_path}/cards.py:quiz_cards")
    good, wrong_index, no_picture = load_samples(source, on_error="collect")
    assert not isinstance(good, DataError)
    assert good.messages[0].content == (MediaRef(kind="image", path=str(tmp_path / "a.png")), "Which bird?")
    assert (good.task, good.answer, good.options, good.meta) == ("mcq", "B", ("owl", "tit"), {"level": 3})
    assert str(wrong_index).startswith(f"{source.path}:2: right: 2, expected the index of a choice, 0 to 1")
    assert str(no_picture).startswith(f"{source.path}:3: image: 0 given for 1 places")
