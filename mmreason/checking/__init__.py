"""A dry run: everything about a config that can be found out without weights and without a GPU.

In this order: the config, what it names (plug-ins, DeepSpeed file, run folder), every row of the data, whether every
media file is there, the checkpoint's front (config, tokenizer, processor), tokens per row, some rows in full, the
memory that training will need, and the rewards on the golds. What is wrong is said at once, a line each, with file and
line. A config that cannot be used does not hide what is wrong with the data: that is then checked as far as it goes
without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmreason.checking.findings import CheckOptions, Finding, Findings
from mmreason.config import Given, inspect_config
from mmreason.config.loading import earlier

__all__ = ["CheckOptions", "CheckReport", "check"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What `check` found: nothing in `findings` means that training can start."""

    findings: tuple[Finding, ...]
    tables: tuple[str, ...]
    """Lines about what is there: rows, tokens, memory, rewards on golds."""

    @property
    def ok(self) -> bool:
        return not self.findings

    def __str__(self) -> str:
        return "\n".join([*(finding.line for finding in self.findings), *self.tables])


def check(
    config: Given,
    overrides: Sequence[str] = (),
    options: CheckOptions | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> CheckReport:
    """Check a run without starting it; `say` gets each line as soon as it is known.

    Raises ConfigError for a config file that cannot be read at all.
    """
    usable, sections, mistakes = inspect_config(config, overrides)
    found = Findings(say)
    for line in mistakes.splitlines():
        found.add("config", line)
    from mmreason.checking.stages import check_rest  # a config's mistakes need not wait for decoders and rewards

    tables = check_rest(_name(config), usable, sections, earlier(config, overrides), options or CheckOptions(), found)
    found.tell_rest()
    return CheckReport(findings=tuple(found.all), tables=tuple(tables))


def _name(config: Given) -> str:
    """What lines about the config begin with."""
    return str(config) if isinstance(config, str | Path) else "config"
