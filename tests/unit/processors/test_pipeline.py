"""From files to tensors: equal to what the checkpoint's processor makes of the same arrays."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2VLImageProcessor, WhisperFeatureExtractor

from mmreason.errors import MediaError, ModelError
from mmreason.processors.base import Decoded, MediaTraits
from mmreason.processors.pipeline import MediaPipeline
from mmreason.processors.video import stamp_ids
from mmreason.processors.views import shuffled_order
from mmreason.types import Geometry, MediaRef, MediaTensors
from tests.media_files import clip, picture, tone, write_audio, write_image, write_video
from tests.unit.processors.helpers import TRAITS, VISION_TRAITS, components, config, load, pipeline, ref


def tensors(item: MediaRef, **changes: object) -> tuple[MediaTensors, ...]:
    with pipeline(**changes) as media:  # type: ignore[arg-type]
        (answer,) = media.tensors([item])
    assert not isinstance(answer, MediaError), answer
    return answer


def test_image(tmp_path: Path) -> None:
    item = ref(write_image(tmp_path / "a.png", picture(100, 60)))
    (made,) = tensors(item)
    decoded = load(item)
    theirs = components().image_processor(images=[decoded.data], do_resize=False, return_tensors="pt")
    assert set(made.kwargs) == {"pixel_values", "image_grid_thw"}
    assert torch.equal(made.kwargs["pixel_values"], theirs["pixel_values"])
    assert made.kwargs["image_grid_thw"].tolist() == theirs["image_grid_thw"].tolist() == [[1, 4, 8]]
    assert made.grid == (1, 4, 8)
    assert made.tokens == 8
    assert made.geometry == Geometry(original=(100, 60), resized=(112, 56), frame="resized_pixels")
    assert made.key == decoded.key


def test_image_is_not_resized_a_second_time(tmp_path: Path) -> None:
    """The checkpoint's own bounds are wider: given free hand, its processor would keep this size as well."""
    item = ref(write_image(tmp_path / "a.png", picture(300, 200)), max_pixels=20_000)
    (made,) = tensors(item)
    theirs = components().image_processor(images=[load(item).data], return_tensors="pt")
    assert torch.equal(made.kwargs["pixel_values"], theirs["pixel_values"])
    small = MediaPipeline(config(), TRAITS, _with(Qwen2VLImageProcessor(max_pixels=3136)))
    assert torch.equal(small.tensors([item])[0][0].kwargs["pixel_values"], made.kwargs["pixel_values"])  # type: ignore[index]


def _with(image_processor: Qwen2VLImageProcessor) -> object:
    return SimpleNamespace(**{**vars(components()), "image_processor": image_processor})


def test_video(tmp_path: Path) -> None:
    frames = np.stack([picture(90, 60, seed) for seed in range(16)])
    item = ref(write_video(tmp_path / "a.mp4", frames, fps=8), fps=4)
    (made,) = tensors(item)
    decoded = load(item)
    theirs = components().video_processor(
        videos=[decoded.data], do_resize=False, do_sample_frames=False, cap_pixels_per_frame=False, return_tensors="pt"
    )
    assert set(made.kwargs) == {"pixel_values_videos", "video_grid_thw", "video_second_per_grid"}
    assert torch.equal(made.kwargs["pixel_values_videos"], theirs["pixel_values_videos"])
    assert made.kwargs["video_grid_thw"].tolist() == theirs["video_grid_thw"].tolist() == [[4, 4, 6]]
    assert made.tokens == 4 * 2 * 3
    assert made.timestamps == decoded.timestamps
    assert made.seconds_per_grid == pytest.approx(2 * 15 / 8 / 7)
    assert made.kwargs["video_second_per_grid"].tolist() == pytest.approx([2 * 15 / 8 / 7])
    assert made.geometry == Geometry(original=(90, 60), resized=(84, 56), frame="resized_pixels")


def test_seconds_per_grid_follow_the_timestamps(tmp_path: Path) -> None:
    slow = ref(write_video(tmp_path / "a.mkv", clip(4), times=[0, 1, 2, 6]))
    with MediaPipeline(config(), VISION_TRAITS, components()) as media:
        ((made,),) = media.tensors([slow])  # type: ignore[misc]
    assert made.kwargs["second_per_grid_ts"].tolist() == [4.0]


