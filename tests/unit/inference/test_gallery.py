"""The gallery of `mmreason infer`: what it says of a row, what is in the file, and its page in a real browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mmreason.config import MediaConfig
from mmreason.errors import ConfigError, DataError
from mmreason.inference.gallery import LONGEST, SMALL, Written, item_of, make_gallery, write_gallery
from mmreason.inference.gallery_rows import media_of
from mmreason.inference.options import InferOptions
from tests.browser import CHROMIUM, Browser
from tests.gallery_page import choose_status, press, rows_without_media, seconds_to_filter, shown, type_words
from tests.media_files import clip, cut, tone, write_audio, write_image, write_video
from tests.unit.test_reporting import Page

HOSTILE = (
    "</script><script>window.ran = 1; alert(1)</script><!--<script>",
    "<img src=x onerror='window.ran = 2'><svg onload='window.ran = 3'>",
    "]]>&lt;b&gt;&amp;\u2028\u2029\x00\x1b[2J",
    "\u202egnp.exe \u2066\u200f",
    "half \ud800 of a pair",
    "'\"`${window.ran = 4}",
    "javascript:window.ran = 5",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
)
in_a_browser = pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")


def row(*parts: dict[str, Any], **values: Any) -> dict[str, Any]:
    content = [*parts, {"type": "text", "text": "What is shown?"}]
    text = "<think>Round, so a ball.</think><answer>a ball</answer>"
    base = {"id": "a.png", "status": "ok", "reason": None, "messages": [{"role": "user", "content": content}]}
    return {**base, "text": text, "thinking": "Round, so a ball.", "parsed": "a ball", **values}


def write(folder: Path, rows: Iterable[dict[str, Any]], **media: Any) -> Written:
    config = MediaConfig(**{"workers": 1, **media})
    pairs = ((one, media_of(one, folder)) for one in rows)
    return write_gallery(pairs, folder / "g.html", title="A folder", media=config)


def blocks(folder: Path, kind: str) -> list[Any]:
    """What the file's inert blocks hold."""
    html = (folder / "g.html").read_text(encoding="utf-8")
    found = re.findall(f'<script type="application/json" class="{kind}">(.*?)</script>', html)
    return [json.loads(one) for one in found]


# ---- what is said of a row


def test_an_answer_with_thinking_needs_no_whole_text() -> None:
    item = item_of(row(tokens=21, seconds=0.4))
    assert item["said"] == "a ball"
    assert item["thinking"] == "Round, so a ball."
    assert item["whole"] == ""
    assert item["prompt"] == "What is shown?"
    assert item["told"] == "21 tokens, 0.4 s"


def test_words_beside_the_answer_are_kept() -> None:
    for text in ("<think>Round.</think>I would say <answer>a ball</answer>", "So. <think>Round.</think>a ball"):
        assert item_of(row(text=text, thinking="Round."))["whole"] == text


def test_without_a_parsed_answer_the_text_is_the_answer() -> None:
    item = item_of(row(text="<think>Round.</think>It is a ball", thinking="Round.", parsed=None))
    assert item["said"] == "It is a ball"
    assert item["whole"] == ""
    other_tags = row(text="<why>Round.</why> <say>a ball</say>", thinking="Round.", parsed="a ball")
    assert item_of(other_tags)["whole"] == ""
    for text in ("Thinking without end", "Write <b>ball</b>."):
        item = item_of(row(text=text, parsed=None, thinking=None))
        assert (item["said"], item["whole"]) == (text, "")


def test_an_error_says_its_reason() -> None:
    item = item_of(row(status="error", reason="truncated", text=None, parsed=None, thinking=None))
    assert (item["status"], item["reason"], item["said"], item["whole"]) == ("error", "truncated", "", "")


def test_votes_scores_gold_and_answers_that_were_cut_off() -> None:
    answers = [{"parsed": "a ball"}, {"parsed": None, "text": "<think>no\nend"}]
    item = item_of(row(votes=1, score={"total": 0.5}, answer=[1, 2], truncated=True, answers=answers, tokens=7))
    assert item["told"] == "score 0.5, 1 votes, 7 tokens"
    assert item["gold"] == "[1, 2]"
    assert item["cut"] == "cut off"
    assert item["others"] == "a ball\n<think>no end"


@pytest.mark.parametrize("odd", [{}, {"messages": 3, "answers": "x", "score": "y", "tokens": "many", "seconds": 1e999}])
def test_a_row_of_another_shape_is_shown_as_far_as_it_goes(odd: dict[str, Any]) -> None:
    item = item_of(odd)
    assert item["status"] == "?"
    assert item["told"] == ""


def test_long_texts_are_cut_and_say_so() -> None:
    assert item_of(row(parsed="x" * (LONGEST + 5)))["said"].endswith("[5 more characters]")


# ---- the file


