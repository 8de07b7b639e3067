"""The other end of `transfer.Tcp`: a backend of vLLM's weight-transfer interface that reads from a connection.

Only vLLM's workers import this module: it is the one that imports vLLM at once, to make the backend known by its name.
Servers take it as `--worker-extension-cls mmreason.rollout.vllm_transfer.Worker`.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.model_loader import reload as vllm_reload

from mmreason.rollout.vllm_worker import TrainerPositions

reload: Any = vllm_reload  # it has no types

CONNECT_S = 30.0
SILENCE_S = 600.0
"""Longest wait for the next bytes."""


class Worker(TrainerPositions):
    """What vLLM adds to its worker class."""


@dataclass
class TcpInit(WeightTransferInitInfo):  # type: ignore[misc, unused-ignore]  # vLLM has no types for mypy
    """Where the trainer listens, and what it wants to hear first."""

    host: str
    port: int
    secret: str


@dataclass
class TcpUpdate(WeightTransferUpdateInfo):  # type: ignore[misc, unused-ignore]
    """What comes, in this order, as raw bytes one after the other."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]


class TcpWeights(WeightTransferEngine[TcpInit, TcpUpdate]):  # type: ignore[misc, unused-ignore]
    """A connection for each update."""

    init_info_cls, update_info_cls = TcpInit, TcpUpdate
    model: Any
    _connection: socket.socket | None = None

    def init_transfer_engine(self, init_info: TcpInit) -> None:
        self.shutdown()
        self._connection = socket.create_connection((init_info.host, init_info.port), CONNECT_S)
        self._connection.settimeout(SILENCE_S)
        self._connection.sendall(init_info.secret.encode())

    def start_weight_update(self) -> None:
        reload.initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: TcpUpdate) -> None:
        try:
            self.model.load_weights(self._received(update_info))
        finally:
            self.shutdown()  # also tells a trainer that still sends that nobody listens

    def finish_weight_update(self) -> None:
        reload.finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _received(self, update: TcpUpdate) -> Iterator[tuple[str, Tensor]]:
        assert self._connection is not None, "init_transfer_engine comes first"
        for name, dtype_name, shape in zip(update.names, update.dtype_names, update.shapes, strict=True):
            dtype: torch.dtype = getattr(torch, dtype_name)
            content = torch.empty(math.prod(shape) * dtype.itemsize, dtype=torch.uint8)
            _fill(content.numpy().data, self._connection)
            yield name, content.view(dtype).view(shape)


def _fill(rest: memoryview, connection: socket.socket) -> None:
    while rest:
        count = connection.recv_into(rest)
        if count == 0:
            raise EOFError("the trainer ended the connection in the middle of the weights")
        rest = rest[count:]


WeightTransferEngineFactory.register_engine("tcp", TcpWeights)
