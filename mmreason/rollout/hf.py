"""Our own decode loop on the model that is being trained: no second copy of the weights, nothing to synchronise.

Every distinct prefix of the given paths goes through towers and language model ONCE; its cache is then repeated for
all that continue it. Prefixes of different length stand side by side, padded at the left; the pads are masked, and
positions are ours (`Policy.positions`), so padding moves nothing. Finished rows leave the batch.

Shapes: R rows, T tokens fed at once, K tokens in the cache, V vocabulary, N tokens of the longest answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from mmreason.collate import merge_media
from mmreason.policy.policy import Policy
from mmreason.rollout.base import Answer, AnswerEngine, Context, SamplingParams, TextDecoder, cut
from mmreason.rollout.cache import growing_cache
from mmreason.rollout.sampling import draw, log_probs, uniforms
from mmreason.support import Step, by_row
from mmreason.types import Segment


class HFEngine(AnswerEngine):
    """Samples from a `Policy` on the device where it lies. See `rollout.base.Engine`.

    max_rows: answers decoded side by side; all answers to one prompt stay together where they fit.
    max_tokens: prompt tokens prefilled side by side, padding included; one prompt may be longer.
    """

    def __init__(self, policy: Policy, decoder: TextDecoder, max_rows: int = 64, max_tokens: int = 32768) -> None:
        self.policy, self.decoder, self.max_rows, self.max_tokens = policy, decoder, max_rows, max_tokens

    def sample(self, contexts: Sequence[Context], params: SamplingParams, seeds: Sequence[int]) -> list[Answer]:
        """One answer below each path of segments; `seeds[i]` belongs to path i."""
        assert len(contexts) == len(seeds), "one seed per context"
        answers: dict[int, Answer] = {}
        with _sampling_mode(self.policy):
            for batch in _batches(contexts, self.max_rows, self.max_tokens):
                paths = [contexts[index] for index in batch]
                numbers_RN = uniforms([seeds[index] for index in batch], params.max_new_tokens)
                found = self._decode(self._prefill(paths), numbers_RN.to(self.policy.device), params)
                made = self._answers(found, paths, params)
                answers.update(zip(batch, made, strict=True))
        return [answers[index] for index in range(len(contexts))]

    # ---- prefill -----------------------------------------------------------------------------------------------------

    def _prefill(self, paths: Sequence[Context]) -> _Rows:
        """Rows ready to sample from, one per path. Level by level: each distinct prefix is fed once."""
        rows = _Rows(self.policy)
        known: list[tuple[int, ...]] = []
        for depth in range(1, max(map(len, paths)) + 1):
            firsts: dict[tuple[int, ...], Context] = {}
            for path in paths:
                firsts.setdefault(_key(path[:depth]), path)
            if depth > 1:
                rows.select([known.index(key[: depth - 1]) for key in firsts])
            rows.feed([path[depth - 1] if len(path) >= depth else None for path in firsts.values()])
            known = list(firsts)
        rows.select([known.index(_key(path)) for path in paths])
        return rows

    # ---- decode ------------------------------------------------------------------------------------------------------

    def _decode(self, rows: _Rows, numbers_RN: Tensor, params: SamplingParams) -> _Found:
        """Sample until every row has ended or is N tokens long."""
        device, (count, longest) = self.policy.device, numbers_RN.shape
        ends, banned = torch.tensor(self.policy.end_ids, device=device), self.policy.banned.to(device)
        found = _Found.empty(count, longest, device)
        alive = torch.arange(count, device=device)
        for step in range(longest):
            logp_RV = log_probs(rows.logits_RV, params.temperature, banned)
            drawn = draw(logp_RV, numbers_RN[alive, step], params)
            tokens = drawn.tokens
            found.ids[alive, step] = tokens
            found.logprobs[alive, step] = drawn.logprobs
            if drawn.kept is not None:
                found.kept.append((alive, *drawn.kept))
            ended = torch.isin(tokens, ends) | found.ended[alive]
            if params.stop:
                ended |= self._at_stop_text(found.ids[alive, : step + 1], params.stop)
            found.length[alive] += (~found.ended[alive]).long()
            found.ended[alive] = ended
            running = (~ended).nonzero()[:, 0]  # where a GPU waits: once a step
            if not len(running) or step + 1 == longest:
                break
            # Dropping rows copies the cache, so not for a few: those run on and their tokens are ignored.
            if len(running) <= 7 / 8 * len(alive):
                rows.select(running)
                alive, tokens = alive[running], tokens[running]
            rows.step(tokens)
        return found

    def _at_stop_text(self, ids_RN: Tensor, stop: Sequence[str]) -> Tensor:
        """bool [R]: a stop text ends in the last token. A token is at least a byte, so that bounds where it began."""
        window = max(len(text.encode()) for text in stop) + 1
        tails = self.policy.tokenizer.batch_decode(ids_RN[:, -window:])
        return torch.tensor([any(text in tail for text in stop) for tail in tails], device=ids_RN.device)

    def _answers(self, found: _Found, paths: Sequence[Context], params: SamplingParams) -> list[Answer]:
        """Cut each row to its length; everything moves to the CPU at once."""
        ids_RN, logprobs_RN, lengths = found.ids.cpu(), found.logprobs.cpu(), found.length.tolist()
        supports = by_row(found.kept, lengths) if found.kept else [None] * len(paths)
        answers = []
        rows = zip(paths, lengths, found.ended.tolist(), supports, strict=True)
        for row, (path, length, ended, support) in enumerate(rows):
            ids = ids_RN[row, :length].clone()
            segment = Segment(
                kind="policy",
                ids=ids,
                loss_mask=torch.ones(length, dtype=torch.bool),
                parent=len(path) - 1,
                columns={"logprob.sampling": logprobs_RN[row, :length].clone()},
                weight_version=self.weight_version,
                support=support,
            )
            text = cut(self.decoder.text(ids), params.stop)
            answers.append(Answer(segment, text, "stop" if ended else "length"))
        return answers


@dataclass(frozen=True, slots=True)
class _Found:
    """What is sampled so far, for all rows, also those that have left the batch."""

    ids: Tensor
    """int64 [R, N]."""
    logprobs: Tensor
    """float32 [R, N]."""
    length: Tensor
    """int64 [R]: tokens of the row, its end token counted."""
    ended: Tensor
    """bool [R]."""
    kept: list[Step]
    """Per token what it was chosen among, where that is kept."""

    @classmethod
    def empty(cls, count: int, longest: int, device: torch.device) -> _Found:
        return cls(
            ids=torch.zeros(count, longest, dtype=torch.int64, device=device),
            logprobs=torch.zeros(count, longest, device=device),
            length=torch.zeros(count, dtype=torch.int64, device=device),
            ended=torch.zeros(count, dtype=torch.bool, device=device),
            kept=[],
        )


class _Rows:
    """Sequences that are decoded side by side: cache, which places of it are real, next positions, last logits."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.cache: Cache = growing_cache(policy.base.config.get_text_config())
        self.real_RK = torch.zeros(0, 0, dtype=torch.bool, device=policy.device)
        self.position_R = torch.zeros(0, dtype=torch.int64, device=policy.device)
        self.logits_RV = torch.zeros(0, 0, device=policy.device)
        self.padded = False

    def select(self, indices: Sequence[int] | Tensor) -> None:
        """Keep, repeat or reorder rows."""
        index = torch.as_tensor(indices, dtype=torch.int64, device=self.policy.device)
        count = self.real_RK.shape[0]
        if len(index) == count and torch.equal(index, torch.arange(count, device=index.device)):
            return
        self.cache.batch_select_indices(index)
        self.real_RK, self.position_R = self.real_RK[index], self.position_R[index]
        self.logits_RV = self.logits_RV[index]

    def feed(self, segments: Sequence[Segment | None]) -> None:
        """Append one segment per row (None: nothing), side by side, padded at the left."""
        lengths = [0 if segment is None else segment.ids.shape[0] for segment in segments]
        count, width = len(segments), max(lengths)
        starts = self.position_R.tolist() or [0] * count
        ids_RT = torch.full((count, width), self.policy.end_ids[0])
        positions_3RT = torch.zeros(3, count, width, dtype=torch.int64)
        for row, (segment, length) in enumerate(zip(segments, lengths, strict=True)):
            if segment is not None and length:
                ids_RT[row, width - length :] = segment.ids
                positions_3RT[:, row, width - length :], starts[row] = self.policy.positions(segment, starts[row])
        fresh_RT = torch.arange(width) >= width - torch.tensor(lengths)[:, None]
        media = merge_media([item for segment in segments if segment is not None for item in segment.media])
        device = self.policy.device
        past = self.real_RK if len(self.real_RK) else torch.zeros(count, 0, dtype=torch.bool, device=device)
        self.real_RK = torch.cat([past, fresh_RT.to(device)], dim=1)
        self.padded = self.padded or min(lengths) < width
        mask = _prefill_mask(self.real_RK, width) if self.padded or past.shape[1] else None
        media = {name: tensor.to(device) for name, tensor in media.items()}
        logits_RV = self._forward(ids_RT.to(device), positions_3RT.to(device), mask, media)
        if 0 in lengths:
            keep = torch.tensor(lengths, device=device)[:, None] == 0
            logits_RV = torch.where(keep, self.logits_RV, logits_RV)
        self.logits_RV, self.position_R = logits_RV, torch.tensor(starts, device=device)

    def step(self, tokens: Tensor) -> None:
        """Append one sampled token (int64 [R]) per row."""
        self.real_RK = nn.functional.pad(self.real_RK, (0, 1), value=True)
        mask = self.real_RK[:, None, None] if self.padded else None
        positions_3R1 = self.position_R[None, :, None].expand(3, -1, -1)
        self.logits_RV = self._forward(tokens[:, None], positions_3R1, mask, {})
        self.position_R = self.position_R + 1

    def _forward(self, ids_RT: Tensor, positions_3RT: Tensor, mask: Tensor | None, media: dict[str, Tensor]) -> Tensor:
        """Logits [R, V] of the last place."""
        output: Any = self.policy.model(
            input_ids=ids_RT,
            position_ids=self.policy.position_ids(positions_3RT),
            attention_mask=mask,
            past_key_values=self.cache,
            use_cache=True,
            **media,
        )
        logits_RV: Tensor = output.logits[:, -1]
        return logits_RV


