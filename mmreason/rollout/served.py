"""vLLM servers as the engine of a run: opened by rank 0, asked by all, given the trainer's weights after each update.

A folder with all weights, which trainer and servers see under the same name, is written once, for servers that are new;
after that only what training changes is handed over (transfer.py).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from mmreason.config.engines import ServerOptions
from mmreason.errors import EngineError, MMReasonError, StopRequested
from mmreason.policy.policy import Policy
from mmreason.rollout.base import Answer, AnswerEngine, Context, SamplingParams, TextDecoder
from mmreason.rollout.fleet import Fleet
from mmreason.rollout.servers import ServerProcess, flags
from mmreason.rollout.transfer import TRANSFERS
from mmreason.rollout.vllm_client import Place, ServerEngine
from mmreason.rollout.vllm_worker import TRANSFER_WORKER, rules_text
from mmreason.rollout.weights import Canary, write_weights

ENVIRONMENT = {
    "VLLM_SERVER_DEV_MODE": "1",  # the routes that take weights
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # servers beside each other, and beside the trainer
}
SERVER_ARGUMENTS = {"enable_scale_out": True, "disable_uvicorn_access_log": True}
"""Beside those of every engine: the route that takes token ids and processed media."""

Gather = Callable[[Any], list[Any]]
"""One value from every process, in the order of their ranks (`training.engine.Engine.gather`)."""


class ServedEngine(ServerEngine):
    """Samples from the servers of a run. arguments: of vLLM's engine, as `vllm_setup.engine_arguments` makes them."""

    def __init__(
        self,
        policy: Policy,
        decoder: TextDecoder,
        arguments: Mapping[str, Any],
        options: ServerOptions,
        run_dir: Path,
        *,
        rank: int = 0,
        gather: Gather = lambda value: [value],
        say: Callable[[str], None] = lambda line: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(
            (),
            rules=policy.rules,
            fields=policy.family.engine_fields,
            banned=policy.banned.tolist(),
            end_ids=policy.end_ids,
            decoder=decoder,
            concurrency=options.concurrency,
            deadline_s=options.deadline_s,
            first=rank,
        )
        self.policy, self.arguments, self.options = policy, dict(arguments), options
        self._folder, self._rank, self._gather, self._say = run_dir / "rollout", rank, gather, say
        self._stopping, self._run = stopping, secrets.token_hex(4)
        self._canaries: list[Canary] = []

    def take_weights(self, version: int) -> None:
        """Have every server take the policy's weights, and ask the canary. All processes call it.

        Parameters must be whole (`Engine.whole_parameters`). The servers are opened the first time. Raises EngineError,
        and StopRequested where rank 0 was told to stop while they started.
        """
        label = f"{self._run}:{version}"
        failure = self._attempt(label, version) if self._rank == 0 else None
        urls = self.fleet.urls if self.fleet is not None else []
        failure, urls, label = self._gather((failure, urls, label))[0]
        if failure is not None:
            raise failure
        if self._rank != 0 and not self._places:
            self.use(urls)
        self.version, self.weight_version = label, version

    def counts(self) -> dict[str, float]:
        """`rollout/restarts` of servers and `rollout/remade`, answers asked for again, since the run began."""
        restarts = self.fleet.restarted if self.fleet is not None else 0
        return {"rollout/restarts": float(restarts), "rollout/remade": float(self.remade)}

    def close(self) -> None:
        """Cancel, stop the servers that are ours, and take away the weights that were for them."""
        super().close()
        if self._rank == 0:
            for folder in self._folder.glob("weights-*"):
                shutil.rmtree(folder, ignore_errors=True)
            self._verdict(self._run).unlink(missing_ok=True)

    def _failure(self) -> EngineError | None:
        """Why the servers are given up: what rank 0's fleet says, the others read."""
        if self._rank == 0:
            return super()._failure()
        with contextlib.suppress(OSError):
            return EngineError(self._verdict(self.version).read_text(encoding="utf-8"))
        return None

    def _give_up(self, failure: EngineError) -> None:
        """Tell the other processes, which may be waiting for a server while rank 0 waits for them."""
        verdict = self._verdict(self._run)
        partial = verdict.with_suffix(".partial")
        with contextlib.suppress(OSError):  # a full disk; rank 0 knows, and the others have their deadline
            partial.write_text(str(failure), encoding="utf-8")
            partial.rename(verdict)

    def _verdict(self, label: str) -> Path:
        """Where it stands; the name is of this start of the run alone."""
        return self._folder / f"failure-{label.partition(':')[0]}"

    def _attempt(self, label: str, version: int) -> EngineError | StopRequested | None:
        """Open and push, on rank 0; why that failed, for the others to know."""
        try:
            if self.fleet is None:
                self._open()
            assert self.fleet is not None
            self.fleet.push(lambda transfer: transfer.take(self.policy, version), label)
            self.version, self.weight_version = label, version
            for place, canary in zip(self._places, self._canaries, strict=True):
                canary.check(_One(self, place))
        except StopRequested as stopped:
            return stopped
        except (MMReasonError, OSError, SafetensorError, RuntimeError) as error:  # the disk, or memory, may be full
            return EngineError(" ".join(str(error).split()))
        return None

    def _open(self) -> None:
        options, policy = self.options, self.policy
        frozen = self._folder / "weights-all"
        write_weights(policy, frozen, whole=True)
        processes = [] if options.urls else [self._process(number) for number in range(options.servers)]
        fleet = Fleet(
            TRANSFERS[options.transfer](self._folder, options.load_s),
            processes,
            options.urls,
            start_s=options.start_s,
            restarts=options.restarts,
            rules=rules_text(policy.rules),
            frozen=frozen,
            say=self._say,
            give_up=self._give_up,
        )
        where = f"{len(processes)} vLLM servers (may take minutes)" if processes else ", ".join(options.urls)
        self._say(f"{'starting' if processes else 'looking for'} {where}")
        fleet.open(self._stopping)
        self.fleet = fleet
        self.use(fleet.urls)
        gap, exact = max(1e-3, 10 * options.logprob_gap), self.arguments["dtype"] == "float32"
        self._canaries = [Canary(policy, gap, exact=exact) for _ in fleet.urls]

    def _process(self, number: int) -> ServerProcess:
        options = self.options
        arguments = {**self.arguments, **SERVER_ARGUMENTS, "host": options.host, "max_num_seqs": options.concurrency}
        if backend := TRANSFERS[options.transfer].backend:
            arguments |= {"weight_transfer_config": {"backend": backend}, "worker_extension_cls": TRANSFER_WORKER}
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *flags(arguments)]
        devices = {"CUDA_VISIBLE_DEVICES": options.devices[number]} if options.devices else {}
        given = {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}
        return ServerProcess(
            f"rollout server {number}",
            lambda port: [*command, "--port", str(port)],
            self._folder / f"server-{number}.log",
            host=options.host,
            environment={**given, **devices},
        )


class _One(AnswerEngine):
    """One of the servers."""

    def __init__(self, engine: ServerEngine, place: Place) -> None:
        self._engine, self._place = engine, place

    def sample(self, contexts: Sequence[Context], params: SamplingParams, seeds: Sequence[int]) -> list[Answer]:
        return self._engine.sample_at([self._place], contexts, params, seeds)
