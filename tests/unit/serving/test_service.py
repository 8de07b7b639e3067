"""`mmreason serve-reward` as a process of its own, and the rewards that ask it."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmreason.config import RewardConfig, ScoringConfig
from mmreason.errors import ConfigError
from mmreason.rewards import bind
from mmreason.rewards.base import BAD_GOLD
from mmreason.rewards.pool import RewardPool
from mmreason.rewards.remote import Refused, Server, Unavailable
from mmreason.rewards.semantic import consistency
from mmreason.serving.config import service_config
from mmreason.serving.server import listening, serve
from mmreason.types import MediaRef, Message, Rollout, Sample
from tests.media_files import picture, write_image, write_video
from tests.unit.rewards.helpers import answered, sample
from tests.unit.serving.tiny_models import save_reward_model, save_siglip

OWN = """
import time

class Lengths:
    kinds = frozenset({"image"})

    def __init__(self, *, device, unit=1.0):
        self.unit = unit

    def facts(self):
        return {"unit": str(self.unit)}

    def score(self, items):
        return [[self.one(item, text) for text in item.texts] for item in items]

    def one(self, item, text):
        if text == "fail":
            raise RuntimeError("cannot")
        if text.startswith("slow"):
            time.sleep(8 if text == "slower" else 3)
        if text == "set":
            return {"total": 1.0, "parts": {"seen": {1}}}
        if text == "odd":
            return {"total": None, "error": "too odd"}
        pictures = float(len(item.media))
        return {"total": len(text) * self.unit, "parts": {"pictures": pictures}, "flags": {"correct": len(text) > 3}}
