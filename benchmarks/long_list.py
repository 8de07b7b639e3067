"""Memory and time of a JSON list as long as Video-R1-260k.json: its rows one at a time, its samples, and `json.load`.

    python benchmarks/long_list.py [--rows 263071]

Each in a process of its own; memory is the peak of the process over what it had before it read. Rows are made up, in
the shape and about the size of the real ones.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mmreason.config import DataConfig, DataSource
from mmreason.data import load_all, read_rows

WORDS = "the cat jumps over a red table while music plays in the garden and two men talk about 17 apples".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=263_071)
    parser.add_argument("--read", nargs=2, metavar=("HOW", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        measure(*options.read)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "list.json"
        write(path, options.rows)
        for how in ("rows", "samples", "json.load"):
            subprocess.run([sys.executable, __file__, "--read", how, str(path)], check=True)


def write(path: Path, rows: int) -> None:
    """A list of questions about videos, indented as the original is."""
    random.seed(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            row = {
                "problem_id": number,
                "problem": f"{say(30)}?",
                "data_type": "video",
                "problem_type": "multiple choice",
                "options": [f"{letter}. {say(8)}" for letter in "ABCD"],
                "process": "",
                "solution": "<answer>B</answer>",
                "path": f"./LLaVA-Video-178K/academic/{number}.mp4",
                "data_source": "LLaVA-Video-178K",
            }
            file.write((",\n" if number else "[\n") + json.dumps(row, indent=2))
        file.write("\n]\n")


def say(words: int) -> str:
    return " ".join(random.choice(WORDS) for _ in range(words))


def measure(how: str, path: str) -> None:
    """Read the file in one way and print what it took."""
    source = DataSource(path=path)
    before, start = peak(), time.process_time()
    if how == "rows":
        count = sum(1 for _ in read_rows(source))
    elif how == "samples":
        count = len(load_all(DataConfig(train=(source,)), "train"))
    else:
        count = len(json.loads(Path(path).read_text(encoding="utf-8")))
    seconds, size = time.process_time() - start, os.path.getsize(path) / 2**20
    print(f"{how:10} {count} of {size:.0f} MiB: {peak() - before:4.0f} MiB, {seconds:5.1f} s of CPU", flush=True)


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
