"""`mmreason infer` over 1,000 generated files, killed twice on the way: no hole, no double, and bounded memory.

    python benchmarks/infer_scale.py [--files 1000] [--small 200] [--folder DIR]

Images, clips and sounds in sub-folders with names of all kinds, 5 % of them broken, some wrongly named. The run over
the big folder is killed by SIGKILL twice and then finished; peak memory is measured over uninterrupted runs of both
sizes (VmHWM, the largest resident set that the kernel saw).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from mmreason.demo.tiny import build_tiny  # noqa: E402
from tests.media_files import clip, cut, picture, tone, write_audio, write_image, write_video  # noqa: E402

OPTIONS = [
    *("--prompt", "What is {name}?", "--max-new-tokens", "8", "--engine", "hf"),
    *("media.image_min_pixels=784", "media.image_max_pixels=12544", "media.video_min_pixels=784"),
    *("media.video_max_pixels=3136", "media.video_max_frames=8", "rollout.max_rows=16"),
]
NAMES = ("plain", "ünï côde", "with space", "日本", "emoji 🦉", "quote'\"s", "percent%20", "deep/er/still")


def make(root: Path, count: int) -> None:
    """`count` files: of 20, 12 images, 4 clips, 3 sounds and a broken one; every 25th of the whole has a wrong name."""
    for number in range(count):
        folder = root / NAMES[number % len(NAMES)]
        folder.mkdir(parents=True, exist_ok=True)
        kind, stem = number % 20, folder / f"{number}"
        if kind == 19:
            _broken(stem, number)
        elif kind < 12:
            path = write_image(stem.with_suffix(".png"), picture(200, 150, number))
            if number % 25 == 0:
                path.rename(stem.with_suffix(".mp4"))
        elif kind < 16:
            path = write_video(stem.with_suffix(".mp4"), clip(16))
            if number % 25 == 0:
                path.rename(stem.with_suffix(".wav"))
        else:
            path = write_audio(stem.with_suffix(".wav"), tone(0.5))
            if number % 25 == 0:
                path.rename(stem)


def _broken(stem: Path, number: int) -> None:
    match number // 20 % 4:
        case 0:
            cut(write_image(stem.with_suffix(".jpg"), picture(320, 240)), 0.5)
        case 1:
            stem.with_suffix(".png").write_text("<html>")
        case 2:
            cut(write_video(stem.with_suffix(".mp4")), 0.5)
        case _:
            stem.with_suffix(".wav").write_bytes(b"")


def start(media: Path, model: Path, out: Path) -> subprocess.Popen[str]:
    """`mmreason infer` as a process of its own."""
    line = [sys.executable, "-m", "mmreason.cli", "infer", str(media), "--model", str(model), "--out", str(out)]
    log = out.with_suffix(".log").open("a")
    return subprocess.Popen([*line, *OPTIONS], stdout=log, stderr=log, text=True, cwd=ROOT)


def peaks_mb(media: Path, model: Path, out: Path) -> tuple[float, float]:
    """Largest resident sets of a run from start to end, in MB: of the command itself, and of any process it started.

    A process that is just being started still is its parent's copy, and is told by its command line.
    """
    process, own, others = start(media, model, out), 0.0, 0.0
    while process.poll() is None:
        own = max(own, _peak_of(process.pid))
        started = [pid for pid in _descendants(process.pid) if _command(pid) != _command(process.pid)]
        others = max([others, *map(_peak_of, started)])
        time.sleep(0.2)
    assert process.returncode == 0, out.with_suffix(".log").read_text()
    return own, others


def _peak_of(pid: int) -> float:
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:  # it has ended
        return 0.0
    return int(found[1]) / 1000 if found else 0.0


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _descendants(pid: int) -> set[int]:
    """Of all processes those that this one started, or that those did."""
    parents: dict[int, int] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(file.parent.name)] = int(file.read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def killed_at(count: int, media: Path, model: Path, out: Path) -> int:
    """Start, and SIGKILL once there are so many rows; how many there were."""
    process = start(media, model, out)
    while not out.exists() or out.read_bytes().count(b"\n") < count:
        assert process.poll() is None, out.with_suffix(".log").read_text()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return out.read_bytes().count(b"\n")


def check(media: Path, out: Path) -> Counter[str]:
    """Exactly one row per file; the statuses."""
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    files = {str(path.relative_to(media)) for path in media.rglob("*") if path.is_file()}
    ids = [row["id"] for row in rows]
    assert len(ids) == len(set(ids)), "an id stands twice"
    assert set(ids) == files, f"{len(files - set(ids))} files without a row"
    return Counter(row["status"] for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--small", type=int, default=200)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    os.environ |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory(prefix="mmreason-infer-", dir=args.folder) as folder:
        base = Path(folder)
        model = build_tiny("qwen2_5_omni", base / "model")
        big, small = base / "big", base / "small"
        make(big, args.files)
        make(small, args.small)
        out = base / "killed.jsonl"
        kills = [killed_at(args.files * share // 100, big, model, out) for share in (30, 60)]
        assert start(big, model, out).wait() == 0
        statuses = check(big, out)
        print(f"{args.files} files, killed at {kills[0]} and {kills[1]} rows: {statuses.total()} rows, each file once; "
              f"{statuses['ok']} ok, {statuses['error']} error")  # fmt: skip
        began = time.perf_counter()
        few, many = (peaks_mb(media, model, base / f"{media.name}.jsonl") for media in (small, big))
        check(big, base / "big.jsonl")
        for what, before, after in zip(("the command", "its largest process"), few, many, strict=True):
            print(f"peak RSS of {what}: {before:.0f} MB at {args.small} files, {after:.0f} MB at {args.files}: "
                  f"{100 * (after / before - 1):+.1f} %")  # fmt: skip
        print(f"both in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
