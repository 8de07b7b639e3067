"""Rows as other projects document them become the right Samples; what is none of them is refused in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from mmreason.config import DataConfig, DataSource
from mmreason.data import iter_with_origins, load_all, load_samples, sample_from_row
from mmreason.errors import DataError, PluginError
from mmreason.formats import FORMATS, native_row, recognised
from mmreason.formats.common import MEDIA_KEYS
from mmreason.rewards import bind
from mmreason.types import MediaRef, Message, Pair, Rollout, Sample
from tests.media_files import write_image
from tests.unit.formats.rows import (
    EASYR1,
    ECHOINK,
    LLAMA_FACTORY,
    LLAVA,
    OMNI_INSTRUCT,
    R1_AQA,
    TRL,
    VERL,
    VIDEO_R1,
)

EXAMPLES = {
    "video_r1": VIDEO_R1,
    "sharegpt": LLAVA,
    "chat": LLAMA_FACTORY,
    "easyr1": EASYR1,
    "verl": VERL,
    "trl": TRL,
    "r1_aqa": R1_AQA,
}


def read(row: dict[str, Any], folder: Path, adapter: str = "auto") -> Sample:
    """The sample of a JSON Lines file with this one row."""
    (folder / "t.jsonl").write_text(json.dumps(row))
    (sample,) = load_samples(DataSource(path=str(folder / "t.jsonl"), adapter=adapter))
    return sample


def media(kind: str, path: Path) -> MediaRef:
    return MediaRef(kind=kind, path=str(path))


# ---- each format


def test_video_r1(tmp_path: Path) -> None:
    sample = read(VIDEO_R1, tmp_path)
    video = media("video", tmp_path / "CLEVRER/train_video/video_1.mp4")
    assert sample.messages == (Message(role="user", content=(video, VIDEO_R1["problem"])),)
    assert (sample.task, sample.answer, sample.options) == ("mcq", "B", tuple(VIDEO_R1["options"]))
    assert sample.demos == (f"{VIDEO_R1['process']}\n<answer>B</answer>",)
    assert (sample.id, sample.source, sample.meta) == ("t.jsonl:1", "CLEVRER", {"problem_id": 2})


@pytest.mark.parametrize(
    ("kind", "solution", "task", "answer"),
    [
        ("numerical", "<answer>3.14</answer>", "numeric", "3.14"),
        ("OCR", "<answer>EXIT 5</answer>", "ocr", "EXIT 5"),
        ("free-form", "<answer>It is\nraining.</answer>", "free_form", "It is\nraining."),
        ("regression", "<answer>1,250</answer>", "regression", "1,250"),
        ("counting", "<answer>4</answer>", "counting", "4"),
        ("math", "<answer>$$-\\dfrac{3}{2}$$</answer>", "math", "$$-\\dfrac{3}{2}$$"),
        ("open-ended", "In Paris", "free_form", "In Paris"),
    ],
)
def test_problem_types_of_video_r1(kind: str, solution: str, task: str, answer: str, tmp_path: Path) -> None:
    row = {**VIDEO_R1, "problem_type": kind, "solution": solution, "options": [], "data_type": "image", "process": ""}
    sample = read(row, tmp_path)
    assert (sample.task, sample.answer, sample.options, sample.demos) == (task, answer, (), ())
    assert sample.media[0].kind == "image"
    (score,) = bind("accuracy", {})(sample, [Rollout(text=f"<think>.</think><answer>{answer}</answer>")])
    assert score.total == 1.0


def test_places_and_spans_of_video_r1s_relatives(tmp_path: Path) -> None:
    spans = {**VIDEO_R1, "problem_type": "temporal retrieval", "solution": "<answer>[12.0, 19.5]; [24, 29]</answer>"}
    assert read(spans, tmp_path).golds == {"spans": [[12.0, 19.5], [24.0, 29.0]]}
    span = {**VIDEO_R1, "problem_type": "temporal grounding", "solution": '<answer>{"time": [12.3, 25.7]}</answer>'}
    assert read(span, tmp_path).golds == {"spans": [[12.3, 25.7]]}
    box = {
        **VIDEO_R1,
        "problem_type": "spatial grounding",
        "solution": '<answer>{"boxes": [35, 227, 437, 932]}</answer>',
    }
    sample = read(box, tmp_path)
    assert (sample.task, sample.golds) == ("grounding", {"box": [35, 227, 437, 932]})
    (score,) = bind("iou", {"frame": "original_pixels"})(sample, [Rollout(text="<answer>[35, 227, 437, 932]</answer>")])
    assert score.total == 1.0


def test_a_thought_without_tags_gets_them(tmp_path: Path) -> None:
    (demo,) = read({**VIDEO_R1, "process": "It jumps.", "solution": "B"}, tmp_path).demos
    assert demo == "<think>It jumps.</think>\n<answer>B</answer>"


def test_echoink(tmp_path: Path) -> None:
    sample = read(ECHOINK, tmp_path)
    image, sound = media("image", tmp_path / "images/sample_7.jpg"), media("audio", tmp_path / "audios/sample_7.wav")
    assert sample.messages[0].content == (image, sound, ECHOINK["problem"])
    assert (sample.task, sample.answer, sample.source) == ("mcq", "B", "OmniInstruct_v1-AVQA")


def test_llava(tmp_path: Path) -> None:
    sample = read(LLAVA, tmp_path)
    first, between, question = sample.messages
    image = media("image", tmp_path / "coco/train2017/000000033471.jpg")
    assert first == Message(role="user", content=(image, "\nWhat are the colours of the bus?"))
    assert between == Message(role="assistant", content=("White and red.",))
    assert question.content == ("Which side of it is seen?",)
    assert (sample.answer, sample.task) == ("The back of the bus.", "free_form")
    assert (sample.demos, sample.meta) == (("The back of the bus.",), {"id": "000000033471"})


@pytest.mark.parametrize(
    ("said", "task", "golds"),
    [
        ("0", "numeric", {}),
        ("1,200", "numeric", {}),
        (3, "numeric", {}),
        ("Yes.", "yes_no", {}),
        ("Red.", "exact", {}),
        ("B", "mcq", {}),
        ("(C).", "mcq", {}),
        ("Two cats.", "free_form", {}),
        ([10, 20, 30.5, 40], "grounding", {"box": [10, 20, 30.5, 40]}),
    ],
)
def test_several_images_and_short_answers_as_in_vlm_r1(said: Any, task: str, golds: Any, tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image><image>How many balls?"}, {"from": "gpt", "value": said}]
    sample = read({"id": 1, "image": ["a.png", "b.png"], "conversations": turns}, tmp_path)
    assert sample.media == (media("image", tmp_path / "a.png"), media("image", tmp_path / "b.png"))
    assert (sample.task, sample.golds) == (task, golds)
    (score,) = bind("iou" if golds else "accuracy", {"frame": "original_pixels"} if golds else {})(
        sample, [Rollout(text=f"<answer>{said}</answer>")]
    )
    assert score.total == 1.0


@pytest.mark.parametrize(
    "said",
    [
        '```json\n[{"bbox_2d": [10, 20, 30, 40], "label": "cat"}]\n```',
        "<answer>[{'Position': [10, 20, 30, 40], 'Confidence': 1}]</answer>",
    ],
)
def test_lists_of_boxes_as_in_vlm_r1_and_visual_rft(said: str, tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>Find all cats."}, {"from": "gpt", "value": said}]
    spoken = read({"id": 1, "image": "a.png", "conversations": turns}, tmp_path)
    checked = read({"problem": "<image>Find all cats.", "images": ["a.png"], "answer": said}, tmp_path)
    for sample in (spoken, checked):
        assert sample.task == "detection"
        (score,) = bind("det_iou", {"frame": "original_pixels"})(
            sample, [Rollout(text='<answer>[{"bbox_2d": [10, 20, 30, 40]}]</answer>')]
        )
        assert score.total == 1


def test_llava_next_writes_image_for_its_videos(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nWhat happens?"}, {"from": "gpt", "value": "A cat jumps."}]
    sample = read({"video": "a.mp4", "conversations": turns, "data_source": "0_30_s"}, tmp_path)
    assert sample.messages[0].content == (media("video", tmp_path / "a.mp4"), "\nWhat happens?")
    assert sample.source == "0_30_s"


def test_llama_factory(tmp_path: Path) -> None:
    sample = read(LLAMA_FACTORY, tmp_path)
    system, question = sample.messages
    assert system == Message(role="system", content=("You watch and listen.",))
    assert question.content == (
        media("video", tmp_path / "mllm_demo_data/4.mp4"),
        media("audio", tmp_path / "mllm_demo_data/4.mp3"),
        "What is the girl drawing? Look at ",
        media("image", tmp_path / "mllm_demo_data/1.jpg"),
        " too.",
    )
    assert (sample.answer, sample.demos) == ("A guitar.", ("A guitar.",))
    turns = [{"from": "human", "value": "2+3?"}, {"from": "gpt", "value": "<think>Easy.</think><answer>5</answer>"}]
    sample = read({"conversations": turns, "system": "Be brief.", "tools": ""}, tmp_path)
    assert sample.messages[0] == Message(role="system", content=("Be brief.",))
    assert (sample.answer, sample.task, sample.demos) == ("5", "numeric", (turns[1]["value"],))


def test_easyr1(tmp_path: Path) -> None:
    sample = read(EASYR1, tmp_path)
    first, second = media("image", tmp_path / "geo/1.png"), media("image", tmp_path / "geo/2.png")
    assert sample.messages[0].content == (first, "Find x, given ", second, ".")
    assert (sample.answer, sample.task, sample.demos) == (EASYR1["answer"], "math", ())
    video = read({"problem": "<video>How many?", "videos": ["a.mp4"], "answer": 5}, tmp_path)
    assert (video.media, video.task) == ((media("video", tmp_path / "a.mp4"),), "numeric")
    words = read({"problem": "Who?", "images": [], "image": [], "answer": "Ada Lovelace"}, tmp_path)
    assert (words.messages[0].content, words.task) == (("Who?",), "exact")


@pytest.mark.parametrize(
    ("answer", "task", "said"),
    [
        ("B", "mcq", "(B)"),
        ("48", "math", "48.0"),
        ("2 \\sqrt { 221 }", "math", "\\sqrt{884}"),
        ("<answer> 30^\\circ </answer>", "math", "30^\\circ"),
        ("isosceles triangle", "exact", "Isosceles triangle."),
        (2.5, "numeric", "5/2"),
        (True, "yes_no", "Yes"),
        (["red", "crimson"], "exact", "crimson"),
    ],
)
def test_golds_are_graded_as_what_they_are(answer: Any, task: str, said: str, tmp_path: Path) -> None:
    sample = read({"problem": "?", "answer": answer}, tmp_path)
    assert sample.task == task
    (score,) = bind("accuracy", {})(sample, [Rollout(text=f"<answer>{said}</answer>")])
    assert score.total == 1.0


def test_verl(tmp_path: Path) -> None:
    sample = read(VERL, tmp_path)
    assert sample.messages[0].content == (media("image", tmp_path / "geo/1.png"), "Find x. Think step by step.")
    assert (sample.answer, sample.task, sample.source) == ("48", "math", "hiyouga/geometry3k")
    assert sample.meta == {"ability": "math", "extra_info": VERL["extra_info"]}
    video = {**VERL, "prompt": "<video>What?", "images": None, "videos": [{"video": "a.mp4", "fps": 2.0}]}
    (ref,) = read(video, tmp_path).media
    assert (ref.path, ref.options) == (str(tmp_path / "a.mp4"), {"fps": 2.0})
    known = {**VERL, "reward_model": {"style": "model", "ground_truth": {"target": 24, "numbers": [3, 8]}}}
    assert read(known, tmp_path).golds == {"target": 24, "numbers": [3, 8]}


def test_trl(tmp_path: Path) -> None:
    sample = read(TRL, tmp_path)
    assert sample.messages[0].content == (
        media("image", tmp_path / "sky.png"),
        "What colour is the sky in the picture?",
    )
    assert (sample.answer, sample.demos, sample.task) == ("It is blue.", ("It is blue.",), "free_form")


def test_trl_prompts_and_solutions(tmp_path: Path) -> None:
    plain = read({"prompt": "The sky is", "completion": " blue."}, tmp_path)
    assert (plain.messages[0].content, plain.demos) == (("The sky is",), ("blue.",))
    only = read({"prompt": [{"role": "user", "content": "What?"}], "image": "a.png"}, tmp_path)
    assert only.messages[0].content == (media("image", tmp_path / "a.png"), "What?")
    assert (only.answer, only.demos) == (None, ())
    solved = read({"prompt": "1/3 + 1/3?", "solution": "$\\frac{2}{3}$"}, tmp_path)
    assert (solved.answer, solved.task) == ("$\\frac{2}{3}$", "math")
    pair = read({"prompt": "1 + 1?", "chosen": [{"role": "assistant", "content": "2"}], "rejected": "3"}, tmp_path)
    assert pair.pairs == (Pair(chosen="2", rejected="3"),)
    messages = [*TRL["prompt"], {"role": "assistant", "content": "It is blue."}]
    said = read({"messages": messages, "images": ["sky.png"]}, tmp_path)
    assert said.messages == read(TRL, tmp_path).messages
    text = {"messages": [QUESTION, REPLY]}
    assert read(text, tmp_path, "trl") == read(text, tmp_path)
    assert read(text, tmp_path).demos == ("!",)


def test_r1_aqa(tmp_path: Path) -> None:
    sample = read(R1_AQA, tmp_path)
    sound = media("audio", tmp_path / "wav/-HG3Omg_89c_30.wav")
    assert sample.messages[0].content == (sound, "What happened in the audio?")
    assert (sample.answer, sample.task, sample.options) == ("B", "mcq", tuple(R1_AQA["multi_choice"]))
    assert (sample.source, sample.meta["question_type"]) == ("AVQA", "Happening")
    other = read({**R1_AQA, "dataset_name": "mine"}, tmp_path)
    assert other.messages[0].content[1] == "What happened in the video?"


def test_omni_instruct_as_parquet(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.Table.from_pylist([OMNI_INSTRUCT]), tmp_path / "t.parquet")
    (sample,) = load_samples(DataSource(path=str(tmp_path / "t.parquet")))
    image, sound = MediaRef(kind="image", data=b"PNG!"), MediaRef(kind="audio", data=b"RIFF")
    assert sample.messages[0].content == (image, sound, OMNI_INSTRUCT["question"])
    assert (sample.answer, sample.source) == ("C", "AVQA")


@pytest.mark.parametrize("saved", ["parquet", "disk"])
def test_easyr1_as_datasets_writes_it(saved: str, tmp_path: Path) -> None:
    """Pictures are {bytes, path}; a row of text has an empty list of them."""
    picture = write_image(tmp_path / "a.png").read_bytes()
    features = datasets.Features(
        {
            "images": datasets.List(datasets.Image()),
            "problem": datasets.Value("string"),
            "answer": datasets.Value("string"),
        }
    )
    rows = [
        {"images": [{"bytes": picture, "path": None}], "problem": "<image>Find x.", "answer": "48"},
        {"images": [], "problem": "2+3?", "answer": "5"},
    ]
    made = datasets.Dataset.from_list(rows, features=features)
    path = tmp_path / ("t.parquet" if saved == "parquet" else "set")
    made.to_parquet(str(path)) if saved == "parquet" else made.save_to_disk(str(path))
    first, second = load_samples(DataSource(path=str(path)))
    assert first.messages[0].content == (MediaRef(kind="image", data=picture), "Find x.")
    assert second.messages[0].content == ("2+3?",)


def test_trl_as_parquet_with_gaps(tmp_path: Path) -> None:
    """A struct type gives every part every key."""
    parts = [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]
    row = {
        "prompt": [{"role": "user", "content": parts}],
        "completion": [{"role": "assistant", "content": [{"type": "text", "text": "Sky."}]}],
        "images": [{"bytes": b"PNG!", "path": "x.png"}],
    }
    parquet.write_table(pyarrow.Table.from_pylist([row] * 3), tmp_path / "t.parquet")
    samples = list(load_samples(DataSource(path=str(tmp_path / "t.parquet"))))
    assert samples[2].messages[0].content == (MediaRef(kind="image", data=b"PNG!"), "What?")


# ---- which format it is


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_format_is_recognised_by_its_keys(name: str) -> None:
    assert (
        recognised([{**EXAMPLES[name], "kto_tag": None, "reward_model": EXAMPLES[name].get("reward_model")}], "t")
        == name
    )
    assert [known for known, format in FORMATS.items() if format.fits(EXAMPLES[name])] == [name]


def test_omni_instruct_is_recognised() -> None:
    assert recognised([OMNI_INSTRUCT], "t") == "omni_instruct"


QUESTION = {"role": "user", "content": "?"}
REPLY = {"role": "assistant", "content": "!"}


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"messages": [QUESTION]}, "native"),
        ({"messages": [], "answer": 5}, "native"),
        ({"messages": "?"}, "native"),
        (
            {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}], "task": "ocr"},
            "native",
        ),
        ({"messages": [QUESTION, REPLY]}, "chat"),
        ({"messages": [QUESTION], "images": []}, "chat"),
    ],
)
def test_messages_are_native_or_a_conversation(row: dict[str, Any], name: str) -> None:
    assert recognised([row], "t") == name


def test_an_unknown_format_is_refused_with_what_is_known(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"question": "?", "image_id": 5}\n{"gt": 1}')
    good = tmp_path / "good.jsonl"
    good.write_text(json.dumps(EASYR1))
    sources = (DataSource(path=str(tmp_path / "t.jsonl")), DataSource(path=str(good)))
    with pytest.raises(DataError) as caught:
        load_all(DataConfig(train=sources), "train")
    message = str(caught.value)
    assert message.startswith(
        f"{tmp_path}/t.jsonl: the format of the rows is not known; they have the keys question, im"
    )
    assert all(f"{name} ({' + '.join(FORMATS[name].keys)})" in message for name in FORMATS)
    assert "image_id, gt." in message
    assert "adapter:" in message
    assert "docs/data.md" in message
    assert "\n" not in message
    (place, refused), (_, sample) = iter_with_origins(DataConfig(train=sources), "train", unreadable="collect")
    assert (place, str(refused)) == (f"{tmp_path}/t.jsonl", message)
    assert isinstance(sample, Sample)  # the next source is read all the same


def test_two_formats_at_once_are_refused(tmp_path: Path) -> None:
    row = {**EASYR1, **TRL}
    with pytest.raises(DataError, match="could be easyr1 or trl; say which with adapter: easyr1"):
        read(row, tmp_path)
    assert read(row, tmp_path, "trl").demos == ("It is blue.",)


def test_the_first_rows_decide_even_if_the_very_first_is_bad(tmp_path: Path) -> None:
    lines = ["nothing", "[1]", '{"x": 1}', json.dumps(EASYR1)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    *bad, good = load_samples(DataSource(path=str(tmp_path / "t.jsonl")), on_error="collect")
    assert isinstance(good, Sample)
    assert [str(item).partition(": ")[2] for item in bad] == [
        "not a JSON object (Expecting value at column 1)",
        "the row is [1], expected an object with keys such as messages, answer, task (read as easyr1)",
        "problem: missing, expected the question (read as easyr1)",
    ]


# ---- rows that do not fit


def changed(row: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {key: value for key, value in {**row, **changes}.items() if value is not ...}


MALFORMED = [
    ("video_r1", changed(VIDEO_R1, problem_type="segmentation"), "problem_type: 'segmentation'"),
    ("video_r1", changed(VIDEO_R1, problem_type="free form"), "did you mean 'free-form'?"),
    ("video_r1", changed(VIDEO_R1, problem_type=3), "problem_type: 3, expected one of multiple choice"),
    ("video_r1", changed(VIDEO_R1, options=...), "options: missing, expected the choices"),
    ("video_r1", changed(VIDEO_R1, options="A, B"), "options: 'A, B', expected the choices"),
    ("video_r1", changed(VIDEO_R1, solution=...), "solution: missing, expected text such as <answer>"),
    ("video_r1", changed(VIDEO_R1, solution=["B"]), "solution: ['B'], expected text"),
    ("video_r1", changed(VIDEO_R1, problem=""), "problem: an empty text, expected the question"),
    ("video_r1", changed(VIDEO_R1, data_type="image_audio"), "data_type: 'image_audio', expected image, video, audio"),
    ("video_r1", changed(VIDEO_R1, path=5), "video: 5, expected the path"),
    ("video_r1", changed(VIDEO_R1, path="../../etc/a.mp4"), "outside the media root"),
    ("video_r1", changed(VIDEO_R1, process=["a"]), "process: a list, expected text"),
    ("video_r1", changed(VIDEO_R1, problem_type="temporal retrieval"), "solution: 'B', expected spans in seconds"),
    ("video_r1", changed(VIDEO_R1, problem_type="spatial grounding"), "solution: 'B', expected a box"),
    ("sharegpt", changed(LLAVA, image=...), "image: 0 given for 1 places in the text, expected as many"),
    ("sharegpt", changed(LLAVA, image=["a.png", "b.png"]), "image: 2 given for 1 places"),
    ("sharegpt", changed(LLAVA, images=["a.png"]), "image and images are both given"),
    ("sharegpt", changed(LLAVA, conversations=[]), "conversations: an empty list, expected a list of turns"),
    ("sharegpt", changed(LLAVA, conversations="hello"), "conversations: 'hello', expected a list of turns"),
    ("sharegpt", changed(LLAVA, conversations=["hello"]), "conversations[0]: 'hello', expected an object"),
    (
        "sharegpt",
        changed(LLAVA, conversations=[{"from": "observation", "value": "?"}]),
        "'observation' speaks, expected",
    ),
    ("sharegpt", changed(LLAVA, conversations=[{"from": ["x"], "value": "?"}]), "speaks, expected one of human"),
    ("sharegpt", changed(LLAVA, conversations=[{"from": "human", "text": "?"}]), "conversations[0]: neither value nor"),
    ("sharegpt", changed(LLAVA, conversations=[*LLAVA["conversations"][:1], {"from": "gpt", "value": " "}]), "no text"),
    ("sharegpt", changed(LLAVA, conversations=[{"from": "gpt", "value": "Hi"}]), "no message of the user"),
    ("sharegpt", changed(LLAVA, chosen={"from": "gpt", "value": "x"}), "chosen: preference pairs are not read"),
    ("sharegpt", changed(LLAVA, tools="[{}]"), "tools: tool calls are not read"),
    ("sharegpt", changed(LLAVA, kto_tag=True), "kto_tag: rated answers are not read"),
    ("chat", changed(LLAMA_FACTORY, audios=["a.mp3", "b.mp3"]), "audio: 2 given for 1 places"),
    ("chat", changed(LLAMA_FACTORY, videos=[["1.jpg", "2.jpg"]]), "expected the path of a file"),
    ("easyr1", changed(EASYR1, images=["geo/1.png"]), "image: 1 given for 2 places"),
    ("easyr1", changed(EASYR1, answer=""), "answer: missing, expected the gold answer"),
    ("easyr1", changed(EASYR1, problem=["?"]), "problem: ['?'], expected the question"),
    ("easyr1", changed(EASYR1, images=["http://host/1.png", "b.png"]), "remote media not allowed"),
    ("verl", changed(VERL, reward_model="48"), "reward_model: '48', expected an object such as"),
    ("verl", changed(VERL, reward_model={"style": "rule"}), "reward_model.ground_truth: missing"),
    ("verl", changed(VERL, prompt=[]), "prompt: an empty list, expected text or a list of messages"),
    ("verl", changed(VERL, prompt=["What?"]), "prompt[0]: 'What?', expected an object with role"),
    ("verl", changed(VERL, prompt=[{"role": "user"}]), "expected text or a list of typed parts"),
    ("trl", changed(TRL, prompt=" "), "prompt: ' ', expected text or a list"),
    ("trl", changed(TRL, images=[]), "image: 0 given for 1 places"),
    ("trl", changed(TRL, completion=[]), "completion: expected exactly one message, the assistant's"),
    ("trl", changed(TRL, completion=TRL["prompt"]), "completion: expected exactly one message, the assistant's"),
    ("trl", changed(TRL, completion=""), "completion: the last answer is no text"),
    ("trl", changed(TRL, label=True), "label: rated answers are not read"),
    ("trl", changed(TRL, completion=..., chosen="a"), "rejected: the last answer is no text"),
    ("r1_aqa", changed(R1_AQA, answer=4), "answer: 4, expected the index of a choice, 0 to 3"),
    ("r1_aqa", changed(R1_AQA, answer=True), "answer: True, expected the index"),
    ("r1_aqa", changed(R1_AQA, answer="B"), "answer: 'B', expected the index"),
    ("r1_aqa", changed(R1_AQA, audio_path=...), "audio_path: missing, expected the path of a sound"),
    ("r1_aqa", changed(R1_AQA, multi_choice=[]), "multi_choice: an empty list, expected the choices"),
    (
        "omni_instruct",
        {"question": "?", "options": ["a"], "answer": "b", "audio": "a.wav"},
        "answer: 'b', expected one of",
    ),
]


@pytest.mark.parametrize(("name", "row", "expected"), MALFORMED)
def test_a_row_that_does_not_fit_is_named_by_its_line(
    name: str, row: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    good = {**OMNI_INSTRUCT, "audio": "a.wav", "image": "a.png"} if name == "omni_instruct" else EXAMPLES[name]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(item) for item in (good, row, good)))
    first, bad, last = load_samples(DataSource(path=str(tmp_path / "t.jsonl")), on_error="collect")
    assert isinstance(first, Sample)
    assert isinstance(last, Sample)
    message = str(bad)
    assert message.startswith(f"{tmp_path}/t.jsonl:2: ")
    assert message.endswith(f" (read as {name})")
    assert expected in message
    assert "\n" not in message


MESS = st.sampled_from(
    [
        *[None, "", "?", "<image>", "<video><audio>", "B", "[1, 2]", 0, 5, -1.5, True, [], {}],
        *[[[]], [None], [{}], ["a.png"], {"image": 1}, {"bytes": b"x"}, {"ground_truth": [None]}],
        *[[{"type": "image"}], [{"from": "gpt"}], [{"from": "gpt", "value": [{}]}], [{"role": "user", "content": 5}]],
    ]
)


@settings(max_examples=300)
@given(st.sampled_from([*EXAMPLES, "omni_instruct"]), st.data())
def test_whatever_stands_in_a_row_it_is_a_sample_or_one_line(name: str, data: st.DataObject) -> None:
    row = {**EXAMPLES, "omni_instruct": OMNI_INSTRUCT}[name]
    row = {
        **row,
        **data.draw(st.dictionaries(st.sampled_from([*row, *MEDIA_KEYS, "answer", "system"]), MESS, max_size=3)),
    }
    try:
        native = native_row(row, "t.jsonl:7", FORMATS[name].adapter)
        assert isinstance(sample_from_row(native, "t.jsonl:7", Path("/data")), Sample)
    except DataError as error:
        message = str(error)
        assert message.startswith("t.jsonl:7: ")
        assert "\n" not in message
        assert not re.match(r"t.jsonl:7: (no key|\w+Error)", message), "an adapter of ours says what is wrong"


# ---- plug-ins


def test_a_function_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def quiz(row):\n"
        "    if row.get('skip'):\n"
        "        raise ValueError('skip: set, expected a row that counts')\n"
        "    return {'messages': [{'role': 'user', 'content': row['q']}], 'answer': row['a'][0]}\n"
    )
    rows = [{"q": "2+3?", "a": [5]}, {"a": [5]}, {"q": "?", "a": []}, {"q": "?", "a": 5}, {"q": "?", "skip": 1}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    adapter = f"{tmp_path}/mine.py:quiz"
    good, *bad = load_samples(DataSource(path=str(tmp_path / "t.jsonl"), adapter=adapter), on_error="collect")
    assert isinstance(good, Sample)
    assert good.answer == 5
    said = [str(error).removesuffix(f" (read as {adapter})").partition(": ")[2] for error in bad]
    assert said == [
        "no key 'q'",
        "IndexError: list index out of range",
        "TypeError: 'int' object is not subscriptable",
        "skip: set, expected a row that counts",
    ]


def test_adapters_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"video-r1: no such name in mmreason\.formats; did you mean 'video_r1'"):
        read(VIDEO_R1, tmp_path, "video-r1")
    source = DataSource(path=str(tmp_path / "t.jsonl"), adapter="video-r1")
    ((_, refused),) = iter_with_origins(DataConfig(train=(source,)), "train", unreadable="collect")
    assert str(refused).startswith(f"{source.path}: adapter video-r1: no such name in mmreason.formats; did you mean")
    (tmp_path / "mine.py").write_text("quiz = 5\n")
    with pytest.raises(PluginError, match=r"mine\.py:quiz: is int, expected a function"):
        read(VIDEO_R1, tmp_path, f"{tmp_path}/mine.py:quiz")
