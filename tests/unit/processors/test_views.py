"""Every view on real files: what it changes, what it leaves, by seed, and what is kept in memory."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from mmreason.processors.base import Decoded
from mmreason.processors.views import SEEDED, VIEWS, applies, seen, without_media
from mmreason.types import MediaRef, Message, Sample, View
from tests.media_files import clip, tone, write_audio, write_image, write_video
from tests.unit.processors.helpers import load, pipeline, ref

IMAGE, VIDEO, AUDIO = (MediaRef(kind=kind, path=f"/a.{kind}") for kind in ("image", "video", "audio"))
TALKIE = MediaRef(kind="video", path="/b.video", sound=True)


def ask(*parts: str | MediaRef) -> Sample:
    return Sample(id="q", messages=(Message(role="user", content=parts),))


@pytest.mark.parametrize(
    ("view", "changed"),
    [
        ("ordered", []),
        ("shuffled", [VIDEO, TALKIE]),
        ("blank", [IMAGE, VIDEO, TALKIE]),
        ("noise", [AUDIO, TALKIE]),
        ("muted", [AUDIO, TALKIE]),
        ("none", [IMAGE, VIDEO, AUDIO, TALKIE]),
    ],
)
def test_a_sample_without_such_media_takes_no_part(view: View, changed: list[MediaRef]) -> None:
    assert [item for item in (IMAGE, VIDEO, AUDIO, TALKIE) if applies(view, ask(item, "?"))] == changed
    assert applies(view, ask(IMAGE, VIDEO, AUDIO)) == bool(changed)
    assert not applies(view, ask("2+3?"))


def test_every_view_has_a_row() -> None:
    assert set(VIEWS) == set(get_args(View))


def test_blank_is_mid_grey_of_the_same_size(tmp_path: Path) -> None:
    for item in (ref(write_image(tmp_path / "a.png")), ref(write_video(tmp_path / "a.mp4", clip(8)))):
        decoded = load(item)
        grey = seen(decoded, "blank", 0)
        assert grey.data.shape == decoded.data.shape
        assert grey.data.dtype == np.uint8
        assert set(grey.data.flatten().tolist()) == {128}
        assert (grey.timestamps, grey.original) == (decoded.timestamps, decoded.original)


def test_noise_has_the_level_of_the_sound_and_silence_none(tmp_path: Path) -> None:
    decoded = load(ref(write_audio(tmp_path / "a.wav", 0.3 * tone(seconds=2.0))))
    level = float(np.sqrt(np.mean(decoded.data.astype(float) ** 2)))
    assert level > 0.05
    noisy = seen(decoded, "noise", 1)
    assert noisy.data.shape == decoded.data.shape
    assert float(np.sqrt(np.mean(noisy.data.astype(float) ** 2))) == pytest.approx(level, rel=0.02)
    assert abs(float(np.corrcoef(noisy.data, decoded.data)[0, 1])) < 0.05
    assert np.array_equal(noisy.data, seen(decoded, "noise", 1).data)
    assert not np.array_equal(noisy.data, seen(decoded, "noise", 2).data)
    silent = seen(decoded, "muted", 1)
    assert silent.data.shape == decoded.data.shape
    assert not silent.data.any()
    assert not seen(silent, "noise", 1).data.any()
    empty = Decoded(kind="audio", data=np.zeros(0, dtype=np.float32), rate=16000, key="1")
    assert seen(empty, "noise", 1).data.shape == (0,)


def test_the_sound_of_a_video_is_audio_and_its_frames_are_not(tmp_path: Path) -> None:
    item = ref(write_video(tmp_path / "a.mp4", clip(16), sound=tone(seconds=2.0)), sound=True, nframes=8)
    with pipeline() as media:
        shown = {view: media.tensors([item], view, 3)[0] for view in VIEWS}
    video = {view: made[0] for view, made in shown.items() if isinstance(made, tuple)}
    audio = {view: made[1] for view, made in shown.items() if isinstance(made, tuple)}
    for view in VIEWS:
        frames = torch.equal(video[view].kwargs["pixel_values_videos"], video["ordered"].kwargs["pixel_values_videos"])
        sound = torch.equal(audio[view].kwargs["input_features"], audio["ordered"].kwargs["input_features"])
        assert frames == (view not in ("shuffled", "blank")), view
        assert sound == (view not in ("noise", "muted")), view
        assert frames == (video[view].key == video["ordered"].key)
        assert sound == (audio[view].key == audio["ordered"].key)
        assert [one.tokens for one in (video[view], audio[view])] == [video["ordered"].tokens, audio["ordered"].tokens]


def test_views_are_kept_apart_in_memory(tmp_path: Path) -> None:
    item = ref(write_video(tmp_path / "a.mp4", clip(16)), nframes=8)
    still = ref(write_image(tmp_path / "a.png"))
    with pipeline() as media:
        found = {(view, seed): media.tensors([item, still], view, seed) for view in VIEWS for seed in (1, 2)}
        decoded = media.loader.decoded
        kept = {name: made for name, made in found.items() if name[0] not in SEEDED}
        assert {name: media.tensors([item, still], *name) for name in kept} == kept  # the very same objects
        assert media.loader.decoded == decoded
    videos = {name: made[0][0] for name, made in found.items() if isinstance(made[0], tuple)}
    assert videos["blank", 1] is videos["blank", 2]
    assert videos["muted", 1] is videos["ordered", 1]
    assert videos["shuffled", 1] is not videos["shuffled", 2]


def test_views_with_a_seed_of_every_step_push_nothing_out_of_memory(tmp_path: Path) -> None:
    item, sound = ref(write_video(tmp_path / "a.mp4", clip(16)), nframes=8), ref(write_audio(tmp_path / "a.wav"))
    with pipeline() as media:
        media.tensors([item, sound])
        size = media._memory.bytes
        for step in range(3):
            media.tensors([item], "shuffled", step)
            media.tensors([sound], "noise", step)
        assert media._memory.bytes == size


def test_media_are_taken_out_of_the_prompt() -> None:
    sample = ask(IMAGE, "What is", VIDEO, "this?")
    assert without_media(sample).messages[0].content == ("What is", "this?")
    assert without_media(ask(IMAGE)).messages[0].content == ("",)
