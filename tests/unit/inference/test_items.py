"""What `mmreason infer` runs on: order, ids, what is left out and what is refused."""

from __future__ import annotations

import io
import json
import os
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from mmreason.errors import ConfigError, DataError
from mmreason.inference import archives
from mmreason.inference.items import Listing, Selection, list_items, shown
from mmreason.inference.options import InferOptions
from tests.media_files import write_image

PNG = b"\x89PNG\r\n\x1a\n rest"


def names(listing: Listing) -> list[str]:
    return [item.id for item in listing.items]


def make(root: Path, *paths: str, content: bytes = PNG) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "media"
    make(root, "b.png", "a/ü 1.PNG", "a/z/2.png", "no_ending", ".hidden.png", ".git/x.png", "a/out.jsonl")
    make(root, "page.txt", "code.py", content=b"BM is how a bitmap begins, and this text")
    make(root, "broken.jpg", content=b"<html>")
    return root


def test_a_folder_in_order_without_what_is_hidden_no_media_or_ours(folder: Path) -> None:
    selection = Selection(skip=frozenset({folder / "a/out.jsonl"}))
    listing = list_items(str(folder), selection)
    assert (listing.total, listing.skipped) == (5, 2)
    assert names(listing) == ["a/z/2.png", "a/ü 1.PNG", "b.png", "broken.jpg", "no_ending"]
    assert names(list_items(str(folder), Selection(recursive=False))) == ["b.png", "broken.jpg", "no_ending"]


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (["*.png"], [], ["a/z/2.png", "b.png"]),
        (["a/*"], [], ["a/out.jsonl", "a/z/2.png", "a/ü 1.PNG"]),
        ([], ["a/*", "*.jpg"], ["b.png", "no_ending"]),
        (["*.png"], ["2*"], ["b.png"]),
    ],
)
def test_patterns(folder: Path, include: list[str], exclude: list[str], expected: list[str]) -> None:
    assert names(list_items(str(folder), Selection(include=include, exclude=exclude))) == expected


def test_links_are_files_where_they_stay_inside_and_folders_are_not_followed(folder: Path, tmp_path: Path) -> None:
    make(tmp_path, "outside.dat")
    (folder / "loop").symlink_to(folder)
    (folder / "in.dat").symlink_to(folder / "b.png")
    (folder / "out.dat").symlink_to(tmp_path / "outside.dat")
    (folder / "gone.png").symlink_to(folder / "nothing")
    os.mkfifo(folder / "pipe.png")
    found = names(list_items(str(folder), Selection(recursive=False)))
    assert found == ["b.png", "broken.jpg", "gone.png", "in.dat", "no_ending"]