def test_one_script_may_run_and_nothing_is_fetched(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    write(tmp_path, [row({"type": "image", "image": "a.png"})])
    html = (tmp_path / "g.html").read_text(encoding="utf-8")
    page = Page(html)
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    script = html.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; img-src data:; script-src 'sha256-{digest}'; style-src 'sha256-")
    assert len([one for one in page.all("script") if one.get("type") != "application/json"]) == 1
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "src", "href")]
    assert "scripts are turned off" in page.text


def test_hostile_texts_are_ascii_without_a_tag(tmp_path: Path) -> None:
    for text in HOSTILE:
        part = {"type": "image", "image": text}
        write(tmp_path, [row(part, id=text, text=text, parsed=text, thinking=text, reason=text, status=text)])
        html = (tmp_path / "g.html").read_text(encoding="utf-8")
        inert = [line for line in html.splitlines() if line.startswith('<script type="application/json"')]
        assert len(inert) == 2
        for line in inert:
            assert line.isascii()
            assert line.count("<") == 2, "the block's own tags"
    (item,) = blocks(tmp_path, "item")
    assert item["said"] == HOSTILE[-1], "languages written from right to left are shown as they are"


def test_what_cannot_be_seen_is_spelled_out() -> None:
    assert item_of(row(id=HOSTILE[3]))["name"] == "\\u202egnp.exe \\u2066\\u200f"
    assert item_of(row(id=HOSTILE[4]))["name"] == "half \\ud800 of a pair"


