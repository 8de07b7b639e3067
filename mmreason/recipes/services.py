"""Local stand-ins for the services that a recipe asks: real servers on this machine, with made-up verdicts."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mmreason.config import Plan
from mmreason.serving.config import ServiceConfig
from mmreason.serving.scorers import Item
from mmreason.serving.server import listening

Service = Callable[[Path], AbstractContextManager[str]]
"""(folder that media may lie in) -> its URL, while it runs."""


@contextmanager
def started(plan: Plan, media: Path) -> Iterator[dict[str, str]]:
    """The services that a plan's rewards ask, on this machine: the URL for each such reward's name."""
    names = {reward.name for stage in plan.stages for reward in stage.config.rewards}
    with ExitStack() as running:
        yield {name: running.enter_context(SERVICES[name](media)) for name in sorted(names & set(SERVICES))}

_ASKED = re.compile(r"VERDICT (\w+) X\nwhere X is ([^.]+)\.")
"""How mmreason/rewards/judge_prompts.py asks for a verdict."""
_CLASSES = re.compile(r"as JSON: (\[\"[^\]]*\])")
"""How mmreason/rewards/reconstruction.py asks for a distribution; else it asks for boxes."""


@contextmanager
def local_judge(media: Path) -> Iterator[str]:
    """An OpenAI-compatible server on a free port, whose verdicts follow from a code in the question; yields its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Judge)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Judge(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._reply({"model": asked["model"], "choices": [{"message": {"content": verdict(asked["messages"])}}]})

    def do_GET(self) -> None:
        self._reply({"data": [{"id": "local"}]})

    def _reply(self, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def verdict(messages: list[dict[str, Any]]) -> str:
    """One of the verdicts that were asked for, or what a vision model would see, in the form that was asked for."""
    text = "\n".join(str(message["content"]) for message in messages)
    asked = _ASKED.search(text)
    if asked is None and (classes := _CLASSES.search(text)):
        names = json.loads(classes[1])
        return json.dumps({name: 1 / len(names) for name in names})
    if asked is None:
        return "[[100, 100, 500, 500]]"
    choices = re.split(r", | or ", asked[2])
    return f"VERDICT {asked[1]} {choices[sum(map(ord, asked[1])) % len(choices)]}"


class MadeUpScores:
    """A scorer for `mmreason serve-reward` without a model: a number from 0 to 1 that follows from the text."""

    kinds: frozenset[str] = frozenset()

    def __init__(self, *, device: str) -> None:
        pass

    def facts(self) -> dict[str, str]:
        return {"model": "made up"}

    def score(self, items: Sequence[Item]) -> list[list[Any]]:
        return [[_number(text) for text in item.texts] for item in items]


class MadeUpCosines(MadeUpScores):
    """The same for pictures, which are decoded as for a real one: a cosine for each frame, and their mean."""

    kinds = frozenset({"image", "video"})

    def score(self, items: Sequence[Item]) -> list[list[Any]]:
        return [[{"frames": [_number(text)] * 2, "mean": _number(text)} for text in item.texts] for item in items]


def _number(text: str) -> float:
    return hashlib.sha256(text.encode()).digest()[0] / 255


def _scorer(name: str, media: Path) -> AbstractContextManager[str]:
    return listening(ServiceConfig(scorer=f"mmreason.recipes.services:{name}", port=0, media_roots=[str(media)]))


SERVICES: Mapping[str, Service] = MappingProxyType(
    {
        "judge": local_judge,
        "reconstruction": local_judge,
        "rm_relative": partial(_scorer, "MadeUpScores"),
        "service": partial(_scorer, "MadeUpScores"),
        "semantic": partial(_scorer, "MadeUpCosines"),
    }
)
"""Rewards that ask somebody at their option `url` -> who that is in a smoke."""
