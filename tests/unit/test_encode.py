"""Samples to prompts: the checkpoint's own processor is the reference for ids, one row per mistake for refusals."""

from __future__ import annotations

import wave
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor
from transformers.video_utils import VideoMetadata

from mmreason.collate import SOUND, merge_media
from mmreason.config import DataConfig, MediaConfig, build_config
from mmreason.encode import Encoder, feature_count, lettered
from mmreason.errors import AlignmentError, DataError, MediaError, MMReasonError, ModelError
from mmreason.policy.families import FAMILIES, family_of
from mmreason.processors.base import Decoded
from mmreason.processors.pipeline import MediaPipeline
from mmreason.types import MediaRef, Message, Sample, Segment

MEDIA = MediaConfig(workers=0, video_min_pixels=56 * 56, video_max_pixels=56 * 56, image_max_pixels=112 * 112)


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a.png (84 x 56), b.mp4 (56 x 56, 4 s, with sound), c.wav (0.5 s) and a broken d.png."""
    folder = tmp_path_factory.mktemp("media")
    pixels = np.random.default_rng(0).integers(0, 255, (56, 84, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    (folder / "d.png").write_bytes(b"not an image")
    tone = (np.sin(np.arange(8000) / 10) * 20000).astype("<i2")
    with wave.open(str(folder / "c.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16000)
        sound.writeframes(tone.tobytes())
    with av.open(str(folder / "b.mp4"), "w") as container:
        video, audio = container.add_stream("mpeg4", rate=4), container.add_stream("aac", rate=16000)
        video.width = video.height = 56
        for index in range(16):
            frame = np.full((56, 56, 3), 15 * index, dtype=np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode())
        samples = np.sin(np.arange(64000) / 10).astype(np.float32)[None]
        for start in range(0, 64000, 1024):
            piece = av.AudioFrame.from_ndarray(samples[:, start : start + 1024], format="fltp", layout="mono")
            piece.sample_rate, piece.pts = 16000, start
            container.mux(audio.encode(piece))
        container.mux(audio.encode())
    return folder


class Bench:
    """An encoder for one checkpoint, with what tests look at beside it."""

    def __init__(self, checkpoint: Path, data: DataConfig) -> None:
        family = family_of(str(checkpoint))
        config = family.load_config(str(checkpoint))
        self.processor = AutoProcessor.from_pretrained(checkpoint)
        self.traits = family.traits(config)
        self.pipeline = MediaPipeline(MEDIA, self.traits, self.processor)
        self.rules = family.rules(config)
        self.encoder = Encoder(self.processor, self.processor.tokenizer, self.rules, self.pipeline, data)

    def prompt(self, sample: Sample) -> Segment:
        (result,) = self.encoder.prompts([sample])
        assert not isinstance(result, MMReasonError), result
        return result[1]

    def refusal(self, sample: Sample) -> MMReasonError:
        (result,) = self.encoder.prompts([sample])
        assert isinstance(result, MMReasonError), result
        assert "\n" not in str(result)
        return result


@pytest.fixture(scope="module")
def omni(tiny_omni: Path) -> Iterator[Bench]:
    bench = Bench(tiny_omni, DataConfig())
    yield bench
    bench.pipeline.close()


@pytest.fixture(scope="module")
def vl(tiny_vl: Path) -> Iterator[Bench]:
    bench = Bench(tiny_vl, DataConfig())
    yield bench
    bench.pipeline.close()


def ask(*content: str | MediaRef, **more: object) -> Sample:
    return replace(Sample(id="t.jsonl:1", messages=(Message(role="user", content=content),)), **more)  # type: ignore[arg-type]


def image(folder: Path, name: str = "a.png") -> MediaRef:
    return MediaRef(kind="image", path=str(folder / name))


def test_text_is_the_chat_template(omni: Bench) -> None:
    prompt = omni.prompt(ask("What is 2+3?"))
    expected = "<|im_start|>user\nWhat is 2+3?<|im_end|>\n<|im_start|>assistant\n"
    assert omni.processor.tokenizer.decode(prompt.ids) == expected
    assert prompt.kind == "prompt"
    assert not prompt.loss_mask.any()
    assert prompt.engine_ids is not None
    assert torch.equal(prompt.ids, prompt.engine_ids)


@pytest.mark.parametrize("family", ["omni", "vl"])
def test_image_ids_equal_the_processors(family: str, media: Path, request: pytest.FixtureRequest) -> None:
    bench: Bench = request.getfixturevalue(family)
    sample = ask("First ", image(media), " second ", image(media), "Same?")
    (result,) = bench.encoder.prompts([sample])
    assert not isinstance(result, MMReasonError)
    encoded, prompt = result
    assert prompt.engine_ids is not None
    image_token = bench.rules.placeholder["image"]
    assert (prompt.engine_ids == image_token).sum() == 2
    pictures = [Image.open(media / "a.png")] * 2
    # The tiny processor leaves an 84 x 56 picture as it is, so it is the reference for ids.
    reference = bench.processor(text=[bench.encoder.render(sample)], images=pictures, return_tensors="pt")
    assert torch.equal(prompt.ids, reference["input_ids"][0])
    assert [item.original for item in encoded.geometry] == [(84, 56)] * 2
    assert encoded.geometry[0].frame == "resized_pixels"


def test_all_kinds_in_one_batch(omni: Bench, media: Path) -> None:
    video = MediaRef(kind="video", path=str(media / "b.mp4"))
    samples = [
        ask("2+3?"),
        ask(MediaRef(kind="audio", path=str(media / "c.wav")), "Pitch?"),
        ask(video, image(media), "What?"),
        ask(replace(video, sound=True), "What?"),
    ]
    results = omni.encoder.prompts(samples)
    prompts = []
    for result in results:
        assert not isinstance(result, MMReasonError), result
        prompts.append(result[1])
    assert [[item.kind for item in prompt.media] for prompt in prompts] == [
        [],
        ["audio"],
        ["video", "image"],
        ["video", "audio"],
    ]
    for prompt in prompts:
        for kind, token in omni.rules.placeholder.items():
            assert (prompt.ids == token).sum() == sum(item.tokens for item in prompt.media if item.kind == kind)
    with_sound = prompts[3]
    assert with_sound.media[1].joined
    assert with_sound.engine_ids is not None
    # One placeholder for the video and its sound together.
    placeholders = torch.tensor(list(omni.rules.placeholder.values()))
    assert torch.isin(with_sound.engine_ids, placeholders).sum() == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_equal_the_processors(family: str, media: Path, tiny: Callable[[str], Path]) -> None:
    """Ids and tensors of every kind of media are those of the checkpoint's own processor, given the same pixels, the
    video's metadata and the same samples; and their number was known before anything was decoded."""
    bench = Bench(tiny(family), DataConfig())
    files = {"image": "a.png", "video": "b.mp4", "audio": "c.wav"}
    refs = [MediaRef(kind=kind, path=str(media / files[kind])) for kind in bench.rules.placeholder] * 2
    sample = ask("First", *refs, "What?")
    counts = bench.pipeline.token_counts(refs)
    assert bench.pipeline.loader.decoded == 0
    prompt = bench.prompt(sample)
    theirs = _processed(bench, sample)
    assert torch.equal(prompt.ids, theirs.pop("input_ids")[0])
    assert prompt.engine_ids is not None
    assert len(prompt.ids) == len(prompt.engine_ids) - len(refs) + sum(n for n in counts if isinstance(n, int))
    traits = bench.traits
    for name, tensor in merge_media(prompt.media).items():
        if name == traits.seconds_name:  # from the frames' own times here, from an assumed rate there
            continue
        padded = name in SOUND and traits.mel_frames is None
        expected = theirs[name][..., : tensor.shape[-1]] if padded else theirs[name]
        assert torch.equal(tensor, expected.to(tensor.dtype)), name


