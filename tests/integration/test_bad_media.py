"""200 media files, 40 of them broken in 10 ways: training finishes, each broken one is named, no good one is lost."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from mmreason.demo.media import DemoFiles
from tests.integration.runs import config, metrics, train_here
from tests.media_files import broken_files, clip, picture, tone, write_audio, write_image, write_video

KINDS = {".mp4": "video", ".wav": "audio"}
SORTS = (
    "empty.png",
    "truncated.jpg",
    "corrupt.png",
    "huge.png",
    "web_page.jpg",
    "truncated.mp4",
    "one_frame.mp4",
    "zero_fps.mp4",
    "nan.wav",
    "truncated.wav",
)


def _row(path: Path, root: Path, **more: Any) -> dict[str, Any]:
    kind = KINDS.get(path.suffix, "image")
    content = [{"type": kind, kind: str(path.relative_to(root))}, {"type": "text", "text": "What is it?"}]
    return {"messages": [{"role": "user", "content": content}], "answer": "red", **more}


def _write_mixed_set(root: Path) -> dict[str, str]:
    """160 good files and 40 broken ones in train.jsonl; sample id -> expected reason of the broken ones."""
    templates = broken_files(root / "templates")
    expected: dict[str, str] = {}
    rows = []
    for copy in range(4):
        for template in (path for path in templates if path.name in SORTS):
            path = root / f"{template.stem}-{copy}{template.suffix}"
            shutil.copy(template, path)
            rows.append(_row(path, root, id=path.name, demos=["<answer>red</answer>"]))
            expected[path.name] = templates[template]
    for index in range(160):
        suffix = (".png", ".mp4", ".wav")[index % 3]
        path = root / f"good-{index}{suffix}"
        if suffix == ".png":
            write_image(path, picture(64, 48, seed=index))
        elif suffix == ".mp4":
            write_video(path, clip(4, 64, 48))
        else:
            write_audio(path, tone(0.2, hertz=200.0 + index))
        rows.append(_row(path, root, id=path.name, demos=["<answer>red</answer>"]))
    (root / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return expected


def test_forty_broken_files_of_two_hundred(tiny_omni: Path, tmp_path: Path) -> None:
    expected = _write_mixed_set(tmp_path)
    assert len(expected) == 40
    data = DemoFiles(sft=tmp_path / "train.jsonl", train=tmp_path / "train.jsonl", eval=tmp_path / "train.jsonl")
    # 10 steps of 16 prompts are one epoch of the 160 good files: the last step needs the last of them.
    values = config(
        tmp_path / "run",
        tiny_omni,
        data,
        "sft",
        train={"steps": 10, "prompts_per_step": 16, "save_every": 5},
    )
    train_here(values, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "run/quarantine.jsonl").read_text().splitlines()]
    assert Counter(line["id"] for line in lines) == Counter(expected.keys())
    assert {line["id"]: line["reason"] for line in lines} == expected
    assert len(metrics(tmp_path / "run")) == 10
    assert metrics(tmp_path / "run")[-1]["quarantined"] == 40
    position = json.loads((tmp_path / "run/checkpoints/step-00000010/rank-0.json").read_text())["feed"]
    assert position["epoch"] == 0, "every good file was used once, none twice"
