"""`mmreason infer` on the real vLLM: the decode loop's greedy answers, votes, answers held to a form.

The engine is that of tests/integration/test_vllm.py, whichever file comes first: the arguments are the same.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from mmreason.inference.engines import Front, Opened, around_vllm
from mmreason.inference.items import KINDS
from mmreason.inference.options import InferOptions
from mmreason.inference.verb import Inferred, infer
from tests.integration.test_infer import OPTIONS, SMALL, rows_of
from tests.media_files import clip, picture, tone, write_audio, write_image, write_video

pytestmark = [
    pytest.mark.xdist_group("vllm"),
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (pip install 'mmreason[vllm]')"),
    pytest.mark.filterwarnings("ignore"),  # vLLM's own, and those of what it imports
]


ENGINE = ("seed=3", "rollout.engine=vllm", "rollout.options={max_model_len: 1024}")


class Bench:
    """One engine for all runs of this file."""

    def __init__(self, media: Path, model: Path, folder: Path) -> None:
        from mmreason.inference.continuous import start_vllm

        self.folder, overrides = folder, (*SMALL[:-1], *ENGINE, "data.max_prompt_tokens=256")
        out = folder / "rows.jsonl"
        self.asked = InferOptions(source=media, model=str(model), out=out, overrides=overrides, **OPTIONS)
        self.config = self.asked.run_config()
        self.front = Front(self.config)
        self.llm = start_vllm(self.config, self.front.family, self.front.model, 64, dict.fromkeys(KINDS, 1))

    def run(self, name: str, engine: str = "vllm", **options: Any) -> tuple[Inferred, dict[str, dict[str, Any]]]:
        """What a run says, and its rows."""
        asked = replace(self.asked, out=self.folder / name, **{"engine": engine, **options})
        opened = Opened(self.front, around_vllm(self.llm, self.front, asked, self.config))
        found = infer(asked, lambda line: None, None if engine == "hf" else opened)
        return found, rows_of(self.folder / name)


@pytest.fixture(scope="module")
def bench(tiny_omni: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    media = tmp_path_factory.mktemp("media")
    for number in range(4):
        write_image(media / f"{number}.png", picture(56 + 28 * number, 56, number))
    write_video(media / "clip.mp4", clip(8))
    write_video(media / "with sound.mp4", clip(8), sound=tone(1.0))
    write_audio(media / "sound.wav", tone(0.4))
    (media / "broken.jpg").write_text("<html>")
    return Bench(media, tiny_omni, tmp_path_factory.mktemp("rows"))


def test_greedy_answers_are_the_decode_loops(bench: Bench) -> None:
    ours, rows = bench.run("vllm.jsonl", sound=True, max_new_tokens=12)
    other, expected = bench.run("hf.jsonl", "hf", sound=True, max_new_tokens=12)
    assert (ours.answered, ours.errors) == (other.answered, other.errors) == (7, 1)
    kept = ("text", "tokens", "prompt_tokens", "truncated", "status", "messages")
    for id, row in rows.items():
        assert {key: row[key] for key in kept} == {key: expected[id][key] for key in kept}
    assert {row["engine"] for row in rows.values()} == {"vllm"}
    assert rows["with sound.mp4"]["messages"][0]["content"][0]["sound"]
    assert len({row["text"] for row in rows.values()}) > 2, "answers depend on the media"


def test_several_answers_are_voted_on(bench: Bench) -> None:
    _, rows = bench.run("n.jsonl", n=3, temperature=1.0, include=["*.png"])
    for row in rows.values():
        assert len(row["answers"]) == 3
        assert len({answer["text"] for answer in row["answers"]}) > 1, "each has a seed of its own"
        assert row["text"] in [answer["text"] for answer in row["answers"]]
    _, again = bench.run("again.jsonl", n=3, temperature=1.0, include=["1.png"])
    assert again["1.png"]["answers"] == rows["1.png"]["answers"], "whatever is answered beside it"


def test_answers_are_held_to_a_schema(bench: Bench) -> None:
    properties = {"kind": {"enum": ["cat", "owl"]}, "said": {"type": "string", "maxLength": 5}}
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    _, rows = bench.run("schema.jsonl", include=["*.png"], max_new_tokens=64, json_schema=schema, temperature=1.0)
    assert len(rows) == 4
    for row in rows.values():
        found = json.loads(row["text"])
        assert set(found) == {"kind", "said"}
        assert found["kind"] in ("cat", "owl")
        assert row["text"] == json.dumps(found, separators=(",", ":"), ensure_ascii=False), "no blanks outside of texts"
        assert not row["truncated"]


def test_what_the_engine_does_not_hold_has_a_row_that_says_so(bench: Bench) -> None:
    found, rows = bench.run("long.jsonl", include=["*.png"], max_new_tokens=1020)
    assert (found.answered, found.errors) == (0, 4)
    assert "1020 for its answer are more than the 1024 that the model takes" in rows["0.png"]["reason"]


def test_answers_are_held_to_an_expression(bench: Bench) -> None:
    expression = "<answer>(cat|owl)</answer>"
    _, rows = bench.run("regex.jsonl", include=["*.png"], max_new_tokens=64, regex=expression)
    assert len(rows) == 4
    assert all(re.fullmatch(expression, row["text"]) for row in rows.values()), [row["text"] for row in rows.values()]
