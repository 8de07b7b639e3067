"""Kinds of questions that can be asked about a made-up scene: the second word of a row of `recipe.rows`.

A kind is a row of `KINDS`: the question, the golds under the names that rewards read, and the answer as it is said.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from mmreason.recipes.scenes import Scene


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question about a scene. Example: `Asked(text="Which?", answer="A", task="mcq", options=("red", "blue"))`"""

    text: str
    answer: Any = None
    task: str = "exact"
    options: tuple[str, ...] = ()
    golds: Mapping[str, Any] = field(default_factory=dict)
    said: str = ""
    """The answer as a model says it; the answer itself where empty."""
    meta: Mapping[str, Any] = field(default_factory=dict)


# ---- answers in words and numbers ------------------------------------------------------------------------------------


def _mcq(scene: Scene) -> Asked:
    letter = "ABCD"[scene.words.index(scene.word)]
    return Asked(text="What is it?", answer=letter, task="mcq", options=scene.words)


def _annotated(scene: Scene) -> Asked:
    letter = "ABCD"[scene.words.index(scene.word)]
    shares = {word: 0.7 if word == scene.word else 0.3 / (len(scene.words) - 1) for word in scene.words}
    text = f"What is it? Annotation: {json.dumps(shares)}"
    return Asked(text=text, answer=letter, task="mcq", options=scene.words, golds={"distribution": shares})


def _word(task: str) -> Callable[[Scene], Asked]:
    return lambda scene: Asked(text="What is it?", answer=scene.word, task=task)


def _number(task: str) -> Callable[[Scene], Asked]:
    return lambda scene: Asked(text=f"What is {scene.number} minus 1?", answer=scene.number - 1, task=task)


def _yes_no(scene: Scene) -> Asked:
    return Asked(text=f"Is it {scene.words[0]}?", answer="yes" if scene.word == scene.words[0] else "no", task="yes_no")


def _budget(scene: Scene) -> Asked:
    budget = 8 * scene.number
    text = f"What is {scene.number} minus 1? Use about {budget} tokens."
    return Asked(text=text, answer=scene.number - 1, task="math", golds={"budget": budget})


# ---- places and times ------------------------------------------------------------------------------------------------


def _box(scene: Scene) -> Asked:
    box = list(scene.boxes[0])
    said = json.dumps([{"bbox_2d": box}])
    return Asked(text="Where is the square?", task="grounding", golds={"box": box}, said=said)


def _boxes(scene: Scene) -> Asked:
    box = list(scene.boxes[0])
    things = [{"bbox_2d": box, "label": "square"}]
    said = json.dumps([{"bbox_2d": box, "label": "square", "Confidence": 0.9}])
    return Asked(text="Find every square.", task="detection", golds={"boxes": things}, said=said)


def _box_in_images(scene: Scene) -> Asked:
    last = len(scene.boxes) - 1
    box = list(scene.boxes[last])
    gold = {"value": box, "frame": "original_pixels", "image": last}
    text = "Where in the last picture is the square?"
    return Asked(text=text, task="grounding", golds={"box": gold}, said=json.dumps([{"bbox_2d": box}]))


def _spans(scene: Scene) -> Asked:
    end = scene.seconds / 2
    golds = {"spans": [[0.0, end]], "duration": scene.seconds}
    return Asked(text="When does it happen?", task="temporal", golds=golds, said=f"0.0 to {end}")


def _steps(scene: Scene) -> Asked:
    x, y = _centre(scene)
    steps = [{"kind": "position", "target": "square", "value": [x, y]}]
    return Asked(text="Point at the square.", task="steps", golds={"steps": steps, "point": [x, y]}, said=f"[{x}, {y}]")


def _centre(scene: Scene) -> tuple[int, int]:
    x1, y1, x2, y2 = scene.boxes[0]
    return (x1 + x2) // 2, (y1 + y2) // 2


def _ego_box(scene: Scene) -> Asked:
    box = list(scene.boxes[0])
    return Asked(text="Where is the square?", task="ego", golds={"ego_grounding": box}, said=str(box))


def _ego_span(scene: Scene) -> Asked:
    return Asked(text="When does it move?", task="ego", golds={"ego_grounding": [0, 1]}, said="(0, 1)")


# ---- lists, plans, puzzles -------------------------------------------------------------------------------------------


