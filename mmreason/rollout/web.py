"""One HTTP server as a rollout engine uses it: many requests at a time, JSON both ways, ended at once when need be.

Written on `http.client`: every thread keeps its connection open. What fails is one of two: `Lost`, where the server is
gone, does not answer in time or says that it cannot work now, and another try may help; or an `EngineError`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from typing import Any
from urllib.parse import urlsplit

from mmreason.errors import EngineError

SHOWN = 300
"""Characters of a reply that an error shows."""


class Lost(Exception):
    """No usable answer from the server: it is gone, late, or was stopped."""


class Web:
    """Requests to one server, from any thread. Example: `Web("http://127.0.0.1:8123").post("/resume", {}, 10.0)`

    keep: keep connections open for the thread's next request; then close it.
    """

    def __init__(self, url: str, *, keep: bool = False) -> None:
        self.url, self._keep = url, keep
        self._mine = threading.local()
        self._open: set[http.client.HTTPConnection] = set()
        self._lock = threading.Lock()
        self._cuts, self._ended = 0, False

    def get(self, path: str, timeout_s: float) -> Any:
        """The JSON of the reply. Raises Lost and EngineError."""
        return self._ask("GET", path, None, timeout_s)

    def post(self, path: str, body: Any, timeout_s: float) -> Any:
        """The JSON of the reply to a JSON request; None where it is empty. Raises Lost and EngineError."""
        return self._ask("POST", path, json.dumps(body).encode(), timeout_s)

    def cut(self, *, last: bool = False) -> None:
        """End every request that is under way: each raises Lost. last: so does each that comes later."""
        with self._lock:
            self._cuts += 1
            self._ended = self._ended or last
            connections = list(self._open)
        for connection in connections:
            if (sock := connection.sock) is not None:
                with contextlib.suppress(OSError):  # closed meanwhile
                    sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close what was kept open. No request may be under way."""
        with self._lock:
            for connection in self._open:
                connection.close()
            self._open.clear()
        self._mine = threading.local()

    def _ask(self, method: str, path: str, body: bytes | None, timeout_s: float) -> Any:
        used, cuts = getattr(self._mine, "connection", None), self._cuts
        try:
            connection = self._connection(timeout_s)
            if self._ended or self._cuts != cuts:  # while it was opened
                raise ConnectionAbortedError("cut")
            status, content = _send(connection, method, path, body)
            if not self._keep:
                self._drop()
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            if used is None or self._cuts != cuts or isinstance(error, TimeoutError):
                raise Lost(f"{self.url}{path}: {type(error).__name__}: {error}") from None
            # A connection that was kept open may have been closed by the server meanwhile.
            return self._ask(method, path, body, timeout_s)
        shown = " ".join(content[:SHOWN].decode("utf-8", "replace").split())
        if status >= 500:
            raise Lost(f"{self.url}{path}: HTTP {status}: {shown}")
        if status != 200:
            raise EngineError(f"{self.url}{path}: HTTP {status}: {shown}")
        try:
            return json.loads(content) if content else None
        except ValueError:
            raise EngineError(f"{self.url}{path}: expected JSON, got {shown!r}; is it a vLLM server?") from None

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        """This thread's connection, with the time-out of this request."""
        connection: http.client.HTTPConnection | None = getattr(self._mine, "connection", None)
        if connection is not None and connection.sock is None:  # closed after the last reply, as the server asked
            self._drop()
            connection = None
        if connection is None:
            place = urlsplit(self.url)
            connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=timeout_s)
            self._mine.connection = connection
            connection.connect()
            assert connection.sock is not None
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A machine that vanished says nothing: after a minute without a sign of it the request is lost.
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
                if hasattr(socket, name):
                    connection.sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
            with self._lock:
                self._open.add(connection)
        assert connection.sock is not None
        connection.sock.settimeout(max(timeout_s, 0.001))
        return connection

    def _drop(self) -> None:
        connection: http.client.HTTPConnection | None = getattr(self._mine, "connection", None)
        self._mine.connection = None
        if connection is not None:
            with self._lock:
                self._open.discard(connection)
            connection.close()


def _send(connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
    headers = {"Content-Type": "application/json"} if body is not None else {}
    connection.request(method, path, body, headers)
    reply = connection.getresponse()
    return reply.status, reply.read()
