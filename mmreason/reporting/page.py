"""The frame of every page: title, style, and a policy under which nothing foreign can run and nothing is fetched."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TextIO

END = "\n</main></body></html>\n"
"""What closes the document that `head` opens."""
_CONTROLS = r"\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f"
_DIRECTION = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_NO_WIDTH = r"\u200b\u2060-\u2064\ufeff"  # not the joiners U+200C and U+200D, which scripts and emoji need
_INVISIBLE = re.compile(f"[{_CONTROLS}{_DIRECTION}{_NO_WIDTH}]")
"""Control characters, and those that turn the direction of writing or cannot be seen."""


def page(title: str, subtitle: str, sections: Sequence[str]) -> str:
    """A whole HTML document. `sections` is HTML, the other two are text."""
    return visible(head(title, subtitle) + "\n".join(sections) + END)


def head(title: str, subtitle: str, *, style: str = "", script: str = "") -> str:
    """All that comes before the sections. `style` is added to that of every page; `script` is the one that may run."""
    style = _style() + style
    scripts = f"script-src {_digest(script)}; " if script else ""
    policy = (
        f"default-src 'none'; img-src data:; {scripts}style-src {_digest(style)}; base-uri 'none'; form-action 'none'"
    )
    return visible(
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<meta name='color-scheme' content='light dark'><title>{escape(title)}</title><style>{style}</style></head>\n"
        f"<body><main><header class='top'><h1>{escape(title)}</h1><p>{escape(subtitle)}</p></header>\n"
    )


def shortened(value: object, longest: int) -> str:
    """A value as text of at most `longest` characters; what was cut is said. None: nothing."""
    text = "" if value is None else str(value)
    return text if len(text) <= longest else f"{text[:longest]}\n[{len(text) - longest} more characters]"


def visible(html: str) -> str:
    """Characters that cannot be seen, or that make text read otherwise than it is, as \\uXXXX."""
    return _INVISIBLE.sub(lambda found: f"\\u{ord(found.group()):04x}", html)


def write_page(path: Path, html: str) -> None:
    """A whole new file or the old one, whatever happens meanwhile. Raises OSError."""
    with page_file(path) as file:
        file.write(html)


@contextmanager
def page_file(path: Path) -> Iterator[TextIO]:
    """The same for a page that is written piece by piece."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
            yield file
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)  # on a full disk it takes room that others need
        raise


def _digest(content: str) -> str:
    """How a content policy names a style or a script that is in the page."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode('ascii')}'"


@cache
def _style() -> str:
    return files("mmreason.reporting").joinpath("style.css").read_text(encoding="utf-8")
