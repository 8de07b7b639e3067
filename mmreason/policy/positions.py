"""Placeholder expansion and rotary (M-RoPE) positions of one segment, for the Qwen families.

Positions are ours: computed here from ids and media, and passed explicitly to rollout, policy and oracle. The rule is
the checkpoints' own, as vLLM has it: text counts up by one on all three axes (time, height, width); an image or video
spans a grid that starts at the next free position, its time axis in steps of seconds x positions per second (Qwen2-VL:
in whole steps); text goes on at (maximum over all three axes) + 1. transformers 5.19 takes only height and width into
that maximum for Qwen2-VL and Qwen2.5-VL, which differs after videos that are longer in time than in space; a test pins
that difference.

Qwen3-VL tells the time in words: a video is a run per step of its time axis, each with the time before it and its own
start and end tokens, and each placed like an image. Families that only hear (Qwen2-Audio) count up by one throughout.

Sound that belongs to a video (`joined`) is interleaved with it in chunks of a few seconds, inside the video's own
start and end tokens: [vision_start, audio_start, V-chunk, A-chunk, V-chunk, ..., audio_end, vision_end]. Each pair of
start or end tokens shares one position (Qwen2.5-Omni report, TMRoPE; transformers' get_rope_index).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmreason.errors import AlignmentError
from mmreason.types import MediaTensors


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaRules:
    """Token ids and numbers that say how media lie in a token sequence. Read from the checkpoint's config.

    Example: `MediaRules(placeholder={"image": 190}, wrapper={"image": (192, 193)}, merge_size=2,
    positions_per_second=2.0)`
    """

    placeholder: Mapping[str, int]
    """Kind -> the token that is repeated once per feature of an item."""
    wrapper: Mapping[str, tuple[int, int]]
    """Kind -> (start, end) tokens around an item, where the config names them."""
    merge_size: int = 1
    """Patches per side that the projector merges into one token."""
    positions_per_second: float | None = None
    """Time positions per second of video; None: one per step of the time axis."""
    seconds_per_chunk: float = 0.0
    """Length of the pieces in which a video and its own sound alternate; 0: the family has no such videos."""
    steps_apart: bool = False
    """Each step of a video is a run of its own: time in words (`MediaTensors.stamps`), start token, run, end token."""

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Every placeholder, start and end token, sorted. None may ever be sampled."""
        return tuple(sorted({*self.placeholder.values(), *(i for pair in self.wrapper.values() for i in pair)}))


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Features [start, stop) of the video or of its sound, in the order in which the model reads them."""

    kind: str
    start: int
    stop: int


def expand_ids(engine_ids: Tensor, media: Sequence[MediaTensors], rules: MediaRules) -> Tensor:
    """Turn ids with ONE placeholder per item (int64 [T']) into what the model reads (int64 [T]).

    A video whose next item is its own sound (`joined`) becomes the interleaved block, audio start and end included;
    that sound has no placeholder in `engine_ids`. A video whose steps stand apart becomes a run per step,
    each after its time in words. Raises AlignmentError where placeholders and items differ.
    """
    kinds = {token: kind for kind, token in rules.placeholder.items()}
    engine_list = engine_ids.tolist()
    _check_counts([kinds[token] for token in engine_list if token in kinds], media)
    items = _with_sound(media)
    expanded: list[int] = []
    for token in engine_list:
        if token not in kinds:
            expanded.append(token)
            continue
        item, sound = items.pop(0)
        _check_item(item, rules)
        expanded += _expansion(item, sound, rules)
    return torch.tensor(expanded, dtype=torch.int64)


def _expansion(item: MediaTensors, sound: MediaTensors | None, rules: MediaRules) -> list[int]:
    """What stands in place of an item's one placeholder."""
    token = rules.placeholder[item.kind]
    if sound is not None:
        start, end = rules.wrapper["audio"]
        chunks = [[rules.placeholder[c.kind]] * (c.stop - c.start) for c in _interleaved(item, sound, rules)]
        return [start, *(i for chunk in chunks for i in chunk), end]
    if item.kind == "video" and rules.steps_apart:
        start, end = rules.wrapper["video"]
        run = [start, *[token] * (item.tokens // len(item.stamps)), end]
        return [i for stamp in item.stamps for i in (*stamp, *run)]
    return [token] * item.tokens


def rope_positions(ids: Tensor, media: Sequence[MediaTensors], start: int, rules: MediaRules) -> tuple[Tensor, int]:
    """Positions int64 [3, T] of a segment that begins at position `start`, and the first position after it.

    ids: int64 [T], expanded. Raises AlignmentError where runs of placeholders and items differ, with the counts.
    """
    kinds = {token: kind for kind, token in rules.placeholder.items()}
    tokens = ids.tolist()
    media = _by_step(media, rules)
    items = _with_sound(media)
    parts: list[Tensor] = []
    at, position = 0, start
    while at < len(tokens):
        if tokens[at] not in kinds:
            stop = next((i for i in range(at, len(tokens)) if tokens[i] in kinds), len(tokens))
            parts.append(_line(position, stop - at))
            at, position = stop, position + stop - at
            continue
        if not items:
            raise AlignmentError(
                f"token {at} is a placeholder for {kinds[tokens[at]]}, but all {len(media)} media items of the segment "
                "are used up; give one item per placeholder run"
            )
        item, sound = items.pop(0)
        _check_item(item, rules)
        if sound is None:
            block = _line(position, item.tokens) if item.grid is None else _grid(item, position, rules)
            order = [item.kind] * item.tokens
            position = int(block.max()) + 1
        else:
            _expect_joined(tokens, at, item, sound, rules)
            parts[-1] = torch.cat([parts[-1][:, :-1], parts[-1][:, -1:] - 1], dim=1)  # audio_start with vision_start
            block, order, position = _joined_block(item, sound, position - 1, rules)
        _expect_run(tokens, at, order, rules)
        parts.append(block)
        at += len(order) + (0 if sound is None else 2)
    if items:
        raise AlignmentError(
            f"{len(media)} media items, but the ids hold placeholders for {len(items)} fewer; first item "
            f"without placeholders: {items[0][0].kind} of {items[0][0].tokens} tokens"
        )
    positions = torch.cat(parts, dim=1) if parts else torch.zeros(3, 0, dtype=torch.int64)
    assert positions.shape == (3, len(tokens)), f"{tuple(positions.shape)} positions for {len(tokens)} ids"
    return positions, position


def _line(start: int, length: int) -> Tensor:
    return torch.arange(start, start + length).expand(3, -1)


def _grid(item: MediaTensors, start: int, rules: MediaRules) -> Tensor:
    """Positions [3, tokens] of an image or video whose first feature is at `start`."""
    assert item.grid is not None
    steps, height, width = item.grid[0], item.grid[1] // rules.merge_size, item.grid[2] // rules.merge_size
    times = _times(item, rules).long()
    axes = torch.meshgrid(times, torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack(axes).reshape(3, steps * height * width) + start


def _times(item: MediaTensors, rules: MediaRules) -> Tensor:
    """Time position of each step of the grid, before truncation: float32 [steps], as transformers computes it."""
    assert item.grid is not None
    steps = torch.arange(item.grid[0], dtype=torch.float32)
    if item.kind != "video" or rules.positions_per_second is None:
        return steps
    if item.seconds_per_grid is None:
        raise AlignmentError(f"a video of {item.tokens} tokens has no seconds_per_grid; its frames need timestamps")
    return steps * item.seconds_per_grid * rules.positions_per_second


def _joined_block(
    video: MediaTensors, sound: MediaTensors, start: int, rules: MediaRules
) -> tuple[Tensor, list[str], int]:
    """Positions [3, n + 2] of video and sound and the two end tokens, kind per feature [n], next position."""
    lines = {"video": _grid(video, start, rules), "audio": _line(start, sound.tokens)}
    chunks = _interleaved(video, sound, rules)
    parts = [lines[chunk.kind][:, chunk.start : chunk.stop] for chunk in chunks]
    end = int(parts[-1].max()) + 1  # of the last chunk alone: transformers and vLLM agree on this
    order = [chunk.kind for chunk in chunks for _ in range(chunk.start, chunk.stop)]
    return torch.cat([*parts, torch.full((3, 2), end)], dim=1), order, end + 1


def _interleaved(video: MediaTensors, sound: MediaTensors, rules: MediaRules) -> list[_Chunk]:
    """Chunks of a video and its sound in turn: all features of the first seconds of the video, then of its sound, .."""
    assert video.grid is not None
    assert rules.positions_per_second is not None
    length = int(rules.positions_per_second * rules.seconds_per_chunk)
    seen = _cuts(_times(video, rules).repeat_interleave(video.tokens // video.grid[0]).tolist(), length)
    heard = _cuts([float(i) for i in range(sound.tokens)], length)
    turns = range(max(len(seen), len(heard)))
    pairs = [("video", seen[i : i + 1]) if kind else ("audio", heard[i : i + 1]) for i in turns for kind in (1, 0)]
    return [_Chunk(kind, *bounds[0]) for kind, bounds in pairs if bounds]


def _cuts(times: list[float], length: int) -> list[tuple[int, int]]:
    """Index ranges that split rising times at multiples of `length`, as transformers' get_chunked_index does.

    Where times leap over several multiples (a long video with few frames) every following feature makes one cut until
    the limit has caught up. That is odd, and vLLM splits by time there, but it is what the published processor writes.
    """
    cuts, limit = [0], length
    for index, time in enumerate(times):
        if time >= limit:
            cuts.append(index)
            limit += length
    return list(zip(cuts, [*cuts[1:], len(times)], strict=True))


def _by_step(media: Sequence[MediaTensors], rules: MediaRules) -> Sequence[MediaTensors]:
    """The items, with a video whose steps stand apart as one item per step."""
    if not rules.steps_apart:
        return media
    parts: list[MediaTensors] = []
    for item in media:
        if item.kind != "video":
            parts.append(item)
            continue
        _check_item(item, rules)
        assert item.grid is not None
        steps, height, width = item.grid
        parts += [
            replace(item, tokens=item.tokens // steps, grid=(1, height, width), stamps=(stamp,))
            for stamp in item.stamps
        ]
    return parts


def _with_sound(media: Sequence[MediaTensors]) -> list[tuple[MediaTensors, MediaTensors | None]]:
    """Items in order, each video with its own sound track if that follows it."""
    pairs: list[tuple[MediaTensors, MediaTensors | None]] = []
    for item in media:
        if not item.joined:
            pairs.append((item, None))
            continue
        if not pairs or pairs[-1][0].kind != "video" or pairs[-1][1] is not None:
            raise AlignmentError("a joined sound track must stand just after the video that it belongs to")
        pairs[-1] = (pairs[-1][0], item)
    return pairs


def _check_counts(found: list[str], media: Sequence[MediaTensors]) -> None:
    given = [item.kind for item in media if not item.joined]
    if found != given:
        raise AlignmentError(
            f"the prompt has {len(found)} placeholders ({', '.join(found) or 'none'}) for {len(given)} media items "
            f"({', '.join(given) or 'none'}); they must agree in number, kind and order"
        )


def _check_item(item: MediaTensors, rules: MediaRules) -> None:
    if item.grid is None:
        return
    steps, height, width = item.grid
    expected = steps * height * width // rules.merge_size**2
    if item.tokens != expected:
        raise AlignmentError(
            f"{item.kind} of grid {item.grid} says {item.tokens} tokens, but {rules.merge_size} x {rules.merge_size} "
            f"merging makes {expected}; processor and checkpoint differ"
        )
    if rules.steps_apart and item.kind == "video" and len(item.stamps) != steps:
        raise AlignmentError(
            f"a video of {steps} steps comes with {len(item.stamps)} times in words; it needs one per step"
        )


def _expect_joined(tokens: list[int], at: int, video: MediaTensors, sound: MediaTensors, rules: MediaRules) -> None:
    if not rules.seconds_per_chunk:
        raise AlignmentError("a video with its own sound, but this model family does not interleave them")
    starts = [rules.wrapper["video"][0], rules.wrapper["audio"][0]]
    ends = [rules.wrapper["audio"][1], rules.wrapper["video"][1]]
    stop = at + video.tokens + sound.tokens
    if tokens[max(at - 2, 0) : at] != starts or tokens[stop : stop + 2] != ends:
        raise AlignmentError(
            f"a video of {video.tokens} tokens with {sound.tokens} of sound must lie between vision start, audio start "
            f"and audio end, vision end; found {tokens[max(at - 2, 0) : at]} and {tokens[stop : stop + 2]}"
        )


def _expect_run(tokens: list[int], at: int, order: list[str], rules: MediaRules) -> None:
    expected = [rules.placeholder[kind] for kind in order]
    found = tokens[at : at + len(order)]
    if found != expected:
        same = next((i for i, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]), len(found))
        raise AlignmentError(
            f"the {'/'.join(dict.fromkeys(order))} item at token {at} has {len(order)} features, but only {same} "
            "placeholder tokens of its kind stand there; ids and media belong to different prompts"
        )
