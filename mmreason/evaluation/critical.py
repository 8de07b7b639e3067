"""Critical tokens of right answers: those without which the model's answer goes wrong.

Critical-token fine-tuning (arXiv 2510.10974): each token is replaced by the model's second and third candidate, and the
answer continued greedily from there; where BOTH fail the token is critical, and only such tokens have loss. A sampled
answer is not all first candidates: we take the two likeliest OTHER tokens, and a continuation that is cut by its budget
fails (both OUR choice; we have a summary of the paper, no code).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mmreason.config import RunConfig
from mmreason.errors import DataError, MMReasonError
from mmreason.evaluation.verb import Parts, answered_by, opened_parts, sampling_engine
from mmreason.rollout.base import SamplingParams, cut
from mmreason.training.watch import watching
from mmreason.types import Rollout, Sample, Segment

CANDIDATES = 2
"""How many other tokens are tried in place of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A right answer to a question. Example: `Answered(sample=s, text="<answer>B</answer>")`"""

    sample: Sample
    text: str


Spans = tuple[tuple[int, int], ...]
"""Characters (start, end) of tokens."""


def spread(length: int, most: int) -> list[int]:
    """At most so many places among `length`, evenly spread; 0: all. Example: 10, 4 -> 0, 2, 5, 7."""
    count = min(most or length, length)
    return [index * length // count for index in range(count)]


def critical_spans(parts: Parts, answered: Answered, prompt: Segment, most: int) -> Spans:
    """The characters of those of at most `most` tokens of an answer (0: of all) that are critical."""
    ids = parts.encoder.demo(answered.text).ids[:-1]  # the end token has no continuation to compare
    places = spread(len(ids), most)
    others = other_tokens(parts, prompt, ids, places)
    starts = [
        torch.cat([ids[:place], torch.tensor([other])])
        for place, pair in zip(places, others, strict=True)
        for other in pair
    ]
    rollouts = continued(parts, prompt, starts)
    (scores,) = parts.score([(answered.sample, rollouts)]) if rollouts else ([],)
    right = iter(
        bool(score.flags.get("correct")) and rollout.finish_reason == "stop"
        for rollout, score in zip(rollouts, scores, strict=True)
    )
    fails = [not any([next(right) for _ in pair]) for pair in others]
    found = parts.encoder.places(answered.text)
    return tuple(sorted({found[place] for place, failing in zip(places, fails, strict=True) if failing}))


def other_tokens(parts: Parts, prompt: Segment, ids: Tensor, places: Sequence[int]) -> list[list[int]]:
    """For each place the likeliest ids that do not stand there, likeliest first."""
    params = replace(parts.params, top_k=CANDIDATES + 1, top_p=1.0, max_new_tokens=1, keep_support=True, stop=())
    contexts = [_path(prompt, ids[:place]) for place in places]
    found = parts.decoder.extend(contexts, params, [0] * len(places))
    candidates = [segment.support.ids.tolist() if segment.support is not None else [] for segment in found]
    return [
        [other for other in likeliest if other != int(ids[place])][:CANDIDATES]
        for place, likeliest in zip(places, candidates, strict=True)
    ]


def continued(parts: Parts, prompt: Segment, starts: Sequence[Tensor]) -> list[Rollout]:
    """Each start of an answer with its greedy continuation; one that has ended already stays as it is."""
    params = replace(parts.params, greedy=True)
    going = [index for index, ids in enumerate(starts) if not _ended(parts, ids, params)]
    answers = parts.decoder.sample([_path(prompt, starts[index]) for index in going], params, [0] * len(going))
    rollouts = [_rollout(parts, ids, params) for ids in starts]
    for index, answer in zip(going, answers, strict=True):
        whole = _rollout(parts, torch.cat([starts[index], answer.segment.ids]), params)
        rollouts[index] = replace(whole, finish_reason=answer.finish_reason)
    return rollouts


def _path(prompt: Segment, ids: Tensor) -> list[Segment]:
    return [prompt, _segment(ids)] if len(ids) else [prompt]


def _segment(ids: Tensor) -> Segment:
    return Segment(kind="policy", ids=ids, loss_mask=torch.ones(len(ids), dtype=torch.bool), parent=0)


def _rollout(parts: Parts, ids: Tensor, params: SamplingParams) -> Rollout:
    return Rollout(text=cut(parts.encoder.text(ids), params.stop), segments=(_segment(ids),))


def _ended(parts: Parts, ids: Tensor, params: SamplingParams) -> bool:
    text = parts.encoder.text(ids)
    return int(ids[-1]) in parts.policy.end_ids or any(mark in text for mark in params.stop)


# ---- over all answers, kept as they come


def find_critical(config: RunConfig, answers: Sequence[Answered], file: Path, most: int, key: str) -> dict[str, Spans]:
    """Critical spans of all answers by `name_of`. Lines of `file` made under the same `key` are not made again.

    All processes call this together; each takes its share of every round, and the main one writes.
    """
    engine = sampling_engine(config)
    known: dict[str, Spans] = engine.gather(_read(file, key) if engine.is_main else {})[0]
    missing = [answered for answered in answers if name_of(answered) not in known]
    if missing:
        with watching(config.train.timeout_s) as watch, opened_parts(answered_by(config, "hf"), engine) as parts:
            for start in range(0, len(missing), engine.world):
                watch.enter(f"critical tokens, answer {start} of {len(missing)}")
                mine = missing[start : start + engine.world][engine.rank :: engine.world]
                gathered = engine.gather({name_of(one): _spans_of(parts, one, most) for one in mine})
                made = {name: spans for part in gathered for name, spans in part.items()}
                known |= made
                if engine.is_main:
                    _append(file, made, key)
    return known


def name_of(answered: Answered) -> str:
    """What an answer is called in the file."""
    return json.dumps([answered.sample.id, answered.text])


def _spans_of(parts: Parts, answered: Answered, most: int) -> Spans:
    (found,) = parts.encoder.prompts([answered.sample])
    if isinstance(found, MMReasonError):
        raise found
    sample, prompt = found
    return critical_spans(parts, replace(answered, sample=sample), prompt, most)


def _read(file: Path, key: str) -> dict[str, Spans]:
    try:
        text = file.read_text(encoding="utf-8") if file.exists() else ""
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    return dict(_lines(text, key))


def _lines(text: str, key: str) -> Iterator[tuple[str, Spans]]:
    """(name, spans) of whole lines under the key; what a kill cut in two is made again."""
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and value.get("settings") == key:
            yield value["answer"], tuple((start, end) for start, end in value["critical"])


def _append(file: Path, made: dict[str, Spans], key: str) -> None:
    lines = [json.dumps({"answer": name, "critical": spans, "settings": key}) for name, spans in made.items()]
    try:
        with file.open("a", encoding="utf-8") as opened:
            opened.write("".join(f"\n{line}\n" for line in lines))  # a torn line before it ends here
    except OSError as error:
        raise DataError(f"{file}: cannot be written ({error.strerror}); the same command goes on") from error
