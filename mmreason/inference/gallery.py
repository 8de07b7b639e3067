"""The answers of `mmreason infer` beside small pictures of their media, in one HTML file that opens anywhere.

    row -> what is shown of it, as JSON     texts, status, numbers
        -> its media's previews, as HTML    decoded from the files, in a few processes, in the order of the rows
    both -> the file, at once               so that memory holds a few rows, however many there are

The page shows 20 items at a time and filters them by words and status: a small script does that, the only one that the
file's Content-Security-Policy lets run. Nothing is fetched. What comes from data or a model is inert JSON in the file
and is set as text by the script; a medium that cannot be shown is named with its reason.
"""

from __future__ import annotations

import json
import math
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from errno import EISDIR
from functools import cache
from importlib.resources import files
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryFile
from typing import Any, TypeVar

from mmreason.config import MediaConfig
from mmreason.errors import DataError
from mmreason.inference.gallery_rows import Medium, objects, parts_of, rows_with_media
from mmreason.inference.rows import Row
from mmreason.reporting.charts import number
from mmreason.reporting.figures import media_figures
from mmreason.reporting.logs import as_float
from mmreason.reporting.page import END, head, page_file, shortened, visible
from mmreason.reporting.previews import Preview, Previews, PreviewSize

SMALL = PreviewSize(items=4, image_side=160, frame_side=96, key_frames=4, picture_bytes=6_000, spectrogram=False)
"""Previews of 5,000 items together stay near 40 MB."""
LONGEST = 4000
"""Characters of a text that are kept; what was cut is said."""
_AHEAD = 2
"""Rows per worker whose previews are made, or waited for, at a time."""
_TAG, _CLOSING = re.compile(r"</?[\w-]+>"), re.compile(r"^\s*</[\w-]+>")

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a gallery holds. Printed, it is one line."""

    page: Path
    items: int
    not_shown: int
    """Media that have a placeholder with the reason in place of a picture."""

    def __str__(self) -> str:
        note = f", {self.not_shown} media without a picture" if self.not_shown else ""
        return f"{self.page}: {self.items} items{note}, {self.page.stat().st_size / 1e6:.1f} MB"


def make_gallery(rows: Path, root: Path, page: Path, media: MediaConfig) -> Written:
    """Write the page of a results file. Raises DataError when it cannot be written; the old page stays then.

    root: the folder that paths in rows start at, or the archive that they are members of.
    """
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        return write_gallery(rows_with_media(rows, root), page, title=root.name or str(root), media=media)
    except OSError as error:
        raise DataError(f"--gallery {page}: cannot be written ({error.strerror})") from error


def check_page(page: Path) -> None:
    """Raises DataError where the page could not be written: better known before the answers than after them."""
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        if page.is_dir():
            raise IsADirectoryError(EISDIR, "it is a folder")
        with TemporaryFile(dir=page.parent):
            pass
    except OSError as error:
        raise DataError(f"--gallery {page}: cannot be written ({error.strerror})") from error


def write_gallery(
    rows: Iterable[tuple[Row, Sequence[Medium]]], out: Path, *, title: str, media: MediaConfig
) -> Written:
    """Write the page of these rows. Raises OSError when it cannot be written; the old file stays then.

    media: limits of sizes and lengths as for the run, and how many processes decode (`media.workers`, one at least).
    """
    items = not_shown = 0
    with page_file(out) as file, _Maker(media) as maker:
        file.write(head(title, f"{out.name}: answers of mmreason infer", style=_asset("css"), script=_asset("js")))
        file.write(_asset("html"))
        for row, previews, more in maker.rows_with_previews(rows):
            items += 1
            not_shown += sum("problem" in preview for preview in previews)
            figures = media_figures({"media": previews, "more_media": more})
            file.write(_inert("item", item_of(row)) + _inert("previews", _readable(figures)))
        file.write(f"<script>{_asset('js')}</script>{END}")
    return Written(page=out, items=items, not_shown=not_shown)


def item_of(row: Row) -> dict[str, str]:
    """What the page says about a row, as text; empty: nothing to say.

    `said` is the parsed answer, or what follows the thinking where there is none; `whole` is the text where it says
    more than thinking and answer do.
    """
    text, thinking, parsed = (row.get(key) or "" for key in ("text", "thinking", "parsed"))
    before, _, after = text.partition(thinking) if thinking else ("", "", text)
    said = parsed or _CLOSING.sub("", after).strip()
    more = _TAG.sub("", before + after.replace(said, "", 1)).strip()
    shown = {
        "name": row.get("id"),
        "status": row.get("status") or "?",
        "cut": "cut off" if row.get("truncated") is True else "",
        "told": _told(row),
        "prompt": "\n".join(text for text in map(_text_part, parts_of(row)) if text),
        "said": said,
        "gold": row.get("answer"),
        "reason": row.get("reason"),
        "thinking": thinking,
        "whole": text if more else "",
        "others": _others(row.get("answers")),
    }
    return {key: _readable(_text(value)) for key, value in shown.items()}


class _Maker:
    """Previews of many rows, in order. Each worker has a decoding process of its own and one item in memory."""

    def __init__(self, media: MediaConfig) -> None:
        self._workers = max(1, media.workers)
        self._free: SimpleQueue[Previews] = SimpleQueue()
        self._stack = ExitStack()
        for _ in range(self._workers):
            self._free.put(self._stack.enter_context(Previews(media, SMALL)))
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="gallery")
        self._stack.callback(self._pool.shutdown, cancel_futures=True)  # before the previews are closed

    def __enter__(self) -> _Maker:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def rows_with_previews(
        self, rows: Iterable[tuple[Row, Sequence[Medium]]]
    ) -> Iterator[tuple[Row, list[Preview], int]]:
        """Each row with the previews of its first media, and how many more it has."""
        return _ahead(self._pool, self._with_previews, rows, self._workers * _AHEAD)

    def _with_previews(self, pair: tuple[Row, Sequence[Medium]]) -> tuple[Row, list[Preview], int]:
        row, media = pair
        maker = self._free.get()
        try:
            previews = [_preview(maker, medium) for medium in media[: SMALL.items]]
        finally:
            self._free.put(maker)
        return row, previews, len(media) - len(previews)


def _preview(maker: Previews, medium: Medium) -> Preview:
    if medium.ref is None:
        return {"name": medium.name, "problem": medium.problem}
    return {**maker.of([medium.ref])[0], "name": medium.name}


def _ahead(pool: ThreadPoolExecutor, function: Callable[[T], R], values: Iterable[T], most: int) -> Iterator[R]:
    """`map` in order, with at most `most` values begun and not yet handed on."""
    begun: deque[Future[R]] = deque()
    for value in values:
        begun.append(pool.submit(function, value))
        if len(begun) == most:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


def _text_part(part: Any) -> str:
    text = part.get("text") if isinstance(part, Mapping) else part
    return text if isinstance(text, str) else ""


def _told(row: Row) -> str:
    score = row.get("score")
    total = as_float(score.get("total")) if isinstance(score, Mapping) else math.nan
    numbers = {
        "score {}": total,
        "{} votes": as_float(row.get("votes")),
        "{} tokens": as_float(row.get("tokens")),
        "{} s": as_float(row.get("seconds")),
    }
    return ", ".join(words.format(number(value)) for words, value in numbers.items() if math.isfinite(value))


def _others(answers: object) -> str:
    """All answers to an item of which several were sampled, a line each."""
    said = [_text(one.get("parsed")) or _text(one.get("text")) for one in objects(answers)]
    return _text("\n".join(" ".join(one.split()) for one in said))


def _text(value: object) -> str:
    """Text as it is, other values as JSON."""
    known = value is None or isinstance(value, str)
    return shortened(value if known else json.dumps(value, ensure_ascii=False), LONGEST)


def _readable(text: str) -> str:
    """Without characters that hide or turn text, and without halves of surrogate pairs."""
    return visible(text).encode("utf-8", "backslashreplace").decode("utf-8")


def _inert(kind: str, value: object) -> str:
    """A value in a block that browsers neither run nor read as HTML: ASCII, and no character that ends a block."""
    content = json.dumps(value, ensure_ascii=True)
    for character in "<>&":
        content = content.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" class="{kind}">{content}</script>\n'


@cache
def _asset(ending: str) -> str:
    return files("mmreason.inference").joinpath(f"gallery.{ending}").read_text(encoding="utf-8")
