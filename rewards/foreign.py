"""Rewards written for other trainers, taken as they are. Recognised by the names of their parameters, or as a class:

    TRL        def f(completions, [prompts, completion_ids, COLUMN...,] **kwargs) -> list[float | None]; async, too
    verl       def f(data_source, solution_str, ground_truth, extra_info=None) -> float | {"score": ..}
               def f(data_sources, solution_strs, ground_truths, extra_infos) -> a list of those
    EasyR1     def f(reward_inputs: list[dict]) -> list[{"overall": ..}]; f(reward_input: dict) -> {"overall": ..}
    ms-swift   class C: __call__(self, completions, COLUMN..., **kwargs) -> list[float]; made as C(args=...)

Sources: docs/source/grpo_trainer.md of huggingface/trl; docs/preparation/reward_function.rst and
verl/workers/reward_manager/{naive,batch}.py of volcengine/verl; verl/workers/reward/function.py of hiyouga/EasyR1;
docs/source_en/Instruction/GRPO/DeveloperGuide/reward_function.md and swift/rewards/orm.py of modelscope/ms-swift.
Other parameters of such a function are options of the reward.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from types import CodeType
from typing import Any, Literal, cast

from mmreason.errors import ConfigError, PluginError, RewardError
from mmreason.rewards.base import RewardFn, one_line
from mmreason.types import MediaRef, Rollout, Sample, Score

_TRAINER_ONLY = ("trainer_state", "environments", "reward_router_address", "reward_model_tokenizer")
"""What only the trainers that these functions come from can give."""
_VERL = ("data_source", "solution_str", "ground_truth", "extra_info")
_VERL_BATCH = ("data_sources", "solution_strs", "ground_truths", "extra_infos")
_TRL = ("completions", "completion_ids", "prompts")

Shown = Literal["text", "messages"]
"""How TRL gives an answer: its text, or `[{"role": "assistant", "content": text}]`."""


def as_native(symbol: Any, name: str, options: Mapping[str, Any]) -> Any:
    """Signature A for what is written for TRL, verl, EasyR1 or ms-swift; anything else as it is.

    Raises PluginError for a parameter that only the other trainer can give, and for a class that cannot be made.
    """
    if inspect.isclass(symbol):
        return _from_class(symbol, name, options) if "completions" in _parameters(symbol.__call__) else symbol
    if not callable(symbol):
        return symbol
    parameters = _parameters(symbol)
    names = list(parameters)
    if names[:1] == ["sample"] or names[1:2] == ["rollouts"]:
        return symbol
    kind = getattr(symbol, "__globals__", {}).get("REWARD_TYPE")  # how EasyR1 is told
    if {"solution_str", "ground_truth"} <= set(names):
        return _adapter(symbol, name, _VERL, _verl(symbol, parameters))
    if {"solution_strs", "ground_truths"} <= set(names):
        return _adapter(symbol, name, _VERL_BATCH, _verl_batch(symbol, parameters))
    if names and (names[0] == "reward_inputs" or kind == "batch"):
        return _adapter(symbol, name, names[:1], _easyr1_batch(symbol))
    if names and (names[0] == "reward_input" or kind == "sequential"):
        return _adapter(symbol, name, names[:1], _easyr1(symbol))
    if {"completions", "completion_ids"} & set(names):
        return _from_trl(symbol, name, "messages" if _reads_messages(symbol) else "text")
    return symbol


Score1 = Callable[[Sample, Sequence[Rollout], dict[str, Any]], list[Score]]
"""(sample, rollouts, options) -> scores."""


def _adapter(
    function: Callable[..., Any],
    name: str,
    given: Sequence[str],
    score: Score1,
    extra: Sequence[inspect.Parameter] = (),
    columns: bool = False,
) -> RewardFn:
    """Signature A around `score`. Options are the parameters that are not `given`; with `columns`, those without a
    default may also be columns of the sample."""
    missing = [
        key for key, p in _parameters(function).items() if key in _TRAINER_ONLY and p.default is p.empty and _named(p)
    ]
    if missing:
        raise PluginError(f"{name}: needs {', '.join(missing)}, which only the trainer that it is written for can give")

    @functools.wraps(function)
    def lifted(sample: Sample, rollouts: Sequence[Rollout], **options: Any) -> list[Score]:
        return score(sample, rollouts, options)

    options = [
        p.replace(kind=p.KEYWORD_ONLY, default=None if columns and p.default is p.empty else p.default)
        if _named(p)
        else p
        for key, p in _parameters(function).items()
        if key not in given and p.kind is not p.VAR_POSITIONAL
    ]
    fixed = [inspect.Parameter(key, inspect.Parameter.POSITIONAL_OR_KEYWORD) for key in ("sample", "rollouts")]
    cast(Any, lifted).__signature__ = inspect.Signature([*fixed, *extra, *options])
    return lifted


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # built into Python, say: not one of these
        return {}


def _named(parameter: inspect.Parameter) -> bool:
    return parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)


def _takes_any(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in parameters.values())


# ---- TRL and ms-swift


def _from_trl(function: Callable[..., Any], name: str, shown: Shown) -> RewardFn:
    parameters = _parameters(function)
    switch = inspect.Parameter(
        "completions", inspect.Parameter.KEYWORD_ONLY, default=shown, annotation=Literal["text", "messages"]
    )

    def score(sample: Sample, rollouts: Sequence[Rollout], options: dict[str, Any]) -> list[Score]:
        options = dict(options)
        as_messages = options.pop("completions", shown) == "messages"
        given = {**_columns(sample, len(rollouts)), **_trl_inputs(sample, rollouts, as_messages), **options}
        values = _settled(function(**_wanted(given, parameters)))
        return [_number(value) for value in _counted(values, len(rollouts))]

    return _adapter(function, name, _TRL, score, extra=[switch], columns=True)


def _trl_inputs(sample: Sample, rollouts: Sequence[Rollout], as_messages: bool) -> dict[str, Any]:
    """prompts and completions, a list each, in the same form; completion_ids where there are any."""
    texts: list[Any] = [rollout.text for rollout in rollouts]
    answers = [[{"role": "assistant", "content": text}] for text in texts] if as_messages else texts
    inputs = {"prompts": [_prompt(sample, as_messages)] * len(texts), "completions": answers}
    ids = [list(getattr(rollout, "token_ids", ())) for rollout in rollouts]
    return inputs | ({"completion_ids": ids} if all(ids) else {})


def _prompt(sample: Sample, as_messages: bool) -> Any:
    if not as_messages:
        parts = [part for message in sample.messages for part in message.content]
        return "\n".join(part for part in parts if isinstance(part, str))
    return [{"role": message.role, "content": _content(message.content)} for message in sample.messages]


def _content(parts: Sequence[str | MediaRef]) -> Any:
    """Plain text where there is nothing else, as in TRL's data sets."""
    if all(isinstance(part, str) for part in parts):
        return "\n".join(part for part in parts if isinstance(part, str))
    return [{"type": "text", "text": part} if isinstance(part, str) else {"type": part.kind} for part in parts]


