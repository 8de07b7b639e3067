"""Asking a server over HTTP: one deadline for the whole of a request, and patience by policy when it fails.

A failure is one of two kinds. `Unavailable`: nobody listens, the answer is late or cut off, 408, 425, 429 or 5xx;
another try may help. `Refused`: any other status, where another try would say the same. Neither is ever a score.

Written on `http.client`: no redirects (a key must not follow one to another host) and no proxies.
"""

from __future__ import annotations

import http.client
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeVar
from urllib.parse import SplitResult, urlsplit

from mmreason.errors import RewardError
from mmreason.rewards.base import ask_for_time, one_line

OnOutage = Literal["pause", "drop"]

LARGEST_REPLY = 8 * 2**20
"""Bytes; a longer reply is refused."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""Between two tries: doubled each time, of which a random half to whole is waited."""
SPARE_S = 15.0
"""What the pool grants beyond a reward's own deadline, so that the reward is the one to report it."""
_TRY_AGAIN = {408, 425, 429}

T = TypeVar("T")


class Unavailable(RewardError):
    """The server cannot be reached, is overloaded or broke off. `retry_after`: seconds that it asked us to wait."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Refused(RewardError):
    """The server says that this request is wrong."""


class Nonsense(RewardError):
    """The server answered, but not what was asked for; another answer may be better."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where to ask. Example: `Server("http://127.0.0.1:8000/v1", key_env="JUDGE_KEY")`"""

    url: str
    """Up to, and without, the last part of the path."""
    key_env: str | None = None
    """Environment variable with the key. The key itself is in no config, log or message."""

    @property
    def key(self) -> str | None:
        given = os.environ.get(self.key_env, "") if self.key_env else ""
        return given.strip() or None  # a line end from a file of secrets would be shown by the error that it causes

    def post(self, path: str, body: bytes, timeout_s: float) -> bytes:
        """The body of a 200 reply to a JSON request, all of it within `timeout_s`. Raises Unavailable or Refused."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        place = urlsplit(self.url)
        connection = _connection(place, timeout_s)
        try:
            began = time.monotonic()
            connection.connect()
            with _shut_after(timeout_s - (time.monotonic() - began), connection.sock):
                with suppress(BrokenPipeError, ConnectionResetError):  # a refusal may come before all is read
                    connection.request("POST", f"{place.path.rstrip('/')}/{path}", body, headers)
                reply = connection.getresponse()
                content = reply.read(LARGEST_REPLY + 1)
                if reply.length and len(content) <= LARGEST_REPLY:
                    raise http.client.IncompleteRead(content, reply.length)
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(self._say(f"no reply ({type(error).__name__}: {error})")) from None
        finally:
            connection.close()
        self._check(reply.status, reply.headers.get("Retry-After"), content)
        return content

    def _check(self, status: int, retry_after: str | None, content: bytes) -> None:
        if status == 200 and len(content) <= LARGEST_REPLY:
            return
        shown = one_line(content[:2000].decode("utf-8", "replace"), limit=200)
        if status == 200:
            raise Nonsense(self._say(f"a reply of more than {LARGEST_REPLY} bytes"))
        if status in _TRY_AGAIN or status >= 500:
            raise Unavailable(self._say(f"HTTP {status}: {shown}"), read_retry_after(retry_after))
        raise Refused(self._say(f"HTTP {status}: {shown}"))

    def _say(self, what: str) -> str:
        line = one_line(f"{self.url}: {what}")
        return line.replace(self.key, "***") if self.key else line


def _connection(place: SplitResult, timeout_s: float) -> http.client.HTTPConnection:
    kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
    return kind(place.hostname or "", place.port, timeout=max(timeout_s, 0.001))


@contextmanager
def _shut_after(seconds: float, sock: socket.socket) -> Iterator[None]:
    """Cut a connection off at the deadline: a server that sends a byte now and then resets a socket's own time-out."""
    late = threading.Event()

    def shut() -> None:
        late.set()
        with suppress(OSError):  # closed meanwhile
            socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not the method of a TLS socket, which waits for its peer

    timer = threading.Timer(max(seconds, 0.001), shut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise (_late(seconds) if late.is_set() else error) from None
    finally:
        timer.cancel()
    if late.is_set():
        raise _late(seconds)


def _late(seconds: float) -> TimeoutError:
    return TimeoutError(f"not complete within {seconds:.2g} s")


def read_retry_after(value: str | None) -> float:
    """Seconds to wait by a Retry-After header, which holds seconds or a date; 0 where it cannot be read."""
    if value is None:
        return 0.0
    if value.strip().isascii() and value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for whom: a group has `deadline_s`, and `outage_s` more where an outage pauses."""

    retries: int
    """How many times a request is sent again before its failure counts as an outage, or its answer as nonsense."""
    request_s: float
    deadline_s: float
    on_outage: OnOutage
    outage_s: float

    @property
    def longest_s(self) -> float:
        """No group takes longer."""
        return self.deadline_s + (self.outage_s if self.on_outage == "pause" else 0.0)

    def mistakes(self) -> Iterator[str]:
        for name in ("request_s", "deadline_s", "outage_s"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                yield f"option {name}: got {value!r}, expected seconds above 0"
        if self.retries < 0:
            yield f"option retries: got {self.retries!r}, expected 0 or more"


@dataclass(slots=True)
class Errand:
    """The requests of one group: they share its deadline, and give up together.

    Example: `Errand(patience).ask(lambda timeout_s: server.post("x", b"{}", timeout_s))`
    """

    patience: Patience
    over: threading.Event = field(default_factory=threading.Event)
    """Set when one request has given up: the others need not go on."""
    tries: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        ask_for_time(self.patience.longest_s + SPARE_S)

    def ask(self, once: Callable[[float], T]) -> T:
        """`once(timeout_s)`: again while it is Unavailable and there is patience left, and `retries` times if Nonsense.

        Raises the last of these when patience is over, and at once what else `once` raises.
        """
        failures = misunderstandings = 0
        outage_began, pause = None, FIRST_PAUSE_S
        while True:
            if self.over.is_set():
                raise Unavailable("another request of this group gave up")
            with self.lock:
                self.tries += 1
            try:
                return once(min(self.patience.request_s, max(0.001, self._left())))
            except Nonsense:
                misunderstandings += 1
                if misunderstandings > self.patience.retries:
                    raise
            except Unavailable as error:
                now = time.monotonic()
                outage_began = now if outage_began is None else outage_began
                failures += 1
                wait = max(error.retry_after, jittered(pause))
                why = self._why_to_give_up(failures, now - outage_began + wait, wait)
                pause = min(2 * pause, LONGEST_PAUSE_S)
                if why or self.over.wait(wait):
                    self.over.set()
                    raise Unavailable(f"{error}; {why or 'another request of this group gave up'}") from None

    def _left(self) -> float:
        """Seconds left of the group's time."""
        return self.began + self.patience.longest_s - time.monotonic()

    def _why_to_give_up(self, failures: int, outage_s: float, wait: float) -> str | None:
        patience, tries = self.patience, f"gave up after {failures} tries"
        if patience.on_outage == "drop" and failures > patience.retries:
            return f"{tries} (on_outage: drop)"
        if patience.on_outage == "pause" and outage_s > patience.outage_s:
            return f"{tries}: the outage is longer than outage_s ({patience.outage_s:g} s)"
        if wait > self._left():
            return f"{tries}: the time of this group is over ({patience.longest_s:g} s)"
        return None


def jittered(pause: float) -> float:
    """A random half to whole of a pause, so that many who failed together do not come back together."""
    return random.uniform(0.5, 1.0) * pause


def server_mistakes(options: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the options `url` and `api_key_env`."""
    try:
        place = urlsplit(options["url"])
        whole = place.scheme in ("http", "https") and bool(place.hostname) and place.port != 0
    except ValueError:
        place, whole = SplitResult("", "", "", "", ""), False
    if place.username is not None or place.query or place.fragment:  # not shown: there may be a secret in it
        yield "option url: has a user name, '?' or '#' in it; a key goes into an environment variable (api_key_env)"
    elif not whole or not options["url"].isprintable() or " " in options["url"]:
        yield f"option url: got {options['url']!r}, expected one such as 'http://127.0.0.1:8000/v1'"
    name = options.get("api_key_env")
    key = os.environ.get(name, "").strip() if name else "-"
    if not key:
        yield f"option api_key_env: the environment variable {name} is not set, or empty"
    elif not (key.isascii() and key.isprintable()):
        yield f"option api_key_env: the environment variable {name} holds what is no key: expected ASCII on one line"
