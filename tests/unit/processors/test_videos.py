"""Videos of every kind, written by PyAV: the right frames, upright, at the right times, with their own sound."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from qwen_vl_utils.vision_process import calculate_video_frame_range, smart_nframes, smart_resize
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize

from mmreason.errors import ConfigError, MediaError
from mmreason.processors.backends import READERS, _keyframe_to_seek, check_found, choose_decoder, problem
from mmreason.processors.base import Facts, Refusal
from mmreason.processors.media import MediaLoader
from mmreason.types import MediaRef
from tests.media_files import Array, clip, cut, cut_video, picture, tone, write_audio, write_video
from tests.unit.processors.helpers import TRAITS, config, load, reason, ref


def levels(frames: Array) -> Array:
    return np.asarray(frames.mean(axis=(1, 2, 3)))


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi"])
def test_frames_of_every_container(tmp_path: Path, suffix: str) -> None:
    source = clip(16)
    decoded = load(ref(write_video(tmp_path / f"a{suffix}", source), fps=4))
    assert decoded.data.shape == (8, 56, 56, 3)
    wanted = source[[0, 2, 4, 6, 9, 11, 13, 15]]
    np.testing.assert_allclose(levels(decoded.data), levels(wanted), atol=8)
    # avi: the encoder of PyAV's FFmpeg shows the first frame for two intervals
    assert decoded.timestamps[0] == 0
    assert np.allclose(decoded.timestamps, np.array([0, 2, 4, 6, 9, 11, 13, 15]) / 8, atol=0.126)


@pytest.mark.parametrize("frames", [2, 3, 7, 16, 40])
@pytest.mark.parametrize("options", [{}, {"fps": 1.0}, {"fps": 7.5}, {"max_frames": 6}, {"min_frames": 10}])
def test_number_of_frames_and_which_is_qwen_vl_utils(tmp_path: Path, frames: int, options: Any) -> None:
    decoded = load(ref(write_video(tmp_path / "a.mkv", clip(frames)), **options))
    rule = {"fps": 2.0, "min_frames": 4, "max_frames": 64, **options}
    count = smart_nframes(rule, frames, 8.0)
    assert len(decoded.data) == len(decoded.timestamps) == count
    first, last, _ = calculate_video_frame_range({}, frames, 8.0)
    indices = torch.linspace(first, last, count).round().long()
    np.testing.assert_allclose(decoded.timestamps, indices / 8, atol=1e-3)


@pytest.mark.parametrize("fps", [12, 15, 24, 30000 / 1001])
@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".mp4"])
def test_rounded_times_do_not_change_the_number_of_frames(tmp_path: Path, fps: float, suffix: str) -> None:
    """Matroska rounds times to milliseconds: 14.999 frames per second would give 6 frames for 8."""
    for seconds in (4, 6):
        total = round(fps * seconds)
        decoded = load(ref(write_video(tmp_path / f"a{suffix}", clip(total), fps=fps)))
        assert len(decoded.data) == smart_nframes({"fps": 2.0, "min_frames": 4, "max_frames": 64}, total, fps)


def test_nframes(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", clip(16))
    assert len(load(ref(path, nframes=10)).data) == 10
    assert reason(ref(path, nframes=18)) == "too short"


@pytest.mark.parametrize(("width", "height"), [(64, 48), (640, 96), (322, 318)])
def test_size_is_smart_resize(tmp_path: Path, width: int, height: int) -> None:
    decoded = load(ref(write_video(tmp_path / "a.mp4", clip(4, width, height))), video_max_pixels=50_000)
    assert decoded.data.shape[1:] == (*smart_resize(height, width, 28, 3136, 50_000), 3)
    assert decoded.original == (width, height)


def test_resized_pixels_are_those_of_qwen_vl_utils(tmp_path: Path) -> None:
    """Its torchvision resize (bicubic, antialiased) and ours (Pillow's) differ by rounding only."""
    frames = np.stack([picture(320, 240, seed) for seed in range(4)])
    path = write_video(tmp_path / "a.mkv", frames, codec="ffv1", pixels="bgr0")
    decoded = load(ref(path), video_max_pixels=30_000)
    theirs = resize(
        torch.from_numpy(frames).permute(0, 3, 1, 2),
        list(decoded.data.shape[1:3]),
        interpolation=InterpolationMode.BICUBIC,
        antialias=True,
    )
    np.testing.assert_allclose(decoded.data, theirs.permute(0, 2, 3, 1), atol=2)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_frame_rate_is_sampled_by_time(tmp_path: Path, suffix: str) -> None:
    times = [0, 0.1, 0.2, 0.3, 0.4, 1.0, 1.1, 3.0, 3.5, 4.0]
    decoded = load(ref(write_video(tmp_path / f"a{suffix}", clip(10), times=times), nframes=6))
    # asked at 0, 0.8, 1.6, 2.4, 3.2, 4: the frames nearest to that
    np.testing.assert_allclose(decoded.timestamps, [0, 1.0, 1.1, 3.0, 3.0, 4.0], atol=2e-3)
    np.testing.assert_allclose(levels(decoded.data), levels(clip(10))[[0, 5, 6, 7, 7, 9]], atol=6)


@pytest.mark.parametrize("keyframe", [12, None])
@pytest.mark.parametrize("begin", [18, 24])
def test_frames_that_an_edit_list_hides_are_not_shown(tmp_path: Path, begin: int, keyframe: int | None) -> None:
    """As a cut without encoding leaves them: the frames between a keyframe and the cut are in the file, unseen."""
    decoded = load(ref(cut_video(tmp_path / "a.mp4", clip(96), begin, keyframe), nframes=4))
    wanted = np.rint(np.linspace(begin, 95, 4)).astype(int)
    np.testing.assert_allclose(levels(decoded.data), levels(clip(96))[wanted], atol=4)
    np.testing.assert_allclose(decoded.timestamps, (wanted - begin) / 8, atol=1e-3)


@pytest.mark.parametrize("decoder", ["torchcodec", "decord"])
def test_hidden_frames_are_never_taken_for_others(tmp_path: Path, decoder: str) -> None:
    if problem(decoder) is not None:
        pytest.skip(f"{decoder} does not work here")
    item = ref(cut_video(tmp_path / "a.mp4", clip(96), 18, 12), nframes=4)
    with MediaLoader(config(decoder=decoder), TRAITS) as loader:
        (answer,) = loader.load([item])
    if isinstance(answer, MediaError):
        assert answer.reason == "not readable by this decoder"
    else:
        np.testing.assert_allclose(levels(answer.data), levels(load(item).data), atol=4)


def test_a_decoder_that_gives_another_frame_is_refused() -> None:
    facts = Facts(digest="", format="MP4", times=np.array([0, 0.1, 0.2, 1.0]))
    check_found("torchcodec", 0.1004, 0.1, facts)
    for seconds, wanted in ((0.2, 0.1), (0.0, 0.1), (0.2, 1.0), (-0.6, 0.0)):
        with pytest.raises(Refusal, match=f"torchcodec gives the frame at {seconds:.3f} s"):
            check_found("torchcodec", seconds, wanted, facts)


@pytest.mark.parametrize("suffix", [".h264", ".hevc"])
def test_a_raw_stream_says_its_rate_itself(tmp_path: Path, suffix: str) -> None:
    """FFmpeg gives every raw stream 25 frames per second."""
    codec = {".h264": "libx264", ".hevc": "libx265"}[suffix]
    decoded = load(ref(write_video(tmp_path / f"a{suffix}", clip(61), fps=30, codec=codec), kind="video"))
    assert decoded.timestamps[-1] == pytest.approx(2.0)
    assert len(decoded.timestamps) == 4
    np.testing.assert_allclose(levels(decoded.data), levels(clip(61))[[0, 20, 40, 60]], atol=6)


@pytest.mark.parametrize(("rotation", "corner"), [(0, (5, 5)), (90, (-5, 5)), (180, (-5, -5)), (-90, (5, -5))])
def test_rotation_flag(tmp_path: Path, rotation: int, corner: tuple[int, int]) -> None:
    frames = np.zeros((4, 56, 84, 3), np.uint8)
    frames[:, :28, :42] = 255
    decoded = load(ref(write_video(tmp_path / "a.mp4", frames, rotation=rotation)))
    assert decoded.original == ((56, 84) if rotation % 180 else (84, 56))
    assert decoded.data[0][corner].min() > 200
    assert (decoded.data[0] > 128).mean() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(
    ("suffix", "codec", "pixels"),
    [(".mkv", "libx265", "yuv420p10le"), (".mkv", "ffv1", "yuv444p10le"), (".mkv", "mjpeg", "yuvj420p"),
     (".mp4", "libsvtav1", "yuv420p"), (".mkv", "libvpx-vp9", "yuv444p"), (".gif", "gif", "rgb8"),
     (".ts", "libx264", "yuv420p"), (".h264", "libx264", "yuv420p"), (".mov", "prores_ks", "yuv422p10le"),
     (".webm", "libvpx", "yuv420p")],
)  # fmt: skip
def test_codecs_and_ten_bits(tmp_path: Path, suffix: str, codec: str, pixels: str) -> None:
    decoded = load(ref(write_video(tmp_path / f"a{suffix}", clip(16), codec=codec, pixels=pixels), nframes=4))
    np.testing.assert_allclose(levels(decoded.data), levels(clip(16))[[0, 5, 10, 15]], atol=6)


def test_odd_size(tmp_path: Path) -> None:
    decoded = load(ref(write_video(tmp_path / "a.mkv", clip(4, 63, 47), pixels="yuv444p")))
    assert decoded.original == (63, 47)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".avi", ".h264"])
