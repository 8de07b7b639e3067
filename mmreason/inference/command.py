"""`mmreason infer` on the command line. Nothing heavy is imported before it runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mmreason.errors import ConfigError


def add_infer(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """The verb and its options; the names are those of `InferOptions`."""
    infer = verbs.add_parser("infer", help="answer a prompt about every image, video and sound of a folder; goes on")
    infer.add_argument("source", metavar="FOLDER", help="or a zip or tar file, a list of paths (.txt, - for standard "
                       "input), rows with questions (.jsonl, .parquet), or one media file")  # fmt: skip
    infer.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="e.g. media.video_max_frames=16")
    infer.add_argument("--model", metavar="PATH", required=True)
    infer.add_argument("--prompt", metavar="TEXT", help="what to ask; fields: {name} {stem} {extension} "
                       "{size} {kind} {folder} {path} {meta.KEY}")  # fmt: skip
    infer.add_argument("--prompt-file", metavar="FILE", type=Path, help="the same from a file")
    infer.add_argument("--out", metavar="FILE", required=True, help="results: .jsonl, .parquet or .csv")
    infer.add_argument("--overwrite", action="store_true", help="begin again where --out exists")
    infer.add_argument("--resume", action="store_true", help="go on where --out exists; always done, if the settings "
                       "match")  # fmt: skip
    infer.add_argument("--retry-errors", action="store_true", help="ask again about items whose row is an error")
    infer.add_argument("--gallery", metavar="FILE.html", help="at the end, one page of all answers beside their media; "
                       "opens anywhere")  # fmt: skip
    infer.add_argument("--config", metavar="RUN.yaml", help="system message, suffix, media and rollout as in this run")
    infer.add_argument("--system", metavar="TEXT", help="system message")
    _add_selection(infer)
    _add_sampling(infer)
    return infer


def _add_selection(infer: argparse.ArgumentParser) -> None:
    infer.add_argument("--include", metavar="GLOB", action="append", default=[], help="only such files, as in "
                       '"*.png"; may be given several times')  # fmt: skip
    infer.add_argument("--exclude", metavar="GLOB", action="append", default=[], help="not such files")
    infer.add_argument("--recursive", action=argparse.BooleanOptionalAction, default=True, help="sub-folders, too "
                       "(default)")  # fmt: skip
    infer.add_argument("--item", choices=("file", "folder"), default="file", help="folder: all media of a folder go "
                       "into one prompt")  # fmt: skip
    infer.add_argument("--root", metavar="DIR", help="where paths of a list or of rows start")
    infer.add_argument("--sound", action="store_true", help="show videos with their sound, where they have one")
    infer.add_argument("--ray", metavar="N", type=int, help="answer N shards on a Ray cluster, with storage that all "
                       "nodes share (extra ray)")  # fmt: skip
    infer.add_argument("--shard", metavar="I/N", type=_shard, default=(1, 1), help="the I-th of N parts, from 1")


def _add_sampling(infer: argparse.ArgumentParser) -> None:
    infer.add_argument("--n", type=int, default=1, help="answers per item; of several the majority's is shown")
    infer.add_argument("--temperature", type=float, help="0: the likeliest token (default for one answer)")
    infer.add_argument("--top-p", type=float)
    infer.add_argument("--max-new-tokens", type=int, help="default: 512, or the config's")
    infer.add_argument("--seed", type=int, default=0)
    infer.add_argument("--tags", metavar="THINK,ANSWER", type=_tags, default=("think", "answer"), help="tags of "
                       "thoughts and answer (default: think,answer)")  # fmt: skip
    infer.add_argument("--engine", choices=("auto", "hf", "vllm"), default="auto", help="auto: vLLM where it is "
                       "installed, else our decode loop")  # fmt: skip
    infer.add_argument("--json-schema", metavar="FILE", help="answers are JSON of this schema (vLLM)")
    infer.add_argument("--regex", metavar="TEXT", help="answers match this expression (vLLM)")
    infer.add_argument("--reward", metavar="NAME", dest="rewards", action="append", default=[], help="score the "
                       "answers, as in `mmreason score`")  # fmt: skip
    infer.add_argument("--score", action="store_true", help="score with the rewards of --config")


def _shard(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r}, expected I/N such as 2/8")
    return int(index), int(count)


def _tags(text: str) -> tuple[str, str]:
    think, comma, answer = text.partition(",")
    if not (comma and think and answer):
        raise argparse.ArgumentTypeError(f"{text!r}, expected two names such as think,answer")
    return think, answer


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments as keywords of `mmreason.infer`. Raises ConfigError: two prompts, an unreadable file of one."""
    ours = ("verb", "debug", "prompt_file", "resume")
    values = {name: value for name, value in vars(args).items() if name not in ours}
    if args.resume and args.overwrite:
        raise ConfigError("--resume and --overwrite exclude each other")
    if args.prompt_file is not None:
        if args.prompt is not None:
            raise ConfigError("--prompt and --prompt-file are both given, expected one of them")
        try:
            values["prompt"] = args.prompt_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--prompt-file {args.prompt_file}: cannot be read ({error})") from error
    return values
