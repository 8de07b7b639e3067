"""The caches: what comes out is what went in, bounded, shared, and robust against damage."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmreason.errors import ConfigError
from mmreason.processors.base import Decoded
from mmreason.processors.cache import DiskCache, MemoryCache
from mmreason.processors.media import MediaLoader
from tests.media_files import clip, picture, tone, write_audio, write_image, write_video
from tests.unit.processors.helpers import TRAITS, config, ref


def item(number: int, size: int = 100_000) -> Decoded:
    return Decoded(kind="audio", data=np.full(size // 4, number, np.float32), rate=16000, key=f"{number:064x}")


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_everything_comes_back(tmp_path: Path) -> None:
    paths = [write_image(tmp_path / "a.png"), write_audio(tmp_path / "a.wav"), write_video(tmp_path / "b.mp4"),
             write_video(tmp_path / "a.mp4", clip(8), sound=tone(1))]  # fmt: skip
    refs = [ref(path, sound=path.name == "a.mp4") for path in paths]
    settings = config(cache_dir=str(tmp_path / "cache"))
    with MediaLoader(settings, TRAITS) as first:
        fresh = first.load(refs)
        assert first.decoded == 4
    with MediaLoader(settings, TRAITS) as second:
        for before, after in zip(fresh, second.load(refs), strict=True):
            assert isinstance(before, Decoded)
            assert isinstance(after, Decoded)
            pairs = [(before, after)] + ([(before.sound, after.sound)] if before.sound and after.sound else [])
            assert (before.sound is None) == (after.sound is None)
            for old, new in pairs:
                assert old is not None
                assert new is not None
                np.testing.assert_array_equal(old.data, new.data)
                assert old.data.dtype == new.data.dtype
                assert _facts(old) == _facts(new)
        assert second.decoded == 0


def _facts(decoded: Decoded) -> str:
    return str(replace(decoded, data=np.zeros(0), sound=None))


def test_key_depends_on_content_and_sampling_not_on_name(tmp_path: Path) -> None:
    def key(path: Path, **options: float) -> str:
        with MediaLoader(config(), TRAITS) as loader:
            (decoded,) = loader.load([ref(path, **options)])  # type: ignore[arg-type]
        assert isinstance(decoded, Decoded)
        return decoded.key

    video = write_video(tmp_path / "a.mp4", clip(16))
    copy = tmp_path / "b.mp4"
    copy.write_bytes(video.read_bytes())
    keys = [key(video), key(video, fps=4), key(video, start=0.5), key(video, min_pixels=20_000)]
    assert len(set(keys)) == 4
    assert key(copy) == keys[0]
    write_video(video, clip(17))
    assert key(video) not in keys


def test_a_file_that_changes_is_examined_again(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", picture(56, 56, seed=1))
    with MediaLoader(config(cache_dir=str(tmp_path / "cache")), TRAITS) as loader:
        (before,) = loader.load([ref(path)])
        write_image(path, picture(84, 56, seed=2))
        (after,) = loader.load([ref(path)])
    assert isinstance(before, Decoded)
    assert isinstance(after, Decoded)
    assert (before.original, after.original) == ((56, 56), (84, 56))


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other"])
def test_a_damaged_entry_is_dropped(tmp_path: Path, damage: str) -> None:
    cache = DiskCache(tmp_path, 10**9)
    cache.put(item(1))
    (path,) = files(tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 255
    damaged = {"cut": content[: len(content) // 2], "flip": content, "empty": b"", "other": b"text"}
    path.write_bytes(bytes(damaged[damage]))
    assert cache.get(item(1).key) is None
    assert cache.damaged == 1
    assert not files(tmp_path)
    cache.put(item(1))
    assert cache.get(item(1).key) is not None


def test_any_flipped_bit_costs_at_most_the_entry(tmp_path: Path) -> None:
    """In the zip's directory one makes an encrypted file, or one of an unknown version or method."""
    cache = DiskCache(tmp_path, 10**9)
    cache.put(item(1, size=64))
    (path,) = files(tmp_path)
    content = path.read_bytes()
    for place in range(len(content)):
        for bit in (1, 128, 255):
            path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
            found = cache.get(item(1).key)
            assert found is None or np.array_equal(found.data, item(1, size=64).data)
    assert cache.damaged > 500


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_another_users_cache_costs_at_most_the_cache() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        folder = Path(name) / "cache"
        os.chmod(name, 0o755)
        theirs = DiskCache(folder, 10**9)
        theirs.put(item(1))
        theirs.put(item(2))
        secret, damaged = folder / "00" / f"{item(3).key}.npz", folder / "00" / f"{item(2).key}.npz"
        damaged.write_bytes(b"text")
        secret.write_bytes(b"text")
        secret.chmod(0)
        os.seteuid(65534)
        try:
            ours = DiskCache(folder, 1)  # everything is too much: it would evict, and may not
            found = [ours.get(item(number).key) for number in (1, 2, 3)]
            ours.put(item(4))
            ours._evict()
        finally:
            os.seteuid(0)
        assert [entry is not None for entry in found] == [True, False, False]
        assert (ours.damaged, ours.failed_writes) == (1, 1)
        assert len(files(folder)) == 3


