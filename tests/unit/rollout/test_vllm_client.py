"""Answers over HTTP while servers die, come back, are late, or have other weights. vLLM itself: tests/integration."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmreason.config import ModelConfig
from mmreason.config.engines import ServerOptions
from mmreason.errors import EngineError, StopRequested
from mmreason.policy.policy import Policy, load_policy
from mmreason.policy.positions import MediaRules
from mmreason.rollout.base import SamplingParams
from mmreason.rollout.fleet import Control, Fleet
from mmreason.rollout.keeper import below
from mmreason.rollout.served import ServedEngine
from mmreason.rollout.servers import ServerProcess, free_ports, healthy
from mmreason.rollout.transfer import Transfer, load_folder
from mmreason.rollout.vllm_client import ServerEngine
from mmreason.rollout.web import Lost, Web
from mmreason.types import Rollout, Segment
from tests.unit.rollout import stand_in

PARAMS = SamplingParams(max_new_tokens=4)
SEEDS = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


class Decoder:
    def text(self, ids: Tensor) -> str:
        return " ".join(map(str, ids.tolist()))


def prompts() -> list[Segment]:
    ids = [torch.arange(5) + start for start in (10, 20, 30)]
    return [Segment(kind="prompt", ids=one, loss_mask=torch.zeros(5, dtype=torch.bool)) for one in ids]


def process(tmp_path: Path, seconds: float, number: int = 0) -> ServerProcess:
    return ServerProcess(
        f"rollout server {number}",
        lambda port: [sys.executable, "-S", stand_in.__file__, str(port), str(seconds)],
        tmp_path / f"server-{number}.log",
    )


def folder(tmp_path: Path, name: str) -> Path:
    made = tmp_path / name
    made.mkdir()
    (made / "weights").write_text(name)
    return made


class Given(Transfer):
    """A folder that the test has made."""

    now: Path

    def take(self, policy: Policy, version: int) -> None:
        raise AssertionError("there is no trainer here")

    def give(self, web: Web, *, new: bool) -> None:
        load_folder(web, self.now, self.load_s)


def given(made: Path) -> Callable[[Transfer], None]:
    def take(transfer: Transfer) -> None:
        assert isinstance(transfer, Given)
        transfer.now = made

    return take


Opened = Callable[..., ServerEngine]
given_up: list[EngineError] = []
"""What a fleet has told of itself."""


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """Engines on servers of their own, which have the weights "first", labelled "run:1"."""
    engines: list[ServerEngine] = []
    given_up.clear()

    def make(*, seconds: float = 0.0, servers: int = 1, restarts: int = 3, deadline_s: float = 60.0) -> ServerEngine:
        said: list[str] = []
        fleet = Fleet(
            Given(tmp_path, 10),
            [process(tmp_path, seconds, number) for number in range(servers)],
            start_s=30,
            restarts=restarts,
            say=said.append,
            give_up=given_up.append,
        )
        fleet.open()
        engine = ServerEngine(
            fleet.urls,
            rules=MediaRules(placeholder={}, wrapper={}),
            fields={},
            banned=[0],
            end_ids=[1],
            decoder=Decoder(),
            concurrency=4,
            deadline_s=deadline_s,
            fleet=fleet,
        )
        engines.append(engine)
        fleet.push(given(folder(tmp_path, "first")), "run:1")
        engine.version, engine.weight_version = "run:1", 1
        return engine

    yield make
    for engine in engines:
        engine.close()


def ids(groups: list[tuple[Rollout, ...]]) -> list[list[list[int]]]:
    return [[rollout.segments[0].ids.tolist() for rollout in group] for group in groups]


def server_pid(engine: ServerEngine, number: int = 0) -> int:
    assert engine.fleet is not None
    kept = engine.fleet.processes[number]._keeper
    assert kept is not None
    return below(kept.pid)[0]


def test_each_answer_is_that_of_its_prompt_and_seed(opened: Opened) -> None:
    one = opened()
    found = one.generate(prompts(), 3, PARAMS, SEEDS)
    assert len({tuple(answer) for group in ids(found) for answer in group}) == 9
    assert found[0][0].finish_reason == "length"
    assert found[0][0].segments[0].weight_version == 1
    assert found[2][1].seed == 8
    assert ids(one.generate(prompts()[1:], 3, PARAMS, SEEDS[1:])) == ids(found)[1:]
    assert one.remade == 0


def test_two_servers_share_the_prompts_and_have_the_same_weights(opened: Opened) -> None:
    engine = opened(servers=2, seconds=0.4)
    began = time.monotonic()
    engine.generate(prompts()[:2], 3, PARAMS, SEEDS[:2])
    assert time.monotonic() - began < 0.75  # one server answers 4 requests at a time
    assert engine.fleet is not None
    assert [Control(url).version() for url in engine.fleet.urls] == ["run:1", "run:1"]


def test_a_server_killed_in_the_middle_comes_back_with_the_weights_and_nothing_is_lost(opened: Opened) -> None:
    engine = opened(seconds=0.4)
    expected = ids(engine.generate(prompts(), 3, PARAMS, SEEDS))
    threading.Timer(0.6, os.kill, (server_pid(engine), signal.SIGKILL)).start()
    assert ids(engine.generate(prompts(), 3, PARAMS, SEEDS)) == expected
    assert engine.fleet is not None
    assert engine.fleet.restarted == 1
    assert engine.remade > 0


def test_a_server_that_dies_too_often_ends_the_run(opened: Opened) -> None:
    engine = opened(seconds=0.4, restarts=0)
    threading.Timer(0.2, os.kill, (server_pid(engine), signal.SIGKILL)).start()
    with pytest.raises(EngineError, match=r"rollout server 0 died, and was started again 0 times already .*restarts"):
        engine.generate(prompts(), 3, PARAMS, SEEDS)
    assert engine.fleet is not None
    assert given_up == [engine.fleet.failure]


def test_a_stop_does_not_wait_for_servers_that_start(tmp_path: Path) -> None:
    slow = ServerProcess("rollout server 0", lambda port: ["sleep", "600"], tmp_path / "server-0.log")
    fleet, began = Fleet(Given(tmp_path, 10), [slow], start_s=300), time.monotonic()
    with pytest.raises(StopRequested):
        fleet.open(lambda: time.monotonic() > began + 1)
    assert time.monotonic() - began < 20
    assert not slow.alive


def test_all_processes_learn_that_the_servers_are_given_up(tiny_vl: Path, tmp_path: Path) -> None:
    """Rank 1 waits for a server that is gone, and rank 0, which alone knows that it will not come back, for rank 1."""
    told: list[tuple[object, ...]] = []
    parts = (load_policy(ModelConfig(path=str(tiny_vl))), Decoder(), {"dtype": "float32"}, ServerOptions(), tmp_path)
    first = ServedEngine(*parts)
    second = ServedEngine(*parts, rank=1, gather=lambda mine: told)
    (port,) = free_ports(["127.0.0.1"])
    told.append((None, [f"http://127.0.0.1:{port}"], f"{first._run}:1"))
    second.take_weights(1)
    (tmp_path / "rollout").mkdir()
    threading.Timer(0.5, first._give_up, [EngineError("rollout server 0 died")]).start()
    with pytest.raises(EngineError, match="rollout server 0 died"):
        second.generate(prompts(), 3, PARAMS, SEEDS)
    first.close()
    assert not list((tmp_path / "rollout").iterdir())
    second.close()


def test_answers_by_other_weights_are_not_taken(opened: Opened) -> None:
    engine = opened()
    expected = ids(engine.generate(prompts(), 3, PARAMS, SEEDS))
    assert engine.fleet is not None
    Control(engine.fleet.urls[0]).label("default")  # as if it had been started again by someone else
    assert ids(engine.generate(prompts(), 3, PARAMS, SEEDS)) == expected
    assert engine.remade > 0


def test_an_answer_that_a_server_gave_up_is_asked_for_again(opened: Opened) -> None:
    engine = opened()
    expected = ids(engine.generate(prompts(), 3, PARAMS, SEEDS))
    assert engine.fleet is not None
    Web(engine.fleet.urls[0]).post("/give_up_next", {}, 5)
    assert ids(engine.generate(prompts(), 3, PARAMS, SEEDS)) == expected
    assert engine.remade == 1


def test_new_weights_give_new_answers_of_the_new_version(opened: Opened, tmp_path: Path) -> None:
    engine = opened()
    before = ids(engine.generate(prompts(), 3, PARAMS, SEEDS))
    assert engine.fleet is not None
    engine.fleet.push(given(folder(tmp_path, "second")), "run:2")
    engine.version, engine.weight_version = "run:2", 2
    after = engine.generate(prompts(), 3, PARAMS, SEEDS)
    assert ids(after) != before
    assert after[0][0].segments[0].weight_version == 2


def test_a_wait_ends_at_its_deadline_and_says_for_what_it_was(opened: Opened) -> None:
    engine = opened(seconds=30, deadline_s=0.5)
    began = time.monotonic()
    with pytest.raises(
        EngineError, match=r"waited 0.5 s for answers by the weights of step 1 from http://127\.0\.0\.1:"
    ):
        engine.generate(prompts(), 3, PARAMS, SEEDS)
    assert time.monotonic() - began < 10


def test_sampling_is_cancelled_and_the_engine_goes_on(opened: Opened) -> None:
    engine = opened(seconds=1.0)
    threading.Timer(0.3, engine.cancel).start()
    began = time.monotonic()
    with pytest.raises(EngineError, match="cancelled"):
        engine.generate(prompts(), 3, PARAMS, SEEDS)
    assert time.monotonic() - began < 2.5
    assert len(engine.generate(prompts(), 1, PARAMS, [[1], [2], [3]])) == 3


def test_a_call_that_begins_while_the_engine_closes_is_not_waited_for(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = opened(seconds=6.0)
    late = threading.Thread(target=_cancelled, args=[engine], daemon=True)
    cancel = engine.cancel

    def cancel_before_the_call() -> None:
        cancel()
        late.start()
        late.join(1.0)

    with monkeypatch.context() as patched:
        patched.setattr(engine, "cancel", cancel_before_the_call)
        began = time.monotonic()
        engine.close()
    assert time.monotonic() - began < 5
    assert not late.is_alive()


def _cancelled(engine: ServerEngine) -> None:
    with pytest.raises(EngineError, match="cancelled"):
        engine.generate(prompts(), 1, PARAMS, [[1], [2], [3]])


def test_no_request_comes_after_the_last_cut(tmp_path: Path) -> None:
    served = process(tmp_path, 0)
    served.start()
    served.wait_until_healthy(30)
    webs = [Web(served.url, keep=True), Web(served.url, keep=True)]
    webs[0].get("/weight_info", 5)  # one with a connection that was kept, and one without
    for web in webs:
        web.cut(last=True)
        with pytest.raises(Lost, match="cut"):
            web.get("/weight_info", 5)
        web.close()
    served.stop()


def test_a_request_that_is_cut_is_not_sent_again_on_a_connection_that_was_kept(tmp_path: Path) -> None:
    served = process(tmp_path, 2.0)
    served.start()
    served.wait_until_healthy(30)
    web = Web(served.url, keep=True)
    web.get("/weight_info", 5)
    threading.Timer(0.3, web.cut).start()
    began = time.monotonic()
    with pytest.raises(Lost):
        web.post("/inference/v1/generate", {"token_ids": [5], "sampling_params": {"seed": 1, "max_tokens": 1}}, 30)
    assert time.monotonic() - began < 1.5
    web.close()
    served.stop()


def test_a_server_that_fails_as_it_is_started_again_is_tried_again(tmp_path: Path) -> None:
    mark = tmp_path / "starts"
    code = (
        "import runpy, sys; from pathlib import Path; mark = Path(sys.argv[3]); "
        "mark.write_text(mark.read_text() + 'x' if mark.exists() else 'x'); "
        "len(mark.read_text()) == 2 and sys.exit('no memory yet'); "
        f"runpy.run_path({stand_in.__file__!r}, run_name='__main__')"
    )
    served = ServerProcess(
        "rollout server 0",
        lambda port: [sys.executable, "-S", "-c", code, str(port), "0", str(mark)],
        tmp_path / "server.log",
    )
    fleet = Fleet(Given(tmp_path, 10), [served], start_s=30, restarts=3, say=lambda line: None)
    fleet.open()
    assert served._keeper is not None
    os.kill(below(served._keeper.pid)[0], signal.SIGKILL)
    end = time.monotonic() + 30
    while not (mark.read_text() == "xxx" and healthy(served.url)):
        assert time.monotonic() < end, fleet.failure
        time.sleep(0.1)
    assert fleet.failure is None
    assert fleet.restarted == 2
    fleet.close()


def test_a_server_that_is_well_and_refuses_weights_ends_the_run_at_once(tmp_path: Path) -> None:
    fleet = Fleet(Given(tmp_path, 10), [process(tmp_path, 0)], start_s=30, rules="{}", say=lambda line: None)
    fleet.open()
    with pytest.raises(EngineError, match=r"collective_rpc: HTTP 500.*does not take the weights"):
        fleet.push(given(folder(tmp_path, "first")), "run:1")
    fleet.close()


def test_servers_of_others_are_looked_for(tmp_path: Path) -> None:
    absent = Fleet(Given(tmp_path, 10), urls=["http://127.0.0.1:9"])
    with pytest.raises(EngineError, match=r"no rollout server answers: http://127\.0\.0\.1:9.*urls"):
        absent.open()


def test_a_reply_that_is_an_error_is_told_apart_from_none(tmp_path: Path) -> None:
    served = process(tmp_path, 0)
    served.start()
    served.wait_until_healthy(30)
    web = Web(served.url)
    assert web.get("/weight_info", 5) == {"weight_version": "default"}
    served.stop()
    assert not healthy(served.url)
    with pytest.raises(Lost, match="weight_info"):
        web.get("/weight_info", 5)
    served.start()
    served.wait_until_healthy(30)
    assert web.get("/weight_info", 5) == {"weight_version": "default"}  # by a new connection
    served.stop()
