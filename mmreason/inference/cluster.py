"""Batch inference on a Ray cluster (extra `ray`): every task of a Ray data set answers one shard.

Tasks write files of their own beside the output, on storage that all nodes share, and go on from them; what they hold
is joined at the end. So a lost node costs what it was working on, and a second start asks for the rest only.
"""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmreason.errors import ConfigError
from mmreason.inference.options import InferOptions
from mmreason.inference.outfile import OutFile, read_rows_file, rows_file, settings_file


def part_file(out: Path, index: int, count: int) -> Path:
    """Where a shard's rows are, until they are joined and after."""
    return out.with_name(f"{out.name}.part-{index}-of-{count}.jsonl")


def infer_on_ray(options: InferOptions, parts: int, *, gpus: float | None = None) -> Path:
    """Answer `parts` shards as tasks of Ray Data; join their rows into `out`, and return it.

    gpus: what Ray reserves for a task; None: one, where the cluster has any. Raises ConfigError: Ray is not installed,
    or a shard is asked for as well.
    """
    if find_spec("ray") is None:
        raise ConfigError("--ray: Ray is not installed; pip install 'mmreason[ray]', or start --shard i/n yourself")
    if options.shard != (1, 1):
        raise ConfigError("--ray makes the shards itself; leave out --shard")
    import ray
    import ray.data

    if not ray.is_initialized():
        ray.init()
    if gpus is None:
        gpus = 1.0 if ray.cluster_resources().get("GPU") else 0.0
    out = Path(options.out).absolute()
    asked = replace(options, source=str(options.source), out=out)

    def answer(batch: dict[str, Any]) -> dict[str, Any]:
        for index in batch["part"]:
            answer_part(asked, int(index), parts)
        return batch

    shards = ray.data.from_items([{"part": index} for index in range(1, parts + 1)], override_num_blocks=parts)
    shards.map_batches(answer, batch_size=1, num_gpus=gpus).materialize()
    join(asked, parts)
    return out


def answer_part(options: InferOptions, index: int, count: int) -> None:
    """Answer one shard into its own file."""
    from mmreason.inference.verb import infer

    out = part_file(Path(options.out), index, count)
    infer(replace(options, shard=(index, count), out=out, gallery=None))


def join(options: InferOptions, count: int) -> None:
    """Append the rows of all shards to the output, each once. Raises ConfigError and DataError as `OutFile`."""
    out = Path(options.out)
    files = [part_file(out, index, count) for index in range(1, count + 1)]
    beside = json.loads(settings_file(files[0]).read_text(encoding="utf-8"))
    # What the parts hold is newer than an error that was joined before.
    again = {"overwrite": options.overwrite, "retry_errors": not options.overwrite}
    with OutFile(out, beside["settings"], beside["root"], **again) as file:
        for part in files:
            for row in read_rows_file(rows_file(part)):
                if row["id"] not in file.done:
                    file.append(row)
        file.finish()
