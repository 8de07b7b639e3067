"""report.html: says what the logs say, opens from anywhere, runs nothing."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmreason.demo.media import write_demo_data
from mmreason.reporting import write_report
from mmreason.reporting.charts import Series, line_chart, number
from mmreason.reporting.gallery import SHOWN, choose

ATTACK = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>"
VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on tags that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def report(folder: Path, title: str = "Run", **logs: list[dict[str, Any]]) -> Page:
    for name, rows in logs.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Page(write_report(folder, title=title).read_text(encoding="utf-8"))


def train_row(step: int, **values: float) -> dict[str, Any]:
    named = {name.replace("__", "/"): value for name, value in values.items()}
    return {"step": step, "kind": "train", "time": 100.0 + step, "loss": 0.1, "grad_norm": 1.0, **named}


def eval_row(step: int, **shares: float) -> dict[str, Any]:
    row: dict[str, Any] = {"step": step, "kind": "eval", "time": 100.0 + step}
    for name, share in shares.items():
        row |= {f"accuracy/{name}": share, f"accuracy/{name}/low": share - 0.05, f"accuracy/{name}/high": share + 0.05}
    return row


def group(**values: Any) -> dict[str, Any]:
    rollout = {"text": "<answer>red</answer>", "total": 1.1, "parts": {"accuracy": 1.0}, "finish_reason": "stop"}
    base = {"step": 5, "id": "q1", "source": "colour", "modality": "text", "prompt": "What colour?", "media": []}
    return {**base, "answer": "red", "rollouts": [rollout], **values}


def test_empty_run(tmp_path: Path) -> None:
    page = report(tmp_path)
    assert "nothing logged yet" in page.text
    assert "no evaluation yet" in page.text


def test_one_step(tmp_path: Path) -> None:
    assert "steps1" in report(tmp_path, metrics=[train_row(1, reward__mean=0.5)]).text


def test_nothing_can_run_and_nothing_is_fetched(tmp_path: Path) -> None:
    page = report(tmp_path, metrics=[train_row(1, reward__mean=0.5)], gallery=[group()])
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    style = (tmp_path / "report.html").read_text().split("<style>")[1].split("</style>")[0]
    assert base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() in policy
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for link in ("src", "href"):
            assert (attributes.get(link) or "data:").startswith("data:")
    assert not page.all("script") + page.all("link")
    assert "@import" not in style
    assert "url(" not in style


def test_hostile_texts_are_shown_as_text(tmp_path: Path) -> None:
    rollout = {"text": ATTACK, "total": 0.0, "parts": {ATTACK: 0.0}, "finish_reason": "length"}
    hostile = group(
        prompt=ATTACK, answer=ATTACK, id=ATTACK, source=ATTACK, modality=ATTACK, rollouts=[rollout],
        media=[{"kind": "image", "path": f"/none/{ATTACK}"}],
    )  # fmt: skip
    page = report(
        tmp_path,
        title=ATTACK,
        metrics=[
            train_row(1, **{f"reward/source/{ATTACK}": 1.0, f"reward/{ATTACK}": 1.0, f"time/{ATTACK}": 1.0}),
            eval_row(1, **{ATTACK: 0.5, "mean": 0.5}),
            {"step": 1, "kind": "event", "time": 1.0, "event": ATTACK},
        ],
        gallery=[hostile],
        quarantine=[{"id": "a", "reason": ATTACK}],
    )
    assert not page.all("script")
    assert not [one for one in page.all("img") if one.get("src") == "x"]
    assert page.text.count("alert(1)") >= 8  # shown, not swallowed


@pytest.mark.skipif(not shutil.which("chromium"), reason="Chromium is not installed")
def test_a_browser_shows_the_page_and_runs_nothing_of_it(tmp_path: Path) -> None:
    attack = "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">"
    rollout = {"text": attack, "total": 0.0, "parts": {"accuracy": 0.0}, "finish_reason": "stop"}
    metrics = [train_row(step, reward__mean=step / 10) for step in range(1, 6)]
    report(tmp_path, title="Calm", metrics=metrics, gallery=[group(rollouts=[rollout])])
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    folder = f"--user-data-dir={tmp_path / 'profile'}"
    command = ["chromium", *flags, folder, "--virtual-time-budget=2000", "--dump-dom", f"{tmp_path}/report.html"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    page = Page(shown.replace("<!DOCTYPE html>", "").strip())
    assert "<title>Calm</title>" in shown
    assert "document.title = 'run'" in page.text
    assert not page.all("script")
    assert page.all("path"), "curves"


def test_health_counts_what_went_wrong(tmp_path: Path) -> None:
    rows = [train_row(step, truncated=0.25, reward__errors=0.01) for step in range(1, 11)]
    rows[3]["grad_norm"] = float("nan")
    rows[4]["skipped"] = 1.0
    page = report(tmp_path, metrics=rows, quarantine=[{"reason": "truncated"}, {"reason": "corrupt"}] * 3)
    assert "steps with NaN1" in page.text
    assert "steps skipped1" in page.text
    assert "samples quarantined6 (3 truncated, 3 corrupt)" in page.text
    assert "reward errors1.0 %" in page.text
    assert "answers truncated25.0 %" in page.text


def test_a_healthy_run_marks_nothing(tmp_path: Path) -> None:
    page = report(tmp_path, metrics=[train_row(step, truncated=0.0, reward__errors=0.0) for step in range(1, 9)])
    assert not [one for one in page.all("div") if one.get("class") == "bad"]


def test_a_line_cut_in_two_is_counted(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps(train_row(1)) + '\n{"step": 2, "ki\n[1]\n')
    assert "unreadable log lines2" in report(tmp_path).text


@pytest.mark.parametrize("last", [b'{"step": 2, "ki', b'{"step": 2, "event": "\xc3'])
def test_a_last_line_that_is_being_written_is_passed_over(tmp_path: Path, last: bytes) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(json.dumps(train_row(1)).encode() + b"\n" + last)
    text = report(tmp_path).text
    assert "steps1" in text
    assert "unreadable" not in text


def test_lines_end_at_newlines_only(tmp_path: Path) -> None:
    """As training writes them: not as ASCII, so that all of Unicode stands in the file."""
    odd = "one\u2028two\x85three\x0bfour"
    rows = {"metrics": {"step": 1, "kind": "event", "time": 1.0, "event": odd}, "gallery": group(prompt=odd)}
    for name, row in rows.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    text = report(tmp_path).text
    assert text.count(odd) == 2
    assert "unreadable" not in text


def test_rows_without_a_usable_step_are_counted(tmp_path: Path) -> None:
    rows = [train_row(1), {"kind": "train", "loss": 1.0}, {**train_row(1), "step": 10**400}]
    assert "unreadable log lines2" in report(tmp_path, metrics=rows).text


def test_half_surrogate_pairs_are_shown_escaped(tmp_path: Path) -> None:
    half = "\ud800"
    media = [{"kind": "image", "path": f"/none/{half}.png"}, {"kind": "image", "path": "/none/\udc80.png"}]
    rollout = {"text": half, "total": 1.0, "parts": {half: 1.0}, "finish_reason": "stop"}
    text = report(tmp_path, gallery=[group(prompt=half, id=half, answer=half, rollouts=[rollout], media=media)]).text
    assert text.count("\\ud800") >= 5
    assert "\\udc80.png: cannot be shown: missing" in text


def test_accuracy_table_says_first_and_last(tmp_path: Path) -> None:
    rows = [eval_row(0, mean=0.5, image=0.4), eval_row(50, mean=0.6, image=0.6), eval_row(99, mean=0.9, image=0.95)]
    text = report(tmp_path, metrics=rows).text
    assert "step 0step 99change" in text
    assert "image40.0 [35-45]95.0 [90-100]+55.0" in text


def test_media_are_embedded(tmp_path: Path) -> None:
    data = write_demo_data(tmp_path / "data", seed=0, train=0, eval=20, sft=0, choices=0)
    groups = []
    for line in data.eval.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        content = row["messages"][0]["content"]
        media = [
            {"kind": part["type"], "path": str(tmp_path / "data" / part[part["type"]])}
            for part in content
            if part["type"] != "text"
        ]
        groups.append(group(source=row["source"], media=media))
    page = report(tmp_path, gallery=groups)
    pictures = [str(one["src"]) for one in page.all("img")]
    assert len(pictures) >= 1 + 4  # a picture and the frames of a clip
    for source in pictures:
        with Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) as image:
            assert np.asarray(image.convert("RGB")).max() > 120  # the square is there
    assert [one for one in page.all("svg") if one.get("aria-label") == "waveform"]


def test_media_that_cannot_be_shown_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    (tmp_path / "empty.wav").write_bytes(b"")
    media = [
        {"kind": "image", "path": str(tmp_path / "gone.png")},
        {"kind": "video", "path": str(tmp_path / "broken.mp4")},
        {"kind": "audio", "path": str(tmp_path / "empty.wav")},
        {"kind": "image", "path": None},
    ]
    text = report(tmp_path, gallery=[group(media=media)]).text
    assert "gone.png: cannot be shown: missing" in text
    assert "broken.mp4: cannot be shown" in text
    assert "empty.wav: cannot be shown: empty" in text
    assert "image: stored inside the data file" in text


def test_answers_stand_best_first_with_their_scores(tmp_path: Path) -> None:
    rollouts = [
        {"text": "worst", "total": 0.0, "parts": {"accuracy": 0.0}, "finish_reason": "length"},
        {"text": "unscored", "total": None, "parts": {}, "finish_reason": "stop"},
        {"text": "best", "total": 1.1, "parts": {"accuracy": 1.0, "format": 0.1}, "finish_reason": "stop"},
    ]
    text = report(tmp_path, gallery=[group(rollouts=rollouts)]).text
    assert re.search(r"1\.1best.*accuracy 1, format 0\.1.*0worst.*cut off.*no scoreunscored", text)


def test_every_source_is_among_the_groups_shown() -> None:
    groups = [{"source": "rare", "step": 0}, *({"source": "often", "step": step} for step in range(1, 30))]
    shown = choose(groups)
    assert len(shown) == SHOWN
    assert {one["source"] for one in shown} == {"rare", "often"}
    assert shown[0]["step"] == 29


def test_chart_draws_every_value_where_it_belongs() -> None:
    svg = line_chart("Accuracy", [Series(name="a", points=((0, 0.0), (10, 1.0)), marked=True)], bounds=(0.0, 1.0))
    dots = re.findall(r"<circle[^>]*cx='([\d.]+)' cy='([\d.]+)'", svg)
    (x0, y0), (x1, y1) = [(float(x), float(y)) for x, y in dots]
    assert x0 < x1
    assert y0 > y1


@pytest.mark.parametrize("values", [[float("nan")] * 3, [1.0], [2.0] * 20, [float("inf"), 1.0, -1.0] * 9])
def test_chart_takes_any_values(values: list[float]) -> None:
    svg = line_chart("x", [Series(name="a", points=tuple((float(i), value) for i, value in enumerate(values)))])
    Page(svg)
    assert "nan" not in re.sub(r"nothing logged yet", "", svg)


@pytest.mark.parametrize(
    ("values", "left_out"),
    [([1e308, -1e308] * 10, 20), ([0.0, 5e-324] * 10, 0), ([5e-324], 0), ([1.0, 1e200, 2.0], 1), ([1e99, -1e99], 0),
     ([1e-310, -1e-310], 0), ([float("inf"), 1.0], 1)],
)  # fmt: skip
def test_chart_takes_values_from_end_to_end(values: list[float], left_out: int) -> None:
    points = tuple((float(step), value) for step, value in enumerate(values))
    svg = line_chart("x", [Series(name="a", points=points)])
    Page(svg)
    assert not re.search(r"\b(?:nan|inf)\b", svg)
    assert (f"not drawn: {left_out} values" in svg) == (left_out > 0)


def test_steps_without_end_make_a_chart_too() -> None:
    for steps in [(1e16, 1e16 + 2), (0.0, 1e99), (1e308, 1.0), (-1e308, 1e308)]:
        Page(line_chart("x", [Series(name="a", points=tuple((step, 1.0) for step in steps))]))


def test_a_report_of_absurd_values(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    for step in range(20):
        values = {"loss": (-1) ** step * 1e308, "reward/mean": 5e-324 * (step % 2), "grad_norm": 10**400}
        rows.append({**train_row(step), **values, "tokens_per_second": 1e308})
        rows.append(eval_row(step, mean=1e308) | {"accuracy/image": None, "accuracy/mean/low": "x"})
    page = report(
        tmp_path, metrics=rows, gallery=[group(rollouts=[{"text": "a", "total": 10**400, "parts": {"a": None}}])]
    )
    assert "not drawn: 20 values that are no usable numbers" in page.text
    assert "steps with NaN20" in page.text


def test_long_runs_give_small_charts() -> None:
    points = tuple((float(step), float(step % 7)) for step in range(100_000))
    assert len(line_chart("x", [Series(name="a", points=points)])) < 30_000


@pytest.mark.parametrize(
    ("value", "text"), [(0.875, "0.875"), (12.34, "12.3"), (1234.5, "1,234"), (0.00003, "3.0e-05"), (0.0, "0")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text