def test_a_name_that_is_no_text_has_an_id(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(PNG)
    (item,) = list_items(str(tmp_path), Selection()).items
    assert item.id == "\\udcff.png"
    assert item.files[0].path is not None
    assert item.files[0].path.read_bytes() == PNG


def test_no_two_names_have_one_id(tmp_path: Path) -> None:
    written = [
        b"a\\udcff.png",
        b"a\xff.png",
        b"a\\\xff.png",
        b"a\\\\udcff.png",
        b"a\xfe.png",
        b"a\\b.png",
        "ä".encode(),
    ]
    ids = [shown(os.fsdecode(name)) for name in written]
    assert ids == [
        r"a\\udcff.png", r"a\udcff.png", r"a\\\udcff.png", r"a\\\\udcff.png", r"a\udcfe.png", r"a\b.png", "ä"
    ]  # fmt: skip
    assert len(set(ids)) == len(written)


def test_a_folder_is_an_item(folder: Path) -> None:
    make(folder, "a/z/1.wav", content=b"RIFF....WAVE")
    items = list(list_items(str(folder), Selection(by_folder=True, include=["*.png", "*.wav"])).items)
    assert [(item.id, [file.name for file in item.files]) for item in items] == [
        (".", ["b.png"]),
        ("a/z", ["a/z/1.wav", "a/z/2.png"]),
    ]


def test_shards_share_the_items(folder: Path) -> None:
    make(folder, *(f"many/{number}.png" for number in range(60)))
    parts = [names(list_items(str(folder), Selection(shard=(index, 3)))) for index in (1, 2, 3)]
    assert sorted(id for part in parts for id in part) == sorted(names(list_items(str(folder), Selection())))
    assert all(len(part) > 10 for part in parts)


def test_a_list_names_files_once(folder: Path) -> None:
    listed = folder / "list.txt"
    make(folder, " b.png")
    listed.write_text(f"b.png\n\n  page.txt \n b.png\nb.png\n{folder}/a/z/2.png\n/etc/hosts\n../up.png\ngone.png\n")
    listing = list_items(str(listed), Selection())
    items = list(listing.items)
    assert [item.id for item in items] == [
        "b.png",
        "page.txt",
        " b.png",
        "a/z/2.png",
        "/etc/hosts",
        "../up.png",
        "gone.png",
    ]
    assert all(item.files[0].named for item in items)
    assert listing.notes == ["1 lines of the list name a file again"]
    assert names(list_items(str(folder / "b.png"), Selection())) == ["b.png"]
    with pytest.raises(ConfigError, match="--item folder: goes with a folder"):
        list_items(str(listed), Selection(by_folder=True))
    with pytest.raises(ConfigError, match="there is no such file or folder"):
        list_items(str(folder / "nowhere"), Selection())


def test_rows_are_questions_and_bad_ones_errors(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    parts = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What?"}]
    rows = [{"id": "q", "messages": [{"role": "user", "content": parts}], "meta": {"k": 1}}, {"messages": []}]
    rows.append({"id": "q", "messages": [{"role": "user", "content": "again"}]})
    file = tmp_path / "q.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    listing = list_items(str(file), Selection())
    assert (listing.total, listing.has_rows) == (3, True)
    first, second, third = listing.items
    assert (first.id, first.sample is not None) == ("q", True)
    assert second.id == "q.jsonl:2"
    assert second.error.startswith("messages: missing or empty")
    assert "id 'q' stands at" in third.error
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "What?", "image": "a.png"}) + "\n")
    (item,) = list_items(str(tmp_path / "p.jsonl"), Selection()).items
    assert item.sample is not None
    assert item.sample.modality == "image"


# ---- archives


def add(archive: tarfile.TarFile, name: str, content: bytes = PNG, kind: bytes = tarfile.REGTYPE) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content) if kind == tarfile.REGTYPE else 0
    info.linkname = "/etc/passwd" if kind != tarfile.REGTYPE else ""
    archive.addfile(info, io.BytesIO(content))


def each(listing: Listing) -> dict[str, bytes | str | None]:
    """Every item with its content, read before the next is taken."""
    return {item.id: item.error or (item.load().data if item.load else None) for item in listing.items}


def test_a_zip_is_read_without_unpacking(tmp_path: Path) -> None:
    path = tmp_path / "m.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (
            "sub/b.png",
            "a ü.png",
            "../evil.png",
            "/abs.png",
            ".hidden/x.png",
            "__MACOSX/._b.png",
            "C:\\x.png",
        ):
            archive.writestr(name, PNG)
        archive.writestr("zeros.png", bytes(archives.RATIO_FROM))
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.mkdir("empty")
    assert each(list_items(str(path), Selection())) == {
        "../evil.png": "its name leads out of the archive",
        "/abs.png": "its name leads out of the archive",
        "C:\\x.png": "its name leads out of the archive",
        "a ü.png": PNG,
        "link.png": "a link; only files are read",
        "sub/b.png": PNG,
        "zeros.png": archives.PACKED_TOO_SMALL,
    }
    assert names(list_items(str(path), Selection(include=["sub/*"]))) == ["sub/b.png"]
    assert "sub/b.png" not in names(list_items(str(path), Selection(recursive=False)))
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", ["", "gz", "xz"])
def test_a_tar_is_read_in_its_order(tmp_path: Path, mode: str) -> None:
    path = tmp_path / f"m.tar.{mode}"
    with tarfile.open(path, f"w:{mode}") as archive:  # type: ignore[call-overload]
        add(archive, "z.png")
        add(archive, "sub", kind=tarfile.DIRTYPE)
        add(archive, "sub/a.png", b"other")
        add(archive, "../evil.png")
        add(archive, "link.png", kind=tarfile.SYMTYPE)
        add(archive, "hard.png", kind=tarfile.LNKTYPE)
        add(archive, "pipe", kind=tarfile.FIFOTYPE)
        add(archive, "./z.png", b"again")
        add(archive, ".hidden/x.png")
        add(archive, "./sub//b.png")
    listing = list_items(str(path), Selection())
    assert each(listing) == {
        "z.png": PNG,
        "sub/a.png": b"other",
        "../evil.png": "its name leads out of the archive",
        "link.png": "a link; only files are read",
        "hard.png": "a link; only files are read",
        "sub/b.png": PNG,
    }
    assert listing.total is None
    assert names(list_items(str(path), Selection(recursive=False))) == ["z.png", "link.png", "hard.png"]
    assert "'z.png' is in it again" in listing.notes[0]