def test_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 1_000_000)
    for number in range(8):
        cache.put(item(number))
        (path,) = [path for path in files(tmp_path) if path.stem == item(number).key]
        os.utime(path, (number, number))
    assert cache.get(item(0).key) is not None  # used: it is the youngest now
    for number in range(8, 12):
        cache.put(item(number))
    kept = [number for number in range(12) if (tmp_path / "00" / f"{item(number).key}.npz").exists()]
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 1_000_000
    assert 0 in kept
    assert 1 not in kept
    assert kept[-4:] == [8, 9, 10, 11]


def test_left_over_temporary_files_are_removed(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 10**9)
    (tmp_path / "00").mkdir()
    for name, age in (("old.tmp", 7200), ("new.tmp", 0)):
        (tmp_path / "00" / name).write_text("torn")
        os.utime(tmp_path / "00" / name, (time.time() - age,) * 2)
    cache.put(item(1))
    assert [path.name for path in files(tmp_path) if path.suffix == ".tmp"] == ["new.tmp"]


def test_a_full_disk_costs_only_the_cache(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = DiskCache(tmp_path, 10**9)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # writes beyond that fail, as on a full disk
    try:
        cache.put(item(1))
        cache.put(item(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert cache.failed_writes == 2
    assert not files(tmp_path)
    assert len(caplog.records) == 1
    assert cache.get(item(1).key) is None


def test_cache_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"media\.cache_dir"):
        DiskCache(tmp_path / "file" / "cache", 10**9)


def test_several_processes_write_and_evict_together(tmp_path: Path) -> None:
    code = (
        "import sys; import numpy as np; from pathlib import Path; from mmreason.processors.cache import DiskCache\n"
        "from mmreason.processors.base import Decoded\n"
        "cache = DiskCache(Path(sys.argv[1]), 600_000)\n"
        "for number in range(60):\n"
        "    data = np.full(25_000, number % 12, np.float32)\n"
        "    cache.put(Decoded(kind='audio', data=data, rate=1, key=f'{number % 12:064x}'))\n"
        "    found = cache.get(f'{number * 5 % 12:064x}')\n"
        "    assert found is None or (found.data == number * 5 % 12).all()\n"
        "assert cache.damaged == cache.failed_writes == 0\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 800_000


def test_memory_cache_is_bounded() -> None:
    cache: MemoryCache[str, int] = MemoryCache(100)
    for number, name in enumerate("abcd"):
        cache.put(name, number, 30)
        cache.get("a")
    assert [cache.get(name) for name in "abcd"] == [0, None, 2, 3]
    cache.put("large", 9, 101)
    cache.put("c", 7, 10)
    assert (cache.get("large"), cache.get("c"), cache.bytes, len(cache)) == (None, 7, 70, 3)
