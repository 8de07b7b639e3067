"""report.html: says what the logs say, opens from anywhere, runs nothing."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mmreason.reporting import write_report
from mmreason.reporting.gallery import FIRST, LONGEST, PAGE_BYTES, PER_PAGE, cards_of, choose
from mmreason.reporting.health import health
from mmreason.reporting.logs import Metrics
from tests.browser import CHROMIUM, Browser

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
    assert "reward now0.5 from 0.5" in report(tmp_path, metrics=[train_row(1, reward__mean=0.5)]).text


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
        media=[{"kind": "image", "name": ATTACK, "problem": ATTACK}], options=[ATTACK], more_media=ATTACK,
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


@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")
def test_a_browser_shows_the_page_and_runs_nothing_of_it(tmp_path: Path) -> None:
    attack = "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">"
    rollout = {"text": attack, "total": 0.0, "parts": {"accuracy": 0.0}, "finish_reason": "stop"}
    metrics = [train_row(step, reward__mean=step / 10) for step in range(1, 6)]
    report(tmp_path, title="Calm", metrics=metrics, gallery=[group(rollouts=[rollout], prompt=attack)])
    with Browser(tmp_path) as browser:
        shown = browser.open((tmp_path / "report.html").as_uri())
    assert shown.title == "Calm"
    assert shown.text.count("document.title = 'run'") == 4
    assert not shown.problems, "not even an attempt that the policy stopped"


def metrics_of(*rows: dict[str, Any]) -> Metrics:
    metrics = Metrics()
    for row in rows:
        metrics.add(row)
    return metrics


def verdicts(*rows: dict[str, Any], quarantined: int = 0) -> dict[str, tuple[str, str]]:
    """Name -> (verdict, value) of every check."""
    checks = health(metrics_of(*rows), [{"reason": "truncated"}, {"reason": "corrupt"}] * (quarantined // 2), 0)
    return {check.name: (check.verdict, check.value) for check in checks}


def test_health_is_on_the_page_with_the_rule_of_each_verdict(tmp_path: Path) -> None:
    rows = [train_row(step, truncated=0.25, reward__errors=0.001, samples_seen=600) for step in range(1, 1001)]
    rows[3]["grad_norm"] = float("nan")
    rows[4]["skipped"] = 1.0
    text = report(tmp_path, metrics=rows, quarantine=[{"reason": "truncated"}, {"reason": "corrupt"}] * 3).text
    assert "Health ✕ something is wrong" in text
    assert "! lookNaN or skipped steps2, last at 5look: any; bad: over 1 % of the steps" in text
    assert "! lookquarantined1 % (6 of 600 samples)3 truncated, 3 corrupt. look: any" in text
    assert "! lookreward errors0.1 %" in text
    assert "✕ badanswers cut off25.0 %" in text


def test_a_healthy_run_has_nothing_to_look_at(tmp_path: Path) -> None:
    rows = [train_row(step, truncated=0.0, reward__errors=0.0, groups__signal=0.6) for step in range(1, 9)]
    page = report(tmp_path, metrics=rows)
    assert "nothing to worry about" in page.text
    assert not [one for one in page.all("span") if one.get("class") in ("pill bad", "pill look")]


def test_nan_is_bad_when_it_is_much_or_now() -> None:
    rows = [train_row(step) for step in range(1, 1001)]
    assert verdicts(*rows)["NaN or skipped steps"] == ("good", "0")
    rows[500]["loss"] = float("nan")
    assert verdicts(*rows)["NaN or skipped steps"] == ("look", "1, last at 501")
    rows[998]["reward/mean"] = None
    assert verdicts(*rows)["NaN or skipped steps"] == ("bad", "2, last at 999")


@pytest.mark.parametrize(("bad", "seen", "verdict"), [(0, 10, "good"), (2, 100, "look"), (20, 100, "bad")])
def test_quarantine_is_judged_by_its_share(bad: int, seen: int, verdict: str) -> None:
    found = verdicts(train_row(1, samples_seen=seen), quarantined=bad)["quarantined"]
    assert found == (verdict, f"{100 * bad / seen:.2g} % ({bad} of {seen} samples)")


def test_quarantine_of_a_log_that_does_not_say_how_many_were_tried() -> None:
    assert verdicts(train_row(1), quarantined=4)["quarantined"] == ("look", "4")


@pytest.mark.parametrize(
    ("signal", "right", "wrong", "verdict"),
    [(0.5, 0.3, 0.2, "good"), (0.1, 0.9, 0.0, "look"), (0.01, 0.99, 0.0, "look"), (0.1, 0.0, 0.9, "look"),
     (0.01, 0.0, 0.99, "bad")],
)  # fmt: skip
def test_groups_without_a_signal(signal: float, right: float, wrong: float, verdict: str) -> None:
    row = train_row(1, groups__signal=signal, groups__all_right=right, groups__all_wrong=wrong)
    value = f"{100 * signal:.1f} % with a signal · {100 * right:.1f} % all right · {100 * wrong:.1f} % all wrong"
    assert verdicts(row)["groups of answers"] == (verdict, value)


def test_checkpoints_that_were_not_saved() -> None:
    failed = {"step": 5, "kind": "event", "time": 1.0, "event": "checkpoint not saved", "reason": "disk full"}
    assert "checkpoints" not in verdicts(train_row(5))
    assert verdicts(train_row(5), failed)["checkpoints"] == ("bad", "1 not saved, last at step 5")
    assert verdicts(train_row(5), failed, train_row(6))["checkpoints"][0] == "look"


def test_a_line_cut_in_two_is_counted(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps(train_row(1)) + '\n{"step": 2, "ki\n[1]\n')
    assert "unreadable log lines2" in report(tmp_path).text


@pytest.mark.parametrize("last", [b'{"step": 2, "ki', b'{"step": 2, "event": "\xc3'])
def test_a_last_line_that_is_being_written_is_passed_over(tmp_path: Path, last: bytes) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(json.dumps(train_row(1)).encode() + b"\n" + last)
    text = report(tmp_path).text
    assert "steps1 " in text
    assert "unreadable" not in text


def test_lines_end_at_newlines_only(tmp_path: Path) -> None:
    """As training writes them: not as ASCII, so that all of Unicode stands in the file."""
    odd = "one\u2028two\x85three\x0bfour"
    rows = {"metrics": {"step": 1, "kind": "event", "time": 1.0, "event": odd}, "gallery": group(prompt=odd)}
    for name, row in rows.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    text = report(tmp_path).text
    assert text.count(odd.replace("\x0b", "\\u000b")) == 2
    assert "unreadable" not in text


def test_rows_without_a_usable_step_are_counted(tmp_path: Path) -> None:
    rows = [train_row(1), {"kind": "train", "loss": 1.0}, {**train_row(1), "step": 10**400}]
    assert "unreadable log lines2" in report(tmp_path, metrics=rows).text


def test_half_surrogate_pairs_are_shown_escaped(tmp_path: Path) -> None:
    half = "\ud800"
    media = [{"kind": "image", "name": f"{half}.png"}, {"kind": "image", "name": "\udc80.png", "problem": "missing"}]
    rollout = {"text": half, "total": 1.0, "parts": {half: 1.0}, "finish_reason": "stop"}
    text = report(tmp_path, gallery=[group(prompt=half, id=half, answer=half, rollouts=[rollout], media=media)]).text
    assert text.count("\\ud800") >= 5
    assert "\\udc80.png: cannot be shown: missing" in text


def test_accuracy_table_says_first_and_last(tmp_path: Path) -> None:
    rows = [eval_row(0, mean=0.5, image=0.4), eval_row(50, mean=0.6, image=0.6), eval_row(99, mean=0.9, image=0.95)]
    text = report(tmp_path, metrics=rows).text
    assert "step 0step 99change" in text
    assert "image40.0 [35-45]95.0 [90-100]+55.0" in text


def test_answers_stand_best_first_with_their_scores(tmp_path: Path) -> None:
    rollouts = [
        {"text": "worst", "total": 0.0, "parts": {"accuracy": 0.0}, "finish_reason": "length"},
        {"text": "unscored", "total": None, "parts": {}, "finish_reason": "stop"},
        {"text": "best", "total": 1.1, "parts": {"accuracy": 1.0, "format": 0.1}, "finish_reason": "stop"},
    ]
    text = report(tmp_path, gallery=[group(rollouts=rollouts)]).text
    assert re.search(r"1\.1best\s*accuracy 1format 0\.1.*0worst\s*accuracy 0cut off.*no scoreunscored", text)


def test_what_went_wrong_with_an_answer_or_a_group_is_said(tmp_path: Path) -> None:
    rollout = {"text": "a", "total": None, "error": "it raised", "tokens": 7}
    text = report(tmp_path, gallery=[group(rollouts=[rollout], trained=False)]).text
    assert "7 tokensreward error: it raised" in text
    assert "left out: no signal" in text


def test_many_answers_unfold(tmp_path: Path) -> None:
    rollouts = [{"text": f"answer {index}", "total": float(index), "parts": {}} for index in range(16)]
    page = report(tmp_path, gallery=[group(rollouts=rollouts)])
    assert "8 more answers" in page.text
    assert page.text.count("answer 1") >= 1
    assert "mean 7.5" in page.text


def test_every_source_is_among_the_groups_shown() -> None:
    groups = [{"source": "rare", "step": 0}, *({"source": "often", "step": step} for step in range(1, 30))]
    shown = [card.group for card in choose(cards_of(groups))]
    assert len(shown) == FIRST
    assert {one["source"] for one in shown} == {"rare", "often"}
    assert shown[0]["step"] == 29


def test_of_a_source_a_group_whose_answers_differ_comes_first() -> None:
    groups = [{"source": "a", "step": step, "trained": step < 5} for step in range(10)]
    assert [card.group["step"] for card in choose(cards_of(groups))][:3] == [4, 9, 8]


def test_all_groups_are_on_the_pages_once_oldest_page_first(tmp_path: Path) -> None:
    many = [group(id=f"q{step}-", step=step) for step in range(1, 2 * PER_PAGE + 6)]
    page = report(tmp_path, gallery=many)
    links = [str(one["href"]) for one in page.all("a")]
    assert links[:3] == [f"report/groups-000{number}.html" for number in (3, 2, 1)]
    pages = [Page((tmp_path / link).read_text(encoding="utf-8")) for link in links[:3]]
    assert [one.text.count("step ") for one in pages] == [5, PER_PAGE, PER_PAGE]
    text = "".join(one.text for one in pages)
    assert [text.count(f"q{step}-") for step in range(1, 2 * PER_PAGE + 6)] == [1] * len(many)
    for one in pages:
        assert {str(a["href"]) for a in one.all("a")} <= {"../report.html", *(link.split("/")[1] for link in links)}
    assert f"steps {2 * PER_PAGE + 1} to {2 * PER_PAGE + 5}" in page.text


def test_a_full_page_stays_as_it_is_when_the_run_goes_on(tmp_path: Path) -> None:
    many = [group(id=f"q{step}", step=step) for step in range(1, 4 * PER_PAGE)]
    report(tmp_path, gallery=many[: 2 * PER_PAGE])
    first = Page((tmp_path / "report/groups-0001.html").read_text(encoding="utf-8")).text
    report(tmp_path, gallery=many)
    again = Page((tmp_path / "report/groups-0001.html").read_text(encoding="utf-8")).text
    assert again.split("Report")[1:] == first.split("Report")[1:]


def test_pages_of_a_gallery_that_was_cut_back_are_taken_away(tmp_path: Path) -> None:
    report(tmp_path, gallery=[group(step=step) for step in range(3 * PER_PAGE)])
    assert len(list((tmp_path / "report").iterdir())) == 3
    report(tmp_path, gallery=[group(step=step) for step in range(PER_PAGE + 1)])
    assert [path.name for path in sorted((tmp_path / "report").iterdir())] == ["groups-0001.html", "groups-0002.html"]
    assert not report(tmp_path, gallery=[group()]).all("a")
    assert not list((tmp_path / "report").iterdir())


def test_pages_are_bounded_in_bytes(tmp_path: Path) -> None:
    rollouts = [{"text": "long " * 10_000, "total": 1.0, "parts": {"accuracy": 1.0}, "finish_reason": "length"}] * 64
    report(tmp_path, gallery=[group(step=step, rollouts=rollouts) for step in range(12)])
    for path in [tmp_path / "report.html", *(tmp_path / "report").iterdir()]:
        assert path.stat().st_size < PAGE_BYTES + 300_000


def test_an_answer_of_a_megabyte_is_cut_and_says_so(tmp_path: Path) -> None:
    rollout = {"text": "x" * 1_000_000, "total": 0.0, "parts": {}, "finish_reason": "length"}
    page = report(tmp_path, gallery=[group(rollouts=[rollout], prompt="y" * 1_000_000)])
    assert page.text.count(f"[{1_000_000 - LONGEST} more characters]") == 2
    assert (tmp_path / "report.html").stat().st_size < 100_000


def test_characters_that_hide_or_turn_text_are_shown_escaped(tmp_path: Path) -> None:
    tricky = "a\x00b\u202ec\u2066d\u200be\x1bf"
    kept = "one\ttwo\nthree \u0645\u06cc\u200c\u062e \U0001f469\u200d\U0001f680"
    rollout = {"text": tricky + kept, "total": 1.0, "parts": {tricky: 1.0}, "finish_reason": "stop"}
    text = report(tmp_path, title=tricky, gallery=[group(rollouts=[rollout], prompt=tricky, source=tricky)]).text
    assert text.count("a\\u0000b\\u202ec\\u2066d\\u200be\\u001bf") >= 4
    assert kept in text
    assert not re.search("[\x00\u202e\u2066\u200b\x1b]", text)


@pytest.mark.parametrize("rollouts", [None, "x", [None, "x", 3], [{}], {"text": "x"}, [{"parts": [1], "total": "x"}]])
def test_groups_of_another_shape_make_a_page(tmp_path: Path, rollouts: Any) -> None:
    odd = group(rollouts=rollouts, options="x", media=7, step="x", prompt=["a"], answer={"b": [1]}, source=3, id=None)
    assert "step ?" in report(tmp_path, gallery=[odd]).text


def test_a_report_that_cannot_be_written_leaves_the_old_one(small_disk: Callable[[str], Path]) -> None:
    folder = small_disk("1m")
    report(folder, gallery=[group(step=1)])
    old = (folder / "report.html").read_bytes()
    rest = folder / "rest"
    with contextlib.suppress(OSError), rest.open("wb") as file:
        while True:
            file.write(b"x" * 4096)
            file.flush()
    with pytest.raises(OSError, match="No space left"):
        write_report(folder, title="Run" * 5000)
    assert (folder / "report.html").read_bytes() == old
    assert not list(folder.glob("*.partial"))


def test_fifty_sources_make_seven_lines_and_a_list(tmp_path: Path) -> None:
    names = {f"reward__source__s{index:02d}": index / 50 for index in range(50)}
    page = report(tmp_path, metrics=[train_row(step, **names) for step in range(1, 20)])
    assert "43 more" in page.text
    assert all(f"s{index:02d}" in page.text for index in range(50))


def test_every_metric_that_is_asked_for_has_a_curve(tmp_path: Path) -> None:
    names = (
        "reward__mean reward__accuracy reward__source__a reward__modality__image entropy kl kl_old clip_fraction "
        "clip_fraction__low clip_fraction__high ratio length__mean truncated grad_norm learning_rate time__rollout "
        "time__update tokens_per_second quarantined groups__signal groups__all_right groups__all_wrong reward__errors"
    )
    rows = [train_row(step, **{name: step / 10 for name in names.split()}) for step in range(1, 10)]
    titles = [str(one["aria-label"]) for one in report(tmp_path, metrics=rows).all("svg")]
    assert titles == [
        "Reward: mean, accuracy", "Reward by modality: image", "Reward by source: a",
        "Groups: signal, all right, all wrong", "Length: mean", "Cut off: truncated", "Reward errors: errors",
        "Entropy: entropy", "Gradient norm: grad norm", "KL: kl, kl old", "Clipped: clip fraction, high, low",
        "Ratio to the sampling policy: ratio", "Learning rate: learning rate",
        "Time of a step, by stage: rollout, update", "Speed: tokens per second", "Quarantined: quarantined",
    ]  # fmt: skip


def test_a_report_of_absurd_values(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    for step in range(20):
        values = {"loss": (-1) ** step * 1e308, "reward/mean": 5e-324 * (step % 2), "grad_norm": 10**400}
        rows.append({**train_row(step), **values, "tokens_per_second": 1e308})
        rows.append(eval_row(step, mean=1e308) | {"accuracy/image": None, "accuracy/mean/low": "x"})
    page = report(
        tmp_path, metrics=rows, gallery=[group(rollouts=[{"text": "a", "total": 10**400, "parts": {"a": None}}])]
    )
    assert "not drawn: 20 values that are no usable numbers" in page.text  # gradient norms
    assert "NaN or skipped steps20, last at 19" in page.text
