"""MediaLoader: references to media in, decoded arrays out, whatever the files are.

    locate -> examine (headers) -> plan -> cache, or decode -> resample -> cache

Examining and decoding run in worker processes with a deadline each; planning, resampling (torchaudio) and the caches
are the training process's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mmreason.config import MediaConfig
from mmreason.errors import MediaError
from mmreason.processors import jobs
from mmreason.processors.audio import resample
from mmreason.processors.backends import choose_decoder
from mmreason.processors.base import Decoded, Facts, MediaTraits, Plan, Refusal
from mmreason.processors.cache import DiskCache, MemoryCache
from mmreason.processors.kinds import Kind, kind_of
from mmreason.processors.sampling import check_request, key_of, limits_of, plan
from mmreason.processors.source import Source, locate
from mmreason.processors.workers import Job, WorkerPool
from mmreason.types import MediaRef

Memo = tuple[Any, ...]
"""By what the facts of a file are remembered: kind and content hash, or kind, real path, size and time of change."""

_FACTS_BYTES = 256 << 20
"""Bound of the memory for header facts, so that a file is hashed once per run and not once per epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A media item whose file was examined: what will be made of it is settled, nothing is decoded yet."""

    ref: MediaRef
    source: Source
    facts: Facts
    plan: Plan
    key: str


class MediaLoader:
    """Decodes media for one model family. Use as a context manager, or call `close`.

    Example: `with MediaLoader(config.media, traits, root="/data") as loader: loader.load([MediaRef(kind="image",
    path="a.png")])`
    """

    def __init__(self, config: MediaConfig, traits: MediaTraits, root: str | None = None) -> None:
        """root: folder that relative paths start at and that no path may leave. Raises ConfigError: decoder, cache."""
        self._config, self._traits, self._root = config, traits, root
        self._limits = limits_of(config)
        self.decoder = choose_decoder(config.decoder)
        self._disk = DiskCache(Path(config.cache_dir), int(config.cache_gb * 1e9)) if config.cache_dir else None
        self._facts: MemoryCache[Memo, Facts] = MemoryCache(_FACTS_BYTES)
        self._pool: WorkerPool | None = None
        if config.workers:
            # Two copies of the largest image as RGBA, and as much again for the decoder itself. torch, which only
            # torchcodec brings into a worker, reserves more than it uses: no bound then.
            memory = 0 if self.decoder == "torchcodec" else (4 << 30) + 16 * config.image_max_source_pixels
            self._pool = WorkerPool(config.workers, config.deadline_s, memory_bytes=memory)
        self.decoded = 0  # items that were really decoded, not found in the cache

    def load(self, refs: Sequence[MediaRef]) -> list[Decoded | MediaError]:
        """One entry per reference, in order. Equal references are decoded once."""
        return self.decode(self.prepare(refs))

    def prepare(self, refs: Sequence[MediaRef]) -> list[Prepared | MediaError]:
        """Examine files without decoding them: enough for keys, sizes and numbers of tokens."""
        located = [self._attempt(ref, self._locate, ref) for ref in refs]
        found = self._examine(refs, located)
        return [
            item if isinstance(item, MediaError) else self._attempt(ref, self._plan, ref, *item, found)
            for ref, item in zip(refs, located, strict=True)
        ]

    def decode(self, items: Sequence[Prepared | MediaError]) -> list[Decoded | MediaError]:
        """From the cache, or by decoding; errors pass through. In order, equal keys once."""
        wanted = {item.key: item for item in items if isinstance(item, Prepared)}
        done: dict[str, Decoded | Refusal] = {}
        if self._disk is not None:
            done = {key: hit for key in wanted if (hit := self._disk.get(key)) is not None}
        missing = [item for key, item in wanted.items() if key not in done]
        asked = [(jobs.decode, (item.ref.kind, item.source, item.facts, item.plan, self._limits)) for item in missing]
        for item, answer in zip(missing, self._run(asked), strict=True):
            done[item.key] = answer if isinstance(answer, Refusal) else self._finish(answer, item)
        return [item if isinstance(item, MediaError) else _named(item.ref, done[item.key]) for item in items]

    def kinds(self, files: Sequence[Source]) -> list[Kind | MediaError | None]:
        """What each file is by its content, paths located as those of references; None: no media."""
        refs = [MediaRef(kind="file", data=f) if isinstance(f, bytes) else MediaRef(kind="file", path=f) for f in files]
        located = [self._attempt(ref, self._source, file) for ref, file in zip(refs, files, strict=True)]
        sources = [item for item in located if not isinstance(item, MediaError)]
        answers = iter(self._run([(kind_of, (source,)) for source in sources]))
        found: list[Kind | MediaError | None] = []
        for ref, item in zip(refs, located, strict=True):
            answer = item if isinstance(item, MediaError) else next(answers)
            refused = isinstance(answer, Refusal)
            found.append(MediaError(ref.name, answer.reason, answer.detail) if refused else answer)
        return found

    def start(self) -> None:
        """Start the worker processes now, for callers with a deadline of their own. Raises ConfigError."""
        if self._pool is not None:
            self._pool.start()

    def close(self) -> None:
        """End the worker processes."""
        if self._pool is not None:
            self._pool.close()

    def __enter__(self) -> MediaLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _source(self, file: Source) -> Source:
        return file if isinstance(file, bytes) else locate(file, self._root)[0]

    def _locate(self, ref: MediaRef) -> tuple[Source, Memo]:
        """Where the bytes are, and what the file's facts are remembered by."""
        check_request(ref, self._traits)
        if ref.path is None:
            content = ref.data or b""
            return content, (ref.kind, ref.sound, hashlib.sha256(content).hexdigest())
        path, status = locate(ref.path, self._root)
        return path, (ref.kind, ref.sound, path, status.st_mtime_ns, status.st_size, status.st_ino)

    def _examine(self, refs: Sequence[MediaRef], located: Sequence[Any]) -> dict[Memo, Facts | Refusal]:
        """Facts of all files that could be located, each examined once."""
        known: dict[Memo, Facts | Refusal] = {}
        asked: dict[Memo, Job] = {}
        for ref, item in zip(refs, located, strict=True):
            if isinstance(item, MediaError):
                continue
            source, memo = item
            if (facts := self._facts.get(memo)) is not None:
                known[memo] = facts
            else:
                asked[memo] = jobs.examine, (ref.kind, source, ref.sound, self._limits)
        for memo, answer in zip(asked, self._run(list(asked.values())), strict=True):
            known[memo] = answer
            if isinstance(answer, Facts):
                self._facts.put(memo, answer, 1000 + (0 if answer.times is None else 2 * answer.times.nbytes))
        return known

    def _plan(self, ref: MediaRef, source: Source, memo: Memo, known: dict[Memo, Facts | Refusal]) -> Prepared:
        facts = known[memo]
        if isinstance(facts, Refusal):
            raise facts
        settled = plan(ref, facts, self._config, self._traits, self.decoder)
        return Prepared(ref=ref, source=source, facts=facts, plan=settled, key=key_of(ref.kind, facts, settled))

    def _finish(self, decoded: Decoded, item: Prepared) -> Decoded:
        """Resample, name by key, keep in the cache."""
        self.decoded += 1
        rate = item.plan.rate
        if decoded.kind == "audio":
            decoded = _resampled(decoded, rate)
        if decoded.sound is not None:
            decoded = replace(decoded, sound=replace(_resampled(decoded.sound, rate), key=f"{item.key}:sound"))
        decoded = replace(decoded, key=item.key)
        if self._disk is not None:
            self._disk.put(decoded)
        return decoded

    def _run(self, asked: Sequence[Job]) -> list[Any]:
        if self._pool is not None:
            return self._pool.run(asked)
        return [jobs.guarded(function, arguments) for function, arguments in asked]

    @staticmethod
    def _attempt(ref: MediaRef, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Refusal as refusal:
            return _named(ref, refusal)


def _named(ref: MediaRef, answer: Decoded | Refusal) -> Decoded | MediaError:
    return MediaError(ref.name, answer.reason, answer.detail) if isinstance(answer, Refusal) else answer


def _resampled(sound: Decoded, rate: int | None) -> Decoded:
    assert sound.rate is not None
    assert rate is not None
    samples = resample(torch.from_numpy(sound.data), sound.rate, rate)
    return replace(sound, data=samples.numpy(), rate=rate)
