"""The README's picture of a report: its top in the light theme beside its groups in the dark one, as one small PNG.

mmreason demo && python -m benchmarks.report_picture demo_run/grpo docs/report.png
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from PIL import Image

from mmreason.reporting import write_report
from tests.browser import Browser

WIDTH, HEIGHT = 1160, 1760
COLOURS = 224


def main() -> None:
    """Write the report, show it, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--title", default="Demo: GRPO on images, clips, sounds and text")
    args = parser.parse_args()
    report = write_report(args.run_dir, title=args.title)
    with tempfile.TemporaryDirectory() as name, Browser(Path(name)) as browser:
        browser.open(report.as_uri())
        top = browser.picture(Path(name) / "top.png", width=WIDTH, height=HEIGHT)
        groups = browser.picture(Path(name) / "groups.png", width=WIDTH, height=HEIGHT, dark=True, at="section")
        joined = Image.new("RGB", (2 * WIDTH, HEIGHT))
        joined.paste(Image.open(top), (0, 0))
        joined.paste(Image.open(groups), (WIDTH, 0))
    # By coverage: the few coloured pixels of lines must not become grey for the sake of many greys.
    small = joined.resize((WIDTH * 3 // 2, HEIGHT * 3 // 4), Image.Resampling.LANCZOS)
    small = small.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    small.save(args.picture, optimize=True)
    print(f"{args.picture}: {args.picture.stat().st_size / 1000:.0f} kB, {small.width} x {small.height}")


if __name__ == "__main__":
    main()