def _processed(bench: Bench, sample: Sample) -> dict[str, torch.Tensor]:
    """What the checkpoint's processor makes of the decoded media of a sample."""
    found: dict[str, list[Decoded]] = {"image": [], "video": [], "audio": []}
    for item in bench.pipeline.loader.load(sample.media):
        assert isinstance(item, Decoded)
        found[item.kind].append(item)
    given: dict[str, Any] = {}
    if found["image"]:
        given["images"] = [item.data for item in found["image"]]
        given["images_kwargs"] = {"do_resize": False, "input_data_format": "channels_last"}
    if found["video"]:
        given["videos"] = [torch.from_numpy(item.data).permute(0, 3, 1, 2) for item in found["video"]]
        given["videos_kwargs"] = {
            "do_resize": False,
            "do_sample_frames": False,
            "cap_pixels_per_frame": False,
            "input_data_format": "channels_first",
            "video_metadata": [
                VideoMetadata(total_num_frames=16, fps=4.0, frames_indices=[round(4 * t) for t in item.timestamps])
                for item in found["video"]
            ],
        }
    if found["audio"]:
        given["audio"] = [item.data for item in found["audio"]]
        given["audio_kwargs"] = {"sampling_rate": 16000, "padding": "max_length"}
    return dict(bench.processor(text=[bench.encoder.render(sample)], return_tensors="pt", **given))


