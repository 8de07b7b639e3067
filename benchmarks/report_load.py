"""How long report.html of a long run takes: to write, and to open in headless Chromium.

    python -m benchmarks.report_load [--steps 5000] [--groups 500] [--files 90] [--repeats 5]

The run folder is synthetic (tests/long_run.py): a line of metrics per step with the names of a GRPO run over 50
sources, and groups of 8 long answers with real photographs, clips and sounds. Times to open are the browser's own
(navigation timing: from the start of the navigation to the end of the load event, and to the first paint), from disk,
each in a tab that has shown the page before; the first one counts as warm-up of the browser and is printed, too.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from mmreason.reporting import write_report
from tests.browser import Browser
from tests.long_run import write_long_run


def main() -> None:
    """Print sizes and times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--groups", type=int, default=500)
    parser.add_argument("--files", type=int, default=90, help="different media files")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_dir = write_long_run(folder, steps=args.steps, groups=args.groups, files=args.files)
        logs = [run_dir / f"{log}.jsonl" for log in ("metrics", "gallery")]
        print(f"{args.steps} steps, {args.groups} groups; " + ", ".join(f"{log.name} {_mb(log)}" for log in logs))
        started = time.perf_counter()
        report = write_report(run_dir, title="A long run")
        print(f"written in {time.perf_counter() - started:.2f} s; report.html {_mb(report)}")
        pages = sorted((run_dir / "report").iterdir())
        if pages:
            print(f"{len(pages)} further pages, the largest {_mb(max(pages, key=lambda page: page.stat().st_size))}")
        with Browser(folder) as browser:
            for page in (report, *pages[-1:]):
                _measure(browser, page, args.repeats)


def _measure(browser: Browser, page: Path, repeats: int) -> None:
    first, *rest = [browser.open(page.as_uri()) for _ in range(1 + repeats)]
    loads = [shown.seconds for shown in rest]
    paints = [shown.first_paint for shown in rest if shown.first_paint is not None]  # not always told
    walls = [shown.wall for shown in rest]
    painted = f"painted after {statistics.median(paints):.2f}, " if paints else ""
    clock = f"longest {max(loads):.2f}, first {first.seconds:.2f}, by our own clock {statistics.median(walls):.2f}"
    print(
        f"{page.name}: loaded in {statistics.median(loads):.2f} s (median of {repeats}; {clock}), "
        f"{painted}{first.bytes / 1e6:.2f} MB fetched, {first.groups} groups, {len(first.problems)} console messages"
    )


def _mb(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.2f} MB"


if __name__ == "__main__":
    main()
