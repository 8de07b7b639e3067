"""From an item to a prompt that an engine takes: find out what the files are, decode them, encode the question."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmreason.encode import Encoder
from mmreason.errors import DataError, MediaError, MMReasonError
from mmreason.inference.items import File, Item
from mmreason.inference.prompts import Named, filled
from mmreason.processors.base import EMPTY
from mmreason.processors.kinds import Kind
from mmreason.processors.pipeline import MediaPipeline
from mmreason.types import MediaRef, Message, Sample, Segment


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A prompt to answer."""

    id: str
    sample: Sample
    names: tuple[str, ...]
    """What the sample's media are called in rows, in order."""
    prompt: Segment

    @property
    def bytes(self) -> int:
        """Size of its media tensors, and of the files themselves where they are in memory (an archive's members)."""
        files = sum(len(ref.data or b"") for ref in self.sample.media)
        return files + sum(tensor.nbytes for item in self.prompt.media for tensor in item.kwargs.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Bad:
    """An item that cannot be asked about, and why."""

    id: str
    reason: str
    sample: Sample | None = None
    names: tuple[str, ...] = ()
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A file that is no media, and that nobody said was."""

    id: str
    bytes: int = 0


Prepared = Ready | Bad | Skipped


class Preparer:
    """Prepares items, in several threads at once, each with a media pipeline of its own.

    template: the prompt, None where rows have their own. sound: videos are taken with their sound.
    longest: (tokens that the model takes, tokens of an answer): what does not fit is an error. keep_bytes: members of
    archives stay in memory until their rows are written, for rewards that look at them.
    """

    def __init__(
        self,
        encoder: Encoder,
        root: Path,
        template: str | None,
        *,
        sound: bool = False,
        longest: tuple[int, int] | None = None,
        keep_bytes: bool = False,
    ) -> None:
        self._encoder, self._root, self._template, self._sound = encoder, root, template, sound
        self._longest, self._keep_bytes = longest, keep_bytes
        self._lock = threading.Lock()  # tokenizers are not made for several threads

    def prepare(self, item: Item, pipeline: MediaPipeline) -> Prepared:
        """The prompt of an item, why there is none, or that it is no media."""
        names = tuple(file.name for file in item.files)
        if item.error:
            return self._bad(item, names, item.error)
        if item.sample is not None:
            return self._row(item.id, item.sample, pipeline)
        found = pipeline.loader.kinds([file.source for file in item.files])
        kept = [(file, kind) for file, kind in zip(item.files, found, strict=True) if _is_wanted(file, kind)]
        if not kept:
            return Skipped(id=item.id)
        names = tuple(file.name for file, _ in kept)
        wrong = [_why(file, kind, alone=len(kept) == 1) for file, kind in kept if not isinstance(kind, Kind)]
        if wrong:
            return self._bad(item, names, wrong[0])
        refs = [self._ref(file, kind) for file, kind in kept if isinstance(kind, Kind)]
        return self._encoded(item.id, self._question(item.id, refs, names), names, pipeline)

    def _row(self, id: str, sample: Sample, pipeline: MediaPipeline) -> Prepared:
        """A question with its own prompt; the template's, where it has none."""
        names = tuple(self._relative(ref) for ref in sample.media)
        last = sample.messages[-1]
        if self._template is not None and not any(isinstance(part, str) and part.strip() for part in last.content):
            try:
                text = filled(self._template, _named(sample.media, names), sample.meta)
            except DataError as error:
                return Bad(id=id, reason=str(error), sample=sample, names=names)
            asked = replace(last, content=(*last.content, text))
            sample = replace(sample, messages=(*sample.messages[:-1], asked))
        return self._encoded(id, sample, names, pipeline)

    def _encoded(self, id: str, sample: Sample, names: tuple[str, ...], pipeline: MediaPipeline) -> Prepared:
        media = pipeline.tensors(sample.media)
        for name, item in zip(names, media, strict=True):
            if isinstance(item, MediaError):
                reason = _reason(item) if len(names) == 1 else f"{name}: {_reason(item)}"
                return Bad(id=id, reason=reason, sample=sample, names=names)
        with self._lock:
            found = self._encoder.prompt(sample, media)
        if isinstance(found, MMReasonError):
            return Bad(id=id, reason=str(found).removeprefix(f"{id}: "), sample=sample, names=names)
        if why := self._too_long(len(found[1].ids)):
            return Bad(id=id, reason=why, sample=sample, names=names)
        kept = sample if self._keep_bytes else _without_bytes(sample)
        return Ready(id=id, sample=kept, names=names, prompt=found[1])

    def _too_long(self, tokens: int) -> str:
        """Why a prompt of so many tokens has no answer: positions that the model was not trained for are no answer."""
        if self._longest is None or tokens + self._longest[1] <= self._longest[0]:
            return ""
        most, answer = self._longest
        return (
            f"a prompt of {tokens} tokens and {answer} for its answer are more than the {most} that the model takes; "
            "lower --max-new-tokens, media.*_max_pixels or media.video_max_frames"
        )

    def _question(self, id: str, refs: Sequence[MediaRef], names: Sequence[str]) -> Sample:
        """The media, then the prompt."""
        text = filled(self._template or "", _named(refs, names), {})
        return Sample(id=id, messages=(Message(role="user", content=(*refs, *([text] if text else []))),))

    def _bad(self, item: Item, names: tuple[str, ...], reason: str) -> Bad:
        """An item whose files were not decoded: its row shows them as what their names say they are."""
        if item.sample is not None or not item.files:
            return Bad(id=item.id, reason=reason, sample=item.sample)
        refs = [
            MediaRef(kind=file.expected or "image", path=str(file.path or file.name))
            for file in item.files
            if file.name in names
        ]
        return Bad(id=item.id, reason=reason, sample=self._question(item.id, refs, names), names=names)

    def _ref(self, file: File, kind: Kind) -> MediaRef:
        path = None if file.path is None else str(file.path)
        return MediaRef(kind=kind.kind, path=path, data=file.data, sound=self._sound and kind.sound)

    def _relative(self, ref: MediaRef) -> str:
        if ref.path is None:
            return ref.name
        root = os.path.realpath(self._root)
        return os.path.relpath(ref.path, root) if ref.path.startswith(root + os.sep) else ref.path


def _named(refs: Sequence[MediaRef], names: Sequence[str]) -> list[Named]:
    return [Named(name, ref.kind, _size(ref)) for ref, name in zip(refs, names, strict=True)]


def _size(ref: MediaRef) -> int:
    """Bytes; 0 where the file cannot be read, which its row says, as of an archive's member that is broken."""
    if ref.path is None:
        return len(ref.data or b"")
    if not os.path.isabs(ref.path):
        return 0
    try:
        return os.stat(ref.path).st_size
    except (OSError, ValueError):
        return 0


def _without_bytes(sample: Sample) -> Sample:
    """The same, its media named and not held."""
    if not any(ref.data for ref in sample.media):
        return sample
    messages = [
        replace(message, content=tuple(part if isinstance(part, str) else _unheld(part) for part in message.content))
        for message in sample.messages
    ]
    return replace(sample, messages=tuple(messages))


def _unheld(ref: MediaRef) -> MediaRef:
    return ref if ref.data is None else replace(ref, path=ref.name, data=None)


def _is_wanted(file: File, found: Kind | MediaError | None) -> bool:
    """Media, what was expected to be, and what nobody can tell because looking at it failed."""
    unknown = isinstance(found, MediaError) and found.reason != EMPTY
    return isinstance(found, Kind) or unknown or file.named or file.expected is not None


def _why(file: File, found: MediaError | None, *, alone: bool) -> str:
    reason = "wrong type (the content is no media)" if found is None else _reason(found)
    return reason if alone else f"{file.name}: {reason}"


def _reason(error: MediaError) -> str:
    return f"{error.reason} ({error.detail})" if error.detail else error.reason
