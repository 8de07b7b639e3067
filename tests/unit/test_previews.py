"""Small pictures of a group's media: made from any real file, bounded, and shown as they are."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmreason.config import MediaConfig
from mmreason.demo.media import write_demo_data
from mmreason.reporting.figures import media_figures
from mmreason.reporting.previews import BARS, REPORT, Previews, PreviewSize, picture
from mmreason.types import MediaRef
from tests.media_files import clip, tone, write_audio, write_image, write_video
from tests.unit.test_reporting import Page


@pytest.fixture(scope="module")
def previews() -> Any:
    with Previews(MediaConfig()) as made:
        yield made


def shown(records: list[dict[str, Any]]) -> Page:
    """As the report shows them after gallery.jsonl was written and read."""
    return Page(media_figures(json.loads(json.dumps({"media": records}))))


def pixels(img: dict[str, str | None]) -> Any:
    with Image.open(io.BytesIO(base64.b64decode(str(img["src"]).split(",")[1]))) as image:
        return np.asarray(image.convert("RGB"))


def test_a_picture_the_frames_of_a_clip_and_a_sound(previews: Previews, tmp_path: Path) -> None:
    data = write_demo_data(tmp_path, seed=0, train=0, eval=20, sft=0, choices=0)
    rows = [json.loads(line) for line in data.eval.read_text(encoding="utf-8").splitlines()]
    parts = [part for row in rows for part in row["messages"][0]["content"] if part["type"] != "text"]
    refs = {part["type"]: MediaRef(kind=part["type"], path=str(tmp_path / part[part["type"]])) for part in parts}
    image, video, audio = (shown(previews.of([refs[kind]])) for kind in ("image", "video", "audio"))
    assert len(image.all("img")) == 1
    assert len(video.all("img")) == 4
    for img in image.all("img") + video.all("img"):
        assert pixels(img).max() > 120, "the square is there"
    assert "4 frames in order" in video.text
    assert [one for one in audio.all("svg") if one.get("aria-label") == "waveform"]
    assert len(audio.all("img")) == 1, "pitch over time"
    assert "0.40 s of sound" in audio.text


def test_a_clip_with_its_sound_shows_both(previews: Previews, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", clip(16), sound=tone(2.0))
    (record,) = previews.of([MediaRef(kind="video", path=str(path), sound=True)])
    assert len(record["pictures"]) >= 4
    assert len(record["wave"]) == BARS
    brightness = [pixels(img).mean() for img in shown([record]).all("img")[:4]]
    assert brightness == sorted(brightness), "in order of time"


def test_a_stretch_of_a_file_is_what_is_shown(previews: Previews, tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav", tone(2.0))
    (record,) = previews.of([MediaRef(kind="audio", path=str(path), options={"start": 0.5, "end": 1.0})])
    assert record["seconds"] == pytest.approx(0.5, abs=0.01)


def test_bytes_of_a_data_file_are_shown(previews: Previews, tmp_path: Path) -> None:
    content = write_image(tmp_path / "a.png").read_bytes()
    page = shown(previews.of([MediaRef(kind="image", data=content)]))
    assert len(page.all("img")) == 1
    assert f"<image, {len(content)} bytes>" in page.text


def test_no_picture_is_large(previews: Previews) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (280, 280, 3), dtype=np.uint8)
    made = picture(noise)
    assert len(base64.b64decode(made["data"])) <= REPORT.picture_bytes
    assert pixels({"src": f"data:,{made['data']}"}).std() > 10


def test_previews_of_another_size(tmp_path: Path) -> None:
    clip_path = write_video(tmp_path / "a.mp4", clip(16, 320, 240), sound=tone(2.0))
    image_path = write_image(tmp_path / "a.png", clip(1, 640, 480)[0])
    size = PreviewSize(items=2, image_side=100, frame_side=40, key_frames=4, picture_bytes=900, spectrogram=False)
    with Previews(MediaConfig(), size) as small:
        refs = [MediaRef(kind="video", path=str(clip_path), sound=True), MediaRef(kind="image", path=str(image_path))]
        video, image = small.of([*refs, *refs])
    assert [picture["size"] for picture in video["pictures"]] == [[44, 32]] * 4
    assert "spectrogram" not in video
    assert "s of sound: loudness" in shown([video]).text
    assert "pitch" not in shown([video]).text
    (picture_of,) = image["pictures"]
    assert 90 * 90 < picture_of["size"][0] * picture_of["size"][1] < 110 * 110
    assert len(base64.b64decode(picture_of["data"])) <= 900


def test_files_that_cannot_be_shown_are_named(previews: Previews, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    (tmp_path / "empty.wav").write_bytes(b"")
    named = {"image": "gone.png", "video": "broken.mp4", "audio": "empty.wav"}
    text = shown(previews.of([MediaRef(kind=kind, path=str(tmp_path / name)) for kind, name in named.items()])).text
    assert "gone.png: cannot be shown: missing" in text
    assert "broken.mp4: cannot be shown" in text
    assert "empty.wav: cannot be shown: empty" in text


def test_of_many_items_the_first_are_shown_and_the_rest_counted(previews: Previews, tmp_path: Path) -> None:
    path = str(write_image(tmp_path / "a.png"))
    records = previews.of([MediaRef(kind="image", path=path)] * (REPORT.items + 3))
    assert len(records) == REPORT.items
    assert "and 3 more" in Page(media_figures({"media": records, "more_media": 3})).text


@pytest.mark.parametrize(
    "item",
    [
        {"kind": "image", "name": "x", "pictures": [{"type": "svg+xml", "data": "AAAA", "size": [1, 1]}]},
        {"kind": "image", "name": "x", "pictures": [{"type": "png", "data": "' onerror='alert(1)", "size": [1, 1]}]},
        {"kind": "image", "name": "x", "pictures": [{"type": "png", "data": "AAAA" * 99_999, "size": [1, 1]}]},
        {"kind": "image", "name": "x", "pictures": ["AAAA", None, 3]},
        {"kind": "image", "name": "x", "pictures": "AAAA"},
        {"kind": "audio", "name": "x", "wave": [["M0 0", "<svg>"], [1], [1e9, float("nan")]], "spectrogram": []},
        {"kind": "image"},
        {},
    ],
)
def test_records_that_are_no_previews_give_no_picture(item: dict[str, Any]) -> None:
    page = Page(media_figures({"media": [item]}))
    assert not page.all("img") + page.all("svg")
    assert "cannot be shown" in page.text


def test_sizes_that_are_none_do_no_harm() -> None:
    for size in (None, [0, -1], ["1' onload='x", 2], [1e9, 1e9], [1, 2, 3], "12", [float("nan"), 1]):
        item = {"kind": "image", "name": "x", "pictures": [{"type": "png", "data": "AAAA", "size": size}]}
        (img,) = Page(media_figures({"media": [item]})).all("img")
        assert 0 < int(str(img["width"])) <= 4000


@pytest.mark.parametrize("media", [None, "x", 3, {}, [None], [[]], ["x"]])
def test_media_of_another_shape_are_passed_over(media: Any) -> None:
    assert media_figures({"media": media, "more_media": "many"}) == ""
