"""The gallery of `mmreason infer`: how long it takes to write, how large it is, how fast it opens and filters.

    python -m benchmarks.gallery [--items 5000] [--files 90] [--repeats 5]

Items take turns with real photographs (640 x 480), clips (4 s, 320 x 240, with sound) and sounds (3 s), a third each;
every item is decoded anew. Answers are of a reasoning model's length. Times to open are the browser's own (navigation
timing, from disk, to the end of the load event: items read and the first page drawn), a filter's from the last letter
typed to the new items painted. The memory is that of the process that writes, without its decoding processes.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmreason.config import MediaConfig
from mmreason.inference.gallery import write_gallery
from mmreason.inference.gallery_rows import Medium
from tests.browser import Browser
from tests.gallery_page import seconds_to_filter, shown
from tests.long_run import prose, write_media


def main() -> None:
    """Print sizes and times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=5000)
    parser.add_argument("--files", type=int, default=90, help="different media files")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        page = Path(name) / "gallery.html"
        rows = _rows(Path(name) / "media", args.items, args.files)
        _write(rows, page, args.items)
        with Browser(Path(name)) as browser:
            _open(browser, page, args.repeats)


def _rows(folder: Path, items: int, files: int) -> Iterator[tuple[dict[str, Any], list[Medium]]]:
    refs, chance = write_media(folder, files), random.Random(0)
    for index in range(items):
        ref = refs[index % files]
        name = Path(str(ref.path)).name
        thinking, colour = prose(chance, 150), chance.choice(["red", "green", "blue"])
        row = {
            "id": f"folder-{index // 100}/{index}-{name}",
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Which colour is the box, and why?"}]}],
            "status": "ok",
            "text": f"<think>{thinking}</think><answer>{colour}</answer>",
            "thinking": thinking,
            "parsed": colour,
            "tokens": 170,
            "seconds": 0.5,
        }
        yield row, [Medium(name=name, ref=ref)]


def _write(rows: Iterator[tuple[dict[str, Any], list[Medium]]], page: Path, items: int) -> None:
    first = next(rows)  # makes the media
    write_gallery([first], page, title="Warm-up", media=MediaConfig())
    warm, started = _peak_mb(), time.perf_counter()
    written = write_gallery(rows, page, title="A large folder", media=MediaConfig())
    seconds = time.perf_counter() - started
    assert written.items == items - 1
    assert not written.not_shown
    size = page.stat().st_size
    print(
        f"{written.items} items written in {seconds:.1f} s ({1000 * seconds / items:.1f} ms each); {size / 1e6:.1f} MB "
        f"({size / 1000 / items:.1f} kB each); peak memory {_peak_mb():.0f} MB, after the first item {warm:.0f} MB"
    )


def _open(browser: Browser, page: Path, repeats: int) -> None:
    first, *opened = [browser.open(page.as_uri()) for _ in range(1 + repeats)]
    loads = [one.seconds for one in opened]
    print(
        f"opened in {statistics.median(loads):.2f} s (median of {repeats}; longest {max(loads):.2f}, first "
        f"{first.seconds:.2f}), {opened[-1].groups} items in the document, {len(opened[-1].problems)} console messages"
    )
    for words in ("red", "folder-3", "box"):  # the first one of a page also reads all texts once
        seconds = seconds_to_filter(browser, words)
        print(f"filtered by {words!r} in {seconds:.2f} s: {shown(browser)['count']}")


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    main()
