"""`mmreason eval`: answers to `data.eval` by a checkpoint, in one process or several, kept as they come.

With several processes every one answers its share of each round and all of them meet after it, so that none waits
longer than one round; the main one writes the round's rows in the order of the data.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from mmreason.config import RewardConfig, RunConfig, ScoringConfig
from mmreason.data import load_all
from mmreason.encode import Encoder
from mmreason.errors import ConfigError, MMReasonError
from mmreason.evaluation import EvalResult, EvalRow, ScoreGroups, evaluate
from mmreason.evaluation.dependence import dependence, dependence_lines
from mmreason.evaluation.file import EvalFile, settings_of
from mmreason.policy.policy import Policy, load_policy
from mmreason.processors.pipeline import MediaPipeline
from mmreason.processors.views import VIEWS, applies
from mmreason.rewards import check_rewards
from mmreason.rewards.pool import RewardPool
from mmreason.rollout.base import AnswerEngine, SamplingParams
from mmreason.rollout.engines import rollout_engine
from mmreason.rollout.vllm_setup import require_vllm
from mmreason.training.engine import Engine
from mmreason.training.watch import Watch, watching
from mmreason.types import Sample, View

EngineName = Literal["hf", "vllm"]
VOTING_OPTIONS = ("task", "require_tags", "rel_tol")
"""Options of accuracy that say which answers are the same."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Evaluation:
    """What `evaluate_config` found. Printed, it is the table."""

    result: EvalResult
    views: dict[View, EvalResult]
    """The same with the media changed, for the views that were asked for."""
    rows_file: Path
    """One line per question, with every answer."""
    numbers_file: Path
    """The settings and all numbers."""
    is_main: bool
    """Whether this process is the one that writes and prints."""

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers of `eval.json`."""
        return {**self.result.metrics(), **dependence(self.result, self.views)}

    def __repr__(self) -> str:
        lines = dependence_lines(dependence(self.result, self.views))
        return "\n".join([self.result.table(), *lines, str(self.rows_file)])


def evaluate_config(
    config: RunConfig,
    *,
    model: str | Path | None = None,
    out: str | Path | None = None,
    fresh: bool = False,
    views: Sequence[str] = (),
    sampled: bool = False,
    samples: Sequence[Sample] | None = None,
    engine: EngineName = "hf",
) -> Evaluation:
    """Evaluate `model` (default: `model.path`) on `data.eval`; write eval.jsonl and eval.json to `out` (run_dir).

    Questions that are in eval.jsonl already are not asked again. `views`: also with the media changed in these ways
    (processors/views.py), to tell how much of the accuracy comes from them. `sampled`: a lone answer is sampled, too.
    `samples`: ask these instead of `data.eval`. `engine`: who answers. Raises ConfigError (no eval data; no such view;
    eval.jsonl holds answers under other settings, and not `fresh`; no vLLM), DataError, ModelError, EngineError,
    RewardError.
    """
    if not config.data.eval:
        raise ConfigError("data.eval: empty; name at least one data file")
    require_vllm(engine)
    check_rewards(config.rewards)
    chosen = _checked_views(views)
    config = with_model(config, model)
    asked = load_all(config.data, "eval") if samples is None else list(samples)
    with watching(config.train.timeout_s) as watch:
        return _evaluate(config, asked, Path(out or config.run_dir), fresh, chosen, watch, sampled, engine)


def with_model(config: RunConfig, model: str | Path | None) -> RunConfig:
    """The config with a trained checkpoint as its model; None: model.path."""
    path = config.model.path if model is None else str(model)
    return config.model_copy(update={"model": config.model.model_copy(update={"path": path, "lora": None})})


def _checked_views(names: Sequence[str]) -> tuple[View, ...]:
    known: dict[str, View] = {view: view for view in VIEWS if view != "ordered"}
    for name in names:
        if name not in known:
            raise ConfigError(f"views: {name!r}, expected some of {', '.join(known)}")
    return tuple(dict.fromkeys(known[name] for name in names))


def _evaluate(
    config: RunConfig,
    samples: list[Sample],
    folder: Path,
    fresh: bool,
    views: Sequence[View],
    watch: Watch,
    sampled: bool,
    answering: EngineName,
) -> Evaluation:
    engine = sampling_engine(config)
    if answering == "vllm" and engine.world > 1:
        raise ConfigError(f"--engine vllm: goes with one process, not with {engine.world}; leave it out")
    settings = settings_of(config, samples)
    asked: dict[View, list[Sample]] = {"ordered": samples}
    asked |= {view: [sample for sample in samples if applies(view, sample)] for view in views}
    files = {view: EvalFile(folder, settings, fresh=fresh and engine.is_main, view=view) for view in asked}
    known = {view: {row.id: row for row in _answered(file, engine)} for view, file in files.items()}
    missing = {view: [sample for sample in asked[view] if sample.id not in known[view]] for view in asked}
    if any(missing.values()):
        if engine.is_main:
            files["ordered"].write_numbers(None)
        total, done = sum(map(len, asked.values())), sum(map(len, known.values()))
        opened = _opened(answered_by(config, answering), engine, samples, sampled)
        with opened as answer, _progress(total, done, engine.is_main) as bar:
            for view, part in _rounds(missing, config, engine.world):
                watch.enter(f"round at {bar.n} of {total}")
                rows = _in_order(engine.gather(answer(part[engine.rank :: engine.world], view)))
                if engine.is_main:
                    files[view].append(rows)
                known[view] |= {row.id: row for row in rows}
                bar.update(len(rows))
    results = {view: EvalResult(rows=tuple(known[view][sample.id] for sample in asked[view])) for view in asked}
    file, result = files["ordered"], results.pop("ordered")
    found = Evaluation(
        result=result, views=results, rows_file=file.rows, numbers_file=file.numbers, is_main=engine.is_main
    )
    if engine.is_main:
        file.write_numbers(found.metrics)
    return found


def answered_by(config: RunConfig, engine: EngineName) -> RunConfig:
    """The config with this rollout engine; options of another one are left out."""
    options = config.rollout.options if config.rollout.engine == engine else {}
    rollout = config.rollout.model_copy(update={"engine": engine, "options": options})
    return config.model_copy(update={"rollout": rollout})


def sampling_engine(config: RunConfig) -> Engine:
    """Devices and processes, where nothing is trained."""
    return Engine(config.train.model_copy(update={"deepspeed": None}))


def _answered(file: EvalFile, engine: Engine) -> list[EvalRow]:
    """What the file holds, or why it cannot be used: read by the main process and told to all."""
    found: list[EvalRow] | MMReasonError = []
    if engine.is_main:
        try:
            found = file.load()
        except MMReasonError as error:
            found = error
    found = engine.gather(found)[0]
    if isinstance(found, MMReasonError):
        raise found
    return found


def _rounds(
    missing: Mapping[View, Sequence[Sample]], config: RunConfig, world: int
) -> Iterator[tuple[View, Sequence[Sample]]]:
    """Parts of the data in order, view by view, each as much as all processes decode side by side."""
    size = world * max(1, config.rollout.max_rows // config.eval.n)
    for view, samples in missing.items():
        yield from ((view, samples[start : start + size]) for start in range(0, len(samples), size))


def _in_order(parts: Sequence[EvalResult]) -> list[EvalRow]:
    """Rows of all processes in the order of the data, of which each took every world-th."""
    count = sum(len(part.rows) for part in parts)
    return [parts[index % len(parts)].rows[index // len(parts)] for index in range(count)]


@contextmanager
def _opened(config: RunConfig, engine: Engine, asked: Sequence[Sample], sampled: bool) -> Iterator[Any]:
    """A function from samples and a view to their EvalResult, with model, workers and rewards behind it."""
    n = config.eval.n
    with opened_parts(config, engine, asked) as parts, ExitStack() as stack:
        params = replace(parts.params, greedy=n == 1 and not sampled)
        vote = stack.enter_context(_voters(config)).score if n > 1 else None

        def answer(samples: Sequence[Sample], view: View) -> EvalResult:
            return evaluate(samples, parts.encoder, parts.decoder, parts.score, params, n, vote, config.seed, view)

        yield answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What answers and scores, open."""

    policy: Policy
    encoder: Encoder
    decoder: AnswerEngine
    score: ScoreGroups
    params: SamplingParams
    """As the config has them, sampled."""


