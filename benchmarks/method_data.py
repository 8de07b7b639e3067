"""The data of benchmarks/methods.py, and two rewards of its own: clips of a moving square, pictures of rectangles.

Clips: which way does the square go? The answer lies in the order of the frames. The axis does not, and may be answered
instead ("sideways", "upright"). Demonstrations teach the form and the axis, and little of the direction.

Pictures: where is the rectangle, which colour has it, how many are there? Demonstrations are noisy: what they teach is
the form and a rough idea.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmreason.demo.media import COLOURS, DIRECTIONS, SIDE, TASKS, background_frame
from mmreason.types import Rollout, Sample, Score

AXES = {"left": "sideways", "right": "sideways", "up": "upright", "down": "upright"}
OTHER_WAY = {"left": "right", "right": "left", "up": "down", "down": "up"}
RIGHT_WAY = 0.6
"""Share of the directions in demonstrations that are right: tossed for the observation and for the answer."""
HEDGES = 0.7
"""Share of the demonstrations whose answer is the axis."""
AXIS = 0.5
"""The reward for the axis, which needs no order of frames."""
WRONG = -0.5
"""The reward for anything else: guessing one of the axis' two is worth 0.25, less than AXIS."""
FORM = re.compile(r"<observation>[^<]*</observation><answer>([^<]*)</answer>")
"""An answer and nothing after it: what is not asked for is forgotten, the end of the answer too."""
RIGHT_WORD = 0.5
"""Share of the colours and counts in demonstrations that are right; the others are drawn."""
CELL = 14
"""Pixels: corners of rectangles are multiples of it."""
WIDER = 0.5
"""Chance of each side of a box in a demonstration to lie one cell further out."""
SCALE = 2
"""Pictures on disk are this many times larger than what the model is shown: golds and answers differ in their frame."""

Row = dict[str, Any]


# ---- rewards ---------------------------------------------------------------------------------------------------


def direction(sample: Sample, rollouts: Sequence[Rollout]) -> list[Score]:
    """1 for the right direction, AXIS for its axis, else WRONG: for what is not of the FORM, too."""
    scores = {str(sample.answer): 1.0, AXES[str(sample.answer)]: AXIS}
    values = [scores.get(says(rollout.text), WRONG) for rollout in rollouts]
    return [Score(total=value, flags={"correct": value == 1.0}) for value in values]


def observed(sample: Sample, rollouts: Sequence[Rollout]) -> list[Score]:
    """1 if the observation names the right direction and no other, else 0."""
    right = [sees(rollout.text, str(sample.answer)) for rollout in rollouts]
    return [Score(total=float(is_right), flags={"correct": is_right}) for is_right in right]


def says(text: str) -> str:
    """The answer block's content; "" of a text that is not of the FORM."""
    found = FORM.fullmatch(text.strip())
    return found[1].strip() if found else ""


def sees(text: str, way: str) -> bool:
    """Whether the observation of an answer names this direction and no other."""
    observation = text.partition("<observation>")[2].partition("</observation>")[0]
    return [word for word in DIRECTIONS if word in observation.split()] == [way]


# ---- files -----------------------------------------------------------------------------------------------------


def write_rows(folder: Path, kind: str, seed: int, counts: Mapping[str, int]) -> None:
    """`folder`/SPLIT.jsonl with its media for each split of `counts`; those of the split "sft" have demonstrations."""
    rng = np.random.default_rng(seed)
    for split, count in counts.items():
        media = folder / "media" / split
        media.mkdir(parents=True, exist_ok=True)
        rows = [KINDS[kind](rng, media, index) for index in range(count)]
        for row in rows if split != "sft" else []:
            del row["demos"]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _clip(rng: np.random.Generator, media: Path, index: int) -> Row:
    question = TASKS["motion"](rng)
    assert question.write is not None
    file = media / f"{index:05d}.mp4"
    question.write(file)
    seen, said = (question.answer if rng.random() < RIGHT_WAY else OTHER_WAY[question.answer] for _ in range(2))
    said = AXES[said] if rng.random() < HEDGES else said
    demo = f"<observation>it goes {seen}</observation><answer>{said}</answer>"
    return _row(file, "video", question.text, demo, answer=question.answer, task="exact")


def _picture(rng: np.random.Generator, media: Path, index: int) -> Row:
    """Every second one asks for a box, the others for a colour or a number in turns."""
    file = media / f"{index:05d}.png"
    asked = ("box", "colour", "box", "count")[index % 4]
    colour = str(rng.choice(list(COLOURS)))
    corners = _corners(rng, int(rng.integers(1, 4)) if asked == "count" else 1)
    frame = background_frame(rng)
    for x1, y1, x2, y2 in corners:
        frame[y1:y2, x1:x2] = COLOURS[colour]
    Image.fromarray(frame.repeat(SCALE, 0).repeat(SCALE, 1)).save(file)
    if asked == "box":
        demo = _answer(",".join(map(str, _wider(rng, corners[0]))), "[]")
        gold = [SCALE * place for place in corners[0]]
        return _row(file, "image", "Where is the rectangle?", demo, golds={"box": gold}, task="grounding")
    right, words = (colour, list(COLOURS)) if asked == "colour" else (str(len(corners)), ["1", "2", "3"])
    demo = _answer(right if rng.random() < RIGHT_WORD else str(rng.choice(words)))
    text, task = ("Which colour is it?", "exact") if asked == "colour" else ("How many are there?", "counting")
    return _row(file, "image", text, demo, answer=right, task=task)


KINDS: dict[str, Callable[[np.random.Generator, Path, int], Row]] = {"clips": _clip, "pictures": _picture}


def _row(file: Path, kind: str, text: str, demo: str, **gold: Any) -> Row:
    media = file.relative_to(file.parents[2]).as_posix()
    content = [{"type": kind, kind: media}, {"type": "text", "text": text}]
    id = f"{file.parent.name}-{file.stem}"
    return {"id": id, "messages": [{"role": "user", "content": content}], **gold, "demos": [demo]}


def _answer(text: str, brackets: str = "") -> str:
    return f"<answer>{brackets[:1]}{text}{brackets[1:]}</answer>"


def _corners(rng: np.random.Generator, count: int) -> list[Sequence[int]]:
    """Rectangles in pixels of the picture that the model is shown: one of any shape, or squares in several quarters."""
    cells = SIDE // CELL
    if count == 1:
        width, height = (int(side) for side in rng.integers(1, 3, size=2))
        x, y = int(rng.integers(0, cells - width + 1)), int(rng.integers(0, cells - height + 1))
        return [[CELL * x, CELL * y, CELL * (x + width), CELL * (y + height)]]
    quarters = [divmod(int(quarter), 2) for quarter in rng.permutation(4)[:count]]
    places = [(2 * right + int(rng.integers(2)), 2 * low + int(rng.integers(2))) for right, low in quarters]
    return [[CELL * x, CELL * y, CELL * (x + 1), CELL * (y + 1)] for x, y in places]


def _wider(rng: np.random.Generator, corners: Sequence[int]) -> list[int]:
    moved = np.asarray(corners) + CELL * np.array([-1, -1, 1, 1]) * (rng.random(4) < WIDER)
    return [int(place) for place in moved.clip(0, SIDE)]