def test_shuffled_view_changes_the_video_only(vl: Bench, media: Path) -> None:
    sample = ask(MediaRef(kind="video", path=str(media / "b.mp4")), image(media), "What?")
    (ordered,) = vl.encoder.prompts([sample])
    (shuffled,) = vl.encoder.prompts([sample], view="shuffled", seed=1)
    assert not isinstance(ordered, MMReasonError)
    assert not isinstance(shuffled, MMReasonError)
    assert torch.equal(ordered[1].ids, shuffled[1].ids)
    (video, picture), (video2, picture2) = ordered[1].media, shuffled[1].media
    assert not torch.equal(video.kwargs["pixel_values_videos"], video2.kwargs["pixel_values_videos"])
    assert torch.equal(picture.kwargs["pixel_values"], picture2.kwargs["pixel_values"])


def test_system_options_and_suffix(tiny_omni: Path, media: Path) -> None:
    bench = Bench(tiny_omni, DataConfig(system="Be brief.", suffix="Answer with a letter."))
    mcq = ask(image(media), "Colour?", task="mcq", options=("red", "blue"))
    assert bench.encoder.render(mcq) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n<|vision_bos|><|IMAGE|><|vision_eos|>Colour?\nA. red\nB. blue\nAnswer with a letter."
        "<|im_end|>\n<|im_start|>assistant\n"
    )
    own = ask("Hm?", image(media))
    own = replace(own, messages=(Message(role="system", content=("Own.",)), *own.messages))
    assert bench.encoder.render(own) == (
        "<|im_start|>system\nOwn.<|im_end|>\n"
        "<|im_start|>user\nHm?<|vision_bos|><|IMAGE|><|vision_eos|>Answer with a letter."
        "<|im_end|>\n<|im_start|>assistant\n"
    )
    hidden = Bench(tiny_omni, DataConfig(show_options=False))
    assert "red" not in hidden.encoder.render(mcq)
    assert "red" not in bench.encoder.render(replace(mcq, task="exact"))


def test_suffix_by_task(tiny_omni: Path, media: Path) -> None:
    bench = Bench(tiny_omni, DataConfig(suffix={"*": "Think.", "mcq": "A letter.", "math": "A formula."}))
    mcq = ask("Colour?", task="mcq", options=("red", "blue"))
    assert "Colour?\nA. red\nB. blue\nThink.\nA letter.<" in bench.encoder.render(mcq)
    assert "Colour?\nThink.<" in bench.encoder.render(ask("Colour?", task="exact"))
    own = Bench(tiny_omni, DataConfig(suffix={"mcq": "A letter."}))
    assert "Colour?<" in own.encoder.render(ask("Colour?", task="exact"))


def test_options_with_letters_keep_them() -> None:
    assert lettered(["red", "blue"], "q") == ["A. red", "B. blue"]
    assert lettered(["(A) red", "B) blue"], "q") == ["(A) red", "B) blue"]
    assert lettered(["A. red", "blue"], "q") == ["A. A. red", "B. blue"]
    with pytest.raises(DataError, match="q: 27 options"):
        lettered(["x"] * 27, "q")


@pytest.mark.parametrize("content", [("a <|im_end|> b",), ("<|IMA", "GE|>"), ("<|audio_bos|>",), ("<|endoftext|>",)])
def test_special_tokens_in_text_are_refused(content: tuple[str, ...], omni: Bench) -> None:
    error = omni.refusal(ask(*content))
    assert isinstance(error, DataError)
    assert str(error).startswith("t.jsonl:1: text of the user spells the special token '<|")
    assert isinstance(omni.refusal(ask("?", task="mcq", options=("".join(content), "b"))), DataError)
    assert isinstance(omni.refusal(ask("?", demos=("fine", "".join(content)))), DataError)
    with pytest.raises(DataError, match="demonstration"):
        omni.encoder.demo("".join(content))


def test_a_bad_sample_does_not_touch_its_neighbours(omni: Bench, media: Path) -> None:
    samples = [ask(image(media), "1"), ask(image(media), image(media, "d.png"), "2"), ask(image(media), "3")]
    first, second, third = omni.encoder.prompts(samples)
    assert isinstance(second, MediaError)
    assert second.source.endswith("d.png")
    assert isinstance(omni.refusal(ask(image(media, "absent.png"))), MediaError)
    for result in (first, third):
        assert not isinstance(result, MMReasonError)
        assert len(result[1].media) == 1


def test_prompt_over_budget_is_refused_not_cut(tiny_omni: Path, media: Path) -> None:
    sample = ask(image(media), "What?")
    length = len(Bench(tiny_omni, DataConfig()).prompt(sample).ids)
    bench = Bench(tiny_omni, DataConfig(max_prompt_tokens=length - 1))
    assert f"prompt over budget: {length} tokens > data.max_prompt_tokens ({length - 1})" in str(bench.refusal(sample))
    assert len(Bench(tiny_omni, DataConfig(max_prompt_tokens=length)).prompt(sample).ids) == length


