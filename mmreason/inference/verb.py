"""`mmreason infer`: every item of a folder, an archive, a list or of rows gets one row, whatever happens to it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from mmreason.config import RunConfig
from mmreason.errors import ConfigError
from mmreason.inference.engines import Front, Opened, engine_of, longest_prompt_and_answer, open_generator
from mmreason.inference.gallery import check_page, make_gallery
from mmreason.inference.generate import Finished, Generator
from mmreason.inference.items import Item, Listing, list_items
from mmreason.inference.options import InferOptions
from mmreason.inference.outfile import OutFile
from mmreason.inference.prepare import Bad, Preparer, Ready, Skipped
from mmreason.inference.progress import Progress
from mmreason.inference.prompts import check_template
from mmreason.inference.reader import Reader
from mmreason.inference.rows import answered, described, failed
from mmreason.inference.scores import Scored, Scorer, ScoringThread
from mmreason.scoring import parse_reward

WAIT_S = 0.5
"""How long the loop waits for a prepared item while the engine has nothing to do, before it looks around."""
FILL_S = 0.05
"""How long it waits for one more while the engine has some, but not all it can take: a step costs nearly the same for
few answers as for many, and on a CPU it takes the core that reads. Once in vain, it waits no more until one comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inferred:
    """What a run did. Printed, it is one line."""

    out: Path
    answered: int
    """Rows with an answer, those of earlier starts counted."""
    errors: int
    """Rows without one."""
    skipped: int
    """Files that are no media."""
    made: int
    """Rows of this start."""
    tokens: int
    seconds: float

    def __str__(self) -> str:
        rate = f"{self.made} rows in {self.seconds:.1f} s" if self.made else "nothing left to do"
        skipped = f", {self.skipped} files skipped (no media)" if self.skipped else ""
        return f"{self.answered} answered, {self.errors} errors{skipped}; {rate}; {self.out}"


def infer(options: InferOptions, say: Callable[[str], None] | None = None, opened: Opened | None = None) -> Inferred:
    """Answer every item that has no row yet. say: takes lines for the user (default: standard error).

    opened: a model that is open already, for several folders in a row; it has to be of the same options.

    Raises ConfigError (options, rows of other settings), DataError (unreadable source, unwritable file), ModelError.
    """
    say = say or _say
    config = options.run_config()
    options.params(config)
    engine_of(options)
    if options.gallery is not None:
        check_page(Path(options.gallery))
    root = None if options.root is None else Path(options.root)
    listing = list_items(str(options.source), options.selection, root)
    _check_prompt(options, listing)
    if listing.total == 0 and options.shard[1] == 1:
        raise ConfigError(f"{options.source}: no media there (of the files that --include and --exclude leave)")
    again = {"overwrite": options.overwrite, "retry_errors": options.retry_errors}
    with OutFile(Path(options.out), options.settings(config, listing.root), str(listing.root), **again) as file:
        run = _Run(options, config, listing, file, opened)
        left = run.left()
        first = next(left, None)
        if first is not None:
            run.answer(chain([first], left), say)
        file.finish()
    if options.gallery is not None:
        say(f"infer: making pictures of all media for {options.gallery}")
        say(str(make_gallery(file.rows, listing.root, Path(options.gallery), config.media)))
    for line in listing.notes:
        say(line)
    return run.result()


def _check_prompt(options: InferOptions, listing: Listing) -> None:
    if options.prompt is None and not listing.has_rows:
        raise ConfigError("--prompt: missing; say what to ask about each item")
    check_template(options.prompt or "", has_meta=listing.has_rows)


