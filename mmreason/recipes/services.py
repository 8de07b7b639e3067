"""Local stand-ins for the services that a recipe asks: real servers on this machine, with made-up verdicts."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_ASKED = re.compile(r"VERDICT (\w+) X\nwhere X is ([^.]+)\.")
"""How mmreason/rewards/judge_prompts.py asks for a verdict."""


@contextmanager
def local_judge() -> Iterator[str]:
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
    """One of the verdicts that were asked for, in the form that was asked for."""
    asked = _ASKED.search("\n".join(str(message["content"]) for message in messages))
    if asked is None:
        return "VERDICT unknown"
    choices = re.split(r", | or ", asked[2])
    return f"VERDICT {asked[1]} {choices[sum(map(ord, asked[1])) % len(choices)]}"
