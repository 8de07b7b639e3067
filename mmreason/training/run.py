"""One run: its parts, opened once, and what every training loop needs between steps - logs, saves, stops, resumes.

A step is repeatable: everything random in it depends on (seed, step, sample), and a checkpoint always describes the
state BEFORE a step. So a run that was killed anywhere continues from its last checkpoint and ends the same.
"""

from __future__ import annotations

import hashlib
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmreason.algorithms.advantages import NEEDS_CRITIC
from mmreason.config import RewardConfig, RunConfig, leaf_values
from mmreason.encode import Encoder
from mmreason.errors import BudgetError, CheckpointError, ConfigError, StopRequested
from mmreason.evaluation import EvalResult, evaluate
from mmreason.evaluation.dependence import dependence, dependence_lines
from mmreason.order import Order
from mmreason.policy.checkpoint import is_critic
from mmreason.policy.policy import Policy, load_policy
from mmreason.policy.self_check import self_check
from mmreason.processors.pipeline import MediaPipeline
from mmreason.processors.quarantine import Quarantine
from mmreason.rewards import facts
from mmreason.rewards.pool import RewardPool
from mmreason.rollout.base import AnswerEngine, SamplingParams
from mmreason.rollout.engines import rollout_engine
from mmreason.training import checkpoint
from mmreason.training.beside import Beside
from mmreason.training.engine import Engine
from mmreason.training.feed import Feed
from mmreason.training.gallery import Gallery
from mmreason.training.methods import learning_rate_factor, next_temperature, replay_of
from mmreason.training.metrics import MetricsLog, Progress, Stopwatch
from mmreason.training.shaping import Shaping, load_shaping
from mmreason.training.trackers import Trackers
from mmreason.training.watch import Watch
from mmreason.types import Sample, Segment, View

ANNOUNCED = 10
"""How many different reward errors each process prints; all are counted."""


