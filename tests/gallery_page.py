"""A gallery page in a real browser, as its reader uses it: words typed, keys pressed, pages turned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.browser import Browser

_PAINTED = "await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


def rows_without_media(count: int) -> Iterator[dict[str, Any]]:
    """Rows such as `mmreason infer` writes; every tenth is an error, item i is coloured by i % 7."""
    colours = "red green blue amber violet grey white".split()
    for index in range(count):
        colour = colours[index % 7]
        row = {"id": f"photos/{index:05d}.jpg", "messages": [{"role": "user", "content": "Which colour?"}]}
        if index % 10 == 9:
            yield {**row, "text": None, "parsed": None, "status": "error", "reason": "truncated: the file ends early"}
        else:
            thinking = f"It looks {colour}. " * 20
            text = f"<think>{thinking}</think><answer>{colour}</answer>"
            told = {"text": text, "thinking": thinking, "parsed": colour, "tokens": 120 + index % 5, "seconds": 0.25}
            yield {**row, **told, "status": "ok"}


def type_words(browser: Browser, words: str) -> None:
    """Replace the words of the filter by `words`."""
    browser.evaluate(
        f"(() => {{ const at = document.getElementById('words'); at.value = {json.dumps(words)};"
        " at.dispatchEvent(new Event('input', {bubbles: true})) })()"
    )


def choose_status(browser: Browser, status: str) -> None:
    browser.evaluate(
        f"(() => {{ const at = document.getElementById('status'); at.value = {json.dumps(status)};"
        " at.dispatchEvent(new Event('change', {bubbles: true})) })()"
    )


def press(browser: Browser, key: str) -> None:
    """A key pressed where the focus is."""
    event = f"new KeyboardEvent('keydown', {{key: {json.dumps(key)}, bubbles: true, cancelable: true}})"
    browser.evaluate(f"void document.activeElement.dispatchEvent({event})")


def seconds_to_filter(browser: Browser, words: str) -> float:
    """From the last letter typed until the new items are painted."""
    return float(
        browser.evaluate(
            "(async () => { const start = performance.now(); const at = document.getElementById('words');"
            f" at.value = {json.dumps(words)}; at.dispatchEvent(new Event('input', {{bubbles: true}}));"
            f" {_PAINTED}; return (performance.now() - start) / 1000 }})()"
        )
    )


def shown(browser: Browser) -> dict[str, Any]:
    """What the page shows: names of the items, their texts, count, page, number of pages, address."""
    found: dict[str, Any] = browser.evaluate(
        "({names: [...document.querySelectorAll('#items h4')].map(one => one.textContent),"
        " items: [...document.querySelectorAll('#items article')].map(one => one.textContent),"
        " count: document.getElementById('count').textContent, hash: location.hash,"
        " page: document.getElementById('page').valueAsNumber, pages: +document.getElementById('pages').textContent,"
        " pictures: document.images.length, focus: document.activeElement.id})"
    )
    return found
