"""What a dry run found, said line by line while it goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from mmreason.errors import ConfigError

SHOWN = 20
"""Findings of one kind that are printed; all are kept and counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong. Example: `Finding(kind="media", line="a.jsonl:3: image b.png: missing")`"""

    kind: str
    """"config", "plug-in", "data", "media", "model", "prompt", "gold", "reward" or "leak"."""
    line: str
    """Where, what was found, and what was expected or can be done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """How closely to look. Example: `CheckOptions(decode=None)` decodes every row's media. Raises ConfigError."""

    rows: int | None = 2000
    """Rows whose media headers are read, whose tokens are counted and whose golds are scored; None: all."""
    decode: int | None = 100
    """Rows among them that are encoded in full; None: all."""
    processes: int = 1
    """Devices, for the memory forecast."""
    answer_format: str | None = None
    """How an answer is written, with {answer} in it, where the config's `format` reward does not say."""

    def __post_init__(self) -> None:
        if self.processes < 1 or min(self.rows or 0, self.decode or 0) < 0:
            raise ConfigError(f"{self}: expected at least 1 process, and no negative number of rows")


class Findings:
    """Collects findings and says each at once, unless there are many of its kind."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.all: list[Finding] = []
        self.counts: Counter[str] = Counter()

    def add(self, kind: str, line: str) -> None:
        """Keep one finding, and print it while there are few of its kind."""
        self.all.append(Finding(kind=kind, line=line))
        self.counts[kind] += 1
        if self.counts[kind] <= SHOWN:
            self.say(line)

    def tell_rest(self) -> None:
        """How many of each kind were not printed."""
        for kind, count in self.counts.items():
            if count > SHOWN:
                self.say(f"... and {count - SHOWN} more of kind {kind!r}; --out FILE holds all of them")