def test_long_video_is_sampled_by_seeking(tmp_path: Path, suffix: str) -> None:
    frames = clip(224)
    codec = "mpeg4" if suffix == ".avi" else "libx264"
    path = write_video(tmp_path / f"a{suffix}", frames, fps=25, codec=codec, keyframe_every=20)
    decoded = load(ref(path, nframes=4))
    shift = 1 if suffix == ".avi" else 0  # see above
    wanted = levels(frames)[np.rint(np.linspace(0, 223, 4)).astype(int)]
    np.testing.assert_allclose(levels(decoded.data), wanted, atol=4 + shift)


def test_seeks_only_where_it_pays() -> None:
    times = np.arange(1000) / 25
    facts = Facts(digest="", format="MP4", times=times, keyframes=times[::50])
    assert _keyframe_to_seek(facts, 0.5, 0.0) is None  # before the second keyframe: decode on
    assert _keyframe_to_seek(facts, 2.1, 1.9) is None  # it comes by itself, 3 frames ahead
    assert _keyframe_to_seek(facts, 21.0, 1.9) == 20.0


def test_start_and_end(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", clip(32), sound=np.concatenate([tone(2, hertz=300), tone(2, hertz=900)]))
    decoded = load(ref(path, sound=True, start=2, end=3, nframes=4))
    assert decoded.timestamps == pytest.approx((2, 2.375, 2.625, 3), abs=0.01)
    assert decoded.sound is not None
    assert len(decoded.sound.data) == 16000
    assert _pitch(decoded.sound.data) == pytest.approx(900, abs=5)
    assert reason(ref(path, start=2.01, end=2.02)) == "too short"
    assert reason(ref(path, start=9)) == "too short"


def _pitch(samples: Array) -> float:
    """Hertz of the loudest frequency at 16 kHz."""
    return float(np.abs(np.fft.rfft(samples)).argmax() * 16000 / len(samples))


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi"])
def test_own_sound(tmp_path: Path, suffix: str) -> None:
    path = write_video(tmp_path / f"a{suffix}", sound=tone(2, 44100, 500, channels=2), sound_rate=44100)
    decoded = load(ref(path, sound=True))
    assert decoded.sound is not None
    assert decoded.sound.rate == 16000
    assert decoded.sound.data.ndim == 1
    assert len(decoded.sound.data) / 16000 == pytest.approx(2, abs=0.1)
    assert _pitch(decoded.sound.data) == pytest.approx(500, abs=5)
    assert load(ref(path)).sound is None


def test_the_track_that_has_sound_is_taken(tmp_path: Path) -> None:
    silence = np.zeros(32000, np.float32)
    for tracks in ([silence, tone(2)], [tone(2), silence]):
        decoded = load(ref(write_video(tmp_path / "a.mkv", sound=tracks), sound=True))
        assert decoded.sound is not None
        assert np.abs(decoded.sound.data).max() > 0.3


def test_silence_is_sound(tmp_path: Path) -> None:
    decoded = load(ref(write_video(tmp_path / "a.mp4", sound=np.zeros(32000, np.float32)), sound=True))
    assert decoded.sound is not None
    assert not decoded.sound.data.any()


def test_no_sound_track(tmp_path: Path) -> None:
    assert reason(ref(write_video(tmp_path / "a.mp4"), sound=True)) == "no sound track"
    assert reason(MediaRef(kind="audio", path=str(tmp_path / "a.mp4"))) == "no sound track"


def test_sound_of_a_video_file_as_audio(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", sound=tone(2))
    assert len(load(ref(path, kind="audio")).data) == pytest.approx(32000, abs=10)


def test_sound_only_file_is_no_video(tmp_path: Path) -> None:
    assert reason(ref(write_audio(tmp_path / "a.m4a"), kind="video")) == "wrong type"
    assert reason(ref(write_audio(tmp_path / "a.wav"), kind="video")) == "wrong type"


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi"])  # a .ts says nowhere how long it should be
@pytest.mark.parametrize("options", [{}, {"movflags": "faststart"}])
@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9])
def test_truncated(tmp_path: Path, suffix: str, options: dict[str, str], keep: float) -> None:
    path = write_video(tmp_path / f"a{suffix}", clip(80), options=options if suffix == ".mp4" else {})
    assert reason(ref(cut(path, keep))) == "truncated"