@contextmanager
def opened_parts(config: RunConfig, engine: Engine, asked: Sequence[Sample] = ()) -> Iterator[Parts]:
    """The config's model, rollout engine, media workers and rewards. asked: what the engine will be asked."""
    policy = load_policy(config.model, engine.device, trained=False)
    traits = policy.family.traits(policy.base.config)
    rollout = config.rollout
    params = SamplingParams(
        temperature=config.eval.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        max_new_tokens=rollout.max_new_tokens,
        stop=rollout.stop,
    )
    with ExitStack() as stack:
        pipeline = MediaPipeline(config.media, traits, policy.processor, config.data.media_root)
        stack.callback(pipeline.close)
        encoder = Encoder(policy.processor, policy.tokenizer, policy.rules, pipeline, config.data)
        rewards = config.rewards or (RewardConfig(name="accuracy"),)
        score = stack.enter_context(RewardPool(rewards, config.scoring)).score
        decoder = rollout_engine(config, policy, encoder, asked, _say, rank=engine.rank, gather=engine.gather)
        stack.callback(decoder.close)
        decoder.take_weights(0)  # an open vLLM may have another run's
        yield Parts(policy=policy, encoder=encoder, decoder=decoder, score=score, params=params)


def _voters(config: RunConfig) -> RewardPool:
    """Tells which answers are the same, by the options of the config's accuracy reward for each task."""
    given = [reward for reward in config.rewards if reward.name == "accuracy"]
    voters = [
        RewardConfig(
            name="mmreason.rewards.agreement:agreement",
            tasks=reward.tasks,
            options={name: reward.options[name] for name in VOTING_OPTIONS if name in reward.options},
        )
        for reward in (given if any(not reward.tasks for reward in given) else [*given, RewardConfig(name="accuracy")])
    ]
    scoring = ScoringConfig(workers=config.scoring.workers, deadline_s=config.scoring.deadline_s, combine="first")
    return RewardPool(voters, scoring)


def _say(line: str) -> None:
    print(f"eval: {line}", file=sys.stderr, flush=True)


def _progress(total: int, done: int, active: bool) -> Any:
    interval = 0.1 if sys.stderr.isatty() else 10  # seconds; a log file is not redrawn, it grows
    return tqdm(total=total, initial=done, disable=not active, desc="eval", dynamic_ncols=True, mininterval=interval)
