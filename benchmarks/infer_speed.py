"""Seconds for the same files and model: `mmreason infer` on vLLM, `LLM.generate` over the whole list, and a loop over
transformers, one file at a time. Decoding is included, starting the engine and loading the model are not.

    python benchmarks/infer_speed.py [--files 120] [--tokens 16] [--rounds 3] [--model FOLDER]

A tiny Qwen2.5-Omni with random weights unless a model is given. One vLLM engine serves both of its rows, its caches
emptied before each; in every round each way has its turn, in another order each time. All three use greedy answers of
exactly so many tokens and pixels of one size.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
import soundfile
import torch
from PIL import Image

from mmreason.demo.tiny import build_tiny
from mmreason.inference.continuous import start_vllm
from mmreason.inference.engines import Front, Opened, around_vllm
from mmreason.inference.items import KINDS
from mmreason.inference.options import InferOptions
from mmreason.inference.verb import infer
from mmreason.policy.policy import load_policy
from tests.media_files import clip, picture, tone, write_audio, write_image, write_video

SIDE = 224
PROMPT = "What is this?"
OVERRIDES = (
    *(f"media.{kind}_{bound}_pixels={SIDE * SIDE}" for kind in ("image", "video") for bound in ("min", "max")),
    *("media.video_max_frames=8", "media.video_fps=8", "data.max_prompt_tokens=1024", "rollout.max_rows=32"),
)
MARKS = {"image": "<|vision_bos|><|IMAGE|><|vision_eos|>", "video": "<|vision_bos|><|VIDEO|><|vision_eos|>",
         "audio": "<|audio_bos|><|AUDIO|><|audio_eos|>"}  # fmt: skip


def make(root: Path, count: int) -> list[Path]:
    """Of 10 files 6 are images, 2 clips of 8 frames and 2 sounds of a second."""
    for number in range(count):
        if number % 10 < 6:
            write_image(root / f"{number:04}.jpg", picture(1024, 768, number))
        elif number % 10 < 8:
            write_video(root / f"{number:04}.mp4", clip(8, 640, 480))
        else:
            write_audio(root / f"{number:04}.wav", tone(1.0))
    return sorted(root.iterdir())


def decoded(path: Path) -> tuple[str, Any]:
    """What a user would write: Pillow, PyAV, soundfile."""
    if path.suffix == ".jpg":
        return "image", Image.open(path).convert("RGB").resize((SIDE, SIDE))
    if path.suffix == ".wav":
        return "audio", soundfile.read(path, dtype="float32")[0]
    with av.open(str(path)) as container:
        shown = [Image.fromarray(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    return "video", np.stack([np.asarray(frame.resize((SIDE, SIDE))) for frame in shown])


def text_of(kind: str) -> str:
    return f"<|im_start|>user\n{MARKS[kind]}{PROMPT}<|im_end|>\n<|im_start|>assistant\n"


def by_loop(files: list[Path], model: Any, processor: Any, tokens: int) -> None:
    """One file at a time through transformers' processor and `generate`."""
    names = {"image": "images", "video": "videos", "audio": "audio"}
    for path in files:
        kind, content = decoded(path)
        more = {"do_sample_frames": False} if kind == "video" else {}
        inputs = processor(text=[text_of(kind)], return_tensors="pt", **{names[kind]: [content]}, **more)
        with torch.no_grad():
            model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)


def by_list(files: list[Path], llm: Any, tokens: int) -> None:
    """Everything decoded, then `LLM.generate`."""
    from vllm import SamplingParams

    prompts = []
    for path in files:
        kind, content = decoded(path)
        content = (content, 16000) if kind == "audio" else content
        prompts.append({"prompt": text_of(kind), "multi_modal_data": {kind: content}})
    asked = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    outputs = llm.generate(prompts, asked, use_tqdm=False)
    assert all(len(output.outputs[0].token_ids) == tokens for output in outputs)


def seconds_of(work: Callable[[], None]) -> tuple[float, float]:
    """(by the clock, of processors): the second is nearly the same on a machine that does other things beside."""
    began, before = time.perf_counter(), processor_seconds()
    work()
    return time.perf_counter() - began, processor_seconds() - before


def processor_seconds() -> float:
    """Of this process and of those it has started that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=120)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path)
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory(prefix="mmreason-speed-") as folder:
        base = Path(folder)
        (base / "media").mkdir()
        files = make(base / "media", args.files)
        model = args.model or build_tiny("qwen2_5_omni", base / "model")
        options = InferOptions(
            source=base / "media",
            model=str(model),
            out=base / "r.jsonl",
            prompt=PROMPT,
            max_new_tokens=args.tokens,
            overrides=OVERRIDES,
            overwrite=True,
            engine="vllm",
        )
        config = options.run_config()
        front = Front(config)
        llm = start_vllm(config, front.family, front.model, args.tokens, dict.fromkeys(KINDS, 1))
        policy = load_policy(config.model, trained=False)
        opened = Opened(front, around_vllm(llm, front, options, config))
        ways: dict[str, Callable[[], Any]] = {
            "mmreason infer": lambda: infer(options, lambda line: None, opened),
            "LLM.generate": lambda: by_list(files, llm, args.tokens),
            "transformers loop": lambda: by_loop(files, policy.base, front.processor, args.tokens),
        }
        names = list(ways)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        for number in range(args.rounds):
            for name in names[number % 3 :] + names[: number % 3]:
                llm.llm_engine.reset_prefix_cache()
                llm.llm_engine.reset_encoder_cache()
                found[name].append(seconds_of(ways[name]))
                print(f"round {number + 1}: {name} {found[name][-1][0]:.2f} s", flush=True)
        clock = {name: [pair[0] for pair in pairs] for name, pairs in found.items()}
        ours = median(clock["mmreason infer"])
        for name, seconds in clock.items():
            middle, processors = median(seconds), median(pair[1] for pair in found[name])
            spread = f"({min(seconds):.2f} to {max(seconds):.2f})"
            print(f"{name:18} {middle:7.2f} s {spread:18} {args.files / middle:6.1f} files/s   {middle / ours:5.2f} x  "
                  f" {processors:7.2f} s of processors")  # fmt: skip


if __name__ == "__main__":
    main()