class _Run:
    """One start, with what it needs open."""

    def __init__(self, options: InferOptions, config: RunConfig, listing: Listing, file: OutFile,
                 opened: Opened | None) -> None:  # fmt: skip
        self.options, self.config, self.listing, self.file, self.opened = options, config, listing, file, opened
        self.skipped = listing.skipped
        self.before = 0
        self.progress = Progress(listing.total, lambda: self.before)
        self.stamp: dict[str, Any] = {}

    def left(self) -> Iterator[Item]:
        """Items that have no row yet; those that have one are counted in `before`."""
        for item in self.listing.items:
            if item.id in self.file.done:
                self.before += 1
            else:
                yield item

    def answer(self, items: Iterator[Item], say: Callable[[str], None]) -> None:
        """Answer these items."""
        with self._opened(items, say) as (reader, generator, scores):
            self.stamp = {
                "source": self.listing.root.name,
                "model": self.options.model,
                "engine": generator.name,
                "settings": self.file.hash,
            }
            self.progress = Progress(self.listing.total, lambda: self.before)
            try:
                self._drive(reader, generator, scores)
            finally:
                self.progress.close()

    def result(self) -> Inferred:
        """What was done."""
        return Inferred(
            out=self.file.out,
            answered=self.file.counts["ok"],
            errors=self.file.counts["error"],
            skipped=self.skipped,
            made=self.progress.items,
            tokens=self.progress.tokens,
            seconds=self.progress.seconds,
        )

    @contextmanager
    def _opened(
        self, items: Iterator[Item], say: Callable[[str], None]
    ) -> Iterator[tuple[Reader, Generator, ScoringThread]]:
        """Model, readers and rewards. Rewards first: one that cannot be loaded is better known before the model is."""
        options, config = self.options, self.config
        rewards = [parse_reward(text) for text in options.rewards] or (list(config.rewards) if options.score else [])
        with ExitStack() as stack:
            scorer = stack.enter_context(Scorer(rewards, config.scoring, options.n, options.tags))
            front = Front(config) if self.opened is None else self.opened.front
            root = None if self.listing.root.is_file() else str(self.listing.root)
            most = longest_prompt_and_answer(front, options, config)
            preparer = Preparer(
                front.encoder,
                self.listing.root,
                options.prompt,
                sound=options.sound,
                longest=None if most is None else (most, options.params(config).max_new_tokens),
                keep_bytes=bool(rewards),
            )
            reader = Reader(
                items,
                preparer,
                lambda: front.reader_pipeline(root),
                threads=max(1, config.media.workers),
                most=max(2, 2 * config.rollout.max_rows // options.n),
                most_bytes=config.media.memory_gb * 1e9,
            )
            stack.enter_context(reader)  # first: it reads on while the engine starts
            if self.opened is not None:
                generator = self.opened.generator
            else:
                generator = open_generator(front, options, config, self.listing.most, say)
                stack.callback(generator.close)
            stack.callback(generator.forget)
            yield reader, generator, stack.enter_context(ScoringThread(scorer))

    def _drive(self, reader: Reader, generator: Generator, scores: ScoringThread) -> None:
        """Keep the engine full; write what is finished and scored."""
        more = True
        while True:
            while generator.room > 0:
                item = reader.take((FILL_S if more else 0.0) if generator.waiting else WAIT_S)
                more = item is not None
                if isinstance(item, Ready):
                    generator.submit(item)
                elif item is not None:
                    self._pass_over(item)
                else:
                    break
            idle = not generator.waiting and reader.ended
            if idle and not scores.waiting:
                return
            self._have_scored(generator.advance(), scores)
            self._write(scores.taken(WAIT_S if idle else 0.0))
            self.progress.tick()

    def _pass_over(self, item: Bad | Skipped) -> None:
        if isinstance(item, Skipped):
            self.skipped += 1
            return
        self.file.append(failed(described(item.id, item.sample, item.names, self.stamp), item.reason))
        self.progress.add(0, failed=True)

    def _have_scored(self, finished: list[Finished], scores: ScoringThread) -> None:
        for one in finished:
            if one.error:
                base = described(one.ready.id, one.ready.sample, one.ready.names, self.stamp)
                self.file.append(failed(base, one.error, one.seconds))
                self.progress.add(0, failed=True)
        if done := [one.without_media for one in finished if not one.error]:
            scores.submit(done)

    def _write(self, scored: list[Scored]) -> None:
        for one, answers, scores in scored:
            base = described(one.ready.id, one.ready.sample, one.ready.names, self.stamp)
            tokens = len(one.ready.prompt.ids)
            row = answered(base, answers, prompt_tokens=tokens, seconds=one.seconds, scores=scores)
            self.file.append(row)
            self.progress.add(row["tokens"], failed=False)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
