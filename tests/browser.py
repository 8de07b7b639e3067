"""A real browser for tests and benchmarks: headless Chromium, driven over a pipe by its DevTools protocol.

No port, no driver, no package: JSON messages, each ended by a NUL, on two file descriptors of the child.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

CHROMIUM = shutil.which("chromium")
_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run --hide-scrollbars "
    "--remote-debugging-pipe"
)
_PAINTED = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
_WHEN_LOADED = """(() => { const t = performance.getEntriesByType('navigation')[0]; return {
    load: t.loadEventEnd, ready: t.domContentLoadedEventEnd,
    paint: (performance.getEntriesByName('first-contentful-paint')[0] || {}).startTime || null,
    broken: [...document.images].filter(i => i.complete && !i.naturalWidth).length,
    groups: document.querySelectorAll('article').length, title: document.title,
    links: [...document.links].map(a => a.href), text: document.body.textContent } })()"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A page after its load event, as the browser itself tells."""

    url: str
    seconds: float
    """From the start of the navigation to the end of the load event, by the page's own clock (navigation timing)."""
    first_paint: float | None
    """The same, to the first text or picture on the screen."""
    wall: float
    """Seconds by our clock from asking for the page to hearing that it was painted after loading."""
    bytes: int
    """Of everything that was fetched: the file itself, since nothing else can be."""
    problems: tuple[str, ...]
    """What the console shows: errors, warnings, violations of the content policy, pictures that do not decode."""
    groups: int
    links: tuple[str, ...]
    text: str
    title: str


class Browser:
    """`with Browser(folder) as browser: browser.open(path.as_uri())`. `folder` gets the browser's profile."""

    def __init__(self, folder: Path, *, deadline_s: float = 90.0) -> None:
        assert CHROMIUM, "Chromium is not installed"
        self._deadline_s = deadline_s
        down, self._out = os.pipe()
        self._in, up = os.pipe()
        command = f"exec {CHROMIUM} {_FLAGS} --user-data-dir={folder / 'profile'} about:blank 3<&{down} 4>&{up}"
        self._process = subprocess.Popen(
            ["bash", "-c", command], pass_fds=(down, up), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(down)
        os.close(up)
        self._buffer, self._number, self._events = b"", 0, list[dict[str, Any]]()
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Log", "Runtime", "Network"):
            self._call(f"{domain}.enable")

    def open(self, url: str) -> Shown:
        """Load a page and look at it. Raises AssertionError when it does not load in time."""
        self._events.clear()
        started = time.perf_counter()
        failed = self._call("Page.navigate", url=url).get("errorText")
        assert not failed, f"{url}: {failed}"
        while not any(event.get("method") == "Page.loadEventFired" for event in self._events):
            self._events.append(self._next())
        self.evaluate(_PAINTED)
        wall = time.perf_counter() - started
        found = self.evaluate(_WHEN_LOADED)
        broken = [f"{found['broken']} pictures do not decode"] if found["broken"] else []
        return Shown(
            url=url, seconds=found["load"] / 1000, wall=wall, bytes=self._bytes(),
            first_paint=None if found["paint"] is None else found["paint"] / 1000,
            problems=(*self._problems(), *broken), groups=found["groups"], links=tuple(found["links"]),
            text=found["text"], title=found["title"],
        )  # fmt: skip

    def picture(self, path: Path, *, width: int, height: int, dark: bool = False, at: str = "body") -> Path:
        """A PNG of the page that is open, in one of its themes, scrolled to the last element that `at` selects."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        self.evaluate(f"[...document.querySelectorAll({json.dumps(at)})].at(-1).scrollIntoView()")
        self.evaluate(_PAINTED)
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))
        return path

    def wider_than_the_window(self, width: int) -> int:
        """By how many pixels the page overflows a window of this width."""
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        return int(self.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page that is open, awaited. AssertionError when it throws."""
        asked = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in asked, asked
        return asked["result"].get("value")

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _call(self, method: str, **parameters: Any) -> Any:
        return self._ask(method, session=self._session, **parameters)

    def _ask(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        os.write(self._out, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self._events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        limit = time.monotonic() + self._deadline_s
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, limit - time.monotonic()))
            assert ready, f"Chromium said nothing for {self._deadline_s} s"
            got = os.read(self._in, 1 << 20)
            assert got, f"Chromium ended with status {self._process.wait()}"
            self._buffer += got
        line, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        return message

    def _problems(self) -> list[str]:
        entries = [event["params"]["entry"] for event in self._events if event.get("method") == "Log.entryAdded"]
        found = [f"{entry['source']} {entry['level']}: {entry['text']}" for entry in entries]
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        return found + [json.dumps(event["params"]) for event in self._events if event.get("method") in kinds]

    def _bytes(self) -> int:
        done = [event["params"] for event in self._events if event.get("method") == "Network.loadingFinished"]
        return int(sum(one["encodedDataLength"] for one in done))