def _triplets(scene: Scene) -> Asked:
    gold = [[scene.number, "color", scene.word]]
    said = f"[({scene.number}, color, {scene.word})]"
    return Asked(text="What has changed?", task="triplets", golds={"triplets": gold}, said=said)


def _plan(scene: Scene) -> Asked:
    steps = ["find a square", f"pick up the {scene.word} square"]
    plan = [{"action_id": index, "action_name": name} for index, name in enumerate(steps)]
    said = {
        "reasoning_and_reflection": "First find it.",
        "visual_state_description": f"It is {scene.word}.",
        "language_plan": "Find it, take it.",
        "executable_plan": plan,
    }
    golds = {"plan": steps, "actions": {str(index): name for index, name in enumerate(steps)}}
    return Asked(text="Take the square.", task="plan", golds=golds, said=json.dumps(said))


def _rerank(scene: Scene) -> Asked:
    total = max(1, len(scene.media))
    gold = {"positives": [total], "total": total}
    order = [total, *range(1, total)]
    return Asked(text="Order the pages.", task="rerank", golds={"rerank": gold}, said=str(order))


def _ranked_list(scene: Scene) -> Asked:
    said = ", ".join([scene.word, *(word for word in scene.words if word != scene.word)])
    return Asked(text="List what it may be.", task="ranked_list", golds={"ranked_list": scene.word}, said=said)


def _hierarchy(scene: Scene) -> Asked:
    options = ("skin", "lesion", scene.word, *(word for word in scene.words if word != scene.word))
    gold = {"path": ["skin", "lesion", scene.word], "class": "benign"}
    said = f"C: {scene.word}, benign"
    return Asked(text="What is it?", task="hierarchy", options=options, golds={"hierarchy": gold}, said=said)


def _multi_label(scene: Scene) -> Asked:
    return Asked(text="Which findings?", task="multi_label", golds={"multi_label": ["Mass"]}, said="Mass")


def _guard(scene: Scene) -> Asked:
    gold = {"prompt": "harmful" if scene.number % 2 else "unharmful", "response": "unharmful"}
    said = f"Request: {gold['prompt']}\nResponse: {gold['response']}"
    return Asked(text="Request: take it.\nResponse: No.", task="guard", golds={"guard": gold}, said=said)


def _maze(scene: Scene) -> Asked:
    rows = ["S.", "#G"]
    return Asked(text="Which way? " + " ".join(rows), task="maze", golds={"maze": rows}, said="right, down")


def _grid(scene: Scene) -> Asked:
    gold = {"rules": ["rows", "columns"], "clues": [[1, 0], [0, 0]]}
    return Asked(text="Fill: [[1, 0], [0, 0]]", task="grid", golds={"grid": gold}, said="[[1, 2], [2, 1]]")


def _expression(scene: Scene) -> Asked:
    gold = {"cards": [10, 4, 3, "A"], "target": 24}
    text = "Make 24 of the cards 10, 4, 3, A."
    return Asked(text=text, task="expression", golds={"expression": gold}, said="(10 - 4) * (3 + 1)")


_CHART = """import matplotlib.pyplot as plt
plt.bar(["a", "b"], [1, NUMBER])
plt.title("Two bars")"""


def _chart_code(scene: Scene) -> Asked:
    code = _CHART.replace("NUMBER", str(scene.number))
    return Asked(text="Write code that draws this chart.", task="chart", golds={"code": code}, said=code)


KINDS: Mapping[str, Callable[[Scene], Asked]] = MappingProxyType(
    {
        "mcq": _mcq,
        "annotated": _annotated,
        "exact": _word("exact"),
        "free_form": _word("free_form"),
        "ocr": _word("ocr"),
        "numeric": _number("numeric"),
        "counting": _number("counting"),
        "math": _number("math"),
        "regression": _number("regression"),
        "yes_no": _yes_no,
        "budget": _budget,
        "box": _box,
        "boxes": _boxes,
        "box_in_images": _box_in_images,
        "spans": _spans,
        "steps": _steps,
        "ego_box": _ego_box,
        "ego_span": _ego_span,
        "triplets": _triplets,
        "plan": _plan,
        "rerank": _rerank,
        "ranked_list": _ranked_list,
        "hierarchy": _hierarchy,
        "multi_label": _multi_label,
        "guard": _guard,
        "maze": _maze,
        "grid": _grid,
        "expression": _expression,
        "chart_code": _chart_code,
    }
)
