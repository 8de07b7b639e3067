"""A real server on this machine: OpenAI's chat completions, or a reward service; it misbehaves as it is told."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Judgement = Callable[[str, str], str]
"""(system message, user message) -> the whole reply."""


def code_of(system: str) -> str:
    """The number that a verdict must carry."""
    (found,) = re.finditer(r"^VERDICT (\w+) X$", system, re.MULTILINE)
    return found[1]


def blocks_of(system: str, user: str) -> dict[str, str]:
    """Title -> fenced text, as a judge that goes by the fence reads it."""
    fence = re.findall(r"lines FENCE (\w+) BEGIN", system)[0]
    found = re.findall(rf"^([A-Z][a-z ]+):\nFENCE {fence} BEGIN\n(.*?)\nFENCE {fence} END$", user, re.M | re.S)
    return dict(found)


def honest(system: str, user: str) -> str:
    """YES where the answer is the reference, word for word."""
    blocks = blocks_of(system, user)
    same = blocks.get("Answer") == blocks.get("Reference")
    return f"I compare them.\nVERDICT {code_of(system)} {'YES' if same else 'NO'}"


@dataclass
class JudgeServer:
    """What it does next, and what it was asked."""

    judgement: Judgement = honest
    answer: Callable[[list[Any]], str] | None = None
    """Instead of `judgement`: (messages) -> the whole reply."""
    values: Callable[[dict[str, Any]], Any] | None = None
    """Instead of completions, what a reward service says: (body) -> the reply."""
    troubles: list[str] = field(default_factory=list)
    """Taken from the front, one per request; then it answers."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    delay_s: float = 0.0
    now: int = 0
    most: int = 0
    """Most requests at a time."""
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)


TROUBLES: dict[str, tuple[int, dict[str, str], bytes]] = {
    "500": (500, {}, b"boom"),
    "503": (503, {}, b"starting"),
    "429": (429, {"Retry-After": "1"}, b'{"error": "slow down"}'),
    "429 for long": (429, {"Retry-After": "3600"}, b""),
    "400": (400, {}, b'{"error": "context too long"}'),
    "401": (401, {}, b'{"error": "Incorrect API key provided: sk-very-secret"}'),
    "redirect": (302, {"Location": "http://127.0.0.1:9/"}, b""),
    "html": (200, {}, b"<html>welcome</html>"),
    "no choices": (200, {}, b'{"choices": []}'),
    "null": (200, {}, b'{"choices": [{"message": {"content": null}}]}'),
    "cut": (200, {"Content-Length": "5000"}, b'{"choices": '),
}


class _Handler(BaseHTTPRequestHandler):
    judge: JudgeServer

    def do_POST(self) -> None:
        judge = self.judge
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with judge.lock:
            judge.requests.append({"path": self.path, **body})
            judge.headers.append(dict(self.headers))
            judge.at.append(time.monotonic())
            trouble = judge.troubles.pop(0) if judge.troubles else ""
            judge.now += 1
            judge.most = max(judge.most, judge.now)
        time.sleep(judge.delay_s)
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # the client has had enough
                self._answer(trouble, body)
        finally:
            with judge.lock:
                judge.now -= 1

    def _answer(self, trouble: str, body: dict[str, Any]) -> None:
        if trouble == "drip":
            self._drip()
        elif trouble == "hang up":
            self.close_connection = True
        elif trouble:
            self._send(*TROUBLES[trouble])
        elif self.judge.values is not None:
            self._send(200, {}, json.dumps(self.judge.values(body)).encode())
        else:
            messages = body["messages"]
            given = self.judge.answer or (lambda asked: self.judge.judgement(asked[0]["content"], asked[1]["content"]))
            reply = {"choices": [{"message": {"role": "assistant", "content": given(messages)}}]}
            self._send(200, {}, json.dumps(reply).encode())

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def _drip(self) -> None:
        """A byte now and then, which never lets a socket's own time-out run down."""
        self.send_response(200)
        self.end_headers()
        for _ in range(100):
            self.wfile.write(b" ")
            time.sleep(0.1)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def judge_server(judge: JudgeServer | None = None, port: int = 0) -> Iterator[JudgeServer]:
    """Serves until the block ends; `url` is filled in."""
    judge = judge or JudgeServer()
    handler = type("Handler", (_Handler,), {"judge": judge})
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        server.daemon_threads = True
        judge.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield judge
        server.shutdown()
        thread.join(10)