def test_video_with_sound(tmp_path: Path) -> None:
    item = ref(write_video(tmp_path / "a.mp4", sound=tone(2)), sound=True)
    video, audio = tensors(item)
    assert (video.kind, video.joined, audio.kind, audio.joined) == ("video", False, "audio", True)
    assert audio.tokens == 50
    assert audio.kwargs["input_features"].shape == (1, 128, 200)
    assert audio.kwargs["feature_attention_mask"].shape == (1, 200)
    assert audio.key != video.key


def test_shuffled_view(tmp_path: Path) -> None:
    item = ref(write_video(tmp_path / "a.mp4", clip(16)), nframes=8)
    still = ref(write_image(tmp_path / "a.png"))
    with pipeline() as media:
        ((ordered,),) = media.tensors([item])  # type: ignore[misc]
        ((one,), (image,)) = media.tensors([item, still], "shuffled", 1)  # type: ignore[misc]
        ((again,),) = media.tensors([item], "shuffled", 1)  # type: ignore[misc]
        ((two,),) = media.tensors([item], "shuffled", 2)  # type: ignore[misc]
        assert media.tensors([still]) == [(image,)]
    values = [made.kwargs["pixel_values_videos"] for made in (ordered, one, again, two)]
    assert torch.equal(values[1], values[2])
    assert not torch.equal(values[0], values[1])
    assert not torch.equal(values[1], values[3])
    assert ordered.timestamps == one.timestamps == tuple(sorted(one.timestamps))
    assert len({made.key for made in (ordered, one, two)}) == 3
    order = shuffled_order(load(item), 1)
    theirs = components().video_processor(
        videos=[load(item).data[order]], do_resize=False, do_sample_frames=False, cap_pixels_per_frame=False,
        return_tensors="pt",
    )  # fmt: skip
    assert torch.equal(values[1], theirs["pixel_values_videos"])


def test_shuffled_is_never_the_identity() -> None:
    frames = clip(2)
    for seed in range(50):
        for key in ("0", "f" * 64):
            decoded = Decoded(kind="video", data=frames, key=key)
            assert shuffled_order(decoded, seed) == [1, 0]
    nearly = np.concatenate([clip(1)] * 5 + [clip(2)[1:]])
    for seed in range(50):
        order = shuffled_order(Decoded(kind="video", data=nearly, key="1"), seed)
        assert sorted(order) == list(range(6))
        assert order[-1] != 5
    still = np.concatenate([clip(1)] * 4)
    assert sorted(shuffled_order(Decoded(kind="video", data=still, key="1"), 3)) == [0, 1, 2, 3]


def test_order_duplicates_and_memory(tmp_path: Path) -> None:
    image, sound = ref(write_image(tmp_path / "a.png")), ref(write_audio(tmp_path / "a.wav"))
    missing = ref(tmp_path / "none.png")
    with pipeline() as media:
        answers = media.tensors([image, missing, sound, image])
        assert media.loader.decoded == 2
        assert [answer.reason if isinstance(answer, MediaError) else answer[0].kind for answer in answers] == [
            "image", "missing", "audio", "image"]  # fmt: skip
        assert answers[0] is answers[3]
        assert media.tensors([image])[0] is answers[0]
        assert media.loader.decoded == 2
    with pipeline(memory_gb=0.0) as media:
        first, second = (media.tensors([image])[0] for _ in range(2))
        assert first is not second
        assert media.loader.decoded == 2


def test_counts_from_headers_equal_the_tokens(tmp_path: Path) -> None:
    refs = [
        ref(write_image(tmp_path / "a.png", picture(400, 300))),
        ref(write_image(tmp_path / "b.jpg", picture(64, 200), orientation=6)),
        ref(write_video(tmp_path / "a.mp4")),
        ref(write_video(tmp_path / "b.mkv", clip(40)), max_frames=8),
        ref(write_video(tmp_path / "c.mp4", sound=tone(2)), sound=True),
        ref(write_audio(tmp_path / "a.wav", tone(1.234))),
        ref(write_audio(tmp_path / "a.m4a", tone(3))),
        ref(write_audio(tmp_path / "b.flac", tone(2, 44100), 44100), start=0.5, end=1.75),
    ]
    with pipeline() as media:
        counts = media.token_counts(refs)
        assert media.loader.decoded == 0
        made = media.tensors(refs)
        assert counts == [_in_the_prompt(item) for item in made if not isinstance(item, MediaError)]
        missing, too_short = media.token_counts(
            [ref(tmp_path / "none.png"), ref(write_audio(tmp_path / "short.wav", tone(0.01)))]
        )
        assert isinstance(missing, MediaError)
        assert isinstance(too_short, MediaError)


