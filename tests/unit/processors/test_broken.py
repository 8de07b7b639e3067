"""Every broken file is refused with its reason, in this process and in workers, and good files beside it are not."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import numpy as np
import pytest

from mmreason.errors import MediaError
from mmreason.processors import base
from mmreason.processors.media import MediaLoader
from mmreason.types import MediaRef
from tests.media_files import broken_files, clip, huge_png, picture, write_audio, write_image, write_video
from tests.unit.processors.helpers import TRAITS, VISION_TRAITS, config, load, pipeline, reason, ref


@pytest.mark.parametrize("workers", [0, 2])
def test_reasons(tmp_path: Path, workers: int) -> None:
    broken = broken_files(tmp_path / "broken")
    good = [write_image(tmp_path / "a.png"), write_video(tmp_path / "a.mp4"), write_audio(tmp_path / "a.wav")]
    paths = [path for index, path in enumerate(broken) for path in (path, good[index % 3])]
    with pipeline(workers=workers) as media:
        answers = media.tensors([ref(path) for path in paths])
    found = {path: answer.reason for path, answer in zip(paths, answers, strict=True) if isinstance(answer, MediaError)}
    assert found == broken
    assert len(set(broken.values())) >= 10


def test_every_reason_is_explained() -> None:
    constants = {value for name, value in vars(base).items() if name.isupper() and isinstance(value, str)}
    assert constants == set(base.REASONS)


def test_missing_and_folder_and_unreadable(tmp_path: Path) -> None:
    assert reason(ref(tmp_path / "none.png")) == "missing"
    assert reason(ref(tmp_path, kind="image")) == "unreadable"
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    assert reason(ref(tmp_path / "loop.png")) == "unreadable"
    assert reason(ref(tmp_path / ("x" * 300 + ".png"))) == "unreadable"
    assert reason(MediaRef(kind="image", data=b"")) == "empty"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    path.chmod(0)
    assert reason(ref(path)) == "unreadable"


def test_pipes_sockets_and_devices_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")  # opening it would wait for ever
    assert stat.S_ISFIFO((tmp_path / "pipe.mp4").stat().st_mode)
    assert reason(ref(tmp_path / "pipe.mp4")) == "unreadable"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.mp4"))
        assert reason(ref(tmp_path / "s.mp4")) == "unreadable"
    assert reason(ref(Path("/dev/zero"), kind="audio")) == "unreadable"


@pytest.mark.parametrize("address", ["http://a.b/c.png", "https://a.b/c.png", "s3://a/b.mp4", "file:///a/b.png"])
def test_addresses(address: str) -> None:
    assert reason(MediaRef(kind="image", path=address)) == "remote media not allowed"


def test_media_root(tmp_path: Path) -> None:
    inside = tmp_path / "root"
    inside.mkdir()
    outside = write_image(tmp_path / "secret.png")
    write_image(inside / "a.png")
    (inside / "link.png").symlink_to(outside)
    (inside / "fine.png").symlink_to(inside / "a.png")
    root = str(inside)
    assert load(MediaRef(kind="image", path="a.png"), root).original == (64, 48)  # relative to the root
    assert load(ref(inside / "fine.png"), root).original == (64, 48)
    for path in ("../secret.png", str(outside), "link.png", str(inside / ".." / "secret.png")):
        assert reason(MediaRef(kind="image", path=path), root) == "outside media root"
    assert load(ref(outside)).original == (64, 48)  # without a root any path is allowed


def test_a_root_that_is_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    write_image(tmp_path / "real" / "a.png")
    (tmp_path / "root").symlink_to(tmp_path / "real")
    assert load(MediaRef(kind="image", path="a.png"), str(tmp_path / "root")).original == (64, 48)


def test_huge_image_is_refused_by_its_header(tmp_path: Path) -> None:
    path = huge_png(tmp_path / "a.png", 20000, 20000)
    assert path.stat().st_size < 100_000
    assert reason(ref(path)) == "too large"
    # Pillow's own limit (89 million pixels) neither warns nor counts: ours does.
    below = huge_png(tmp_path / "b.png", 10000, 9500)
    assert load(ref(below)).original == (10000, 9500)


def test_family_without_sound(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", sound=np.zeros(8000))
    refs = [ref(write_audio(tmp_path / "a.wav")), ref(video, sound=True), MediaRef(kind="smell", path="a")]
    with MediaLoader(config(), VISION_TRAITS) as loader:
        for answer in loader.load(refs):
            assert isinstance(answer, MediaError)
            assert answer.reason == "not supported by the model"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".mp4", ".mkv", ".avi", ".wav", ".flac", ".mp3", ".ogg"])
def test_damage_anywhere_never_escapes_as_another_error(tmp_path: Path, suffix: str) -> None:
    """Random bytes at random places: the item is decoded or refused, and refused items name the file."""
    path = tmp_path / f"a{suffix}"
    if suffix in (".png", ".jpg", ".gif"):
        write_image(path, picture(100, 80))
    elif suffix in (".wav", ".flac", ".mp3", ".ogg"):
        write_audio(path)
    else:
        write_video(path, clip(12), sound=np.zeros(16000, np.float32))
    content = path.read_bytes()
    random = np.random.default_rng(0)
    refs = []
    for attempt in range(40):
        damaged = bytearray(content)
        start = 0 if attempt % 2 else int(random.integers(len(content)))
        for place in random.integers(start, min(len(content), start + 400), 6):
            damaged[place] = int(random.integers(256))
        refs.append(MediaRef(kind=ref(path).kind, data=bytes(damaged), sound=suffix == ".mp4"))
    with MediaLoader(config(), TRAITS) as loader:
        for answer in loader.load(refs):
            if isinstance(answer, MediaError):
                assert answer.reason in base.REASONS
                assert answer.source.startswith("<")
