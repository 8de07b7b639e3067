"""`mmreason serve-reward`: HTTP around a scorer.

    GET  /health   {"status": "ready", "scorer": "siglip", "facts": {...}, "busy": false, "waiting": 0, "done": 12, ...}
    POST /score    {"texts": [...], "question": "...", "media": [{"kind": "image", "path": "..."}], "sample": {...}}
                   -> {"values": [...]}, one per text; 400 for a request that can never be scored, 503 for later

A medium comes as a `path` under one of the service's media roots, or as `content` in base64.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from mmreason.errors import ConfigError, MediaError
from mmreason.plugins import load_symbol
from mmreason.processors.base import Decoded, MediaTraits
from mmreason.processors.media import MediaLoader
from mmreason.serving.batcher import Batcher, Busy
from mmreason.serving.config import LOOPBACK, ServiceConfig
from mmreason.serving.scorers import SCORERS, Item, Scorer
from mmreason.types import MediaRef

LARGEST_REQUEST = 512 * 2**20
"""Bytes of a request's body: a few videos in base64."""
KINDS = ("image", "video", "audio")
STOP_S = 10.0
"""How long the batch at hand may take after SIGTERM."""
REPLY_S = 2.0
"""How long replies may take after that."""


@dataclass(slots=True)
class _Asked:
    """A request whose media are not decoded yet."""

    item: Item
    media: list[MediaRef]


class Service:
    """A loaded scorer behind a batcher. Raises PluginError, ConfigError or ModelError where it cannot be loaded."""

    def __init__(self, config: ServiceConfig) -> None:
        self.config = config
        self._roots = [Path(root).resolve() for root in config.media_roots]
        factory = load_symbol(config.scorer, SCORERS, "mmreason.scorers")
        try:
            self.scorer: Scorer = factory(device=config.device, **config.options)
        except TypeError as error:
            raise ConfigError(f"scorer {config.scorer}: {error}") from error
        traits = MediaTraits(frame="resized_pixels", audio_rate=16000)
        self._loader = MediaLoader(config.media, traits) if self.scorer.kinds else None
        if self._loader is not None:
            self._loader.start()  # else the first request with media would wait for it, within its deadline
        self._open = 0
        self._closed = threading.Condition()
        self.batcher: Batcher[_Asked, list[Any] | MediaError] = Batcher(
            self._work, most=config.batch, gather_s=config.gather_ms / 1000, room=config.room
        )

    def score(self, request: Any) -> list[Any]:
        """A value per text. Raises ValueError (never to be scored), Busy and TimeoutError (later)."""
        found = self.batcher.ask(self._read(request), self.config.deadline_s)
        if isinstance(found, MediaError):
            raise found
        return found

    def health(self) -> dict[str, Any]:
        """What /health says; "stuck" while a batch takes longer than the deadline."""
        since = self.batcher.busy_since
        stuck = since is not None and time.monotonic() - since > self.config.deadline_s
        counts = {
            "busy": since is not None,
            "waiting": self.batcher.waiting,
            "done": self.batcher.done,
            "batches": self.batcher.batches,
        }
        about = {"scorer": self.config.scorer, "facts": self.scorer.facts()}
        return {"status": "stuck" if stuck else "ready", **about, **counts}

    @contextmanager
    def replying(self) -> Iterator[None]:
        """Around a request: `close` lets it have its reply."""
        with self._closed:
            self._open += 1
        try:
            yield
        finally:
            with self._closed:
                self._open -= 1
                self._closed.notify_all()

    def close(self) -> None:
        """Finish the batch at hand, within STOP_S, and the replies, within REPLY_S; end decoding processes."""
        self.batcher.stop(STOP_S)
        with self._closed:
            self._closed.wait_for(lambda: self._open == 0, REPLY_S)
        if self._loader is not None:
            self._loader.close()

    def _read(self, request: Any) -> _Asked:
        """A request as JSON has it. Raises ValueError in one line."""
        if not isinstance(request, dict) or not isinstance(request.get("texts"), list):
            raise ValueError('expected an object with "texts", a list')
        texts, question, sample = request["texts"], request.get("question", ""), request.get("sample", {})
        if not all(isinstance(text, str) for text in [*texts, question]) or not isinstance(sample, dict):
            raise ValueError('"texts" and "question" must be text, "sample" an object')
        given = request.get("media", [])
        if not isinstance(given, list):
            raise ValueError('"media": expected a list')
        if not all(isinstance(entry, dict) and entry.get("kind") in KINDS for entry in given):
            raise ValueError('"media": each needs a "kind": image, video or audio')
        media = [self._media(entry) for entry in given if entry["kind"] in self.scorer.kinds]
        return _Asked(Item(texts=tuple(texts), question=question, sample=sample), media)

    def _media(self, entry: Mapping[str, Any]) -> MediaRef:
        options = entry.get("options", {})
        if isinstance(entry.get("content"), str):
            try:
                content = base64.b64decode(entry["content"], validate=True)
            except binascii.Error:
                raise ValueError('"content" of a medium: expected base64') from None
            return MediaRef(kind=entry["kind"], data=content, options=options)
        if not isinstance(entry.get("path"), str):
            raise ValueError('"media": each needs a "path" or "content"')
        return MediaRef(kind=entry["kind"], path=self._allowed(entry["path"]), options=options)

    def _allowed(self, path: str) -> str:
        """The path, links followed. Raises ValueError for one outside of every media root, there or not."""
        real = Path(os.path.realpath(path))
        if "\0" in path or not Path(path).is_absolute() or not any(real.is_relative_to(root) for root in self._roots):
            hint = "start the service with --media-root, or send content" if not self._roots else "see --media-root"
            raise ValueError(f"{path!r}: not under a media root of this service; {hint}")
        return str(real)

    def _work(self, asked: Sequence[_Asked]) -> list[list[Any] | MediaError]:
        """Decode all media, score what could be decoded."""
        refs = [ref for one in asked for ref in one.media]
        decoded = iter(self._loader.load(refs) if self._loader is not None else [])
        results: dict[int, list[Any] | MediaError] = {}
        items: dict[int, Item] = {}
        for index, one in enumerate(asked):
            media = [next(decoded) for _ in one.media]
            failed = next((m for m in media if isinstance(m, MediaError)), None)
            if failed is not None:
                results[index] = failed
            else:
                items[index] = replace(one.item, media=tuple(m for m in media if isinstance(m, Decoded)))
        if items:
            results |= dict(zip(items, self.scorer.score(list(items.values())), strict=True))
        return [results[index] for index in range(len(asked))]