"""


@contextmanager
def served(folder: Path, *arguments: str, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """(url, process) of a service on a free port; it must end within seconds of SIGTERM, with status 0."""
    command = [sys.executable, "-m", "mmreason.cli", "serve-reward", *arguments, "--port", "0"]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    process = subprocess.Popen(command, cwd=folder, env=variables, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        with process.stdout:
            line = process.stdout.readline()
        found = re.fullmatch(r"serving \S+ on (http://127\.0\.0\.1:\d+)\n", line)
        assert found, line
        yield found[1], process
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """(url, media root) of a tiny SigLIP."""
    folder = tmp_path_factory.mktemp("siglip")
    media = folder / "media"
    media.mkdir()
    write_video(media / "clip.mp4")
    write_image(media / "a.png", picture(64, 48))
    write_image(folder / "secret.png", picture(64, 48))
    model = save_siglip(folder / "model")
    frames = ["media.video_max_frames=6", "media.video_min_frames=6", "media.workers=1"]
    given = [f"options.path={model}", f"media_roots=[{media}]", "port=0", *frames]
    with listening(service_config("siglip", given)) as url:
        yield url, media


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.py").write_text(OWN)
    (folder / "service.yaml").write_text("scorer: own.py:Lengths\noptions: {unit: 0.5}\ndeadline_s: 2.0\n")
    with served(folder, "service.yaml", "gather_ms=100") as (url, _):
        yield url


def post(url: str, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
    asked = urllib.request.Request(f"{url}/score", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(asked, timeout=20) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def health(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/health", timeout=20) as reply:
        return dict(json.loads(reply.read()))


def status(url: str) -> str:
    try:
        return str(health(url)["status"])
    except urllib.error.HTTPError as error:
        with error:
            return str(json.loads(error.read())["status"])


OPTIONS = {"retries": 0, "on_outage": "drop", "request_s": 20.0}


def watched(path: Path, kind: str = "video") -> Sample:
    return sample("A", messages=(Message(role="user", content=(MediaRef(kind=kind, path=str(path)), "What?")),))


# ---- the service


def test_health(own: str) -> None:
    assert health(own).items() >= {"status": "ready", "scorer": "own.py:Lengths", "facts": {"unit": "0.5"}}.items()


def test_what_the_scorer_says_is_the_score(own: str) -> None:
    scores = bind("service", {"url": own, **OPTIONS})(sample(), [Rollout(text=text) for text in ("abcd", "x", "odd")])
    first, second, odd = scores
    assert (first.total, first.parts, first.flags) == (2.0, {"pictures": 0.0}, {"correct": True})
    assert second.total == 0.5
    assert (odd.total, odd.error) == (None, "too odd")


def test_requests_are_gathered(own: str) -> None:
    before = health(own)
    threads = [threading.Thread(target=post, args=(own, {"texts": [f"text {n}"]})) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    after = health(own)
    assert after["done"] - before["done"] == 12
    assert after["batches"] - before["batches"] < 12


def test_a_request_that_fails_fails_alone(own: str) -> None:
    found: dict[str, tuple[int, dict[str, Any]]] = {}

    def ask(text: str) -> None:
        found[text] = post(own, {"texts": [text]})

    threads = [threading.Thread(target=ask, args=(text,)) for text in ("fail", "good")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found["good"] == (200, {"values": [{"total": 2.0, "parts": {"pictures": 0.0}, "flags": {"correct": True}}]})
    assert found["fail"] == (422, {"error": "the scorer failed with RuntimeError: cannot"})


def test_a_value_that_json_cannot_hold_is_the_scorers_fault(own: str) -> None:
    status, reply = post(own, {"texts": ["set"]})
    assert status == 422
    assert "JSON" in reply["error"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "expected an object"),
        ({"texts": "x"}, "expected an object"),
        ({"texts": [1]}, "must be text"),
        ({"texts": ["x"], "media": [{"path": "a"}]}, "kind"),
        ({"texts": ["x"], "media": [{"kind": "image"}]}, "path"),
        ({"texts": ["x"], "media": [{"kind": "image", "content": "not base64!"}]}, "base64"),
        ({"texts": ["x"], "media": [{"kind": "image", "content": ""}]}, "empty"),
        ({"texts": ["x"], "media": [{"kind": "image", "path": "/etc/passwd"}]}, "not under a media root"),
        ({"texts": ["x"], "media": [{"kind": "image", "content": "aGVsbG8="}]}, "image"),
    ],
)
def test_what_can_never_be_scored_is_refused(own: str, body: Any, message: str) -> None:
    status, reply = post(own, body)
    assert status == 400
    assert message in reply["error"]


@pytest.mark.parametrize(("length", "refused"), [("9" * 5000, 400), ("9" * 18, 413), ("-1", 411)])
def test_a_length_that_cannot_be_is_refused(own: str, length: str, refused: int) -> None:
    connection = http.client.HTTPConnection(own.removeprefix("http://"), timeout=20)
    connection.putrequest("POST", "/score")
    connection.putheader("Content-Length", length)
    connection.endheaders()
    assert connection.getresponse().status == refused
    connection.close()


def test_a_scorer_that_takes_too_long(own: str) -> None:
    start = time.monotonic()
    with pytest.raises(Unavailable, match=r"HTTP 503.*not scored within 2 s"):
        bind("service", {"url": own, **OPTIONS})(sample(), [Rollout(text="slower")])
    said = [status(own)]
    while said[-1] != "ready" or "stuck" not in said:
        assert time.monotonic() - start < 60, said
        time.sleep(0.05)
        said.append(status(own))


def test_a_key_and_the_end_with_a_request_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    key = {"Authorization": "Bearer k3y"}
    with served(tmp_path, "own.py:Lengths", "--key-env", "SERVICE_KEY", SERVICE_KEY="k3y") as (url, process):
        assert post(url, {"texts": ["x"]})[0] == 401
        with pytest.raises(Refused, match="a key is needed"):  # said before all is sent, and no outage
            Server(url).post("score", b" " * 2**24, 20.0)
        assert post(url, {"texts": ["x"]}, **key)[0] == 200
        replies: list[Any] = []
        busy = threading.Thread(target=lambda: replies.append(post(url, {"texts": ["slow"]}, **key)))
        busy.start()
        while not health(url)["busy"]:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
        busy.join(20)
    assert replies[0][0] == 200  # what had begun is finished


@pytest.mark.parametrize(
    ("what", "given", "message"),
    [
        ("siglipp", [], "did you mean 'siglip'"),
        ("siglip", [], "missing 1 required keyword-only argument: 'path'"),
        ("siglip", ["options.path=nowhere"], "nowhere: cannot be loaded"),
        ("siglip", ["bach=3"], "bach"),
        ("siglip", ["port=99999"], "port"),
        ("siglip", ["host=0.0.0.0"], "others could reach this service"),
        ("siglip", ["key_env=NOT_SET_ANYWHERE"], "NOT_SET_ANYWHERE is not set"),
    ],
)
def test_mistakes_are_a_line(what: str, given: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        serve(service_config(what, given))


def test_a_port_in_use_is_a_line(own: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    with pytest.raises(ConfigError, match="Address already in use"):
        serve(service_config(f"{tmp_path}/own.py:Lengths", [f"port={own.rpartition(':')[2]}"]))


# ---- semantic


def test_the_thinking_is_compared_with_the_frames(siglip: tuple[str, Path]) -> None:
    url, media = siglip
    group = [
        Rollout(text="<think>I look. A red car drives left.</think><answer>A</answer>"),
        Rollout(text="<think>I look. The owl is blue.</think><answer>A</answer>"),
        Rollout(text="<think>One sentence only.</think><answer>A</answer>"),
        Rollout(text="no thinking"),
    ]
    question = watched(media / "clip.mp4")
    texts = ["A red car drives left.", "The owl is blue."]
    _, reply = post(url, {"texts": texts, "media": [{"kind": "video", "path": str(media / "clip.mp4")}]})
    assert [len(value["frames"]) for value in reply["values"]] == [6, 6]
    for mode in ("paper", "code"):
        for send in ("path", "content"):
            scores = bind("semantic", {"url": url, "mode": mode, "send": send, **OPTIONS})(question, group)
            expected = [consistency(value["frames"], value["mean"], mode, 2.0) for value in reply["values"]]
            assert [score.total for score in scores] == pytest.approx([*expected, 0.0, 0.0], abs=1e-5)
            assert scores[0].parts["cosine"] == pytest.approx(reply["values"][0]["mean"], abs=1e-5)


def test_frames_are_read_once_per_group(siglip: tuple[str, Path]) -> None:
    url, media = siglip
    before = health(url)["done"]
    group = [Rollout(text=f"<think>I look. The car is {colour}.</think>") for colour in ("red", "blue", "green")]
    with RewardPool([RewardConfig(name="semantic", options={"url": url})], ScoringConfig(workers=1)) as pool:
        (scores,) = pool.score([(watched(media / "a.png", "image"), group)])
    assert all(score.error is None for score in scores)
    assert health(url)["done"] - before == 1


def test_without_pictures_it_does_not_apply(siglip: tuple[str, Path]) -> None:
    (score,) = bind("semantic", {"url": siglip[0], **OPTIONS})(sample("A"), answered("A"))
    assert (score.total, score.error) == (None, None)


def test_paths_outside_of_the_root_are_refused(siglip: tuple[str, Path]) -> None:
    url, media = siglip
    link = media / "link.png"
    link.unlink(missing_ok=True)
    link.symlink_to(media.parent / "secret.png")
    for path in (media.parent / "secret.png", media / ".." / "secret.png", link, Path("a.png")):
        status, reply = post(url, {"texts": ["x"], "media": [{"kind": "image", "path": str(path)}]})
        assert (status, "not under a media root" in reply["error"]) == (400, True)
    link.unlink()
    content = base64.b64encode((media.parent / "secret.png").read_bytes()).decode()
    assert post(url, {"texts": ["x"], "media": [{"kind": "image", "content": content}]})[0] == 200


def test_a_broken_video_is_an_error_of_its_group(siglip: tuple[str, Path]) -> None:
    url, media = siglip
    (media / "broken.mp4").write_bytes(b"no video")
    options = {"url": url, "on_outage": "drop", "retries": 0}
    groups = [
        (watched(media / name), [Rollout(text="<think>I look. Red.</think>")]) for name in ("broken.mp4", "clip.mp4")
    ]
    with RewardPool([RewardConfig(name="semantic", options=options)], ScoringConfig(workers=1)) as pool:
        (broken,), (good,) = pool.score(groups)
    assert broken.total is None
    assert "HTTP 400" in str(broken.error)
    assert good.total is not None


# ---- rm_relative


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("rm")
    with listening(service_config("reward_model", [f"options.path={save_reward_model(folder)}", "port=0"])) as url:
        yield url


def test_answers_against_the_reference(reward_model: str) -> None:
    question = sample("the owl is blue", messages=(Message(role="user", content=("What is it?",)),))
    answers = ["red car", "the owl is blue", "the car drives left", "green"]
    _, reply = post(reward_model, {"texts": ["the owl is blue", *answers], "question": "What is it?"})
    reference, *values = reply["values"]
    group = [*answered(*answers), Rollout(text="no answer")]
    scores = bind("rm_relative", {"url": reward_model, "beta": 4.0, **OPTIONS})(question, group)
    expected = [1 - np.exp(-4 * (value - reference)) if value > reference else 0.0 for value in values]
    assert [score.total for score in scores] == pytest.approx([*expected, 0.0], abs=1e-5)
    assert scores[1].total == 0.0  # the reference itself
    assert max(expected) > 0
    assert [score.flags["answered"] for score in scores] == [True] * 4 + [False]


def test_without_a_reference_or_an_answer(reward_model: str) -> None:
    before = health(reward_model)["done"]
    (score,) = bind("rm_relative", {"url": reward_model, **OPTIONS})(sample(None), answered("x"))
    assert score.flags == {BAD_GOLD: True}
    (score,) = bind("rm_relative", {"url": reward_model, **OPTIONS})(sample("x"), [Rollout(text="x")])
    assert (score.total, score.flags) == (0.0, {"answered": False})
    assert health(reward_model)["done"] == before


def test_a_service_of_another_kind_is_noticed(reward_model: str, siglip: tuple[str, Path]) -> None:
    group = [Rollout(text="<think>I look. Red.</think>")]
    with pytest.raises(ValueError, match="is its scorer siglip"):
        bind("semantic", {"url": reward_model, **OPTIONS})(watched(siglip[1] / "a.png", "image"), group)
