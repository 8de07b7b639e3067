"""Do media files decode? Without a model and without torch, for a dry run whose config cannot be used yet.

Each file's headers are read and a little of it is decoded, in worker processes as in training: an image whole, the
first, last and some frames of a video between them, a sound whole. With a usable config the rows are encoded as
training does it instead (prompts.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mmreason.checking.findings import Findings
from mmreason.checking.rows import Row, describe
from mmreason.config import MediaConfig
from mmreason.processors.base import Facts, Limits, Plan, Refusal
from mmreason.processors.source import Source, locate
from mmreason.processors.workers import WorkerPool
from mmreason.types import MediaRef

_FRAMES = 4


def decode_files(rows: Sequence[Row], media: MediaConfig, media_root: str | None, found: Findings) -> None:
    """Decode the media of these rows; a finding for each item that cannot be."""
    items = [(row, ref) for row in rows for ref in row.sample.media]
    if not items:
        return
    limits = Limits(
        pixels=media.image_max_source_pixels,
        video_seconds=media.video_max_seconds,
        audio_seconds=media.audio_max_seconds,
    )
    with WorkerPool(max(1, media.workers), media.deadline_s) as pool:
        answers = _decoded([ref for _, ref in items], limits, media_root, pool)
    for (row, ref), refusal in zip(items, answers, strict=True):
        if refusal is not None:
            found.add("media", f"{row.place}: {ref.name}: {describe(refusal.reason, refusal.detail)}")


def _decoded(
    refs: Sequence[MediaRef], limits: Limits, media_root: str | None, pool: WorkerPool
) -> list[Refusal | None]:
    from mmreason.processors import jobs  # the decoders, which a config without media need not wait for

    sources: list[Source] = [ref.data or b"" if ref.path is None else locate(ref.path, media_root)[0] for ref in refs]
    examined = pool.run(
        [
            (jobs.examine, (ref.kind, source, ref.sound, limits))
            for ref, source in zip(refs, sources, strict=True)
        ]
    )
    readable = [index for index, facts in enumerate(examined) if isinstance(facts, Facts)]
    asked = [
        (jobs.decode, (refs[i].kind, sources[i], examined[i], _little(refs[i], examined[i]), limits)) for i in readable
    ]
    decoded = dict(zip(readable, pool.run(asked), strict=True))
    answers = [decoded.get(index, facts) for index, facts in enumerate(examined)]
    return [answer if isinstance(answer, Refusal) else None for answer in answers]


def _little(ref: MediaRef, facts: Facts) -> Plan:
    """A plan that touches a file at several places and hands little back."""
    plan = Plan(size=(28, 28), sound=ref.sound)
    if ref.kind != "video":
        return plan
    assert facts.times is not None
    last = len(facts.times) - 1
    return replace(plan, indices=tuple(sorted({last * k // (_FRAMES - 1) for k in range(_FRAMES)})))
