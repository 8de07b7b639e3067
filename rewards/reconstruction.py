"""An explanation is worth what a second model can reconstruct from it (RISE's annotation loop).

Pass 1 - the rollout - explains an annotation that its prompt shows. The explanation is cleaned of what states the
annotation; pass 2, a vision model on another server, sees the pictures and the clean text and writes the annotation
again. The reward is the quality of that, times `leak` where the clean text still tells it.

Source: RISE, HSH55/RISE RISE-COT/{grpo_IMD_prob,grpo_multidet}.py and trainer/. There, pass 1 runs without gradients
and the loss is on pass 2's tokens. Here, as with every reward, it is on the tokens that were sampled for the prompt:
pass 1's. The wording of pass 2's prompt is ours; so is that a reply without a readable annotation is 0 for
distributions too (the code compares with zeros), and that four numbers in brackets are a leak wherever they stand (the
code: where the whole text is such a list).
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from mmreason.errors import DataError, RewardError
from mmreason.rewards import service
from mmreason.rewards.base import extract_answer, one_line
from mmreason.rewards.boxes import Corners, find_boxes, is_proper
from mmreason.rewards.detection import gold_items
from mmreason.rewards.frames import for_golds, meant_items
from mmreason.rewards.grounding import box_iou
from mmreason.rewards.judge import content_of
from mmreason.rewards.judge_prompts import escaped
from mmreason.rewards.matching import best_assignment
from mmreason.rewards.remote import Errand, Nonsense, OnOutage, Refused, Server
from mmreason.types import CoordinateFrame, MediaRef, Rollout, Sample, Score

Annotation = Literal["distribution", "boxes"]

TINY = 1e-10
"""Least probability in the divergence, as in the public code."""
_FLOAT = re.compile(r"[+-]?(?<!\d)(?:(?:\d*\.\d+|\d+\.\d*)(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)")
_DECIMAL = re.compile(r"\d\.\d")
_FOUR = re.compile(r"[\[(]\s*[-\d.]+\s*(?:,\s*[-\d.]+\s*){3}[\])]")
_ONLY_NUMBERS = re.compile(r"^[ \t]*[\[(][ \t]*-?[\d.]+[ \t]*(?:,[ \t]*-?[\d.]+[ \t]*)*[\])][ \t]*$", re.MULTILINE)
_SENTENCES = re.compile(r"[^.!?\u3002\uff01\uff1f]+[.!?\u3002\uff01\uff1f]*|[.!?\u3002\uff01\uff1f]+")
_KINDS = {b"\x89PNG": "png", b"\xff\xd8": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}


@for_golds("distribution", "boxes", task="reconstruction")
def reconstruction(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    url: str,
    model: str,
    annotation: Annotation = "boxes",
    tag: str | None = None,
    leak: float = 0.1,
    gold_frame: CoordinateFrame = "original_pixels",
    media_index: int = 0,
    api_key_env: str | None = None,
    temperature: float = 0.0,
    max_tokens: int = 1024,
    concurrency: int = 8,
    retries: int = 3,
    request_s: float = 60.0,
    deadline_s: float = 300.0,
    on_outage: OnOutage = "pause",
    outage_s: float = 900.0,
) -> list[Score]:
    """How well another model reconstructs the annotation from the explanation, 0 to 1 (RISE).

    `annotation`: golds.boxes, or golds.distribution, class -> probability. `tag`: the block that explains; None: the
    whole response. `leak`: factor where the cleaned text still tells it. `url`, `model`: an OpenAI-compatible server
    with a vision model. The rest as for `judge`. Flags: "answered", "leaked". Parts: "quality", and "sum" of
    distributions, exp(-|sum - 1|).
    """
    target = _boxes(sample, gold_frame, media_index) if annotation == "boxes" else _distribution(sample)
    texts = [r.text.strip() or None if tag is None else extract_answer(r.text, tag) for r in rollouts]
    clean = [None if text is None else target.clean(text) for text in texts]
    errand = Errand(service.patience_of(retries, request_s, deadline_s, on_outage, outage_s))
    painter = _Second(Server(url, api_key_env), model, temperature, max_tokens, errand, _pictures(sample))
    wanted = list(dict.fromkeys(text for text in clean if text))
    with ThreadPoolExecutor(max_workers=max(1, min(concurrency, len(wanted)))) as threads:
        replies = dict(zip(wanted, threads.map(lambda text: painter.ask(target.prompt(text)), wanted), strict=True))
    return [_score(text, replies, target, leak) for text in clean]


def mistakes(options: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with options whose types are right, a line each."""
    yield from service.mistakes(options)
    if not 0 <= options.get("leak", 0.1) <= 1:
        yield f"option leak: got {options['leak']!r}, expected a factor from 0 to 1"
    if options.get("concurrency", 1) < 1:
        yield f"option concurrency: got {options['concurrency']!r}, expected at least 1"


