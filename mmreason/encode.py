"""Sample -> prompt Segment: chat template, tokens, media tensors, and the check that they belong together.

A prompt exists in two streams: `engine_ids` with ONE placeholder per media item, as the chat template writes it and as
engines read it, and `ids` with one placeholder per feature, as the model reads it.

Text of a data file that spells a special token ("<|im_end|>", "<|image_pad|>") is refused, not escaped: as a token it
would end a turn or claim a place among the media, and as plain text no model has seen it in training.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor

from mmreason.config import DataConfig, RunConfig, TrainConfig
from mmreason.errors import AlignmentError, BudgetError, DataError, MediaError, MMReasonError, ModelError
from mmreason.policy.positions import MediaRules, expand_ids
from mmreason.processors.pipeline import MediaPipeline
from mmreason.processors.views import without_media
from mmreason.types import MediaRef, MediaTensors, Message, Sample, Segment, View

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

Encoded = tuple[Sample, Segment]
"""A sample with its geometry filled in, and its prompt."""


class Encoder:
    """Encodes for one checkpoint. `rules` are `Policy.rules`; the processor and tokenizer are the checkpoint's.

    Example: `Encoder(policy.processor, policy.tokenizer, policy.rules, pipeline, config.data).prompts(samples)`
    """

    def __init__(
        self, processor: Any, tokenizer: Any, rules: MediaRules, pipeline: MediaPipeline, data: DataConfig
    ) -> None:
        """Raises ModelError where the checkpoint has no chat template."""
        if not processor.chat_template:
            raise ModelError(f"{tokenizer.name_or_path}: no chat template; use an instruction-tuned checkpoint")
        self.processor, self.tokenizer, self.rules, self.pipeline, self.data = (
            processor,
            tokenizer,
            rules,
            pipeline,
            data,
        )
        self._one_at_a_time = threading.RLock()  # neither decoders nor tokenizers are for several threads at once
        added = tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)
        self._special = re.compile("|".join(re.escape(token) for token in sorted(special, key=len, reverse=True)))
        self._invisible = {tokenizer.eos_token_id, tokenizer.pad_token_id}

    def prompts(
        self, samples: Sequence[Sample], view: View = "ordered", seed: int = 0
    ) -> list[Encoded | MMReasonError]:
        """The prompt of each sample, or why it cannot be used: MediaError, DataError or AlignmentError.

        All media of all samples are decoded side by side. `view`: how they are shown (processors/views.py), by `seed`.
        """
        if view == "none":
            samples = [without_media(sample) for sample in samples]
        refs = [ref for sample in samples for ref in sample.media]
        with self._one_at_a_time:
            found = iter(self.pipeline.tensors(refs, view, seed))
        return [self.prompt(sample, [next(found) for _ in sample.media]) for sample in samples]

    def prompt(self, sample: Sample, media: Sequence[tuple[MediaTensors, ...] | MediaError]) -> Encoded | MMReasonError:
        """The prompt of one sample whose media are decoded already (`pipeline.tensors`), or why it cannot be used."""
        try:
            return self._encode(sample, media)
        except (MediaError, DataError, AlignmentError) as error:
            return error

    def lengths(self, samples: Sequence[Sample]) -> list[int | MMReasonError]:
        """Tokens of each prompt, or why it cannot be used, without decoding media: as exact as `token_counts`."""
        refs = [ref for sample in samples for ref in sample.media]
        found = iter(self.pipeline.token_counts(refs))
        return [self._length(sample, [next(found) for _ in sample.media]) for sample in samples]

    def over_budget(self, sample: Sample, tokens: int) -> BudgetError | None:
        """Why a prompt of so many tokens is dropped."""
        if tokens <= self.data.max_prompt_tokens:
            return None
        return BudgetError(
            f"{sample.id}: prompt over budget: {tokens} tokens > data.max_prompt_tokens "
            f"({self.data.max_prompt_tokens}); raise it, or lower media.*_max_pixels or media.video_max_frames"
        )

    def over_row(self, sample: Sample, tokens: int, config: RunConfig) -> BudgetError | None:
        """Why a prompt of so many tokens can never be trained on: with an answer it may not fit in a row."""
        train = config.train
        if train.method == "dpo":  # a pair is compared in one row, so a sample is not split
            texts = (text for pair in sample.pairs for text in (pair.chosen, pair.rejected))
            return self._over(sample, tokens + sum(self.demo(text).ids.shape[0] for text in texts), train, "its pairs")
        longest, setting = config.rollout.max_new_tokens, "rollout.max_new_tokens"
        room = config.rollout.options.get("max_model_len")
        if train.method == "grpo" and room is not None and tokens + longest > room:
            return BudgetError(
                f"{sample.id}: its prompt of {tokens} tokens and an answer of {longest} are more than "
                f"rollout.options.max_model_len {room}; raise that"
            )
        if train.method == "sft" or (config.grpo.uses_demos and sample.demos):
            demos = max(self.demo(text).ids.shape[0] for text in sample.demos)
            if train.method == "sft" or demos > longest:
                longest, setting = demos, "its demos"
        return self._over(sample, tokens + longest, train, setting)

    def _over(self, sample: Sample, tokens: int, train: TrainConfig, setting: str) -> BudgetError | None:
        if tokens <= train.row_tokens:
            return None
        return BudgetError(
            f"{sample.id}: prompt over budget: {tokens} tokens with its answer > train.row_tokens "
            f"({train.row_tokens}); raise it, or lower {setting} or media.*_max_pixels"
        )

    def render(self, sample: Sample) -> str:
        """The conversation as the model's chat template writes it, one placeholder per media item, ready to answer.

        Raises DataError: text that spells a special token, or a conversation that the template refuses.
        """
        conversation = [
            {"role": message.role, "content": [_part(part) for part in message.content]}
            for message in self._completed(sample)
        ]
        self._check_texts(sample, conversation)
        try:
            rendered: str = self.processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise DataError(f"{sample.id}: the model's chat template refuses this conversation ({error})") from error
        return rendered

    def demo(self, text: str, spans: Sequence[tuple[int, int, float]] = ()) -> Segment:
        """A complete answer to imitate: `text` and the end token, loss on all of it. Raises DataError as `render`.

        `spans`: (start, end, weight) of characters; then only tokens in one have loss, with the largest weight of their
        spans (column "critical"). The end token belongs to a span that reaches the end.
        """
        if special := self._special.search(text):
            raise DataError(f"a demonstration spells the special token {special[0]!r}; remove it")
        ids = torch.tensor([*self._tokenize(text), self.tokenizer.eos_token_id], dtype=torch.int64)
        if not spans:
            return Segment(kind="policy", ids=ids, loss_mask=torch.ones(len(ids), dtype=torch.bool))
        places = [*self.places(text), (len(text) - 1, len(text))]
        weights = torch.tensor([_largest(place, spans) for place in places])
        return Segment(kind="policy", ids=ids, loss_mask=weights > 0, columns={"critical": weights})

    def places(self, text: str) -> list[tuple[int, int]]:
        """The characters (start, end) of each token of a text; tokens that are bytes of one character share it."""
        with self._one_at_a_time:
            found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return [(int(start), int(end)) for start, end in found]

    def text(self, ids: Tensor) -> str:
        """The text of sampled ids, end tokens left out; any other special token is shown."""
        kept: list[int] = ids.tolist()
        while kept and kept[-1] in self._invisible:
            kept.pop()
        with self._one_at_a_time:
            decoded: str = self.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return decoded

    # ---- parts of a prompt -------------------------------------------------------------------------------------------

    def _length(self, sample: Sample, found: Sequence[int | MediaError]) -> int | MMReasonError:
        try:
            self._check_demos(sample)
            tokens = len(self._tokenize(self.render(sample)))
        except DataError as error:
            return error
        for item in found:
            if isinstance(item, MediaError):
                return item
            tokens += item - 1  # in place of its one placeholder
        return tokens

    def _encode(self, sample: Sample, found: Sequence[tuple[MediaTensors, ...] | MediaError]) -> Encoded:
        media: list[MediaTensors] = []
        for item in found:
            if isinstance(item, MediaError):
                raise item
            media += item
        self._check_demos(sample)
        engine_ids = torch.tensor(self._tokenize(self.render(sample)), dtype=torch.int64)
        try:
            self._check_features(media)
            ids = expand_ids(engine_ids, media, self.rules)
        except AlignmentError as error:
            raise AlignmentError(f"{sample.id}: {error}") from error
        if too_long := self.over_budget(sample, len(ids)):
            raise too_long
        prompt = Segment(
            kind="prompt",
            ids=ids,
            loss_mask=torch.zeros(len(ids), dtype=torch.bool),
            engine_ids=engine_ids,
            media=tuple(media),
        )
        geometry = tuple(item.geometry for item in media if item.geometry is not None)
        return replace(sample, geometry=geometry), prompt

    def _tokenize(self, text: str) -> list[int]:
        with self._one_at_a_time:
            ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _completed(self, sample: Sample) -> tuple[Message, ...]:
        """The messages with the configured system message, the lettered options and the suffix."""
        messages = sample.messages
        if self.data.system is not None and messages[0].role != "system":
            messages = (Message(role="system", content=(self.data.system,)), *messages)
        lines = []
        if self.data.show_options and sample.task == "mcq" and sample.options:
            lines += lettered(sample.options, sample.id)
        lines += suffixes(self.data, sample.task)
        if not lines:
            return messages
        *before, last = messages
        has_text = isinstance(last.content[-1], str) and last.content[-1]
        added = ("\n" if has_text else "") + "\n".join(lines)
        return (*before, replace(last, content=(*last.content, added)))

    def _check_texts(self, sample: Sample, conversation: list[dict[str, Any]]) -> None:
        """Templates write neighbouring texts without a gap, so a special token may be spread over several parts."""
        for message in conversation:
            texts = "".join(part["text"] if part["type"] == "text" else "\0" for part in message["content"])
            if special := self._special.search(texts):
                raise DataError(
                    f"{sample.id}: text of the {message['role']} spells the special token {special[0]!r}; remove it "
                    "(media are given as typed parts, turns as messages)"
                )

    def _check_demos(self, sample: Sample) -> None:
        """Here, with the prompt, so that a bad demonstration drops its sample instead of stopping the run."""
        for index, text in enumerate(sample.demos):
            if special := self._special.search(text):
                raise DataError(f"{sample.id}: demos[{index}] spells the special token {special[0]!r}; remove it")
        for index, pair in enumerate(sample.pairs):
            if special := self._special.search(f"{pair.chosen}\0{pair.rejected}"):
                raise DataError(f"{sample.id}: pairs[{index}] spells the special token {special[0]!r}; remove it")

    def _check_features(self, media: Sequence[MediaTensors]) -> None:
        for item in media:
            features = feature_count(item, self.rules.merge_size)
            if features != item.tokens:
                raise AlignmentError(f"{item.kind} with {features} features for {item.tokens} placeholder tokens")


def feature_count(item: MediaTensors, merge_size: int) -> int:
    """How many features the towers make of an item, from its tensors.

    Sound: two strides of 2 over the real mel frames (`_get_feat_extract_output_lengths` of Qwen2-Audio, Qwen2.5-Omni).
    Omni's merge into the text is not checked by transformers, so a wrong count would shift everything after it.
    """
    if item.kind == "audio":
        frames = int(item.kwargs["feature_attention_mask"].sum())
        return ((frames - 1) // 2 + 1 - 2) // 2 + 1
    name = {"image": "pixel_values", "video": "pixel_values_videos"}[item.kind]
    return int(item.kwargs[name].shape[0]) // merge_size**2


def _largest(place: tuple[int, int], spans: Sequence[tuple[int, int, float]]) -> float:
    """The largest weight of the spans that a token's characters touch; 0 for none."""
    return max((weight for start, end, weight in spans if place[0] < end and start < place[1]), default=0.0)


def lettered(options: Sequence[str], where: str) -> list[str]:
    """Lines such as "A. red", "B. green"; options that carry their letters already are left as they are.

    Raises DataError for more options than letters.
    """
    if len(options) > len(LETTERS):
        raise DataError(f"{where}: {len(options)} options; at most {len(LETTERS)} can be lettered")
    pairs = list(zip(LETTERS, options, strict=False))
    if all(re.match(rf"\s*\(?{letter}[).:]", option) for letter, option in pairs):
        return list(options)
    return [f"{letter}. {option}" for letter, option in pairs]


def suffixes(data: DataConfig, task: str) -> list[str]:
    """What `data.suffix` adds to a question of a task: the text for all tasks, then the task's own."""
    given = {"*": data.suffix} if isinstance(data.suffix, str) else data.suffix
    return [text for text in (given.get("*"), given.get(task)) if text]


def _part(part: str | MediaRef) -> dict[str, str]:
    """As chat templates look for it: by its type, or (published Qwen2-Audio) by a key of its name."""
    return {"type": "text", "text": part} if isinstance(part, str) else {"type": part.kind, part.kind: ""}
