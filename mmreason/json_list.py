"""The elements of a JSON file that is one long list, one at a time.

`json.load` would hold the whole text (up to four times the file, where it has one emoji) and all objects at once; here
it is the text of a few elements.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TextIO

from mmreason.errors import DataError

CHUNK = 1 << 18
"""Characters to read at a time, at least."""
_SPACE = " \t\n\r"
_NEAR_THE_END = 12
"""Characters: what is this close to the end of what was read may mean something else once more is read ("-Infinit")."""


def list_elements(file: TextIO, decoder: json.JSONDecoder, name: str) -> Iterator[tuple[str, Any]]:
    """("name:N", element number N, or a DataError) of a file that is open at its start, blank space allowed.

    `decoder` may refuse a value with ValueError: the rest is read all the same. Broken JSON ends the list.
    """
    text = _Text(file)
    text.expect("[")
    number, closed = 0, text.skip("]")
    while not closed:
        number += 1
        origin = f"{name}:{number}"
        try:
            yield origin, _element(text, decoder, origin)
            closed = text.skip("]")
            if not closed:
                text.expect(",")
        except UnicodeDecodeError as error:
            yield origin, DataError(f"{origin}: not UTF-8 at or after this element ({error.reason})")
            return
        except (ValueError, RecursionError) as error:
            yield origin, DataError(f"{origin}: the list is broken here, and the rest of it not read ({error})")
            return
    if text.peek():
        yield f"{name}:{number}", DataError(f"{name}:{number}: more text after the end of the list, expected one list")


def _element(text: _Text, decoder: json.JSONDecoder, origin: str) -> Any:
    """The next element, or the DataError of one that the decoder refuses. Raises ValueError for broken JSON."""
    try:
        return text.decode(decoder)
    except UnicodeDecodeError:  # a ValueError of the file's
        raise
    except ValueError as error:  # broken JSON is so for every decoder
        text.decode(json.JSONDecoder(parse_int=str, parse_float=str))
        return DataError(f"{origin}: not a usable JSON object ({error})")


class _Text:
    """What was read of a file and not used yet."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.text = ""
        self.place = 0
        self.ended = False

    def peek(self) -> str:
        """The next character that is no space, or "" at the end of the file."""
        while True:
            while self.place < len(self.text) and self.text[self.place] in _SPACE:
                self.place += 1
            if self.place < len(self.text) or self.ended:
                return self.text[self.place : self.place + 1]
            self.more()

    def more(self) -> None:
        """Read on: as much as there is unused, so that a long element is looked at a few times only."""
        rest = self.text[self.place :]
        read = self.file.read(max(CHUNK, len(rest)))
        self.text, self.place, self.ended = rest + read, 0, not read

    def skip(self, character: str) -> bool:
        found = self.peek() == character
        self.place += found
        return found

    def expect(self, character: str) -> None:
        if not self.skip(character):
            seen = repr(self.peek()) if self.peek() else "the end of the file"
            raise ValueError(f"{seen} where {character!r} was expected")

    def decode(self, decoder: json.JSONDecoder) -> Any:
        """The next value. Raises ValueError for broken JSON, and what the decoder's hooks raise."""
        while True:
            self.peek()
            try:
                value, end = decoder.raw_decode(self.text, self.place)
            except json.JSONDecodeError as error:
                open_string = error.msg.startswith("Unterminated string")
                if self.ended:
                    early = open_string or error.pos >= len(self.text.rstrip())
                    raise ValueError("the file ends too early" if early else error.msg) from error
                if not open_string and error.pos < len(self.text) - _NEAR_THE_END:
                    raise ValueError(error.msg) from error
            else:
                if self.ended or self.text[end : end + 1] in (",", "]") or end < len(self.text) - _NEAR_THE_END:
                    self.place = end
                    return value  # else "1" may be the start of "1.5e+7"
            self.more()