def facts(options: Mapping[str, Any]) -> dict[str, str]:
    """Who reconstructs."""
    return {"model": options["model"], "url": options["url"]}


# ---- what is reconstructed


@dataclass(frozen=True, slots=True)
class _Target:
    clean: Callable[[str], str]
    prompt: Callable[[str], str]
    grade: Callable[[str], Mapping[str, float]]
    """Reply -> parts; "quality" is the value."""


def _distribution(sample: Sample) -> _Target:
    gold = sample.golds.get("distribution")
    usual = isinstance(gold, Mapping) and all(isinstance(p, int | float) and 0 <= p <= 1 for p in gold.values())
    if not usual or not isinstance(gold, Mapping) or not sum(gold.values()) > 0:
        raise DataError(f"gold distribution {one_line(repr(gold), 80)}: expected class -> probability")
    names = [str(name) for name in gold]
    wanted = [float(value) for value in gold.values()]

    def grade(reply: str) -> dict[str, float]:
        found = read_distribution(reply, names)
        if not any(found):
            return {"quality": 0.0, "sum": 0.0}
        return {"quality": likeness(wanted, found), "sum": near_one(found)}

    ask = f"Give the probability of each of these classes, summing to 1, as JSON: {json.dumps(names)}."
    return _Target(lambda text: without_classes(text, names), lambda text: f"{_told(text)}\n\n{ask}", grade)


def _boxes(sample: Sample, gold_frame: CoordinateFrame, media_index: int) -> _Target:
    gold, items = gold_items(sample, "per_thousand", gold_frame, media_index)
    wanted = [item.box for item in meant_items(gold, items, "per_thousand") if item.box is not None]
    if not wanted:
        raise DataError(f"gold boxes {gold.shown}: expected at least one box")
    ask = (
        "Give the boxes of what is described, on a canvas of 1000 x 1000 laid over the picture, as JSON: "
        "[[x1, y1, x2, y2], ...]. Nothing else."
    )
    return _Target(
        without_floats,
        lambda text: f"{_told(text)}\n\n{ask}",
        lambda reply: {"quality": mean_overlap(wanted, [box for box in find_boxes(reply) if is_proper(box)])},
    )


def _told(text: str) -> str:
    return f"Someone describes what the picture shows:\n\n{escaped(text)}"


def without_classes(text: str, names: Sequence[str]) -> str:
    """The text without the sentences that name a class, upper or lower case.

    Example: "The sky is grey. It shows fear." without "fear" -> "The sky is grey."
    """
    spelt = [name.casefold() for name in names]
    kept = [part for part in _SENTENCES.findall(text) if not any(name in part.casefold() for name in spelt)]
    return " ".join("".join(kept).split())


def without_floats(text: str) -> str:
    """The text without decimal numbers, in any notation; whole numbers stay."""
    return re.sub(r"[ \t]+", " ", _FLOAT.sub("", text)).strip()