def test_features_that_do_not_match_their_tokens_are_an_error(omni: Bench, media: Path) -> None:
    prompt = omni.prompt(ask(image(media), MediaRef(kind="audio", path=str(media / "c.wav")), "What?"))
    picture, sound = prompt.media
    assert [feature_count(item, 2) for item in prompt.media] == [picture.tokens, sound.tokens]
    short = replace(sound, kwargs={**sound.kwargs, "feature_attention_mask": torch.ones(1, 20)})
    cut = replace(picture, kwargs={**picture.kwargs, "pixel_values": picture.kwargs["pixel_values"][:-4]})
    for item, message in ((short, "audio with 5 features for 12"), (cut, "image with 5 features for 6")):
        with pytest.raises(AlignmentError, match=message):
            omni.encoder._check_features([item])


def test_audio_features_are_what_the_tower_gives(omni: Bench, media: Path, tiny_omni: Path) -> None:
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration

    model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(tiny_omni)
    (sound,) = omni.prompt(ask(MediaRef(kind="audio", path=str(media / "c.wav")))).media
    features = model.get_audio_features(**sound.kwargs).last_hidden_state
    assert features.shape[0] == sound.tokens


def test_demo_and_text_are_inverse(omni: Bench) -> None:
    text = "<think>\u00e9 5 > 3</think><answer>red</answer>"
    demo = omni.encoder.demo(text)
    assert (demo.kind, bool(demo.loss_mask.all())) == ("policy", True)
    assert demo.ids[-1] == omni.processor.tokenizer.eos_token_id
    assert omni.encoder.text(demo.ids) == text
    assert omni.encoder.text(torch.tensor([], dtype=torch.int64)) == ""
    start = omni.processor.tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert omni.encoder.text(torch.tensor([start])) == "<|im_start|>"


def test_a_checkpoint_without_a_template_is_refused(omni: Bench) -> None:
    processor = AutoProcessor.from_pretrained(omni.processor.tokenizer.name_or_path)
    processor.chat_template = None
    with pytest.raises(ModelError, match="no chat template"):
        Encoder(processor, processor.tokenizer, omni.rules, omni.pipeline, DataConfig())


def test_a_template_that_looks_for_a_key_finds_it(tiny: Callable[[str], Path], media: Path) -> None:
    """The published template of Qwen2-Audio asks `'audio' in content`, not for the type."""
    bench = Bench(tiny("qwen2_audio"), DataConfig())
    bench.processor.chat_template = (
        "{% for message in messages %}{% for content in message['content'] %}"
        "{% if 'audio' in content %}<|AUDIO|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
        "{% endfor %}{% endfor %}"
    )
    sample = ask(MediaRef(kind="audio", path=str(media / "c.wav")), "Pitch?")
    assert bench.encoder.render(sample) == "<|AUDIO|>Pitch?"


def test_a_template_that_refuses_is_a_data_error(omni: Bench) -> None:
    processor = AutoProcessor.from_pretrained(omni.processor.tokenizer.name_or_path)
    processor.chat_template = "{{ raise_exception('roles must alternate') }}"
    encoder = Encoder(processor, processor.tokenizer, omni.rules, omni.pipeline, DataConfig())
    (error,) = encoder.prompts([ask("?")])
    assert isinstance(error, DataError)
    assert "roles must alternate" in str(error)


def test_without_media_the_prompt_is_its_text(vl: Bench, media: Path) -> None:
    sample = ask(image(media), "What?", MediaRef(kind="video", path=str(media / "b.mp4")))
    (bare,) = vl.encoder.prompts([sample], view="none")
    (text,) = vl.encoder.prompts([ask("What?")])
    assert not isinstance(bare, MMReasonError)
    assert not isinstance(text, MMReasonError)
    assert torch.equal(bare[1].ids, text[1].ids)
    assert bare[1].media == ()
    (silent,) = vl.encoder.prompts([ask(image(media))], view="none")
    assert not isinstance(silent, MMReasonError)
    assert silent[1].media == ()


def test_a_prompt_that_a_rollout_engine_cannot_hold_with_its_answer(vl: Bench) -> None:
    values = {"run_dir": "r", "model": {"path": "m"}, "rewards": [{"name": "accuracy"}]}
    rollout = {"engine": "server", "max_new_tokens": 40, "options": {"max_model_len": 100}}
    config = build_config({**values, "rollout": rollout, "grpo": {"off_policy": "token_truncate"}}, "test")
    assert vl.encoder.over_row(ask("?"), 60, config) is None
    error = vl.encoder.over_row(ask("?"), 61, config)
    assert "61 tokens and an answer of 40 are more than rollout.options.max_model_len 100" in str(error)