class _Handler(BaseHTTPRequestHandler):
    service: Service
    key: str | None
    timeout = 30  # seconds for a socket to move; the base class reads this
    server_version = "mmreason"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path != "/health":
            self._reply(404, {"error": "there are GET /health and POST /score"})
            return
        health = self.service.health()
        self._reply(200 if health["status"] == "ready" else 503, health)

    def do_POST(self) -> None:
        with self.service.replying():
            status, reply = self._scored()
            self._reply(status, reply)

    def _scored(self) -> tuple[int, dict[str, Any]]:
        given = self.headers.get("Authorization", "").encode()
        if self.key is not None and not hmac.compare_digest(given, f"Bearer {self.key}".encode()):
            return 401, {"error": "a key is needed (Authorization: Bearer ...)"}
        length = self.headers.get("Content-Length", "")
        if self.path != "/score" or not length.isdecimal():
            return 404 if self.path != "/score" else 411, {"error": "there are GET /health and POST /score"}
        if len(length) > 18:
            return 400, {"error": f"Content-Length of {len(length)} digits; expected bytes, at most {LARGEST_REQUEST}"}
        if int(length) > LARGEST_REQUEST:
            return 413, {"error": f"more than {LARGEST_REQUEST} bytes"}
        try:
            request = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            return 400, {"error": str(error)}
        return self._values(request)

    def _values(self, request: Any) -> tuple[int, dict[str, Any]]:
        try:
            values = self.service.score(request)
        except (Busy, TimeoutError) as error:
            return 503, {"error": str(error)}
        except (ValueError, RecursionError) as error:  # MediaError is one of them
            return 400, {"error": str(error)}
        except Exception as error:  # the boundary to a scorer, which may be foreign code
            return 422, {"error": f"the scorer failed with {type(error).__name__}: {error}"}
        try:
            json.dumps(values)
        except (TypeError, ValueError) as error:
            return 422, {"error": f"the scorer gave what JSON cannot hold: {error}"}
        return 200, {"values": values}

    def _reply(self, status: int, reply: Mapping[str, Any]) -> None:
        body = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == 503:
            self.send_header("Retry-After", "1")
        try:
            self.end_headers()
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # who asked has gone

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def serve(config: ServiceConfig, say: Callable[[str], None] = print) -> None:
    """Serve until SIGTERM or SIGINT; says one line when ready. Raises as `listening`."""
    told = threading.Event()
    with listening(config) as url:
        previous = {n: signal.signal(n, lambda *_: told.set()) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            say(f"serving {config.scorer} on {url}")
            told.wait()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


@contextmanager
def listening(config: ServiceConfig) -> Iterator[str]:
    """A service in threads of this process; its address. Raises ConfigError: host without a key, port in use."""
    key = os.environ.get(config.key_env, "").strip() if config.key_env else None
    if config.key_env and not key:
        raise ConfigError(f"key_env: the environment variable {config.key_env} is not set, or empty")
    if config.host not in LOOPBACK and key is None:
        raise ConfigError(f"host: {config.host}: others could reach this service; give key_env, or use 127.0.0.1")
    service = Service(config)
    try:
        handler = type("Handler", (_Handler,), {"service": service, "key": key})
        try:
            server = _Server((config.host, config.port), handler)
        except OSError as error:
            raise ConfigError(f"host, port: {config.host}:{config.port}: {error.strerror}") from error
        with server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
            thread.start()
            try:
                yield f"http://{config.host}:{server.server_port}"
            finally:
                server.shutdown()
                thread.join(STOP_S)
    finally:
        service.close()
