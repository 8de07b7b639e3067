"""Data files to Samples: what is accepted, and what each mistake says."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from mmreason.config import DataConfig, DataSource
from mmreason.data import iter_all, load_all, load_samples, sample_from_row
from mmreason.errors import ConfigError, DataError
from mmreason.types import MediaRef, Sample


def write_lines(path: Path, *rows: Any) -> DataSource:
    path.write_bytes(b"\n".join(r if isinstance(r, bytes) else json.dumps(r).encode() for r in rows))
    return DataSource(path=str(path))


def ask(*parts: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts) or "2+3?"}], **more}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def refusal(row: Any, root: Path | None = None) -> str:
    with pytest.raises(DataError) as caught:
        sample_from_row(row, "train.jsonl:7", root)
    message = str(caught.value)
    assert message.startswith("train.jsonl:7: ")
    assert "\n" not in message
    return message


def test_a_row_of_the_native_schema(tmp_path: Path) -> None:
    row = ask(
        {"type": "image", "image": "a.png", "max_pixels": 5000},
        {"type": "video", "video": "clips/b.mp4", "fps": 2, "sound": True},
        {"type": "audio", "path": "c.wav"},
        text("What is it?"),
        id=12,
        answer="red",
        task="mcq",
        options=["red", "blue"],
        golds={"boxes": [[0, 0, 5, 5]]},
        demos=["<answer>A</answer>"],
        source="colours",
        meta={"level": 1},
    )
    (sample,) = load_samples(write_lines(tmp_path / "t.jsonl", row))
    image, video, audio = sample.media
    assert (image.path, image.options) == (str(tmp_path / "a.png"), {"max_pixels": 5000})
    assert (video.path, video.sound, video.options) == (str(tmp_path / "clips/b.mp4"), True, {"fps": 2})
    assert audio == MediaRef(kind="audio", path=str(tmp_path / "c.wav"))
    assert sample.messages[0].content[3] == "What is it?"
    assert (sample.id, sample.answer, sample.task, sample.options) == ("12", "red", "mcq", ("red", "blue"))
    assert (sample.golds, sample.demos) == ({"boxes": [[0, 0, 5, 5]]}, ("<answer>A</answer>",))
    assert (sample.source, sample.meta, sample.modality) == ("colours", {"level": 1}, "audio+image+video+sound")


def test_defaults_name_file_and_line(tmp_path: Path) -> None:
    first, second = load_samples(write_lines(tmp_path / "t.jsonl", b"", ask(), b"  ", ask(answer=5)))
    assert (first.id, second.id, second.source) == ("t.jsonl:2", "t.jsonl:4", "t.jsonl")
    assert (second.answer, second.task, second.messages[0].content) == (5, "exact", ("2+3?",))


def test_limit_counts_rows(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "t.jsonl", ask(), ask(), ask())
    assert len(list(load_samples(source.model_copy(update={"limit": 2})))) == 2


@pytest.mark.parametrize(
    "item",
    [
        {"type": "image", "url": "a.png"},
        {"type": "image", "image": "file:///ROOT/a.png"},
        {"type": "image", "image": "ROOT/a.png"},
        {"type": "image_url", "image_url": {"url": "a.png"}},
        {"type": "image", "image": {"path": "a.png", "bytes": None}},
        {"type": "image", "image": "sub/../a.png"},
    ],
)
def test_spellings_of_a_file(item: Any, tmp_path: Path) -> None:
    item = json.loads(json.dumps(item).replace("/ROOT", str(tmp_path)).replace("ROOT", str(tmp_path)))
    sample = sample_from_row(ask(item), "t.jsonl:1", tmp_path)
    assert sample.media == (MediaRef(kind="image", path=str(tmp_path / "a.png")),)


def test_bytes_need_no_folder() -> None:
    url = "data:image/png;base64," + base64.b64encode(b"PNG!").decode()
    for item in ({"image": {"bytes": b"PNG!", "path": "x.png"}}, {"bytes": b"PNG!", "path": "x.png"}, {"image": url}):
        sample = sample_from_row(ask({"type": "image", **item}), "t:1", None)
        assert sample.media == (MediaRef(kind="image", data=b"PNG!"),)


def test_media_stay_under_the_root(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "a.png").write_bytes(b"x")
    (root / "link.png").symlink_to(outside / "a.png")
    (root / "folder").symlink_to(outside)
    (root / "loop").symlink_to(root / "loop")
    for path in ("../outside/a.png", str(outside / "a.png"), "link.png", "folder/a.png", f"file://{outside}/a.png"):
        assert "outside the media root" in refusal(ask({"type": "image", "image": path}), root)
    for path in ("loop", "a\0b"):
        refusal(ask({"type": "image", "image": path}), root)
    for url in ("https://example.org/a.png", "http://localhost/a.png", "s3://bucket/a.png"):
        assert "remote media not allowed" in refusal(ask({"type": "image", "image": url}), root)
    (root / "real.png").write_bytes(b"x")
    (root / "inside.png").symlink_to(root / "real.png")
    (ref,) = sample_from_row(ask({"type": "image", "image": "inside.png"}), "t:1", root).media
    assert ref.path == str(root / "real.png")


def test_media_root_of_the_config_wins(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    source = write_lines(tmp_path / "t.jsonl", ask({"type": "image", "image": "a.png"}))
    (sample,) = load_samples(source, media_root=str(tmp_path / "media"))
    assert sample.media[0].path == str(tmp_path / "media" / "a.png")
    with pytest.raises(DataError, match=r"media_root.*no folder"):
        list(load_samples(source, media_root=str(tmp_path / "absent")))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([1, 2], "expected an object"),
        (ask(anwser="5"), "unknown key 'anwser'; did you mean 'answer'?"),
        ({"answer": 5}, "messages: missing or empty"),
        ({"messages": "hello"}, "expected a list"),
        ({"messages": [{"role": "human", "content": "?"}]}, "'human', expected one of system, user, assistant"),
        ({"messages": [{"role": "user", "contents": "?"}]}, "did you mean 'content'?"),
        ({"messages": [{"role": "user", "content": []}]}, "expected text or a list"),
        ({"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]}, "under demos"),
        (
            {"messages": [{"role": "user", "content": "?"}, {"role": "system", "content": "!"}]},
            "system message stands first",
        ),
        (ask({"type": "imagee", "image": "a.png"}), "did you mean 'image'?"),
        (ask({"type": "image"}), "no file given"),
        (ask({"type": "image", "image": "a.png", "url": "b.png"}), "image and url given; expected exactly one"),
        (ask({"type": "image", "image": 5}), "messages[0].content[0].image: 5, expected the path"),
        (ask({"type": "image", "image": ""}), "an empty text"),
        (ask({"type": "image", "image": "data:image/png,xyz"}), "not base64"),
        (ask({"type": "video", "video": "a.mp4", "fsp": 2}), "did you mean 'fps'?"),
        (ask({"type": "video", "video": "a.mp4", "fps": "2"}), "fps: '2', expected a number"),
        (ask({"type": "video", "video": "a.mp4", "sound": 1}), "sound: 1, expected true or false"),
        (ask({"type": "image", "image": "a.png", "sound": True}), "unknown key 'sound' in an image part"),
        (ask({"type": "text", "txt": "?"}), "did you mean 'text'?"),
        (ask("plain"), "'plain', expected an object"),
        (ask(options="A B"), "options: 'A B', expected a list of texts"),
        (ask(demos=[""]), "demos[0]: an empty text"),
        (ask(golds=[1]), "golds: [1], expected an object"),
        (ask(task=3), "task: 3, expected text"),
        (ask(text("half \ud83d")), r"'half \ud83d': character 6 is half of a surrogate pair"),
        (ask(answer="\ud800"), "half of a surrogate pair"),
        (ask(id="\ud800"), "half of a surrogate pair"),
        (ask(options=["a", "\udc80"]), "half of a surrogate pair"),
        (ask(golds={"\ud800": 1}), "half of a surrogate pair"),
        (ask(meta={"a": [{"b": "\ud800"}]}), "half of a surrogate pair"),
        (ask({"type": "image", "image": "\udc80.png"}), "half of a surrogate pair"),
        (ask({"type": "image", "image": "file://[x.png"}), "no usable file URL"),
        (ask({"type": "image", "image": "file:///%ff.png"}), "no usable file URL"),
        (ask({"type": "image", "image": "data:image/png;base64,\u00e9"}), "not base64"),
        (ask({"type": ["image"], "image": "a.png"}), "type: ['image']"),
        (ask({"type": "video", "video": "a.mp4", "fps": 0}), "fps: 0, expected a positive number"),
        (ask({"type": "video", "video": "a.mp4", "fps": -2.0}), "fps: -2.0, expected a positive number"),
        (ask({"type": "video", "video": "a.mp4", "fps": float("inf")}), "fps: inf, expected a positive number"),
        (ask({"type": "video", "video": "a.mp4", "start": float("nan")}), "start: nan, expected a positive number"),
        (ask({"type": "video", "video": "a.mp4", "nframes": 4.5}), "nframes: 4.5, expected a whole number"),
        (ask({"type": "video", "video": "a.mp4", "max_frames": 10**400}), "max_frames: an int, expected a positive"),
        (ask({"type": "video", "video": "a.mp4", "fps": 2, "nframes": 4}), "fps and nframes given"),
        (ask({"type": "video", "video": "a.mp4", "start": 1, "video_start": 2}), "video_start and start are the same"),
        (ask({"type": "audio", "audio": "a.wav", "start": 2, "end": 2}), "end 2 is not after start 2"),
        (ask({"type": "image", "image": "a.png", "min_pixels": 9, "max_pixels": 8}), "min_pixels 9 is more than"),
        (ask(text("")), "only empty text, expected a question or media"),
        ({"messages": [{"role": "user", "content": " "}]}, "only empty text, expected a question or media"),
        (ask(id=True), "id: True, expected text"),
    ],
)
def test_each_mistake_is_named(row: Any, expected: str, tmp_path: Path) -> None:
    assert expected in refusal(row, tmp_path)


def test_a_path_without_a_root_says_what_to_set() -> None:
    assert "set data.media_root" in refusal(ask({"type": "image", "image": "a.png"}), None)


def test_whole_floats_are_integers(tmp_path: Path) -> None:
    """pandas writes 32.0 for 32 in a column that has a gap."""
    item = {"type": "video", "video": "a.mp4", "max_frames": 32.0, "min_pixels": 3136.0, "fps": 2, "start": 0}
    (ref,) = sample_from_row(ask(item), "t:1", tmp_path).media
    assert ref.options == {"max_frames": 32, "min_pixels": 3136, "fps": 2, "start": 0}
    assert isinstance(ref.options["max_frames"], int)


def test_media_need_no_words(tmp_path: Path) -> None:
    image = {"type": "image", "image": "a.png"}
    assert sample_from_row(ask(image, text("")), "t:1", tmp_path).messages[0].content[1] == ""


def test_nesting_without_end() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    assert "nested too deeply" in refusal(ask(meta={"a": deep}))


@pytest.mark.parametrize("name", ["x" * 300 + ".jsonl", "a\0b.jsonl", "a\0b.parquet"])
def test_impossible_names_of_data_files(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="read"):
        list(load_samples(DataSource(path=f"{tmp_path}/{name}")))
    with pytest.raises(DataError, match="is no folder"):
        list(load_samples(write_lines(tmp_path / "t.jsonl", ask()), media_root=name))


BAD_LINES = [
    b'{"messages": [',
    b"\xff\xfe{}",
    b'{"answer": NaN}',
    json.dumps(ask(answer=1)).encode()[:-1] + b', "answer": 2}',
    json.dumps(ask()).encode()[:-1] + b', "golds": {"a": 1, "b": 2, "a": 1}}',
    b'{"messages": [{"role": "user", "content": [{"type": "image", "image": "file://[x.png"}]}]}',
    b"[" * 100_000,
    b"1" * 5000,
    b"null",
]


@pytest.mark.parametrize("line", BAD_LINES)
def test_an_unreadable_line_is_named_by_its_number(line: bytes, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "t.jsonl", ask(), line, ask())
    with pytest.raises(DataError, match=r"t\.jsonl:2: "):
        list(load_samples(source))
    good, bad, last = load_samples(source, on_error="collect")
    assert isinstance(good, Sample)
    assert isinstance(bad, DataError)
    assert isinstance(last, Sample)
    assert last.id == "t.jsonl:3"


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        list(load_samples(DataSource(path=str(tmp_path / "absent.jsonl"))))
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(DataError, match=r"expected \.jsonl"):
        list(load_samples(DataSource(path=str(tmp_path / "a.csv"))))
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        list(load_samples(DataSource(path=str(tmp_path / "a.parquet"))))


def test_sources_are_joined_and_ids_are_unique(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    sources = tuple(write_lines(tmp_path / folder / "t.jsonl", ask(), ask()) for folder in ("a", "b"))
    ids = [sample.id for sample in load_all(DataConfig(train=sources), "train")]
    assert ids == ["t.jsonl:1", "t.jsonl:2", f"{tmp_path}/b/t.jsonl:1", f"{tmp_path}/b/t.jsonl:2"]
    assert load_all(DataConfig(train=sources), "eval") == []
    twice = DataConfig(train=(write_lines(tmp_path / "u.jsonl", ask(id="x"), ask(), ask(id="x")),))
    with pytest.raises(DataError, match=r"u\.jsonl:3: id 'x' stands at .*u\.jsonl:1 already"):
        load_all(twice, "train")
    assert [isinstance(item, Sample) for item in iter_all(twice, "train")] == [True, True, False]


def test_a_stream_needs_a_limit(tmp_path: Path) -> None:
    endless = DataSource(path="owner/name", format="datasets", streaming=True)
    config = DataConfig(train=(write_lines(tmp_path / "t.jsonl", ask()), endless))
    with pytest.raises(ConfigError, match=r"data\.train\[1\]: owner/name is streamed without a limit.*set .*\.limit"):
        load_all(config, "train")
    assert load_all(config, "eval") == []


def test_parquet_of_several_tasks_has_no_empty_golds(tmp_path: Path) -> None:
    """A struct type has the keys of all rows, the absent ones as None."""
    box = {"value": [1.0, 2.0, 3.0, 4.0], "frame": "unit"}
    golds = [{"box": box}, {"count": 5}, {"box": {"value": [1.0, 2.0, 3.0, 4.0]}}, {"boxes": [{"a": 1}, {"b": 2}]}]
    rows = [ask(text("?"), golds=gold, meta={f"key{index}": index}) for index, gold in enumerate(golds)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    samples = list(load_samples(DataSource(path=str(tmp_path / "t.parquet"))))
    assert [sample.golds for sample in samples] == golds
    assert [sample.meta for sample in samples] == [{f"key{index}": index} for index in range(4)]


def test_no_row_beyond_the_limit_is_read(tmp_path: Path) -> None:
    """The second group of rows is damaged: it matters to those who ask for it."""
    path = tmp_path / "t.parquet"
    rows = [ask(text("?"), id=f"{number:05}") for number in range(128)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=64, compression="zstd")
    groups = parquet.ParquetFile(path).metadata
    start = min(groups.row_group(1).column(index).dictionary_page_offset for index in range(groups.num_columns))
    content = bytearray(path.read_bytes())
    content[start : start + 400] = b"\xff" * 400
    path.write_bytes(content)
    source = DataSource(path=str(path), limit=64)
    assert len(list(load_samples(source))) == 64
    with pytest.raises(DataError, match=r"t\.parquet:65: cannot be read"):
        list(load_samples(source.model_copy(update={"limit": 65})))


def parquet_rows(path: Path) -> None:
    part = {"type": "image", "text": None, "image": {"bytes": b"PNG!", "path": "x.png"}, "fps": None}
    words = {"type": "text", "text": "What?", "image": None, "fps": None}
    rows = [{"messages": [{"role": "user", "content": [part, words]}], "answer": "red"} for _ in range(70)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def test_parquet_with_bytes(tmp_path: Path) -> None:
    parquet_rows(tmp_path / "t.parquet")
    samples = list(load_samples(DataSource(path=str(tmp_path / "t.parquet"))))
    assert len(samples) == 70
    assert (samples[69].id, samples[69].answer) == ("t.parquet:70", "red")
    assert samples[69].messages[0].content == (MediaRef(kind="image", data=b"PNG!"), "What?")


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_by_name(streaming: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    parquet_rows(tmp_path / "set" / "train.parquet")
    source = DataSource(path=str(tmp_path / "set"), format="datasets", streaming=streaming, limit=3)
    samples = list(load_samples(source))
    assert [sample.id for sample in samples] == ["set:1", "set:2", "set:3"]
    assert samples[0].media == (MediaRef(kind="image", data=b"PNG!"),)
    wrong = source.model_copy(update={"split": "dev"})
    with pytest.raises(DataError, match="cannot load split 'dev'"):
        list(load_samples(wrong))


def test_datasets_images_are_not_decoded(tmp_path: Path) -> None:
    import datasets

    messages = [{"role": "user", "content": [{"type": "image", "image": {"bytes": b"no image at all", "path": None}}]}]
    features = datasets.Features(
        {
            "messages": datasets.List(
                {
                    "role": datasets.Value("string"),
                    "content": datasets.List({"type": datasets.Value("string"), "image": datasets.Image()}),
                }
            )
        }
    )
    datasets.Dataset.from_list([{"messages": messages}], features=features).save_to_disk(str(tmp_path / "saved"))
    (sample,) = load_samples(DataSource(path=str(tmp_path / "saved")))
    assert sample.media == (MediaRef(kind="image", data=b"no image at all"),)


def test_reading_data_imports_no_torch() -> None:
    code = "import sys, mmreason.data; sys.exit(any(name in sys.modules for name in ('torch', 'pyarrow', 'datasets')))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("a", "pairs: "),
        ([{"chosen": "a"}], "pairs[0]: "),
        ([{"chosen": "a", "rejected": "a"}], "pairs[0]: chosen and rejected are the same text"),
        ([{"chosen": "a", "rejected": 1}], "pairs[0].rejected: "),
    ],
)
def test_pairs_that_are_none(pairs: Any, message: str) -> None:
    row = {"messages": [{"role": "user", "content": "?"}], "pairs": pairs}
    with pytest.raises(DataError) as caught:
        sample_from_row(row, "f:1", None)
    assert str(caught.value).startswith(f"f:1: {message}")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([], ""),
        ([[[0, 2, 1.0]]], ""),
        ([[[0, 2, 1.0]], []], "demo_weights: "),
        ([[[0, 9, 1.0]]], "demo_weights[0]: characters 0 to 9 of a demonstration of 3"),
        ([[[0, 2, 0]]], "demo_weights[0]: expected [start, end, weight] with a weight over 0"),
        ([[[0, 2]]], "demo_weights[0]: expected [start, end, weight]"),
        ([[[0.5, 2, 1]]], "demo_weights[0]: characters 0.5 to 2"),
        ("a", "demo_weights: "),
    ],
)
def test_weights_of_demonstrations(weights: Any, message: str) -> None:
    row = {"messages": [{"role": "user", "content": "?"}], "demos": ["abc"], "demo_weights": weights}
    if not message:
        spans = tuple(tuple(tuple(span) for span in spans) for spans in weights)
        assert sample_from_row(row, "f:1", None).demo_weights == spans
        return
    with pytest.raises(DataError) as caught:
        sample_from_row(row, "f:1", None)
    assert str(caught.value).startswith(f"f:1: {message}")
