"""The report of a long run, in a real browser: it opens fast, stays small, breaks no rule of its own, and pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mmreason.reporting import write_report
from mmreason.reporting.gallery import FIRST, PER_PAGE
from tests.browser import CHROMIUM, Browser
from tests.long_run import SOURCES, write_long_run

STEPS, GROUPS, FILES = 5000, 500, 18
MOST_SECONDS = 6.0
"""Of a load, on a machine that is busy with other tests; benchmarks/report_load.py prints the measured time."""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = write_long_run(tmp_path_factory.mktemp("long"), steps=STEPS, groups=GROUPS, files=FILES)
    return write_report(run_dir, title="A long run")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def test_the_first_page_is_small_fast_and_whole(report: Path, browser: Browser) -> None:
    page = browser.open(report.as_uri())
    assert page.bytes < 10_000_000
    assert page.bytes >= report.stat().st_size, "all of it was counted"
    assert page.seconds < MOST_SECONDS
    assert not page.problems
    assert page.groups == FIRST
    assert f"{FIRST} of {GROUPS}" in page.text
    assert f"{SOURCES - 7} more" in page.text, "sources that are not drawn are named"
    for width in (320, 600, 1160):
        assert browser.wider_than_the_window(width) == 0


def test_every_group_is_on_one_further_page(report: Path, browser: Browser) -> None:
    links = dict.fromkeys(browser.open(report.as_uri()).links)
    pages = [browser.open(link) for link in links]
    assert len(pages) == GROUPS // PER_PAGE
    assert sum(page.groups for page in pages) == GROUPS
    assert not [problem for page in pages for problem in page.problems]
    assert max(page.bytes for page in pages) < 3_000_000
    assert max(page.seconds for page in pages) < MOST_SECONDS
    ids = [line.split("sample-")[1].split("mean")[0] for page in pages for line in page.text.split("step ")[1:]
           if "sample-" in line]  # fmt: skip
    assert len(set(ids)) == GROUPS
    for page in pages[1:-1]:
        assert {Path(link).name for link in page.links} >= {"report.html"}
        assert len(set(page.links)) == 3, "report, newer, older"
    assert browser.open(pages[3].links[0]).title == "A long run"


def test_the_browser_would_notice(browser: Browser, tmp_path: Path) -> None:
    policy = "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; img-src data:\">"
    (tmp_path / "bad.html").write_text(
        f"<!doctype html><head>{policy}</head><p onclick='x()' style='color: red'>a</p><script>alert(1)</script>"
        "<img src='data:image/png;base64,AAAA'><img src='https://example.org/x.png'>"
    )
    problems = "\n".join(browser.open((tmp_path / "bad.html").as_uri()).problems)
    assert problems.count("Content Security Policy") >= 3
    assert "pictures do not decode" in problems
