"""The run folder of a long run, without the run: metrics of every step, and groups with real media, as training writes.

Pictures of the media are made as training makes them, from real files by the real decoders; the names of the metrics
are those of a GRPO run.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmreason.config import MediaConfig
from mmreason.reporting.previews import Previews
from mmreason.training.gallery import group_record
from mmreason.training.metrics import MetricsLog
from mmreason.types import MediaRef, Message, Rollout, RolloutGroup, Sample, Score, Segment
from tests.media_files import picture, tone, write_audio, write_image, write_video

SOURCES = 50
ANSWERS = 8
_WORDS = "the frame shows a red box left of two people so first compare both sides then count again because".split()
_PROMPT = Segment(kind="prompt", ids=torch.zeros(1, dtype=torch.long), loss_mask=torch.zeros(1, dtype=torch.bool))
_STAGES = {"rollout": 31.0, "update": 14.0, "score": 4.0, "reward": 2.5, "encode": 2.0, "pack": 0.3, "gallery": 0.01}


def write_long_run(folder: Path, *, steps: int, groups: int, files: int) -> Path:
    """`files`: how many different media files there are for the groups to take turns with."""
    media = write_media(folder / "media", files)
    run_dir = folder / "run"
    run_dir.mkdir()
    write_metrics(run_dir / "metrics.jsonl", steps)
    with Previews(MediaConfig()) as previews:
        shown = [previews.of([ref]) for ref in media]
    assert not [item for items in shown for item in items if "problem" in item]
    chance = random.Random(0)
    log = MetricsLog(run_dir, after_step=steps, active=True)
    for index in range(groups):
        step, file = 1 + index * steps // groups, index % files
        made = group(f"sample-{step}", media[file], chance)
        log.show(group_record(step, made, shown[file], trained=index % 9 > 0))
    lines = [{"id": f"bad-{index}", "reason": "truncated", "step": index} for index in range(37)]
    (run_dir / "quarantine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run_dir


def write_media(folder: Path, files: int) -> list[MediaRef]:
    """Photographs (JPEG with noise), clips (H.264, 4 s, with sound) and sounds (FLAC), a third each."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    refs = []
    for index in range(files):
        pixels = picture(640, 480, seed=index).astype(np.int16) + rng.integers(-12, 13, (480, 640, 1))
        photo = pixels.clip(0, 255).astype(np.uint8)
        if index % 3 == 0:
            path = write_image(folder / f"{index}.jpg", photo, quality=90)
        elif index % 3 == 1:
            frames = np.stack([np.roll(photo[::2, ::2], 6 * at, axis=1) for at in range(32)])
            path = write_video(folder / f"{index}.mp4", frames, sound=tone(4.0, hertz=200.0 + 9 * index))
        else:
            path = write_audio(folder / f"{index}.flac", tone(3.0, hertz=200.0 + 9 * index))
        kind = ("image", "video", "audio")[index % 3]
        refs.append(MediaRef(kind=kind, path=str(path), sound=kind == "video"))
    return refs


def group(name: str, ref: MediaRef, chance: random.Random) -> RolloutGroup:
    """ANSWERS answers of a reasoning model's length, some wrong, some cut off."""
    content = (ref, f"What is in the {ref.kind}? " + prose(chance, 40))
    sample = Sample(
        id=name, messages=(Message(role="user", content=content),), answer="B", options=tuple("ABCD"), task="mcq",
        source=f"source-{chance.randrange(SOURCES):02d}",
    )  # fmt: skip
    rollouts, scores = [], []
    for _ in range(ANSWERS):
        right, cut = chance.random() < 0.6, chance.random() < 0.1
        text = f"<think>{prose(chance, chance.randrange(100, 300))}</think><answer>{'B' if right else 'C'}</answer>"
        rollouts.append(Rollout(text=text, finish_reason="length" if cut else "stop"))
        scores.append(Score(total=right + 0.1, parts={"accuracy": float(right), "format": 0.1}))
    return RolloutGroup(sample=sample, prompt=_PROMPT, rollouts=tuple(rollouts), scores=tuple(scores))


def write_metrics(path: Path, steps: int) -> None:
    """One train line per step, an evaluation every tenth of the run, two steps skipped."""
    chance = random.Random(1)
    every = max(1, steps // 10)
    with path.open("w", encoding="utf-8") as file:
        for step in range(1, steps + 1):
            file.write(json.dumps(train_line(step, steps, chance)) + "\n")
            if step % every == 0:
                file.write(json.dumps(_eval_line(step, step / steps)) + "\n")


def train_line(step: int, steps: int, chance: random.Random) -> dict[str, Any]:
    """What `Run.finish_step` logs for GRPO with a KL term, media of all kinds and SOURCES data sets."""
    done = 1 - math.exp(-3 * step / steps)
    skipped = step in (steps // 3, steps // 2)

    def near(value: float, spread: float = 0.1) -> float:
        return max(0.0, value + chance.gauss(0, spread))

    values = {"reward/mean": near(done), "reward/accuracy": near(done), "reward/format": near(0.1, 0.01)}
    values |= {f"reward/modality/{name}": near(done) for name in ("image", "video+sound", "audio")}
    sources = chance.sample(range(SOURCES), 20)
    values |= {f"reward/source/source-{index:02d}": near(done * (0.5 + index / 100)) for index in sources}
    values |= {"groups/signal": 0.6, "groups/useful": 0.6, "groups/all_right": done * 0.4, "groups/all_wrong": 0.1}
    values |= {"length/mean": near(300 + 200 * done, 20), "truncated": near(0.03, 0.01), "reward/errors": 0.0}
    values |= {"entropy": near(1 - done / 2), "kl": near(done / 10, 0.01), "kl_old": near(0.001, 0.0001)}
    values |= {"clip_fraction": near(0.02, 0.005), "clip_fraction/low": 0.01, "clip_fraction/high": 0.01}
    values |= {"ratio": 1 + chance.gauss(0, 0.002), "loss": chance.gauss(0, 0.1), "skipped": float(skipped)}
    values |= {"grad_norm": math.nan if skipped else near(1.0, 0.3), "learning_rate": 1e-6 * (1 - step / steps)}
    stages = {f"time/{name}": near(seconds, seconds / 10) for name, seconds in _STAGES.items()}
    values |= {**stages, "time/step": sum(stages.values()), "tokens_per_second": near(4000, 300)}
    values |= {"quarantined": float(37 * step // steps), "samples_seen": 32.0 * step}
    return {"step": step, "kind": "train", "time": 1.7e9 + 54 * step, **values}


def _eval_line(step: int, done: float) -> dict[str, Any]:
    names = [
        "mean",
        "all",
        "image",
        "video+sound",
        "audio",
        *(f"source:source-{index:02d}" for index in range(SOURCES)),
    ]
    shares = {"": 0.4 + 0.5 * done, "/low": 0.35 + 0.5 * done, "/high": 0.45 + 0.5 * done}
    values = {f"accuracy/{name}{end}": share for name in names for end, share in shares.items()}
    return {"step": step, "kind": "eval", "time": 1.7e9 + 54 * step, **values}


def prose(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(_WORDS, k=words))
