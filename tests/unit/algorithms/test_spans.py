"""Where a block lies among sampled tokens, and whose advantage each token gets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from mmreason.algorithms.spans import find_block, span_length, token_advantages, with_spans
from mmreason.types import Rollout, Segment

WHOLE = "<observation>a red cup</observation><think>so</think><answer>red</answer>"


@pytest.fixture(scope="module")
def merging() -> Tokenizer:
    """Byte-level BPE whose merges run across the tags: one token is "e></ob", another "ation><thi"."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate(alphabet)}
    merges: list[tuple[str, str]] = []
    for word in ("p</ob", "ation><thi", "</", "x<obser", "ation>"):
        made = word[0]
        for letter in word[1:]:
            merges.append((made, letter))
            made += letter
            vocabulary.setdefault(made, len(vocabulary))
    merges = list(dict.fromkeys(merges))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r".*"), behavior="isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def ids_of(tokenizer: Tokenizer, text: str) -> Tensor:
    return torch.tensor(tokenizer.encode(text).ids, dtype=torch.int64)


def texts_of(tokenizer: Tokenizer, ids: Tensor) -> str:
    return str(tokenizer.decode(ids.tolist(), skip_special_tokens=False))


def rollout(tokens: int, **spans: tuple[int, int]) -> Rollout:
    segment = Segment(kind="policy", ids=torch.arange(tokens), loss_mask=torch.ones(tokens) > 0)
    return Rollout(text="", segments=(segment,), spans=spans)


def test_a_merge_across_a_tag_is_the_blocks(merging: Tokenizer) -> None:
    ids = ids_of(merging, WHOLE)
    pieces = [merging.decode([token]) for token in ids.tolist()]
    assert "p</ob" in pieces
    assert "ation><thi" in pieces
    block = find_block(ids, "observation", lambda part: texts_of(merging, part))
    assert block is not None
    assert block == (0, pieces.index("ation><thi") + 1)
    assert "".join(pieces[slice(*block)]) == "<observation>a red cup</observation><thi"
    ids = ids_of(merging, "x<observation>y</observation>z")
    pieces = [merging.decode([token]) for token in ids.tolist()]
    assert pieces[0] == "x<obser"
    assert find_block(ids, "observation", lambda part: texts_of(merging, part)) == (0, len(pieces) - 1)


def test_half_written_characters_move_nothing(merging: Tokenizer) -> None:
    """Every character of several bytes is several tokens here, and prefixes of them decode to a replacement."""
    ids = ids_of(merging, "né中𝄞<observation>é中𝄞</observation>中")
    block = find_block(ids, "observation", lambda part: texts_of(merging, part))
    assert block is not None
    assert texts_of(merging, ids[slice(*block)]) == "<observation>é中𝄞</observation>"


def test_blocks_that_are_not_whole(merging: Tokenizer) -> None:
    def block(text: str) -> tuple[int, int] | None:
        return find_block(ids_of(merging, text), "observation", lambda part: texts_of(merging, part))

    assert block("no block") is None
    assert block("</observation>") is None
    assert block("ab<observation>cd") == (2, len(ids_of(merging, "ab<observation>cd"))), "cut off: to the end"
    first = block("<observation>a</observation><observation>b</observation>")
    assert first == block("<observation>a</observation><"), "the first one of two"
    assert block("<observation></observation>") is not None


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_any_text_around_and_in_a_block(merging: Tokenizer, before: str, inside: str, behind: str) -> None:
    text = f"{before}<t>{inside}</t>{behind}".encode("utf-8", "replace").decode()
    ids = ids_of(merging, text)
    if texts_of(merging, ids) != text:
        return  # what the tokenizer itself does not give back
    block = find_block(ids, "t", lambda part: texts_of(merging, part))
    assert block is not None
    found = texts_of(merging, ids[: block[1]])
    begin = text.index("<t>")
    end = text.index("</t>", begin) + 4
    assert found.startswith(text[:end])
    assert not texts_of(merging, ids[: block[1] - 1]).startswith(text[:end])


def test_each_token_gets_its_spans_advantage() -> None:
    whole = rollout(6, observation=(0, 4))
    assert token_advantages(whole, {"observation": 2.0, "rest": -1.0}).tolist() == [2, 2, 2, 2, -1, -1]
    later = rollout(6, observation=(1, 4))
    assert token_advantages(later, {"observation": 2.0, "rest": -1.0}).tolist() == [-1, 2, 2, 2, -1, -1]
    assert token_advantages(whole, {"all": 0.5}).tolist() == [0.5] * 6
    assert token_advantages(whole, {"observation": 2.0}).tolist() == [2, 2, 2, 2, 0, 0], "nothing rewards the rest"
    three = rollout(5, observation=(0, 1), think=(1, 3))
    assert token_advantages(three, {"observation": 1.0, "think": 2.0, "rest": 3.0}).tolist() == [1, 2, 2, 3, 3]


def test_a_missing_span_is_credited_to_the_whole_answer() -> None:
    """Malformed answers, by our choice: the mean of the token's own advantage and the missing spans'."""
    assert token_advantages(rollout(3), {"observation": -2.0, "rest": 1.0}).tolist() == [-0.5] * 3
    assert token_advantages(rollout(3), {"observation": -2.0}).tolist() == [-2.0] * 3
    cut_off = rollout(3, observation=(0, 3))
    assert token_advantages(cut_off, {"observation": 1.0, "rest": -2.0}).tolist() == [-0.5] * 3
    begun = rollout(3, observation=(1, 3))
    assert token_advantages(begun, {"observation": 1.0, "rest": -2.0}).tolist() == [-2.0, 1.0, 1.0]


def test_lengths() -> None:
    answer = rollout(6, observation=(1, 4))
    assert [span_length(answer, span) for span in ("all", "rest", "observation", "think")] == [6, 3, 3, 0]
    overlapping = rollout(6, outer=(0, 5), inner=(2, 4))
    assert [span_length(overlapping, span) for span in ("outer", "inner", "rest")] == [5, 0, 1]


def test_nothing_is_looked_for_without_tags(merging: Tokenizer) -> None:
    answer = rollout(3)
    assert with_spans(answer, (), lambda ids: 1 / 0) is answer  # type: ignore[arg-type, return-value]
    ids = ids_of(merging, WHOLE)
    segment = Segment(kind="policy", ids=ids, loss_mask=torch.ones(len(ids)) > 0)
    found = with_spans(
        Rollout(text=WHOLE, segments=(segment,)), ("observation", "hint"), lambda part: texts_of(merging, part)
    )
    assert list(found.spans) == ["observation"]
