"""How new weights get from rank 0 to a vLLM server (`rollout.options.transfer`).

    folder   a folder that both see under the same name
    tcp      a connection to each of the server's workers; no disk in between, and no GPU is needed
    nccl     vLLM's own broadcast between GPUs, which must not be the same ones

What a new server starts from, all weights, is always in a folder (served.py). The last two go through vLLM's
weight-transfer interface: open, start, update, finish. What was taken from the trainer is kept until the next update,
so that a server that is started again between two gets the weights that it should have.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import shutil
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from mmreason.errors import EngineError
from mmreason.policy.policy import Policy
from mmreason.rollout.web import Lost, Web
from mmreason.rollout.weights import engine_weights, write_weights

QUICK_S = 30.0
"""Longest wait for a small command to a server that is well."""
SPEAK_S = 5.0
"""Longest wait for the secret of who connects."""


class Transfer(ABC):
    """The newest weights, for any server. load_s: how long one server may take to load them."""

    backend: str | None = None
    """What vLLM's weight_transfer_config of the servers has to name."""

    def __init__(self, folder: Path, load_s: float) -> None:
        self.folder, self.load_s = folder, load_s

    @abstractmethod
    def take(self, policy: Policy, version: int) -> None:
        """Keep what training changed in place of what was kept. Parameters must be whole. Raises OSError."""

    @abstractmethod
    def give(self, web: Web, *, new: bool) -> None:
        """Have a server load what is kept; `new`: it may be another process than the last time.

        Raises Lost and EngineError. Called from several threads, for a server each.
        """


class Folder(Transfer):
    """Through `FOLDER/weights-STEP`."""

    def take(self, policy: Policy, version: int) -> None:
        self._now = self.folder / f"weights-{version}"
        write_weights(policy, self._now)
        for old in self.folder.glob("weights-[0-9]*"):
            if old != self._now:
                shutil.rmtree(old, ignore_errors=True)

    def give(self, web: Web, *, new: bool) -> None:
        load_folder(web, self._now, self.load_s)


def load_folder(web: Web, folder: Path, timeout_s: float) -> None:
    """Have a server take the weights in a folder; others stay as they are. Raises Lost and EngineError."""
    wanted = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}, "timeout": timeout_s}
    web.post("/collective_rpc", wanted, timeout_s)


class _Kept(Transfer):
    """Weights as a copy in the memory of the host."""

    def take(self, policy: Policy, version: int) -> None:
        self._tensors = [(name, tensor.cpu().contiguous().clone()) for name, tensor in engine_weights(policy)]

    def _described(self) -> dict[str, Any]:
        """Names, dtypes and shapes, as updates have them in vLLM's interface."""
        return {
            "names": [name for name, _ in self._tensors],
            "dtype_names": [str(tensor.dtype).removeprefix("torch.") for _, tensor in self._tensors],
            "shapes": [list(tensor.shape) for _, tensor in self._tensors],
        }


class Tcp(_Kept):
    """A connection to each worker for each update; vllm_transfer.py is its other end.

    It listens where this machine talks to the server from, for workers that know a secret of this update.
    """

    backend = "tcp"

    def give(self, web: Web, *, new: bool) -> None:
        """Open, start, send while the server loads, finish."""
        interface = Interface(web, self.load_s)
        with _listening(web.url, self.load_s) as listener, ExitStack() as connections:
            host, port = listener.getsockname()[:2]
            secret = secrets.token_hex(16)
            interface.init_weight_transfer_engine({"host": host, "port": port, "secret": secret})
            workers = [connections.enter_context(one) for one in _accepted(listener, interface.workers(), secret)]
            interface.start_weight_update()
            interface.while_updating(self._described(), lambda: self._send(workers))
            interface.finish_weight_update()

    def _send(self, workers: Sequence[socket.socket]) -> None:
        end = time.monotonic() + self.load_s
        for _, tensor in self._tensors:
            content = tensor.flatten().view(torch.uint8).numpy()
            for worker in workers:
                worker.settimeout(max(end - time.monotonic(), 0.001))
                worker.sendall(content.data)


