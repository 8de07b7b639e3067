"""Parts of an answer that are rewarded apart: which tokens belong to which, and whose advantage each token gets.

A span is named by its tag: "observation" is the block <observation>...</observation>, both tags included. "rest" is
every token that is in no named block, and a reward with the span "all" counts for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmreason.types import Rollout

ALL, REST = "all", "rest"


def with_spans(rollout: Rollout, tags: Sequence[str], text_of: Callable[[Tensor], str]) -> Rollout:
    """The rollout with `spans` filled in. `text_of` gives the text of sampled ids."""
    if not tags:
        return rollout
    ids = torch.cat([segment.ids for segment in rollout.segments if segment.kind == "policy"])
    found = {tag: block for tag in tags if (block := find_block(ids, tag, text_of)) is not None}
    return replace(rollout, spans=found)


def find_block(ids: Tensor, tag: str, text_of: Callable[[Tensor], str]) -> tuple[int, int] | None:
    """Token range [start, stop) of the first <tag>...</tag>; None without an opening tag.

    A block that is never closed goes on to the end. The ids are never tokenised again: a token belongs to the block if
    any character of the block is in it, so a merge across a tag is the block's.
    """
    text = text_of(ids)
    begin = text.find(f"<{tag}>")
    if begin < 0:
        return None
    end = text.find(f"</{tag}>", begin)
    stop = ids.shape[0] if end == -1 else _tokens_for(ids, text[: end + len(tag) + 3], text_of)
    return _tokens_for(ids, text[: begin + 1], text_of) - 1, stop


def _tokens_for(ids: Tensor, prefix: str, text_of: Callable[[Tensor], str]) -> int:
    """The least number of tokens whose text begins with `prefix`.

    `prefix` ends with a character of one byte, before which no character is half written, so that texts of more tokens
    begin with it as well and the number can be found by halving.
    """
    low, high = 1, ids.shape[0]
    while low < high:
        middle = (low + high) // 2
        if text_of(ids[:middle]).startswith(prefix):
            high = middle
        else:
            low = middle + 1
    return low


def span_length(rollout: Rollout, span: str) -> int:
    """Tokens of a span; 0 for a block that the answer does not have. Blocks do not overlap (of two that do, the tokens
    are the first one's)."""
    return rollout.tokens if span == ALL else sum(owner == span for owner in owners(rollout))


def owners(rollout: Rollout) -> list[str]:
    """For each sampled token the span that it is in."""
    names = [REST] * rollout.tokens
    for tag, (start, stop) in reversed(list(rollout.spans.items())):
        names[start:stop] = [tag] * (stop - start)
    return names


def token_advantages(rollout: Rollout, advantages: Mapping[str, float]) -> Tensor:
    """float32 [tokens]: each token's advantage, from the answer's advantage in each span.

    One of `advantages` named "all" is every token's. Otherwise a token has its own span's, or 0 where that has none. A
    span that the answer has no token of is credited to the whole answer: every token has the mean of its own span's
    advantage and those of the missing spans, so that leaving a block out can be learnt as a mistake. (VideoP2R's paper
    does not say what becomes of such answers; this is OUR choice.)
    """
    if ALL in advantages:
        return torch.full((rollout.tokens,), advantages[ALL])
    names = owners(rollout)
    missing = [value for span, value in advantages.items() if span not in names]
    own = {span: [advantages[span]] if span in advantages else [] for span in set(names)}
    mean = {span: sum(values + missing) / max(1, len(values + missing)) for span, values in own.items()}
    return torch.tensor([mean[name] for name in names])