def _in_the_prompt(item: tuple[MediaTensors, ...]) -> int:
    """Tokens that stand where the item's placeholder stood; sound inside a video brings its start and end token."""
    return sum(part.tokens + 2 * part.joined for part in item)


def test_workers_give_the_same_tensors(tmp_path: Path) -> None:
    refs = [ref(write_video(tmp_path / "a.mp4", sound=tone(2)), sound=True), ref(write_image(tmp_path / "a.png"))]
    with pipeline() as here, pipeline(workers=2) as there:
        for ours, theirs in zip(here.tensors(refs), there.tensors(refs), strict=True):
            assert not isinstance(ours, MediaError)
            assert not isinstance(theirs, MediaError)
            for one, other in zip(ours, theirs, strict=True):
                assert one.key == other.key
                assert all(torch.equal(one.kwargs[name], other.kwargs[name]) for name in one.kwargs)


def test_processor_of_another_family_is_refused() -> None:
    other = MediaTraits(frame="per_thousand", pixel_factor=32)
    with pytest.raises(ModelError, match="image_processor"):
        MediaPipeline(config(), other, components())
    slow = MediaTraits(frame="resized_pixels", audio_rate=24000)
    with pytest.raises(ModelError, match="24000"):
        MediaPipeline(config(), slow, components())


HEARING_TRAITS = MediaTraits(frame="unit", vision=False, audio_rate=16000, audio_min_tokens=2, mel_frames=400)


def _hearing(seconds: int = 4) -> Any:
    """The parts of a Qwen2-Audio processor with a short window."""
    return SimpleNamespace(feature_extractor=WhisperFeatureExtractor(feature_size=128, chunk_length=seconds))


def test_a_tower_that_takes_one_length_only(tmp_path: Path) -> None:
    sound = ref(write_audio(tmp_path / "a.wav", tone(1)))
    with MediaPipeline(config(), HEARING_TRAITS, _hearing()) as media:
        ((made,),) = media.tensors([sound])  # type: ignore[misc]
        samples = load(sound).data
        theirs = _hearing().feature_extractor(
            samples, sampling_rate=16000, padding="max_length", return_attention_mask=True, return_tensors="pt"
        )
        assert torch.equal(made.kwargs["input_features"], theirs["input_features"])
        assert torch.equal(made.kwargs["feature_attention_mask"], theirs["attention_mask"])
        assert made.kwargs["feature_attention_mask"].sum() == 100
        assert media.token_counts([sound]) == [made.tokens] == [25]


def test_what_a_family_that_only_hears_refuses(tmp_path: Path) -> None:
    refs = [
        ref(write_image(tmp_path / "a.png")),
        ref(write_video(tmp_path / "a.mp4", sound=tone(2)), sound=True),
        ref(write_audio(tmp_path / "short.wav", tone(0.06))),
        ref(write_audio(tmp_path / "long.wav", tone(5))),
    ]
    with MediaPipeline(config(), HEARING_TRAITS, _hearing()) as media:
        wanted = ["not supported by the model", "not supported by the model", "too short", "too long"]
        for found in (media.tensors(refs), media.token_counts(refs)):
            assert [item.reason if isinstance(item, MediaError) else "" for item in found] == wanted


def test_a_feature_extractor_of_another_window_is_refused() -> None:
    with pytest.raises(ModelError, match="500 mel frames, this checkpoint's audio tower takes 400"):
        MediaPipeline(config(), HEARING_TRAITS, _hearing(seconds=5))


def test_times_in_words() -> None:
    """A step is told at the mean of its frames; a last frame without a partner is its own."""
    traits = MediaTraits(frame="per_thousand", pixel_factor=32, time_words="<{:.1f} seconds>")
    words: list[str] = []

    def tokenizer(text: str, **_: Any) -> dict[str, list[int]]:
        words.append(text)
        return {"input_ids": [len(text)]}

    assert stamp_ids((0.0, 0.5, 1.0, 18.2, 20.0), traits, tokenizer) == ((13,), (13,), (14,))
    assert words == ["<0.2 seconds>", "<9.6 seconds>", "<20.0 seconds>"]
    assert stamp_ids((0.0, 0.5), VISION_TRAITS, tokenizer) == ()
