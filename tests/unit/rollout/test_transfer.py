"""Connections for weights: who may take them. What travels over them is tried with vLLM: tests/integration."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
import torch

from mmreason.errors import EngineError
from mmreason.rollout.transfer import Tcp, _accepted, _listening
from mmreason.rollout.web import Lost

SECRET = "0123456789abcdef"


def url_of(server: socket.socket) -> str:
    return f"http://127.0.0.1:{server.getsockname()[1]}"


def connected(listener: socket.socket, said: str) -> socket.socket:
    connection = socket.create_connection(listener.getsockname(), 5)
    connection.sendall(said.encode())
    return connection


def test_the_weights_go_to_each_worker_in_order_as_they_are(tmp_path: Path) -> None:
    transfer = Tcp(tmp_path, 5)
    transfer._tensors = [
        ("a", torch.randn(300, 7).to(torch.bfloat16)),
        ("b", torch.tensor(2.5)),
        ("c", torch.arange(5, dtype=torch.int64)),
    ]
    expected = b"".join(tensor.flatten().view(torch.uint8).numpy().tobytes() for _, tensor in transfer._tensors)
    with socket.create_server(("127.0.0.1", 0)) as server, _listening(url_of(server), 5) as own:
        ends = [connected(own, SECRET) for _ in range(2)]
        workers = list(_accepted(own, 2, SECRET))
        sending = threading.Thread(target=transfer._send, args=(workers,))
        sending.start()
        assert [end.makefile("rb").read(len(expected)) for end in ends] == [expected, expected]
        sending.join(5)
        for connection in (*ends, *workers):
            connection.close()
    described = transfer._described()
    assert described == {
        "names": ["a", "b", "c"],
        "dtype_names": ["bfloat16", "float32", "int64"],
        "shapes": [[300, 7], [], [5]],
    }


def test_who_does_not_know_the_secret_gets_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        with connected(listener, "0" * len(SECRET)), pytest.raises(EngineError, match=r"127\.0\.0\.1 .*secret"):
            list(_accepted(listener, 1, SECRET))


def test_workers_that_do_not_come_and_servers_that_are_gone_are_lost() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = url_of(server)
        with pytest.raises(Lost, match="timed out"), _listening(url, 0.2) as listener:
            list(_accepted(listener, 1, SECRET))
    with pytest.raises(Lost, match="refused"), _listening(url, 0.2):
        pass
