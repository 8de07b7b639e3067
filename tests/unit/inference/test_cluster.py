"""Shards of a cluster: joined once each; on Ray itself where it is installed."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from mmreason.errors import ConfigError
from mmreason.inference.cluster import infer_on_ray, join, part_file
from mmreason.inference.options import InferOptions
from mmreason.inference.outfile import OutFile
from mmreason.inference.rows import failed
from tests.media_files import write_image


def test_rows_of_shards_are_joined_once(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    for index, ids in ((1, "ab"), (2, "c")):
        with OutFile(part_file(out, index, 2), {"n": 1}, "/d", overwrite=False) as file:
            for id in ids:
                file.append(failed({"id": id, "settings": file.hash}, "empty"))
    options = InferOptions(source="d", model="m", out=out, prompt="?")
    join(options, 2)
    join(options, 2)
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["a", "b", "c"]


def test_a_part_that_answered_later_takes_the_place_of_a_joined_error(tmp_path: Path) -> None:
    out, settings = tmp_path / "r.jsonl", {"n": 1}
    options = InferOptions(source="d", model="m", out=out, prompt="?")
    for reason in ("gone", "still gone"):
        with OutFile(part_file(out, 1, 1), settings, "/d", retry_errors=True) as file:
            file.append(failed({"id": "a", "settings": file.hash}, reason))
            file.finish()
        join(options, 1)
        assert [json.loads(line)["reason"] for line in out.read_text().splitlines()] == [reason]


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_it_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--ray: Ray is not installed; pip install 'mmreason\[ray\]'"):
        infer_on_ray(InferOptions(source=tmp_path, model="m", out=tmp_path / "r.jsonl", prompt="?"), 2)


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (pip install 'mmreason[ray]')")
@pytest.mark.filterwarnings("ignore")
def test_a_folder_on_ray(tmp_path: Path, tiny_omni: Path) -> None:
    import ray

    media = tmp_path / "media"
    media.mkdir()
    for number in range(6):
        write_image(media / f"{number}.png")
    (media / "bad.png").write_text("<html>")
    ray.init(num_cpus=1, include_dashboard=False)
    try:
        options = InferOptions(source=media, model=str(tiny_omni), out=tmp_path / "r.jsonl", prompt="?", engine="hf",
                               max_new_tokens=3)  # fmt: skip
        out = infer_on_ray(options, 2, gpus=0)
    finally:
        ray.shutdown()
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(row["id"] for row in rows) == [*(f"{number}.png" for number in range(6)), "bad.png"]
    assert sum(row["status"] == "ok" for row in rows) == 6
