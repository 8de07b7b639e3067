"""A judge: a language model on any server that speaks OpenAI's chat completions decides what an answer is worth.

    correct      is the answer the reference?                                                          0 or 1
    sufficient   is the <observation> enough to answer the question? acc_P of VideoP2R (2511.11113)    0 or 1
    consistent   does the thinking lead to the answer that was given?                                  0 or 1
    pair         which of two answers is better, asked in both orders: against the reference, or
                 against each sibling (`against`); a tie counts a half                                 0 to 1
    free         a question of your own (`instruction`, `shows`)                                       0 or 1

The judge sees text only, never media. A response without the part that is to be judged (no `<answer>`, ...) is 0 and
costs no request. What cannot be judged is an error, never a score: an outage (remote.py) fails the whole group, a
request that the server refuses or a reply without a verdict (judge_prompts.py) the answers that it is about.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmreason.rewards import verdict_cache
from mmreason.rewards.base import BAD_GOLD, extract_answer
from mmreason.rewards.judge_prompts import PROMPTS, Block, Prompt, PromptName, prompt_hash, request
from mmreason.rewards.questions import question_of, references_of
from mmreason.rewards.remote import Errand, Nonsense, OnOutage, Patience, Refused, Server, server_mistakes
from mmreason.types import Rollout, Sample, Score

Blocks = tuple[tuple[str, str], ...]
"""(title, text) of what the judge is shown."""


def judge(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    url: str,
    model: str,
    prompt: PromptName = "correct",
    instruction: str | None = None,
    shows: Sequence[Block] = ("question", "reference", "answer"),
    against: Literal["reference", "siblings"] = "reference",
    api_key_env: str | None = None,
    temperature: float = 0.0,
    max_tokens: int = 1024,
    cache: str = "memory",
    concurrency: int = 8,
    retries: int = 3,
    request_s: float = 60.0,
    deadline_s: float = 300.0,
    on_outage: OnOutage = "pause",
    outage_s: float = 900.0,
) -> list[Score]:
    """What a language model behind an OpenAI-compatible server decides about the answer, 0 to 1.

    `url`: up to and with /v1. `prompt`: what is asked; "free" asks `instruction` (a question of yes and no) about
    `shows`. `against`: whom pair compares with. `api_key_env`: the environment variable that holds the key. `cache`:
    "memory", "none" or a folder that runs may share. `concurrency`: requests at a time per group; in all, times
    scoring.workers, times training processes. `retries`, `request_s` (one request), `deadline_s` (one group),
    `on_outage` ("pause": try again for `outage_s` more, then drop the group; "drop": give up after `retries`).
    Flags: "answered", and "correct" for prompt correct. Parts: "cached" (share of verdicts), "requests".
    """
    row = prompt_of(prompt, instruction, shows)
    if "reference" in (row.shows if prompt != "pair" else (against,)) and not _reference(sample):
        error = f"{sample.id}: the judge compares with a reference, but the gold answer is {sample.answer!r}"
        return [Score(total=None, error=error, flags={BAD_GOLD: True})] * len(rollouts)
    cases = _pairs(sample, rollouts, against) if prompt == "pair" else _single(sample, rollouts, row)
    patience = Patience(
        retries=retries, request_s=request_s, deadline_s=deadline_s, on_outage=on_outage, outage_s=outage_s
    )
    asker = _Asker(Server(url, api_key_env), model, row, temperature, max_tokens, cache, Errand(patience))
    verdicts = asker.verdicts([case.blocks for case in cases], concurrency)
    return [_score(index, rollout, cases, verdicts, asker, prompt) for index, rollout in enumerate(rollouts)]


def prompt_of(name: PromptName, instruction: str | None, shows: Sequence[Block]) -> Prompt:
    """The built-in prompt of this name, or the user's own."""
    return Prompt(instruction or "", tuple(shows)) if name == "free" else PROMPTS[name]


def facts(options: Mapping[str, Any]) -> dict[str, str]:
    """What a reader of the results must know: which model, which prompt, and a hash that changes with its wording."""
    name: PromptName = options.get("prompt", "correct")
    row = prompt_of(name, options.get("instruction"), options.get("shows", ("question", "reference", "answer")))
    return {"model": options["model"], "prompt": name, "prompt_hash": prompt_hash(row), "url": options["url"]}


