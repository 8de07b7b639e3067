"""Every value that flows through mmreason, in the order in which it is made.

    MediaRef -> Sample -> MediaTensors -> Segment -> Rollout -> RolloutGroup -> Score -> Tree -> Batch -> LossOutput

All are frozen. Shape letters, here and in tensor code: T tokens of a row or segment, S segments of a row,
P patches, D feature size, V vocabulary, G rollouts of a group. Sizes are (width, height) in pixels; times are seconds.
Only `Batch` lives on a device; everything else is on the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

CoordinateFrame = Literal["original_pixels", "resized_pixels", "per_thousand", "unit"]
"""What the numbers of a box or point mean: pixels of the file, pixels after resizing, 0-1000, or 0-1."""

SegmentKind = Literal["prompt", "policy", "observation"]

View = Literal["ordered", "shuffled", "blank", "noise", "muted", "none"]
"""How media are shown: as they are ("ordered"), or changed as processors/views.py says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaRef:
    """Where one media item is, before anything was decoded. Exactly one of `path` and `data` is set.

    Example: `MediaRef(kind="video", path="/data/clips/7.mp4", sound=True)` is a clip with its own sound track.
    """

    kind: str
    """"image", "video" or "audio"."""
    path: str | None = None
    """Absolute path, already checked to be under the media root."""
    data: bytes | None = None
    """The encoded file itself (from a Parquet column)."""
    sound: bool = False
    """Videos only: the sound track is part of the item."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Per-item sampling options that win over the config's: fps, max_frames, start, end, max_pixels, ..."""

    @property
    def name(self) -> str:
        """What error messages call it."""
        return self.path if self.path is not None else f"<{self.kind}, {len(self.data or b'')} bytes>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One chat turn. `content` holds texts and media in the order in which the model reads them.

    Example: `Message(role="user", content=(MediaRef(kind="image", path="/d/a.png"), "What colour is it?"))`
    """

    role: str
    content: tuple[str | MediaRef, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """How one image or video was resized, and in which frame the model speaks of places in it.

    Example: `Geometry(original=(640, 480), resized=(644, 476), frame="resized_pixels")`
    """

    original: tuple[int, int]
    resized: tuple[int, int]
    frame: CoordinateFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A rectangle with the frame that its numbers live in. x2 and y2 are exclusive edges.

    Example: `Box(x1=250, y1=500, x2=750, y2=1000, frame="per_thousand")`
    """

    x1: float
    y1: float
    x2: float
    y2: float
    frame: CoordinateFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two complete answers of which one is preferred (DPO).

    Example: `Pair(chosen="<think>..</think><answer>B</answer>", rejected="<answer>B</answer>")`
    """

    chosen: str
    rejected: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One question with its media and what is needed to score an answer.

    Example: `Sample(id="train.jsonl:3", messages=(Message(role="user", content=("2+3?",)),), answer="5",
    task="numeric")`
    """

    id: str
    messages: tuple[Message, ...]
    answer: Any = None
    """The gold answer as the data file has it: text, number or list."""
    task: str = "exact"
    """What kind of answer it is: mcq, numeric, math, exact, free_form, ocr, regression, counting, grounding, ..."""
    options: tuple[str, ...] = ()
    """The choices of a multiple-choice question, in order."""
    golds: Mapping[str, Any] = field(default_factory=dict)
    """Further gold values by name: boxes, time spans, masks."""
    demos: tuple[str, ...] = ()
    """Complete answers to imitate (SFT)."""
    demo_weights: tuple[tuple[tuple[int, int, float], ...], ...] = ()
    """Per demonstration spans (start, end, weight) of its characters; the rest has no loss. (): all of it, weight 1."""
    pairs: tuple[Pair, ...] = ()
    """Answers of which one is preferred (DPO)."""
    source: str = ""
    """Which data set it came from; metrics are reported per source."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    geometry: tuple[Geometry, ...] = ()
    """Filled by `encode`: one entry per image or video, in order of appearance."""

    @property
    def weighed_demos(self) -> tuple[tuple[str, tuple[tuple[int, int, float], ...]], ...]:
        """Every demonstration with its spans."""
        return tuple(zip(self.demos, self.demo_weights or ((),) * len(self.demos), strict=True))

    @property
    def media(self) -> tuple[MediaRef, ...]:
        """All media of the conversation, in order of appearance."""
        return tuple(part for message in self.messages for part in message.content if isinstance(part, MediaRef))

    @property
    def modality(self) -> str:
        """ "text", "image", "images", "video", "audio", "video+sound" or a mix such as "audio+image"."""
        kinds = [f"{ref.kind}+sound" if ref.sound else ref.kind for ref in self.media]
        plural = {kind: kind + "s" if kind == "image" and kinds.count(kind) > 1 else kind for kind in kinds}
        return "+".join(sorted(set(plural.values()))) or "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaTensors:
    """One media item as the model's forward takes it.

    Example: an image of 4 x 6 patches: `MediaTensors(kind="image", kwargs={"pixel_values": [24, 1176],
    "image_grid_thw": [1, 3]}, tokens=6, grid=(1, 4, 6), geometry=Geometry(...), key="9f..")`
    """

    kind: str
    """"image", "video" or "audio"."""
    kwargs: Mapping[str, Tensor]
    """Tensors by the names of the model's forward; items of one kind are joined along dimension 0."""
    tokens: int
    """How many placeholder tokens it fills in the expanded prompt."""
    grid: tuple[int, int, int] | None = None
    """Images and videos: (time, height, width) in patches, before merging."""
    seconds_per_grid: float | None = None
    """Videos: seconds between two steps of the time axis of `grid`, from the frames' own timestamps."""
    timestamps: tuple[float, ...] = ()
    """Videos: when each sampled frame was shown."""
    stamps: tuple[tuple[int, ...], ...] = ()
    """Videos, where a family tells the time in words: token ids of the words before each step of `grid`."""
    geometry: Geometry | None = None
    joined: bool = False
    """Audio only: it is the sound track of the video just before it, its tokens interleaved with the video's."""
    key: str = ""
    """Content hash of file and sampling options: equal keys are equal tensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Support:
    """Which ids each of T tokens was chosen among, where top-p or top-k narrowed the choice. Functions: support.py.

    Example: the first of two tokens among ids 5 and 7, the second among all: `Support(counts=[2, 0], ids=[5, 7])`
    """

    counts: Tensor
    """int64 [T]: how many ids; 0 where the token was chosen among all."""
    ids: Tensor
    """int32 [M]: the ids of all tokens, one after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A run of tokens with one parent: a prompt, one sampled answer, one observation.

    Example: a prompt of 9 tokens and one answer to it:
    `Segment(kind="prompt", ids=[9], loss_mask=[9] all False)`, then
    `Segment(kind="policy", parent=0, ids=[4], loss_mask=[4] all True, columns={"logprob.sampling": [4]})`.
    """

    kind: SegmentKind
    ids: Tensor
    """int64 [T], media placeholders expanded: what the model reads."""
    loss_mask: Tensor
    """bool [T], True where the token is trained on."""
    parent: int = -1
    """Index of the parent segment in the same tree or path; -1 for a root."""
    engine_ids: Tensor | None = None
    """int64 [T'], ONE placeholder per media item: what engines read. None where it equals `ids`."""
    media: tuple[MediaTensors, ...] = ()
    """Media of this segment, in the order of their placeholders."""
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    """float32 [T] each, per token: "logprob.sampling", "logprob.old", "logprob.ref", "advantage", "weight";
    docs/algorithms.md (Joint objectives) has those of further terms."""
    weight_version: int = 0
    """How many optimizer steps the sampling weights had seen."""
    support: Support | None = None
    """What each token was chosen among; None: all ids."""

    def __post_init__(self) -> None:
        length = self.ids.shape[0]
        assert self.loss_mask.shape == (length,), f"loss_mask {tuple(self.loss_mask.shape)} for {length} ids"
        for name, column in self.columns.items():
            assert column.shape == (length,), f"column {name} {tuple(column.shape)} for {length} ids"
        assert self.support is None or self.support.counts.shape == (length,), f"support for {length} ids"

    def with_columns(self, **columns: Tensor) -> Segment:
        """A copy with these columns added or replaced; `logprob_old=` names the column "logprob.old"."""
        named = {name.replace("_", "."): column for name, column in columns.items()}
        return replace(self, columns={**self.columns, **named})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One sampled answer to a prompt. Offline scoring has the text alone.

    Example: `Rollout(text="<think>..</think><answer>red</answer>", finish_reason="stop", seed=7)`
    """

    text: str
    segments: tuple[Segment, ...] = ()
    """The path below the prompt; a single turn has one policy segment."""
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Blocks by their tag, where parts are rewarded apart: [start, stop) among its sampled tokens."""
    finish_reason: Literal["stop", "length"] = "stop"
    """"length" when the token budget ended it: a truncated answer."""
    view: View = "ordered"
    seed: int = 0

    @property
    def tokens(self) -> int:
        """Number of sampled tokens, the end token counted."""
        return sum(segment.ids.shape[0] for segment in self.segments if segment.kind == "policy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a reward says of one rollout. `total` is None when the answer could not be scored.

    Example: `Score(total=1.1, parts={"accuracy": 1.0, "format": 0.1}, flags={"correct": True})`
    """

    total: float | None
    parts: Mapping[str, float] = field(default_factory=dict)
    flags: Mapping[str, bool] = field(default_factory=dict)
    error: str | None = None
    """Why there is no score, in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutGroup:
    """A prompt with its G rollouts and, once they are scored, their scores.

    Example: `RolloutGroup(sample=s, prompt=p, rollouts=(r1, r2), scores=(Score(total=1.0), Score(total=0.0)))`
    """

    sample: Sample
    prompt: Segment
    rollouts: tuple[Rollout, ...]
    scores: tuple[Score, ...] = ()
    greedy: Score | None = None
    """Of the greedy answer to the same prompt, where the method compares with one."""
    contrast: tuple[Score, ...] = ()
    """Of answers to the same question in `grpo.contrast_view`, never trained on; () where the view changes nothing."""
    demos: tuple[Rollout, ...] = ()
    """Demonstrations that stand beside the rollouts, where a term of the loss needs them."""
    demo_scores: tuple[Score, ...] = ()
    """Theirs, where they take part in the statistics of the group."""
    factor: float = 1.0
    """What shaping multiplies the group's advantages by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """Segments in depth-first order: each parent stands before its children, subtrees are contiguous.

    Example: a prompt with two answers is `Tree(id="q1", segments=(prompt, a1, a2))` with parents (-1, 0, 0).
    """

    id: str
    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        open_path: list[int] = []
        for index, segment in enumerate(self.segments):
            assert (segment.parent == -1) == (index == 0), f"tree {self.id}: segment {index}, parent {segment.parent}"
            while open_path and open_path[-1] != segment.parent:
                open_path.pop()
            assert index == 0 or open_path, f"tree {self.id}: segment {index} breaks depth-first order"
            open_path.append(index)

    @property
    def tokens(self) -> int:
        return sum(segment.ids.shape[0] for segment in self.segments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Where one segment lies in a packed row: tokens [start, stop), parent's index in the row, end of its subtree.

    Example: prompt of 9 tokens with answers of 4 and 5:
    `Span(0, 9, parent=-1, subtree_stop=18)`, `Span(9, 13, 0, 13)`, `Span(13, 18, 0, 18)`.
    """

    start: int
    stop: int
    parent: int
    subtree_stop: int
    """Row index just after the last descendant: token j is visible to i iff j <= i and i < subtree_stop[seg j]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One packed row of whole trees: the unit of a forward pass.

    Example: two trees of 18 and 7 tokens make T = 25; `source[9]` is 8 and `source[13]` is 8, since both answers
    of the first tree are predicted from its prompt's last token.
    """

    ids: Tensor
    """int64 [T]."""
    positions: Tensor
    """int64 [3, T] (time, height, width) rotary positions."""
    spans: tuple[Span, ...]
    """One per segment, in row order."""
    source: Tensor
    """int64 [T]: row index whose hidden state predicts this token; -1 for the first token of a root."""
    loss_mask: Tensor
    """bool [T]."""
    columns: Mapping[str, Tensor]
    """float32 [T] each; 0 where a segment lacks the column."""
    media: Mapping[str, Tensor]
    """Keyword arguments of the forward: all items of the row, merged per kind in row order."""
    trees: tuple[str, ...]
    """Ids of the trees, in row order."""
    support: Support | None = None
    """What each token was chosen among, on the CPU; None: all ids, for every token."""
    repeated_tokens: int = 0
    """Trunk tokens that stand here again because their tree was split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossOutput:
    """A loss and what to log about it. Example: `LossOutput(loss=tensor(0.31), metrics={"clip_fraction": 0.02})`"""

    loss: Tensor
    """float32 []."""
    metrics: Mapping[str, float]
