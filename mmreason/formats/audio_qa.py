"""Multiple choice about sounds: R1-AQA's AVQA lines, and OmniInstruct.

Sources: README and `src/dataset/dataset.py` of xiaomi-research/r1-aqa; the columns of m-a-p/OmniInstruct_v1 as
`make_omniInstruct_r1_dataset.py` of HarryHsing/EchoInk reads them. (EchoInk's own JSON is read by video_r1.py.)
"""

from __future__ import annotations

from typing import Any

from mmreason.formats.common import MEDIA_KEYS, Row, labels, media_columns, need, with_media


def r1_aqa(row: Row) -> dict[str, Any]:
    """`answer` is the index of the right choice. As in R1-AQA, the questions of AVQA, which was asked about videos, say
    "audio" for "video"."""
    options = need(row, "multi_choice", list, "the choices")
    answer = row.get("answer")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(options):
        raise ValueError(f"answer: {answer!r}, expected the index of a choice, 0 to {len(options) - 1}")
    question = need(row, "question_text", str, "the question")
    if row.get("dataset_name") == "AVQA":
        question = question.replace("video", "audio")
    sound = {"type": "audio", "audio": need(row, "audio_path", str, "the path of a sound")}
    return {
        "messages": [{"role": "user", "content": [sound, {"type": "text", "text": question}]}],
        **_choice(answer, options),
        "source": row.get("dataset_name"),
        **labels(row, ("question_text", "multi_choice", "answer", "audio_path", "dataset_name")),
    }


def omni_instruct(row: Row) -> dict[str, Any]:
    """`question` and `options` with `audio` and `image`; `answer` is the text of an option."""
    options = need(row, "options", list, "the choices")
    answer = need(row, "answer", str, "the text of the right choice")
    if answer not in options:
        raise ValueError(f"answer: {answer!r:.60}, expected one of the options")
    question = {"role": "user", "content": need(row, "question", str, "the question")}
    return {
        "messages": with_media([question], media_columns(row)),
        **_choice(options.index(answer), options),
        **labels(row, ("question", "options", "answer", "source", *MEDIA_KEYS)),
    }


def _choice(index: int, options: list[Any]) -> dict[str, Any]:
    """The gold is the option's letter; options after the 26th have none and are named by their text."""
    return {"task": "mcq", "options": options, "answer": chr(ord("A") + index) if index < 26 else options[index]}
