"""Every error that a user can cause, and the one by which a run stops.

    MMReasonError (a ValueError)
    |-- ConfigError       a config file, an override or a combination of settings
    |-- PluginError       a named function, file or entry point that cannot be loaded
    |-- DataError         a row of a data file
    |   |-- BudgetError   a prompt of more tokens than allowed
    |   `-- GoldError     a gold answer that cannot be scored
    |-- MediaError        a media file that cannot be used (missing, corrupt, too large, ...)
    |-- AlignmentError    placeholder tokens and media features that do not match
    |-- ModelError        a model outside the family table, a checkpoint of another model, a failed self-check
    |-- RewardError       a reward that raises, hangs or returns something that is no score
    |-- CheckpointError   a checkpoint that is torn or cannot be written

Each message is one line: what was given, what was expected, what to do. The command line prints that line
and exits with status 2; broken invariants of our own are `assert`s and do show a traceback.
"""

from __future__ import annotations


class MMReasonError(ValueError):
    """Base of all errors that a user can cause and mend. `reason`: short stable words for counters and quarantine."""

    reason = "error"


class ConfigError(MMReasonError):
    """A config file, an override or a combination of settings is wrong."""


class PluginError(MMReasonError):
    """A named function, file or entry point cannot be loaded."""


class DataError(MMReasonError):
    """A row of a data file is wrong; the message starts with `file:line`."""

    reason = "bad row"


class BudgetError(DataError):
    """A prompt, media included, has more tokens than `data.max_prompt_tokens`."""

    reason = "prompt too long"


class GoldError(DataError):
    """A gold answer that the rewards cannot score."""

    reason = "bad gold"


class MediaError(MMReasonError):
    """A media file cannot be used. `source`: the file, as the row names it."""

    def __init__(self, source: str, reason: str, detail: str = "") -> None:
        super().__init__(f"{source}: {reason}" + (f" ({detail})" if detail else ""))
        self.source, self.reason, self.detail = source, reason, detail

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, str, str]]:
        return MediaError, (self.source, self.reason, self.detail)


class AlignmentError(MMReasonError):
    """The placeholder tokens of a prompt and the features of its media do not match in number."""

    reason = "placeholder count"


class ModelError(MMReasonError):
    """A model outside the family table, a checkpoint of another model, or a failed self-check."""


class RewardError(MMReasonError):
    """A reward raised, hung, or returned something that is not a list of scores."""


class CheckpointError(MMReasonError):
    """A checkpoint is torn, of another run, or cannot be written."""


class EngineError(MMReasonError):
    """An engine that samples answers cannot be used, does not answer in time, or has other weights than the trainer."""


class StopRequested(Exception):
    """SIGTERM or SIGINT arrived; raised at the next stage boundary on every process, after which the run saves."""
