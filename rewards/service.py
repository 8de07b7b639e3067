"""Asking a reward service (`mmreason serve-reward`) about a group: one request, its media once.

`service` takes what the scorer says for the reward. Rewards with a formula of their own over what a scorer measures
(`semantic`, `rm_relative`) use `values_of`. An outage is never a score (remote.py).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mmreason.errors import RewardError
from mmreason.rewards.base import checked
from mmreason.rewards.questions import question_of
from mmreason.rewards.remote import Errand, Nonsense, OnOutage, Patience, Server, server_mistakes
from mmreason.types import MediaRef, Rollout, Sample, Score

Send = Literal["path", "content"]


def service(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    url: str,
    send: Send = "path",
    api_key_env: str | None = None,
    retries: int = 3,
    request_s: float = 60.0,
    deadline_s: float = 300.0,
    on_outage: OnOutage = "pause",
    outage_s: float = 900.0,
) -> list[Score]:
    """What a reward service (`mmreason serve-reward`) says of each response.

    `send`: media as paths, which the service must be allowed to read, or their content. The rest as for `judge`.
    """
    ask = asker(url, api_key_env, patience_of(retries, request_s, deadline_s, on_outage, outage_s))
    return [score_of(value) for value in ask(sample, [rollout.text for rollout in rollouts], send)]


def mistakes(options: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with options whose types are right, a line each."""
    yield from server_mistakes(options)
    given = {name: options[name] for name in ("retries", "request_s", "deadline_s", "outage_s") if name in options}
    defaults: dict[str, Any] = {"retries": 3, "request_s": 60.0, "deadline_s": 300.0, "outage_s": 900.0}
    yield from Patience(on_outage=options.get("on_outage", "pause"), **{**defaults, **given}).mistakes()


def facts(options: Mapping[str, Any]) -> dict[str, str]:
    """Whom it asks; what that is, its /health says."""
    return {"url": options["url"]}


# ---- for rewards with formulas of their own

Ask = Callable[[Sample, Sequence[str], Send], list[Any]]
"""(sample, texts, how to send media) -> a value per text."""


def patience_of(retries: int, request_s: float, deadline_s: float, on_outage: OnOutage, outage_s: float) -> Patience:
    """The options that every reward has that asks a service."""
    return Patience(retries=retries, request_s=request_s, deadline_s=deadline_s, on_outage=on_outage, outage_s=outage_s)


def asker(
    url: str,
    api_key_env: str | None,
    patience: Patience,
    kinds: Collection[str] = ("image", "video", "audio"),
    shows_sample: bool = True,
) -> Ask:
    """A function that asks one service about the texts of one group, with the media of these kinds."""
    server = Server(url, api_key_env)

    def ask(sample: Sample, texts: Sequence[str], send: Send) -> list[Any]:
        body = {
            "texts": list(texts),
            "question": question_of(sample),
            "media": [media_entry(ref, send) for ref in sample.media if ref.kind in kinds],
            "sample": _described(sample) if shows_sample else {},
        }
        encoded = json.dumps(body).encode()
        return Errand(patience).ask(lambda timeout_s: _values(server.post("score", encoded, timeout_s), len(texts)))

    return ask


def media_entry(ref: MediaRef, send: Send) -> dict[str, Any]:
    """One medium as the service takes it; bytes from a data file always travel as content."""
    entry: dict[str, Any] = {"kind": ref.kind, "options": dict(ref.options)}
    if ref.path is not None and send == "path":
        return {**entry, "path": ref.path}
    try:
        content = ref.data if ref.path is None else Path(ref.path).read_bytes()
    except OSError as error:
        raise RewardError(f"{ref.path}: cannot be read ({error.strerror})") from None
    return {**entry, "content": base64.b64encode(content or b"").decode()}


def score_of(value: Any) -> Score:
    """A value of the service as a score: a number, None, or an object with total, parts, flags and error."""
    if isinstance(value, Mapping) and set(value) <= {"total", "parts", "flags", "error"}:
        (score,) = checked([Score(total=value.get("total"), **{k: v for k, v in value.items() if k != "total"})], 1)
        return score
    (score,) = checked([Score(total=value)], 1)
    return score


def _described(sample: Sample) -> dict[str, Any]:
    described = {
        "id": sample.id,
        "task": sample.task,
        "answer": sample.answer,
        "options": list(sample.options),
        "golds": dict(sample.golds),
    }
    try:
        json.dumps(described)
    except (TypeError, ValueError):
        raise RewardError(f"{sample.id}: its answer or golds cannot be sent as JSON") from None
    return described


def _values(body: bytes, count: int) -> list[Any]:
    try:
        values = json.loads(body)["values"]
    except (ValueError, TypeError, KeyError, RecursionError):
        values = None
    if not isinstance(values, list) or len(values) != count:
        raise Nonsense(f"the service's reply has no list of {count} values")
    return values