def test_zeroed_middle_is_corrupt_or_truncated(tmp_path: Path) -> None:
    frames = np.stack([picture(128, 96, seed) for seed in range(40)])
    path = write_video(tmp_path / "a.mp4", frames)
    content = bytearray(path.read_bytes())
    content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 4)
    path.write_bytes(content)
    assert reason(ref(path)) in ("corrupt", "truncated")


def test_too_long(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", clip(16), fps=1, sound=tone(16))
    assert reason(ref(path), video_max_seconds=10) == "too long"
    assert reason(ref(path, sound=True), audio_max_seconds=10) == "too long"
    raw = write_video(tmp_path / "a.h264", clip(64), codec="libx264")  # says nothing of its length
    assert reason(ref(raw), video_max_seconds=1) == "too long"


def test_too_large(tmp_path: Path) -> None:
    assert reason(ref(write_video(tmp_path / "a.mp4")), image_max_source_pixels=3000) == "too large"


@pytest.mark.parametrize(
    "options",
    [{"fps": 0}, {"fps": "2"}, {"frames": 4}, {"nframes": 4.5}, {"nframes": 4, "fps": 1}, {"start": 2, "end": 1},
     {"max_frames": 1}, {"min_pixels": 10**6, "max_pixels": 10**5}, {"start": float("nan")}, {"max_frames": True}],
)  # fmt: skip
def test_bad_options(tmp_path: Path, options: Any) -> None:
    assert reason(ref(write_video(tmp_path / "a.mp4"), **options)) == "bad options"


@pytest.mark.parametrize("decoder", list(READERS))
def test_every_decoder_that_works_gives_the_same_frames(tmp_path: Path, decoder: str) -> None:
    if problem(decoder) is not None:
        with pytest.raises(ConfigError, match=f"{decoder} does not work here"):
            choose_decoder(decoder)
        return
    frames = np.stack([picture(96, 64, seed) for seed in range(60)])
    path = write_video(tmp_path / "a.mp4", frames, times=[index**1.2 / 20 for index in range(60)], keyframe_every=7)
    ours, theirs = load(ref(path, nframes=8)), load(ref(path, nframes=8), decoder=decoder)
    np.testing.assert_allclose(theirs.timestamps, ours.timestamps, atol=1e-3)
    assert np.abs(theirs.data.astype(int) - ours.data).mean() < 3
    assert ours.key != theirs.key or decoder == "pyav"


def test_torchcodec_refuses_where_it_finds_another_frame(tmp_path: Path) -> None:
    """Its seeks in an MPEG-TS end at the last keyframe."""
    if problem("torchcodec") is not None:
        pytest.skip("torchcodec does not work here")
    path = write_video(tmp_path / "a.ts", clip(16), codec="libx264")
    assert reason(ref(path, nframes=4), decoder="torchcodec") in ("not readable by this decoder", "corrupt")


def test_decord_refuses_what_it_would_garble(tmp_path: Path) -> None:
    if problem("decord") is not None:
        pytest.skip("decord does not work here")
    turned = write_video(tmp_path / "a.mp4", rotation=90)
    assert reason(ref(turned), decoder="decord") == "not readable by this decoder"


def test_a_playlist_cannot_open_other_files(tmp_path: Path) -> None:
    write_video(tmp_path / "a.ts", codec="libx264")
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{tmp_path / 'a.ts'}\n")
    assert reason(ref(tmp_path / "list.mp4")) == "wrong type"
    with wave.open(str(tmp_path / "b.wav"), "wb") as file:  # the same text behind a magic number that is let through
        file.setparams((1, 2, 16000, 0, "NONE", ""))
    hidden = b"ID3\x04\0\0\0\0\0\0" + (tmp_path / "list.mp4").read_bytes()
    (tmp_path / "hidden.mp3").write_bytes(hidden)
    assert reason(ref(tmp_path / "hidden.mp3")) == "corrupt"


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = cut(write_video(tmp_path / "a.mp4"), 0.5)
    with pytest.raises(MediaError, match=f"{path}: truncated"):
        load(ref(path))