def _columns(sample: Sample, count: int) -> dict[str, list[Any]]:
    """All that is known of the sample by name, `count` times. Its own fields win over meta, and meta over golds."""
    fields = ("id", "answer", "task", "options", "golds", "source", "meta")
    usual = {"solution": sample.answer, "ground_truth": sample.answer}
    values = {**usual, **sample.golds, **sample.meta, **{field: getattr(sample, field) for field in fields}}
    return {str(key): [value] * count for key, value in values.items()}


def _wanted(given: dict[str, Any], parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """What the function takes of what there is. Raises RewardError for what it needs and is not there."""
    for key, parameter in parameters.items():
        if key in given or parameter.default is not parameter.empty or not _named(parameter):
            continue
        if key == "completion_ids":
            raise RewardError("completion_ids: there are none where texts are scored, only where answers are sampled")
        known = ", ".join(sorted(set(given) - set(_TRL)))
        raise RewardError(f"wants the column {key!r}; this sample has {known}; put it into the row, or the options")
    return given if _takes_any(parameters) else {key: value for key, value in given.items() if key in parameters}


def _reads_messages(function: Callable[..., Any]) -> bool:
    """Whether it takes answers out of messages, `completion[0]["content"]`: by its code, as TRL goes by the data set.

    Wrong only where the code that does so is elsewhere: then text is given, and indexing it fails, with an error.
    """
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code is not None and "content" in _constants(code)


def _constants(code: CodeType) -> Iterator[Any]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _constants(constant)
        else:
            yield constant


class _Args:
    """The options of a reward, as the attributes that ms-swift's trainer arguments have."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.__dict__.update(options)

    def __getattr__(self, key: str) -> Any:
        raise AttributeError(f"args.{key} is not given: add {key} to the options of this reward")


def _from_class(cls: type, name: str, options: Mapping[str, Any]) -> RewardFn:
    """An ms-swift reward: made once, with its options as arguments of the constructor or as attributes of `args`."""
    constructor, call = _parameters(cls), _parameters(cls.__call__)
    made_with = {key: value for key, value in options.items() if key in constructor and key != "args"}
    called_with = {key for key in options if key in call or key == "completions"}
    rest = {key: value for key, value in options.items() if key not in made_with and key not in called_with}
    if options.get("completions", "text") not in ("text", "messages"):
        raise ConfigError(
            f"reward {name}: option completions: got {options['completions']!r}, expected text or messages"
        )
    takes_args = "args" in constructor or _takes_any(constructor)
    if rest and not takes_args:
        raise PluginError(f"{name}: takes no option {', '.join(sorted(rest))}")
    try:
        instance = cls(**made_with, **({"args": _Args(rest)} if takes_args else {}))
    except Exception as error:  # foreign code
        raise PluginError(one_line(f"{name}: cannot be made: {type(error).__name__}: {error}")) from error
    lifted = _from_trl(instance.__call__, name, "text")

    def score(sample: Sample, rollouts: Sequence[Rollout], **given: Any) -> list[Score]:
        return list(lifted(sample, rollouts, **{key: given[key] for key in given if key in called_with}))

    return score


# ---- verl


def _verl(function: Callable[..., Any], parameters: Mapping[str, inspect.Parameter]) -> Score1:
    def score(sample: Sample, rollouts: Sequence[Rollout], options: dict[str, Any]) -> list[Score]:
        scores = []
        for rollout in rollouts:
            values = (sample.source, rollout.text, _as_text(sample.answer), _extra_info(sample))
            given = {**dict(zip(_VERL, values, strict=True)), **options}
            scores.append(_named_score(_settled(function(**_only(given, parameters))), "score"))
        return scores

    return score


def _verl_batch(function: Callable[..., Any], parameters: Mapping[str, inspect.Parameter]) -> Score1:
    def score(sample: Sample, rollouts: Sequence[Rollout], options: dict[str, Any]) -> list[Score]:
        count = len(rollouts)
        texts, golds = [rollout.text for rollout in rollouts], [_as_text(sample.answer)] * count
        values = ([sample.source] * count, texts, golds, [_extra_info(sample) for _ in rollouts])
        given = {**dict(zip(_VERL_BATCH, values, strict=True)), **options}
        found = _counted(_settled(function(**_only(given, parameters))), count)
        return [_named_score(value, "score") for value in found]

    return score


def _only(given: dict[str, Any], parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    return given if _takes_any(parameters) else {key: value for key, value in given.items() if key in parameters}


def _extra_info(sample: Sample) -> dict[str, Any]:
    """What verl's rows have under this name, which our reader puts into meta, and all else in meta."""
    own = sample.meta.get("extra_info")
    rest = {key: value for key, value in sample.meta.items() if key != "extra_info"}
    return {**rest, **(own if isinstance(own, Mapping) else {})}


def _as_text(gold: Any) -> Any:
    """Golds are text in verl and EasyR1; lists stay lists."""
    return str(gold) if isinstance(gold, Real) else gold


# ---- EasyR1


class _RewardInput(dict[str, Any]):
    """EasyR1's description of one answer."""

    def __missing__(self, key: str) -> Any:
        if key == "response_length":
            raise RewardError("response_length: tokens are counted where answers are sampled, not where texts are read")
        raise RewardError(f"wants {key!r} of its input, expected response, response_length or ground_truth")


def _reward_input(sample: Sample, rollout: Rollout) -> _RewardInput:
    given = _RewardInput(response=rollout.text, ground_truth=_as_text(sample.answer))
    if rollout.tokens:
        given["response_length"] = rollout.tokens
    return given


def _easyr1_batch(function: Callable[..., Any]) -> Score1:
    def score(sample: Sample, rollouts: Sequence[Rollout], options: dict[str, Any]) -> list[Score]:
        values = _settled(function([_reward_input(sample, rollout) for rollout in rollouts], **options))
        return [_named_score(value, "overall") for value in _counted(values, len(rollouts))]

    return score


def _easyr1(function: Callable[..., Any]) -> Score1:
    def score(sample: Sample, rollouts: Sequence[Rollout], options: dict[str, Any]) -> list[Score]:
        values = [_settled(function(_reward_input(sample, rollout), **options)) for rollout in rollouts]
        return [_named_score(value, "overall") for value in values]

    return score


# ---- what they return


def _settled(value: Any) -> Any:
    """What an `async def` function comes to."""
    if not inspect.isawaitable(value):
        return value
    import asyncio  # for the few rewards that need it

    return asyncio.run(_awaited(value))


async def _awaited(value: Any) -> Any:
    return await value


def _counted(values: Any, count: int) -> Sequence[Any]:
    values = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(values, (list, tuple)) or len(values) != count:
        size = f"{len(values)} values" if isinstance(values, (list, tuple)) else type(values).__name__
        raise RewardError(f"returned {size}, expected a list with one value for each of {count} answers")
    return values


def _number(value: Any) -> Score:
    if value is not None and not isinstance(value, Real):
        raise RewardError(f"returned a list with {type(value).__name__} in it, expected numbers or None")
    return Score(total=None if value is None else float(value))


def _named_score(value: Any, total: str) -> Score:
    """A number, or a dict with the key `total`; its other numbers are parts, its texts (verl's `pred`) are left out."""
    if not isinstance(value, Mapping):
        return _number(value)
    if not isinstance(value.get(total), Real):
        raise RewardError(f"returned a dict with {', '.join(map(str, value)) or 'nothing'}, expected {total!r} in it")
    parts = {str(key): float(part) for key, part in value.items() if key != total and isinstance(part, Real)}
    return Score(total=float(value[total]), parts=parts)
