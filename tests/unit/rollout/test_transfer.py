"""Connections for weights: who may take them. What travels over them is tried with vLLM: tests/integration."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest
import torch

from mmreason.rollout import transfer
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
    kept = Tcp(tmp_path, 5)
    kept._tensors = [
        ("a", torch.randn(300, 7).to(torch.bfloat16)),
        ("b", torch.tensor(2.5)),
        ("c", torch.arange(5, dtype=torch.int64)),
    ]
    expected = b"".join(tensor.flatten().view(torch.uint8).numpy().tobytes() for _, tensor in kept._tensors)
    with socket.create_server(("127.0.0.1", 0)) as server, _listening(url_of(server), 5) as own:
        ends = [connected(own, SECRET) for _ in range(2)]
        workers = list(_accepted(own, 2, SECRET))
        sending = threading.Thread(target=kept._send, args=(workers,))
        sending.start()
        assert [end.makefile("rb").read(len(expected)) for end in ends] == [expected, expected]
        sending.join(5)
        for connection in (*ends, *workers):
            connection.close()
    described = kept._described()
    assert described == {
        "names": ["a", "b", "c"],
        "dtype_names": ["bfloat16", "float32", "int64"],
        "shapes": [[300, 7], [], [5]],
    }


def test_who_does_not_know_the_secret_gets_nothing_and_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "SPEAK_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        strangers = [connected(listener, said) for said in ("0" * len(SECRET), "", SECRET[:5])]
        with connected(listener, SECRET) as own:
            (worker,) = _accepted(listener, 1, SECRET)
            assert worker.getpeername() == own.getsockname()
            assert worker.gettimeout() == 5
            worker.close()
        for stranger in strangers:
            assert stranger.recv(1) == b""
            stranger.close()


def test_a_worker_that_reads_too_slowly_costs_no_more_than_the_time_for_all(tmp_path: Path) -> None:
    kept = Tcp(tmp_path, 0.3)
    kept._tensors = [(str(number), torch.zeros(1 << 18)) for number in range(40)]
    reader, worker = socket.socketpair()
    reader.settimeout(5)
    ended = threading.Event()

    def trickle() -> None:  # each tensor in less than the time for all, all in much more
        while not ended.is_set():
            reader.recv(1 << 20)
            time.sleep(0.05)

    reading = threading.Thread(target=trickle)
    reading.start()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        kept._send([worker])
    assert time.monotonic() - began < 0.9
    ended.set()
    worker.close()
    reading.join(5)
    reader.close()


def test_workers_that_do_not_come_and_servers_that_are_gone_are_lost() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = url_of(server)
        with pytest.raises(Lost, match="timed out"), _listening(url, 0.2) as listener:
            list(_accepted(listener, 1, SECRET))
    with pytest.raises(Lost, match="refused"), _listening(url, 0.2):
        pass