class Nccl(_Kept):
    """vLLM's broadcast from this process's GPU, with a group per server that lasts until the server is another one."""

    backend = "nccl"

    def __init__(self, folder: Path, load_s: float) -> None:
        super().__init__(folder, load_s)
        self._groups: dict[str, Any] = {}

    def take(self, policy: Policy, version: int) -> None:
        super().take(policy, version)
        self._device = policy.device

    def give(self, web: Web, *, new: bool) -> None:
        """Broadcast, and open the group before where there is none. NCCL waits for ever, so a thread is left behind."""
        ended: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        threading.Thread(target=self._broadcast, args=(web, new, ended), name="nccl weights", daemon=True).start()
        try:
            error = ended.get(timeout=self.load_s)
        except queue.Empty:
            raise EngineError(
                f"{web.url} has not taken the weights by NCCL after {self.load_s:g} s (rollout.options.load_s); "
                "rollout.options.transfer: tcp needs no NCCL"
            ) from None
        if error is not None:
            raise error

    def _broadcast(self, web: Web, new: bool, ended: queue.SimpleQueue[Exception | None]) -> None:
        try:
            torch.cuda.set_device(self._device)  # of this thread
            if new or web.url not in self._groups:
                self._groups[web.url] = self._open(web)
            self._groups[web.url].send_weights()
            ended.put(None)
        except Exception as error:  # the boundary of the thread
            ended.put(error if isinstance(error, Lost | EngineError) else EngineError(f"{web.url}: NCCL: {error}"))

    def metadata(self) -> list[Any]:
        """What vLLM's `WeightSource.metadata` gives."""
        from vllm.distributed.weight_transfer.base import ParamMeta

        return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self._tensors]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, tensor.to(self._device)) for name, tensor in self._tensors)

    def _open(self, web: Web) -> Any:
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine

        interface = Interface(web, self.load_s)
        with _listening(web.url, self.load_s) as listener:
            host, port = listener.getsockname()[:2]
        info = NCCLTrainerInitInfo(host, port, 1 + interface.workers(), rank=0)
        source: Any = self  # by what it has, a WeightSource
        return NCCLTrainerWeightTransferEngine.trainer_init(info, client=interface, source=source)


TRANSFERS: dict[str, type[Transfer]] = {"folder": Folder, "tcp": Tcp, "nccl": Nccl}


class Interface:
    """The routes of vLLM's weight-transfer interface, by the names of its `VLLMWeightSyncClient`.

    All raise Lost and EngineError.
    """

    def __init__(self, web: Web, load_s: float) -> None:
        self._web, self._load_s = web, load_s

    def workers(self) -> int:
        """Over how many processes the server's model is spread."""
        return int(self._web.get("/get_world_size", QUICK_S)["world_size"])

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._web.post("/init_weight_transfer_engine", {"init_info": init_info}, self._load_s)

    def start_weight_update(self) -> None:
        self._web.post("/start_weight_update", {}, self._load_s)

    def update_weights(self, update_info: Any) -> None:
        self._web.post("/update_weights", {"update_info": update_info}, self._load_s)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._web.post("/finish_weight_update", {"weight_version": weight_version}, self._load_s)

    def while_updating(self, update_info: dict[str, Any], send: Callable[[], None]) -> None:
        """`send` while the server waits for what `update_info` announces."""
        with ThreadPoolExecutor(1) as pool:
            loaded = pool.submit(self.update_weights, update_info)
            try:
                send()
            except OSError as error:  # the worker closed its end: its own error says more, where there is one
                loaded.result()
                raise Lost(f"{self._web.url}: the connection for its weights broke ({error})") from None
            loaded.result()


@contextmanager
def _listening(url: str, timeout_s: float) -> Iterator[socket.socket]:
    """A free port at the address from which this machine talks to the server."""
    place = urlsplit(url)
    try:
        with socket.create_connection((place.hostname or "", place.port or 80), QUICK_S) as probe:
            own = probe.getsockname()[0]
        with socket.create_server((own, 0), family=socket.AF_INET6 if ":" in own else socket.AF_INET) as listener:
            listener.settimeout(timeout_s)
            yield listener
    except OSError as error:
        raise Lost(f"{url}: no connection for its weights ({error})") from None


def _accepted(listener: socket.socket, workers: int, secret: str) -> Iterator[socket.socket]:
    """Connections of the workers, within the listener's time; a stranger's is closed, and counts for nothing."""
    patience, found = listener.gettimeout(), 0
    end = time.monotonic() + (patience or 0.0)
    while found < workers:
        listener.settimeout(max(end - time.monotonic(), 0.001))
        connection, _ = listener.accept()
        if secrets.compare_digest(_first_words(connection, len(secret)), secret.encode()):
            connection.settimeout(patience)
            found += 1
            yield connection
        else:
            connection.close()


def _first_words(connection: socket.socket, count: int) -> bytes:
    """What it says at once; less, where it is silent or ends."""
    connection.settimeout(SPEAK_S)
    said = b""
    with contextlib.suppress(OSError):
        while len(said) < count and (more := connection.recv(count - len(said))):
            said += more
    return said