class Run:
    """The open parts of a run. Opened by `mmreason.training.run`; used by the loops in `grpo` and `sft`."""

    def __init__(
        self, config: RunConfig, samples: Sequence[Sample], order: Order, eval_samples: Sequence[Sample], watch: Watch
    ) -> None:
        self.config, self.run_dir, self.watch = config, Path(config.run_dir), watch
        self.engine = Engine(config.train)
        resumed = self._find_checkpoint()
        self.fresh = resumed is None
        self.step = 0 if resumed is None else int(checkpoint.read_state(resumed)["step"])
        if resumed is not None:
            require_same(resumed, self._settings())
        self.policy = self._load_policy(resumed)
        if resumed is not None:
            require_same(resumed, self._model())
        traits = self.policy.family.traits(self.policy.base.config)
        self.pipeline = MediaPipeline(config.media, traits, self.policy.processor, config.data.media_root)
        policy = self.policy
        self.encoder = Encoder(policy.processor, policy.tokenizer, policy.rules, self.pipeline, config.data)
        self.stop_requested = False
        self.rollouts = self._open_rollouts([*samples, *eval_samples])
        # SFT needs no reward to train, but its evaluations have to tell right from wrong.
        self.rewards = RewardPool(config.rewards or (RewardConfig(name="accuracy"),), config.scoring)
        # What was noted after the checkpoint is forgotten, so that the steps are made again as they were.
        noted = self.run_dir / "quarantine.jsonl"
        self.quarantine = Quarantine(noted, config.data.max_bad_fraction, self.engine.rank, until_step=self.step)
        self.feed = self._open_feed(samples, order)
        self.eval_samples = eval_samples
        after = None if resumed is None else self.step
        self.log = MetricsLog(self.run_dir, after_step=after, active=self.engine.is_main)
        self.gallery = Gallery(config, self.log)
        self.timed = Stopwatch(watch.enter)
        self.progress = Progress(config.train.steps, self.step, active=self.engine.is_main, label=config.train.method)
        self._synced: int | None = None  # of which step the rollout engine has the weights
        self.carried: dict[str, float] = {}
        """Numbers that a method hands from each step to the next; saved with the run."""
        self.beside = Beside()
        """Collects for the next step while one is trained on (ahead.py)."""
        self._unsaved = False
        self._announced: set[str] = set()
        if self.engine.is_main:
            (self.run_dir / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        rates = {str(part): rate for part, rate in config.train.learning_rates.items()}
        groups = self.policy.parameter_groups(config.train.learning_rate, rates, config.train.weight_decay)
        self.engine.prepare(self.policy.model, groups)
        # What forwards the reference: the same model with its adapters off, or the frozen copy.
        frozen = self.policy.reference
        self.reference = self.engine.model if frozen is None else self.engine.frozen(frozen.model)
        if self.engine.is_main and self.engine.world > 1:
            self.progress.say(f"mmreason: distributed: {self.engine.describe()}")
        if resumed is not None:
            self._restore(resumed)
        self._mark()
        if self.engine.is_main and config.train.trackers:
            self.log.trackers = Trackers(
                config.train.trackers, self.run_dir, leaf_values(config), step=self.step, resumed=resumed is not None
            )

    def _open_rollouts(self, samples: Sequence[Sample]) -> AnswerEngine:
        return rollout_engine(
            self.config,
            self.policy,
            self.encoder,
            samples,
            self._say,
            rank=self.engine.rank,
            gather=self.engine.gather,
            optimizer_to=self.engine.move_optimizer_state,
            stopping=lambda: self.stop_requested,
        )

    def _open_feed(self, samples: Sequence[Sample], order: Order) -> Feed:
        return Feed(
            samples,
            self.encoder,
            self.quarantine,
            order=order,
            rank=self.engine.rank,
            world=self.engine.world,
            check=self._over_budget,
            replay=replay_of(self.config, self.engine.rank),
        )

    @cached_property
    def shaping(self) -> Shaping:
        """The config's shapers."""
        return load_shaping(self.config)

    def _say(self, line: str) -> None:
        if self.engine.is_main:
            self.progress.say(f"mmreason: {line}")

    def sync(self) -> None:
        """Have answers sampled by the weights of now. Every process calls this."""
        if self.config.rollout.engine == "hf":  # it has no weights of its own
            self.rollouts.weight_version = self.step
        elif self._synced != self.step:
            with self.timed("sync"), self.engine.whole_parameters():
                self.rollouts.take_weights(self.step)
            self._synced = self.step

    # ---- the steps ---------------------------------------------------------------------------------------------------

    def steps(self) -> Iterator[int]:
        """Numbers of the remaining steps (from 1). Evaluates before the first one."""
        for asked in facts(self.config.rewards):
            self.log.write(self.step, "event", {"event": "reward asks a model", **asked})
        if self.fresh:
            self.evaluate()
        while self.step < self.config.train.steps:
            self.engine.set_learning_rate(learning_rate_factor(self.config, self.step))
            self.quarantine.step = self.watch.step = self.step + 1
            yield self.step + 1

    def finish_step(self, step: int, metrics: Mapping[str, float], *, tokens: int) -> None:
        """Log the step; evaluate and save when they are due. `tokens`: what this process forwarded or sampled."""
        train = self.config.train
        seconds = self.timed.lap()
        counts = {"tokens": tokens, "quarantined": self.quarantine.bad, "samples_seen": self.feed.seen}
        if self.feed.replay is not None:
            counts |= {"samples_replayed": self.feed.replay.drawn, "samples_hard": len(self.feed.replay.pool)}
        totals = self.engine.sum(counts)
        rate = train.learning_rate * learning_rate_factor(self.config, step - 1)
        speed = {"learning_rate": rate, "tokens_per_second": totals.pop("tokens") / max(seconds["time/step"], 1e-9)}
        record = {**metrics, **seconds, **speed, **totals}
        self.log.write(step, "train", record)
        self.progress.update(record)
        self.step = step
        self._mark()
        last = step == train.steps
        if last or (train.eval_every and step % train.eval_every == 0):
            self.evaluate()
        if last or step % train.save_every == 0 or self._unsaved:
            self.save(must=last)

    def evaluate(self) -> None:
        """Greedy answers on the held-out data, and on what the contrast view makes of it; one "eval" line."""
        if not self.eval_samples:
            return
        self.sync()
        with self.timed("evaluate"), self.engine.whole_parameters():
            mine = self.eval_samples[self.engine.rank :: self.engine.world]
            rollout = self.config.rollout
            params = SamplingParams(greedy=True, max_new_tokens=rollout.max_new_tokens, stop=rollout.stop)
            parts = (mine, self.encoder, self.rollouts, self.rewards.score, params)
            result = evaluate(*parts)
            view = self.config.grpo.contrast_view if self.config.train.method == "grpo" else None
            changed: dict[View, EvalResult] = {}
            if view is not None:
                changed[view] = evaluate(*parts, view=view, seed=self.config.seed)
        self.rollouts.rest()  # sft and dpo train next
        joined = EvalResult.join(self.engine.gather(result))
        others = {view: EvalResult.join(self.engine.gather(result)) for view, result in changed.items()}
        gaps = dependence(joined, others)
        self.log.write(self.step, "eval", {**joined.metrics(), **gaps})
        if self.engine.is_main:
            self.progress.say("; ".join([f"step {self.step}: {joined.summary()}", *dependence_lines(gaps)]))

    def announce(self, problem: str, where: str) -> None:
        """Say a problem that is otherwise only counted: once, and no more than ANNOUNCED different ones."""
        if problem in self._announced or len(self._announced) > ANNOUNCED:
            return
        self._announced.add(problem)
        full = len(self._announced) > ANNOUNCED
        line = "further problems are only counted, in metrics.jsonl" if full else f"{problem} ({where})"
        self.progress.say(f"mmreason: {line}")

    def _over_budget(self, sample: Sample, prompt: Segment) -> BudgetError | None:
        """Why this sample can never be trained on: with an answer it may not fit in a row."""
        return self.encoder.over_row(sample, prompt.ids.shape[0], self.config)

    @property
    def temperature(self) -> float:
        """What this step samples and scores at: the config's, or where the entropy target has moved it."""
        return next_temperature(self.config, self.carried)

    def share(self, total: int) -> int:
        """This process's part of `total` prompts."""
        return total // self.engine.world + (self.engine.rank < total % self.engine.world)

    # ---- stopping, saving, resuming ----------------------------------------------------------------------------------

    def check_stop(self) -> None:
        """Raises StopRequested on every process as soon as any process was told to stop."""
        if self.engine.sum({"stop": float(self.stop_requested)})["stop"]:
            raise StopRequested

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Signal handler: stop at the next stage boundary; a second Ctrl-C stops at once, without saving."""
        if self.stop_requested and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.stop_requested = True
        self.watch.signalled(signal.Signals(signum).name)

    def save(self, *, must: bool) -> None:
        """Write a checkpoint of the state before the next step. Unless it `must`, a failure is logged and retried."""
        self.watch.enter("save")
        if self.engine.gather(checkpoint.exists(self.run_dir, self.step))[0]:
            return
        try:
            with self.timed("save"):
                checkpoint.save(
                    self.run_dir,
                    self.step,
                    writers=(self._write_model, self._write_rest),
                    is_main=self.engine.is_main,
                    gather=self.engine.gather,
                    keep=self.config.train.keep,
                )
            self._unsaved = False
        except CheckpointError as error:
            if must:
                raise
            self._unsaved = True
            self.log.write(self.step, "event", {"event": "checkpoint not saved", "reason": str(error)})
            if self.engine.is_main:
                self.progress.say(f"mmreason: {error}; training goes on and tries again after the next step")

    def export(self) -> Path:
        """The trained model as an ordinary transformers checkpoint in RUN/model (adapters merged)."""
        self.watch.enter("export")
        final, partial = self.run_dir / "model", self.run_dir / "model.partial"
        state = self.engine.state_dict()

        def write() -> None:
            shutil.rmtree(partial, ignore_errors=True)
            self.policy.save_pretrained(partial, state_dict=state)
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)

        failure = self.engine.gather(checkpoint.attempt(write, final) if self.engine.is_main else None)[0]
        if failure:
            raise CheckpointError(failure)
        return final

    def close(self) -> None:
        """End worker processes, the progress line and, in bounded time, trackers."""
        self.beside.end(self.rollouts.cancel)
        self.rollouts.close()
        self.progress.close()
        self.rewards.close()
        self.pipeline.close()
        self.gallery.close()
        self.log.close(self.step)

    def _mark(self) -> None:
        """Remember the state before the next step: what `save` writes, even when that step has begun."""
        ahead = self.beside.under_way
        self._before: dict[str, Any] = {
            "feed": self.feed.state if ahead is None else ahead.feed_state,
            "random": self.engine.random_state(),
            "carried": self.carried,
        }

    def _write_model(self, folder: Path) -> None:
        """The weights, and what this run is; only the main process has something to write."""
        state = self.engine.state_dict()
        if self.engine.is_main:
            if self.config.model.lora:
                save_file(self._trained_tensors(state), folder / "adapters.safetensors")
            else:
                self.policy.save_pretrained(folder / "model", state_dict=state)
                if self.policy.head.critic is not None:
                    save_file(self._trained_tensors(state, is_critic), folder / "critic.safetensors")
            checkpoint.write_json(folder / "state.json", {"step": self.step, **self._settings(), **self._model()})

    def _write_rest(self, folder: Path) -> None:
        """Optimizer, data position and random state; every process writes its part."""
        self.engine.save_optimizer(folder)
        checkpoint.write_json(folder / f"rank-{self.engine.rank}.json", self._before)

    def _settings(self) -> dict[str, Any]:
        """What a checkpoint must have been written with, as far as the config tells."""
        lora = self.config.model.lora
        return {
            "world": self.engine.world,
            "method": self.config.train.method,
            "model": self.config.model.path,
            "lora": None if lora is None else lora.model_dump(mode="json"),
        }

    def _model(self) -> dict[str, Any]:
        """The same, as the loaded model tells."""
        return {"family": self.policy.family.name, "shapes": fingerprint(self.policy)}

    def _find_checkpoint(self) -> Path | None:
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"run_dir: {self.run_dir}: no folder can be made there ({error.strerror})") from error
        found = checkpoint.latest(self.run_dir) if self.engine.is_main else None
        path: Path | None = self.engine.gather(found)[0]
        return path

    def _load_policy(self, resumed: Path | None) -> Policy:
        model = self.config.model
        weights = resumed / "model" if resumed is not None and not model.lora else None
        if weights is not None:
            model = model.model_copy(update={"path": str(weights)})
        policy = load_policy(model, self.engine.device)
        if self.config.train.method == "grpo" and self.config.grpo.advantage in NEEDS_CRITIC:
            policy.add_critic()
        if resumed is not None:
            _load_trained(policy, resumed, whole=not model.lora)
        if self.config.grpo.kl_coef and self.config.train.method != "sft" and not model.lora:
            # The reference is where training STARTED, also when the policy continues from a checkpoint.
            policy.reference = load_policy(self.config.model, self.engine.device, trained=False)
        if model.self_check and resumed is None:
            self_check(policy)
        return policy

    def _trained_tensors(
        self, gathered: dict[str, Tensor] | None, wanted: Callable[[str], bool] = lambda name: True
    ) -> dict[str, Tensor]:
        whole = self.policy.model.state_dict() if gathered is None else gathered
        return {name: whole[name].detach().cpu().contiguous() for name, _ in self.policy.trained() if wanted(name)}

    def _restore(self, folder: Path) -> None:
        self.engine.load_optimizer(folder)
        rank_state = checkpoint.read_state(folder, f"rank-{self.engine.rank}.json")
        if gone := self.feed.restore(rank_state["feed"]):
            self.announce(f"{len(gone)} hard samples are no longer in data.train and will not come again", gone[0])
        self.engine.set_random_state(rank_state["random"])
        self.carried = rank_state.get("carried", {})  # checkpoints of version 0.1 have none
        if self.engine.is_main:
            self.progress.say(f"mmreason: resumed from {folder} (step {self.step})")


def require_same(folder: Path, mine: Mapping[str, Any]) -> None:
    """Raises CheckpointError when a checkpoint was written with other values of these."""
    stored = checkpoint.read_state(folder)
    for key, value in mine.items():
        if stored[key] != value:
            name = "number of processes" if key == "world" else key
            raise CheckpointError(
                f"{folder}: was written with {name} {stored[key]!r}, this run has {value!r}; "
                "use the same setting, or a new run_dir"
            )


def fingerprint(policy: Policy) -> str:
    """Hash of the names and shapes of all parameters: tells checkpoints of different models apart."""
    named = policy.model.named_parameters()
    # ds_shape: where ZeRO-3 has split it up, a parameter's own shape is (0,).
    shapes = sorted((name, tuple(getattr(parameter, "ds_shape", parameter.shape))) for name, parameter in named)
    return hashlib.sha256(repr(shapes).encode()).hexdigest()


def _load_trained(policy: Policy, folder: Path, *, whole: bool) -> None:
    """Copy what a checkpoint holds beside the model's own weights - adapters, the critic - into the parameters of these
    names. `whole`: the model's weights were loaded with it. Raises CheckpointError when the names differ.
    """
    trained = {name: parameter for name, parameter in policy.trained() if not whole or is_critic(name)}
    file = folder / ("critic.safetensors" if whole else "adapters.safetensors")
    stored = load_file(file) if file.exists() else {}
    if stored.keys() != trained.keys():
        odd = sorted(stored.keys() ^ trained.keys())[0]
        changed = "grpo.advantage" if is_critic(odd) else "model.lora"
        raise CheckpointError(f"{file}: {odd} is on one side only; {changed} changed, use a new run_dir")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(stored[name])