def leaks(text: str) -> bool:
    """Whether a clean text still tells the annotation: a decimal number, a line of numbers only, four in brackets."""
    return any(pattern.search(text) for pattern in (_DECIMAL, _ONLY_NUMBERS, _FOUR))


def likeness(gold: Sequence[float], found: Sequence[float]) -> float:
    """exp(-0.5 KL(gold || found) - 0.5 MSE), 0 to 1. For KL both are clipped at TINY and normalised, for MSE not.

    Example: `likeness([0.7, 0.3], [0.5, 0.5])` is 0.94069.
    """
    p, q = (_normalised([max(value, TINY) for value in values]) for values in (gold, found))
    divergence = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    error = sum((a - b) ** 2 for a, b in zip(gold, found, strict=True)) / len(gold)
    return math.exp(-0.5 * max(0.0, divergence) - 0.5 * error)


def near_one(found: Sequence[float]) -> float:
    """exp(-|sum - 1|): how much a distribution is one. Example: a sum of 1.2 is 0.818731."""
    return math.exp(-abs(sum(found) - 1))


def mean_overlap(golds: Sequence[Corners], found: Sequence[Corners]) -> float:
    """The best one-to-one assignment's sum of IoU, over the number of boxes found; 0 for none. 0 to 1."""
    if not found:
        return 0.0
    overlaps = [[box_iou(gold, box) for box in found] for gold in golds]
    return sum(overlaps[row][column] for row, column in best_assignment(overlaps)) / len(found)


def read_distribution(reply: str, names: Sequence[str]) -> list[float]:
    """The probability of each class as a reply states it, the last where it does twice; 0 for what it does not."""
    values = []
    for name in names:
        stated = re.findall(rf"(?<!\w){re.escape(name)}[\"']?\s*:\s*(\d+(?:\.\d*)?)", reply, re.IGNORECASE)
        value = float(stated[-1]) if stated else 0.0
        values.append(value if value <= 1 else 0.0)
    return values


def _normalised(values: Sequence[float]) -> list[float]:
    total = sum(values)
    return [value / total for value in values]


# ---- the second pass


@dataclass(slots=True)
class _Second:
    """The model that reconstructs, and the pictures of this group."""

    server: Server
    model: str
    temperature: float
    max_tokens: int
    errand: Errand
    pictures: list[str]

    def ask(self, prompt: str) -> str | RewardError:
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in self.pictures]
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        encoded = json.dumps(body).encode()
        try:
            return self.errand.ask(lambda timeout_s: self._once(encoded, timeout_s))
        except (Nonsense, Refused) as error:
            return error

    def _once(self, body: bytes, timeout_s: float) -> str:
        text = content_of(self.server.post("chat/completions", body, timeout_s))
        if text is None:
            raise Nonsense(f"{self.model}: no text in the reply")
        return text


def _pictures(sample: Sample) -> list[str]:
    """The sample's images as data URLs. Raises RewardError: another medium, a file that is no usual picture."""
    return [_data_url(ref) for ref in sample.media]


def _data_url(ref: MediaRef) -> str:
    content = base64.b64decode(service.media_entry(ref, "content")["content"])
    kind = next((name for start, name in _KINDS.items() if content.startswith(start)), None)
    if ref.kind != "image" or kind is None:
        raise RewardError(f"{ref.name}: the second model gets PNG, JPEG, GIF or WebP images only")
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _score(text: str | None, replies: Mapping[str, str | RewardError], target: _Target, leak: float) -> Score:
    flags = {"answered": bool(text), "leaked": bool(text) and leaks(text or "")}
    if not text:  # nothing was explained, or every sentence told the annotation
        return Score(total=0.0, flags=flags)
    reply = replies[text]
    if isinstance(reply, RewardError):
        return Score(total=None, error=str(reply), flags=flags)
    parts = target.grade(reply)
    return Score(total=parts["quality"] * (leak if flags["leaked"] else 1.0), parts=parts, flags=flags)