def test_media_are_shown_and_those_that_cannot_be_are_named(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    write_video(tmp_path / "b.mp4", clip(16))
    write_audio(tmp_path / "c.wav", tone(1.0))
    cut(write_video(tmp_path / "d.mp4"), 0.5)
    named = [("image", "a.png"), ("video", "b.mp4"), ("audio", "c.wav"), ("video", "d.mp4"), ("image", "gone.png"),
             ("image", "../out.png"), ("image", "https://example.org/x.png"), ("smell", "x")]  # fmt: skip
    written = write(tmp_path, [row({"type": kind, kind: name}) for kind, name in named], workers=2)
    assert written == Written(page=tmp_path / "g.html", items=8, not_shown=5)
    assert re.fullmatch(r".*/g.html: 8 items, 5 media without a picture, 0.\d MB", str(written))
    image, video, audio, *rest = [Page(html) for html in blocks(tmp_path, "previews")]
    assert [len(page.all("img")) for page in (image, video, audio)] == [1, 4, 0]
    assert audio.all("svg")
    reasons = ("truncated", "missing", "outside the media root", "remote media", "smell")
    for page, reason in zip(rest, reasons, strict=True):
        assert "cannot be shown" in page.text
        assert reason in page.text


def test_rows_keep_their_order_and_items_beyond_the_first_are_counted(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    many = [{"type": "image", "image": "a.png"}] * (SMALL.items + 2)
    rows = [row(*many[: 1 + index % 3], id=str(index)) for index in range(23)] + [row(*many, id="23"), row(id="24")]
    assert write(tmp_path, rows, workers=2).items == 25
    assert [item["name"] for item in blocks(tmp_path, "item")] == [str(index) for index in range(25)]
    shown_items = [html.count("<img") for html in blocks(tmp_path, "previews")]
    assert shown_items == [1 + index % 3 for index in range(23)] + [SMALL.items, 0]
    assert "and 2 more" in blocks(tmp_path, "previews")[23]


def test_rows_are_written_as_they_are_read_and_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "g.html").write_text("the old one")
    waiting: list[int] = []

    def rows() -> Iterator[dict[str, Any]]:
        yield from rows_without_media(400)
        waiting.append(400 - (tmp_path / "g.html.partial").read_text().count('class="item"'))
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        write(tmp_path, rows())
    assert 0 < waiting[0] < 30, "some in work, some in the file's buffer"
    assert [file.name for file in tmp_path.iterdir()] == ["g.html"]
    assert (tmp_path / "g.html").read_text() == "the old one"


# ---- from a results file


def results(folder: Path, *names: str) -> Path:
    """Rows about pictures of these names."""
    rows = [row({"type": "image", "image": name}, id=name) for name in names]
    (folder / "r.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return folder / "r.jsonl"


def pack(folder: Path, archive: Path) -> Path:
    files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*.png"))
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for name in files:
                packed.write(folder / name, name)
    else:
        with tarfile.open(archive, "w:gz") as packed_tar:
            for name in files:
                packed_tar.add(folder / name, name)
    return archive


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz"])
def test_media_of_a_folder_or_an_archive(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "media"
    (root / "deep").mkdir(parents=True)
    write_image(root / "deep" / "a.png")
    write_image(root / "b.png")
    cut(write_image(root / "c.png"), 0.5)
    if kind != "folder":
        root = pack(root, tmp_path / f"packed.{kind}")
    rows = results(tmp_path, "c.png", "deep/a.png", "gone.png", "b.png")
    made = make_gallery(rows, root, tmp_path / "new" / "g.html", MediaConfig(workers=1))
    assert (made.items, made.not_shown) == (4, 2)
    names = [item["name"] for item in blocks(tmp_path / "new", "item")]
    shown_items = dict(zip(names, blocks(tmp_path / "new", "previews"), strict=True))
    assert list(shown_items)[-1] == ("b.png" if kind == "folder" else "gone.png")
    assert {name for name, html in shown_items.items() if "<img" in html} == {"deep/a.png", "b.png"}
    assert "<small>a.png</small>" in shown_items["deep/a.png"]
    assert "c.png: cannot be shown: truncated" in shown_items["c.png"]
    assert "gone.png: cannot be shown: missing" in shown_items["gone.png"]


def test_a_member_that_may_not_be_read_says_why(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.writestr("../x.png", b"x")
    make_gallery(results(tmp_path, "../x.png"), tmp_path / "m.zip", tmp_path / "g.html", MediaConfig(workers=1))
    assert "x.png: cannot be shown: its name leads out of the archive" in blocks(tmp_path, "previews")[0]


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    rows = results(tmp_path)
    with pytest.raises(DataError, match=r"--gallery .*r.jsonl/g.html: cannot be written \("):
        make_gallery(rows, tmp_path, rows / "g.html", MediaConfig())
    with pytest.raises(ConfigError, match=r"--gallery r\.jsonl: expected a name that ends in \.html"):
        InferOptions(source="x", model="m", out="r.jsonl", gallery="r.jsonl")
    with pytest.raises(ConfigError, match="--out '': expected the name of a file"):
        InferOptions(source="x", model="m", out="")
    options = InferOptions(source="x", model="m", out="r.jsonl", gallery="g.html")
    assert Path("g.html").absolute() in options.selection.skip


# ---- the page, in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a page of 140 items."""
    folder = tmp_path_factory.mktemp("colours")
    write(folder, rows_without_media(140))
    return (folder / "g.html").as_uri()


@in_a_browser
def test_the_first_page(browser: Browser, colours: str) -> None:
    page = browser.open(colours)
    assert not page.problems
    seen = shown(browser)
    assert seen["names"] == [f"photos/{index:05d}.jpg" for index in range(20)]
    assert (seen["count"], seen["page"], seen["pages"]) == ("140 of 140 items", 1, 7)
    assert "red" in seen["items"][0]
    assert "120 tokens, 0.25 s" in seen["items"][0]
    assert "truncated: the file ends early" in seen["items"][9]
    assert browser.evaluate("document.querySelector('#items details').open") is False, "thinking is folded"
    for width in (320, 600, 1160):
        assert browser.wider_than_the_window(width) == 0


@in_a_browser
def test_pages_turn_by_keys_buttons_and_number(browser: Browser, colours: str) -> None:
    browser.open(colours)
    press(browser, "ArrowRight")
    press(browser, "ArrowRight")
    assert shown(browser)["names"][0] == "photos/00040.jpg"
    press(browser, "ArrowLeft")
    assert shown(browser)["page"] == 2
    browser.evaluate("document.getElementById('previous').click()")
    assert shown(browser)["page"] == 1
    assert browser.evaluate("document.getElementById('previous').disabled") is True
    for _ in range(9):
        press(browser, "ArrowRight")
    assert (shown(browser)["page"], len(shown(browser)["names"])) == (7, 20), "the last page is the last"
    browser.evaluate("(() => { const at = document.getElementById('page'); at.value = 3;"
                     " at.dispatchEvent(new Event('change')) })()")  # fmt: skip
    assert shown(browser)["names"][0] == "photos/00040.jpg"


@in_a_browser
def test_filters_by_words_and_status(browser: Browser, colours: str) -> None:
    browser.open(colours)
    press(browser, "ArrowRight")
    type_words(browser, "PHOTOS")
    assert (shown(browser)["count"], shown(browser)["page"]) == ("140 of 140 items", 1), "back to the first page"
    type_words(browser, "  GREY ")
    seen = shown(browser)
    assert (seen["count"], seen["page"], seen["pages"]) == ("18 of 140 items", 1, 1)
    assert all("grey" in text for text in seen["items"])
    choose_status(browser, "error")
    assert shown(browser)["count"] == "0 of 140 items"
    type_words(browser, "")
    assert shown(browser)["count"] == "14 of 140 items"
    type_words(browser, "photos/00049")
    assert shown(browser)["names"] == ["photos/00049.jpg"]
    assert browser.evaluate("[...document.getElementById('status').options].map(one => one.text)") == [
        "any status", "ok (126)", "error (14)"]  # fmt: skip
    type_words(browser, "ends early")
    assert shown(browser)["count"] == "14 of 140 items", "reasons are searched, too"
    type_words(browser, ".*")
    assert shown(browser)["count"] == "0 of 140 items", "words, not patterns"


@in_a_browser
def test_the_keyboard_reaches_and_clears_the_filter(browser: Browser, colours: str) -> None:
    browser.open(colours)
    press(browser, "/")
    assert shown(browser)["focus"] == "words"
    type_words(browser, "red")
    press(browser, "ArrowRight")
    assert shown(browser)["page"] == 1, "arrows move in the words while they are typed"
    press(browser, "Escape")
    assert (shown(browser)["focus"], shown(browser)["count"]) == ("", "140 of 140 items")


@in_a_browser
def test_the_address_keeps_page_and_filter(browser: Browser, colours: str) -> None:
    browser.open(colours)
    choose_status(browser, "ok")
    type_words(browser, "photos/0")
    press(browser, "ArrowRight")
    browser.evaluate("new Promise(done => setTimeout(done, 400))")
    address, before = colours + shown(browser)["hash"], shown(browser)
    assert address.endswith("#words=photos%2F0&status=ok&page=2")
    browser.open("about:blank")
    browser.open(address)
    assert shown(browser) == before
    browser.open("about:blank")
    browser.open(colours + "#page=999&status=none&words=%E0%A4%A&x=1")
    assert shown(browser)["count"] == "0 of 140 items", "an address that was cut does no harm"
    browser.evaluate("new Promise(done => { addEventListener('hashchange', done); location.hash = 'page=7' })")
    assert shown(browser)["names"][0] == "photos/00120.jpg"


@in_a_browser
def test_accents_are_found_however_they_are_written(browser: Browser, tmp_path: Path) -> None:
    write(tmp_path, [row(id="cafe\u0301.png"), row(id="CAF\u00c9.png"), row(id="cafe.png")])
    browser.open((tmp_path / "g.html").as_uri())
    type_words(browser, "caf\u00e9")
    assert shown(browser)["count"] == "2 of 3 items"


@in_a_browser
def test_hostile_texts_are_shown_and_do_not_run(browser: Browser, tmp_path: Path) -> None:
    def hostile(text: str) -> dict[str, Any]:
        media = {"type": "image", "image": text}
        return row(
            media, {"type": text}, {"type": "text", "text": text}, id=text, status=text, reason=text, thinking=text,
            parsed=text, text=f"{text} <answer>{text}</answer>", answer=text, answers=[{"parsed": text}, {}],
        )  # fmt: skip

    write(tmp_path, [hostile(text) for text in HOSTILE])
    page = browser.open((tmp_path / "g.html").as_uri())
    assert not page.problems, "not even an attempt that the policy stopped"
    seen = shown(browser)
    assert browser.evaluate("window.ran === undefined")
    assert seen["count"] == f"{len(HOSTILE)} of {len(HOSTILE)} items"
    assert HOSTILE[0] in seen["names"]
    assert seen["items"][0].count("window.ran = 1; alert(1)") >= 9
    assert seen["pictures"] == 0
    for text in HOSTILE[:2]:
        type_words(browser, text)
        choose_status(browser, text)
        assert shown(browser)["count"] == f"1 of {len(HOSTILE)} items"
    assert browser.evaluate("window.ran === undefined")


@in_a_browser
def test_only_the_pictures_of_the_page_are_loaded(browser: Browser, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    write(tmp_path, [row({"type": "image", "image": "a.png"}, id=str(index)) for index in range(45)])
    page = browser.open((tmp_path / "g.html").as_uri())
    assert not page.problems, "all decode"
    assert shown(browser)["pictures"] == 20
    press(browser, "ArrowRight")
    press(browser, "ArrowRight")
    assert shown(browser)["pictures"] == 5


@in_a_browser
def test_no_rows_and_a_file_that_was_cut_short(browser: Browser, tmp_path: Path) -> None:
    write(tmp_path, [])
    assert not browser.open((tmp_path / "g.html").as_uri()).problems
    assert shown(browser)["count"] == "0 of 0 items"
    write(tmp_path, rows_without_media(5))
    cut(tmp_path / "g.html", 0.9)
    assert "the file was cut short" in browser.open((tmp_path / "g.html").as_uri()).text


@in_a_browser
@pytest.mark.slow
def test_five_thousand_items_open_and_filter_at_once(browser: Browser, tmp_path: Path) -> None:
    write(tmp_path, rows_without_media(5000))
    page = browser.open((tmp_path / "g.html").as_uri())
    assert page.groups == 20
    assert page.seconds < 6, "on a machine that is busy; benchmarks/gallery.py prints the measured time"
    assert seconds_to_filter(browser, "AMBER") < 3
    assert shown(browser)["count"] == "643 of 5000 items"
