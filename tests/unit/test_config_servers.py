"""Options of rollout servers, and `rollout.ahead`: what is refused, in which words."""

from __future__ import annotations

from typing import Any

import pytest

from mmreason.errors import ConfigError
from tests.unit.test_config_engines import CORRECTED, built

FOUND = {"urls": ["http://10.0.3.7:8000"]}


@pytest.mark.parametrize(
    ("rollout", "grpo", "line"),
    [
        ({"options": {"devices": ["0"], "servers": 2}}, {}, "devices: 1 entries for 2 servers; give one for each"),
        ({"options": {"urls": ["10.0.3.7:8000"]}}, {}, "urls: '10.0.3.7:8000'; expected addresses such as 'http://"),
        ({"options": {"urls": ["http://10.0.3.7:80000"]}}, {}, "urls: 'http://10.0.3.7:80000'; expected addresses"),
        ({"options": {"urls": ["http://a:b"]}}, {}, "urls: 'http://a:b'; expected addresses"),
        ({"options": {"urls": 2 * FOUND["urls"]}}, {}, "expected each server once"),
        ({"options": {**FOUND, "servers": 2}}, {}, "options.servers: is of servers that the run starts, and"),
        ({"options": {**FOUND, "host": "10.0.3.7"}}, {}, "options.host: is of servers that the run starts"),
        ({"options": {"sleep": True}}, {}, "no option of rollout.engine server"),
        ({"engine": "vllm", "ahead": 1}, {}, "ahead: 1, but rollout.engine vllm samples with what trains meanwhile"),
        ({"ahead": 1, "entropy_target": 0.3}, {}, "ahead: 1, but rollout.entropy_target"),
        ({"ahead": 1}, {"off_policy": "none"}, "grpo.off_policy: none"),
        ({"ahead": 1}, {"clip": "disco", "off_policy": "none"}, "ahead: 1, but grpo.clip disco has no weight"),
        ({"ahead": 2}, {}, "ahead"),
    ],
)
def test_what_cannot_work_is_refused(rollout: dict[str, Any], grpo: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        built(rollout={"engine": "server", **rollout}, grpo={**CORRECTED, **grpo})


def test_ahead_needs_steps_between_checkpoints_and_a_method_that_samples() -> None:
    ahead = {"engine": "server", "ahead": 1}
    with pytest.raises(ConfigError, match=r"rollout.ahead: 1, .*raise train.save_every"):
        built(rollout=ahead, grpo=CORRECTED, train={"save_every": 1})
    with pytest.raises(ConfigError, match=r"rollout.ahead: 1, but train.method sft samples nothing"):
        built(rollout=ahead, rewards=[], train={"method": "sft"})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "8.8.8.8", "example.org", ""])
def test_an_address_that_anyone_reaches_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match=r"rollout.options.host: .*private network"):
        built(rollout={"engine": "server", "options": {"host": host}}, grpo=CORRECTED)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "10.0.3.7", "192.168.1.4", "fd00::7"])
def test_private_addresses_are_taken(host: str) -> None:
    built(rollout={"engine": "server", "options": {"host": host}}, grpo=CORRECTED)


def test_servers_that_are_started_or_found_pass() -> None:
    options = {"servers": 2, "devices": ["0,1", "2,3"], "tensor_parallel": 2, "host": "10.0.3.7"}
    assert built(rollout={"engine": "server", "ahead": 1, "options": options}, grpo=CORRECTED).rollout.ahead == 1
    built(rollout={"engine": "server", "options": {"urls": ["http://10.0.3.7:8000"]}}, grpo=CORRECTED)