def mistakes(options: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with options whose types are right, a line each."""
    yield from server_mistakes(options)
    yield from Patience(
        retries=options.get("retries", 3),
        request_s=options.get("request_s", 60.0),
        deadline_s=options.get("deadline_s", 300.0),
        on_outage=options.get("on_outage", "pause"),
        outage_s=options.get("outage_s", 900.0),
    ).mistakes()
    if (options.get("prompt") == "free") != bool((options.get("instruction") or "").strip()):
        yield "option instruction: is the question of prompt 'free': give both, or neither"
    for name in ("concurrency", "max_tokens"):
        if options.get(name, 1) < 1:
            yield f"option {name}: got {options[name]!r}, expected at least 1"
    cache = options.get("cache", "memory")
    if cache not in ("memory", "none") and Path(cache).exists() and not Path(cache).is_dir():
        yield f"option cache: {cache} is a file, expected 'memory', 'none' or a folder"


# ---- what is asked


@dataclass(frozen=True, slots=True)
class _Case:
    """One question to the judge, and what each verdict is worth to whom."""

    blocks: Blocks
    worth: Mapping[str, Mapping[int, float]]
    """Verdict -> rollout -> value."""


def _single(sample: Sample, rollouts: Sequence[Rollout], row: Prompt) -> list[_Case]:
    """A case for each response that has all that is to be judged."""
    cases = []
    for index, rollout in enumerate(rollouts):
        texts = [(name.capitalize(), _text(name, sample, rollout.text)) for name in row.shows]
        if all(text is not None for _, text in texts):
            blocks = tuple((title, text) for title, text in texts if text)  # rows may come without a question
            cases.append(_Case(blocks, {"YES": {index: 1.0}, "NO": {index: 0.0}}))
    return cases


def _pairs(sample: Sample, rollouts: Sequence[Rollout], against: str) -> list[_Case]:
    """Both orders of every pair: judges prefer a place. The reference is number -1."""
    answers = {index: extract_answer(rollout.text) for index, rollout in enumerate(rollouts)}
    known = {index: text for index, text in answers.items() if text is not None}
    if against == "reference":
        pairs = [pair for index in known for pair in ((index, -1), (-1, index))]
        known[-1] = _reference(sample)
    else:
        pairs = [(left, right) for left in known for right in known if left != right]
    question = question_of(sample, name_media=True)
    head = (("Question", question),) if question else ()
    return [
        _Case(
            (*head, ("First answer", known[left]), ("Second answer", known[right])),
            {"FIRST": {left: 1.0, right: 0.0}, "TIE": {left: 0.5, right: 0.5}, "SECOND": {left: 0.0, right: 1.0}},
        )
        for left, right in pairs
    ]


def _text(name: Block, sample: Sample, response: str) -> str | None:
    """What stands under a title; None where the response lacks it, "" where the sample has no question."""
    if name == "question":
        return question_of(sample, name_media=True)
    if name == "reference":
        return _reference(sample)
    if name == "response":
        return response.strip() or None
    return extract_answer(response, {"thinking": "think"}.get(name, name))


def _reference(sample: Sample) -> str:
    return "\nor\n".join(references_of(sample))


# ---- asking


@dataclass(slots=True)
class _Asker:
    """Asks one judge about the cases of one group."""

    server: Server
    model: str
    prompt: Prompt
    temperature: float
    max_tokens: int
    cache: str
    errand: Errand
    found: dict[Blocks, str] = field(default_factory=dict)
    """Verdicts that were known before."""

    def verdicts(self, asked: Sequence[Blocks], concurrency: int) -> dict[Blocks, str | Nonsense | Refused]:
        """The verdict about each, or why there is none. Raises Unavailable."""
        keys = {blocks: self._key(blocks) for blocks in asked}
        for blocks, key in keys.items():
            known = verdict_cache.look_up(self.cache, key, self.prompt.choices)
            if known is not None:
                self.found[blocks] = known
        missing = [blocks for blocks in keys if blocks not in self.found]
        if not missing:
            return dict(self.found)
        with ThreadPoolExecutor(max_workers=min(concurrency, len(missing))) as threads:
            given = threads.map(lambda blocks: self._ask(blocks, keys[blocks]), missing)
            return {**self.found, **dict(zip(missing, given, strict=True))}

    def _key(self, blocks: Blocks) -> str:
        """Not the address: the same model moves from one port to the next."""
        return verdict_cache.key_of(self.model, prompt_hash(self.prompt), self.temperature, self.max_tokens, blocks)

    def _ask(self, blocks: Blocks, key: str) -> str | Nonsense | Refused:
        try:
            verdict = self.errand.ask(lambda timeout_s: self._once(blocks, timeout_s))
        except (Nonsense, Refused) as error:
            return error
        verdict_cache.keep(self.cache, key, verdict)  # at once: an outage may take the others of this group
        return verdict

    def _once(self, blocks: Blocks, timeout_s: float) -> str:
        asked = request(self.prompt, blocks)
        body = {
            "model": self.model,
            "messages": asked.messages,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        encoded = json.dumps(body).encode()
        text = content_of(self.server.post("chat/completions", encoded, timeout_s))
        verdict = asked.verdict(text) if text is not None else None
        if verdict is None:
            where = "no text in the reply" if text is None else "no verdict in the asked form at its end"
            raise Nonsense(f"judge {self.model}: {where}")
        return verdict


def content_of(body: bytes) -> str | None:
    """The text of a chat completion; None for anything else."""
    try:
        text = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        return None
    return text if isinstance(text, str) else None


def _score(
    index: int,
    rollout: Rollout,
    cases: Sequence[_Case],
    verdicts: Mapping[Blocks, str | Nonsense | Refused],
    asker: _Asker,
    prompt: PromptName,
) -> Score:
    """Mean worth of the verdicts about one response."""
    mine = [case for case in cases if any(index in worth for worth in case.worth.values())]
    flags = {"answered": extract_answer(rollout.text) is not None}
    if not mine:  # nothing of it could be shown, or it has no siblings to compare with
        alone = prompt == "pair" and flags["answered"]
        return Score(total=None) if alone else Score(total=0.0, flags=_flags(flags, 0.0, prompt))
    given = [verdicts[case.blocks] for case in mine]
    failed = next((verdict for verdict in given if not isinstance(verdict, str)), None)
    if failed is not None:
        return Score(total=None, error=str(failed), flags=flags)
    values = [case.worth[str(verdict)][index] for case, verdict in zip(mine, given, strict=True)]
    value = sum(values) / len(values)
    parts = {
        "cached": sum(case.blocks in asker.found for case in mine) / len(mine),
        "requests": asker.errand.tries / max(1, len(cases)),
    }
    return Score(total=value, parts=parts, flags=_flags(flags, value, prompt))


def _flags(flags: Mapping[str, bool], value: float, prompt: PromptName) -> dict[str, bool]:
    return {**flags, "correct": value == 1.0} if prompt == "correct" else dict(flags)