def _prefill_mask(real_RK: Tensor, width: int) -> Tensor:
    """bool [R, 1, T, K], True where the fed token may see the cached one: real, and not after it.

    A pad sees itself, so that its (unused) output is a number: NaN would spread through the next layer's keys.
    """
    total = real_RK.shape[1]
    place_T = torch.arange(total - width, total, device=real_RK.device)
    place_K = torch.arange(total, device=real_RK.device)
    seen_RTK = real_RK[:, None, :] & (place_K <= place_T[:, None])
    return (seen_RTK | (place_K == place_T[:, None]))[:, None]


@contextmanager
def _sampling_mode(policy: Policy) -> Iterator[None]:
    """Dropout off, no gradients, and the LM head on the last place only: a prompt's other logits are not wanted."""
    was_training = policy.model.training
    last_only = policy.head.register_forward_pre_hook(lambda _, inputs: (inputs[0][:, -1:],))
    policy.model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        last_only.remove()
        policy.model.train(was_training)


def _key(path: Context) -> tuple[int, ...]:
    """Two paths share a prefix when it is made of the same objects."""
    return tuple(id(segment) for segment in path)


def _batches(contexts: Sequence[Context], max_rows: int, max_tokens: int) -> list[list[int]]:
    """Indices of contexts to decode side by side: those with one root together, roots of similar length together."""
    groups: dict[int, list[int]] = {}
    for index, context in enumerate(contexts):
        groups.setdefault(id(context[0]), []).append(index)
    length = {root: sum(len(segment.ids) for segment in contexts[group[0]]) for root, group in groups.items()}
    batches: list[list[int]] = []
    prompts = 0  # in the last batch
    for root in sorted(groups, key=lambda root: length[root]):
        group, prompts = groups[root], prompts + 1
        # Sorted by length, so this prompt is what the others are padded to.
        if batches and len(batches[-1]) + len(group) <= max_rows and prompts * length[root] <= max_tokens:
            batches[-1] += group
        else:
            batches += [group[start : start + max_rows] for start in range(0, len(group), max_rows)]
            prompts = 1
    return batches