def test_a_tar_that_unpacks_to_zeros_is_read_no_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "RATIO_FROM", 8 << 20)
    path = tmp_path / "m.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        add(archive, "zeros.png", bytes(40 << 20))
        add(archive, "after.png")
    items = list_items(str(path), Selection()).items
    zeros = next(items)
    assert zeros.load is not None
    tracemalloc.start()
    with pytest.raises(DataError, match="packed to less than 1/200"):
        zeros.load()
    assert tracemalloc.get_traced_memory()[1] < 25 << 20
    tracemalloc.stop()
    after = next(items)
    assert after.load is not None
    assert after.load().data == PNG


def test_a_damaged_archive_has_a_row_that_says_where(tmp_path: Path) -> None:
    path = tmp_path / "m.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        add(archive, "a.png", os.urandom(3000))
        add(archive, "b.png", os.urandom(300_000))
        add(archive, "c.png", os.urandom(3000))
    path.write_bytes(path.read_bytes()[:200_000])
    found = {}
    for item in list_items(str(path), Selection()).items:
        found[item.id] = item.error
    assert list(found)[:2] == ["a.png", "b.png"]
    assert "the archive is damaged after 2 files" in found["m.tar.gz"]


def test_a_damaged_member_is_its_own_error(tmp_path: Path) -> None:
    path = tmp_path / "m.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", PNG)
        archive.writestr("b.png", b"x" * 50)
    path.write_bytes(path.read_bytes().replace(b"x" * 50, b"y" * 50))
    items = list_items(str(path), Selection()).items
    first, second = next(items), next(items)
    assert first.load is not None
    assert first.load().data == PNG
    assert second.load is not None
    with pytest.raises(DataError, match="cannot be read from the archive"):
        second.load()


def test_links_that_lead_nowhere_have_a_row(tmp_path: Path) -> None:
    make(tmp_path, "b.png")
    os.symlink("a.png", tmp_path / "a.png")
    os.symlink("x" * 300, tmp_path / "long.png")
    os.symlink("loop", tmp_path / "loop")
    listing = list_items(str(tmp_path), Selection())
    assert names(listing) == ["a.png", "b.png", "long.png", "loop"]
    assert listing.skipped == 0
    with pytest.raises(ConfigError, match="no such file or folder"):
        list_items("x" * 300, Selection())


def test_a_list_is_divided_at_line_ends_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = "\ufeffa.png\r\nb\u2028c.png\n".encode() + b"\xff.png\n"
    (tmp_path / "l.txt").write_bytes(content)
    expected = ["a.png", "b\u2028c.png", "\\udcff.png"]
    assert names(list_items(str(tmp_path / "l.txt"), Selection())) == expected
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
    assert names(list_items("-", Selection())) == expected


def test_a_packed_file_cut_in_its_first_bytes_is_no_archive(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "w.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    (tmp_path / "m.tar.gz").write_bytes((tmp_path / "w.tar.gz").read_bytes()[:20])
    assert names(list_items(str(tmp_path / "m.tar.gz"), Selection())) == ["m.tar.gz"]


def test_results_are_not_written_over_what_is_read(tmp_path: Path) -> None:
    make(tmp_path, "q.jsonl", content=b"{}")
    for out in ("q.jsonl", "sub/../q.jsonl"):
        with pytest.raises(ConfigError, match="would be written over"):
            InferOptions(source=tmp_path / "q.jsonl", model="m", out=tmp_path / out, overwrite=True)
