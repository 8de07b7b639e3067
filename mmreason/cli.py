"""The `mmreason` command. Each verb imports what it needs when it runs, so that `--help` is there at once.

A mistake of the user's is one line on standard error (a config's mistakes: one line each) and exit status 2; 130 after
Ctrl-C, 143 after SIGTERM. `--debug` shows the traceback instead. `train` and `demo` save first on either signal and
exit with 0.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import mmreason
from mmreason.errors import ConfigError, DataError, MMReasonError
from mmreason.inference.command import add_infer, options_of

FIRST_SAYS_S = 30.0
"""How long the other processes of a node wait to be ended with the first, which says what is wrong with the config."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status."""
    args = _parsed(argv)
    try:
        try:
            status: int = args.verb(args)
        finally:
            _show()  # what a verb left in the buffer
        return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        return 0
    except MMReasonError as error:
        if args.debug:
            raise
        print("\n".join(f"mmreason: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return 2


def _show(*lines: object) -> None:
    """Print lines at once. What cannot be written is dropped, or Python would try again when it exits."""
    try:
        print(*lines, sep="\n", end="\n" if lines else "", flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise DataError(f"standard output: cannot be written ({error.strerror})") from error


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments. Overrides may stand behind options as well, where argparse does not look for them."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    if any(text.startswith("-") for text in rest) or (rest and "overrides" not in args):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides += rest
    return args


def build_parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    parser = argparse.ArgumentParser(
        prog="mmreason", description="Train vision- and audio-language models to reason over images, video and audio."
    )
    parser.add_argument("--version", action="version", version=f"mmreason {mmreason.__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)

    _add_verbs_of_a_config(verbs)

    demo = verbs.add_parser("demo", help="make data, train a tiny model on this machine, show what it learnt")
    demo.add_argument("folder", metavar="FOLDER", nargs="?", type=Path, default=Path("demo_run"))
    demo.add_argument("--seed", type=int, default=0, help="of data, weights and sampling (default: 0)")
    demo.add_argument("--no-control", action="store_true", help="leave out the control row, and its time")
    demo.add_argument("--engine", choices=("hf", "vllm"), default="hf",
                      help="what samples GRPO's answers: our own decode loop (default), or vLLM")  # fmt: skip
    demo.set_defaults(verb=_demo)

    score = verbs.add_parser("score", help="score finished texts with rewards, without a model")
    score.add_argument("file", metavar="FILE.jsonl", type=Path, help='samples with "completions": [text, ...]')
    score.add_argument("--reward", metavar="NAME", action="append", help="may be given several times; options follow "
                       'the name: --reward "accuracy rel_tol=0.01"')  # fmt: skip
    score.add_argument("--config", metavar="RUN.yaml", type=Path, help="rewards and scoring as in this run, instead")
    score.add_argument("--out", metavar="F", type=Path, help="write here, not to standard output")
    score.set_defaults(verb=_score)

    service = verbs.add_parser("serve-reward", help="serve a model that scores answers: an encoder, a reward model")
    service.add_argument("what", metavar="SCORER|FILE.yaml", help="siglip, reward_model, pkg.mod:attr, file.py:attr")
    service.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="e.g. options.path=/models/siglip batch=64")
    service.add_argument("--device", help="cpu (default), cuda, cuda:1, ...")
    service.add_argument("--host", help="default: 127.0.0.1, this machine only")
    service.add_argument("--port", type=int, help="default: 8100; 0: any free one")
    service.add_argument("--media-root", dest="media_roots", metavar="DIR", action="append", help="folder that paths "
                         "of media may lead into; may be given several times")  # fmt: skip
    service.add_argument("--key-env", metavar="NAME", help="environment variable with the key that requests must have")
    service.set_defaults(verb=_serve_reward)

    report = verbs.add_parser("report", help="write report.html of a run: going on, killed or finished")
    report.add_argument("folder", metavar="RUN_DIR", type=Path)
    report.set_defaults(verb=_report)

    recipes = verbs.add_parser("recipes", help="list the published recipes; show one, and where its file is")
    recipes.add_argument("recipe", metavar="RECIPE|FILE|FOLDER", nargs="?", help="one of them, or a folder of your own")
    recipes.set_defaults(verb=_recipes)

    rewards = verbs.add_parser("rewards", help="list the built-in rewards and their options")
    rewards.set_defaults(verb=_rewards)

    doctor = verbs.add_parser("doctor", help="show what works on this machine, and how to mend what does not")
    doctor.set_defaults(verb=_doctor)
    for verb in verbs.choices.values():  # so that it may stand at the end of the line, too
        verb.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show an error's traceback")
    return parser


def _add_verbs_of_a_config(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    train = verbs.add_parser("train", help="train a model by a config file; goes on where an earlier run stopped")
    train.add_argument("config", metavar="RUN.yaml|RECIPE", help='":STAGE" behind it runs that stage only')
    train.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="e.g. train.steps=100 rewards.0.weight=2")
    train.add_argument("--model", metavar="PATH", help="model.path=PATH")
    train.add_argument("--data", metavar="[STAGE=]FILE", action="append", default=[], help="training data of all "
                       "stages, or of one; may be given several times")  # fmt: skip
    train.add_argument("--run-dir", metavar="FOLDER", help="run_dir=FOLDER")
    train.add_argument("--smoke", action="store_true", help="the same, tiny: random weights, made-up data, 2 steps, on "
                       "this CPU; in RUN_DIR-smoke, or --run-dir")  # fmt: skip
    train.set_defaults(verb=_train)

    init = verbs.add_parser("init", help="write a commented config to start from")
    init.add_argument("file", metavar="RUN.yaml", nargs="?", type=Path, default=Path("run.yaml"))
    init.add_argument("--method", choices=("grpo", "sft", "dpo"), default="grpo", help="default: grpo")
    init.add_argument("--model", metavar="PATH", help="checkpoint to train")
    init.add_argument("--data", metavar="FILE", action="append", help="training data; may be given several times")
    init.set_defaults(verb=_init)

    check = verbs.add_parser("check", help="find out what is wrong with a run before it starts; needs no GPU")
    check.add_argument("config", metavar="RUN.yaml", type=Path)
    check.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="e.g. train.row_tokens=4096")
    check.add_argument("--rows", metavar="N|all", type=_extent, default=2000, help="rows whose media headers are read, "
                       "tokens counted and golds scored (default: 2000; schema and files: always all)")  # fmt: skip
    check.add_argument("--decode", metavar="N|all", type=_extent, default=100, help="rows that are encoded in full, "
                       "media decoded (default: 100)")  # fmt: skip
    check.add_argument("--processes", metavar="N", type=int, default=1, help="devices, for the memory forecast")
    check.add_argument("--answer-format", metavar="TEXT", help="how an answer is written, with {answer} in it; "
                       "default: as the reward `format` asks")  # fmt: skip
    check.add_argument("--out", metavar="F", type=Path, help="write all findings here, JSON lines")
    check.set_defaults(verb=_check)

    evaluation = verbs.add_parser("eval", help="answer the held-out data; accuracy, pass@k, majority vote; goes on")
    evaluation.add_argument("config", metavar="RUN.yaml", type=Path)
    evaluation.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="e.g. eval.n=8 eval.temperature=0.8")
    evaluation.add_argument("--model", metavar="FOLDER", type=Path, help="evaluate this, not the config's model.path")
    evaluation.add_argument("--out", metavar="FOLDER", type=Path, help="write eval.jsonl here, not to run_dir")
    evaluation.add_argument("--fresh", action="store_true", help="ask every question again")
    evaluation.add_argument("--engine", choices=("hf", "vllm"), default="hf", help="our own loop (default), or vLLM")
    evaluation.add_argument("--views", metavar="LIST", default="", help="also with media changed, to tell what "
                            "they are worth: none, shuffled, blank, noise, muted, or several: none,muted")  # fmt: skip
    evaluation.set_defaults(verb=_eval)
    _add_sample(verbs)
    add_infer(verbs).set_defaults(verb=_infer)


def _add_sample(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sample = verbs.add_parser("sample", help="answer the training data, write chosen answers as the next stage's data")
    sample.add_argument("config", metavar="RUN.yaml", type=Path)
    sample.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="e.g. rollout.n=16 rollout.temperature=0.8")
    sample.add_argument("--out", metavar="FILE.jsonl", type=Path, required=True, help="rows go here; answers beside it")
    sample.add_argument("--keep", choices=("correct", "all"), default="correct", help="default: correct")
    sample.add_argument("--unique", choices=("text", "answer", "reasoning"), default="text", help="of answers that are "
                       "the same in this, the first is kept (default: text)")  # fmt: skip
    sample.add_argument("--per-question", metavar="K", type=int, help="at most so many answers per question")
    sample.add_argument("--inconsistent", action="store_true", help="leave out questions always answered right")
    sample.add_argument("--expert", action="store_true", help="a question never answered right keeps its own demos")
    sample.add_argument("--every-row", action="store_true", help="also rows of which no answer is kept")
    sample.add_argument("--pairs", choices=("thinkpo", "right_wrong", "self_refine"), help="write pairs (DPO) "
                       "instead of demos; self_refine asks again with the first wrong answer shown")  # fmt: skip
    sample.add_argument("--critical", metavar="K", type=int, help="weight only tokens without which an answer goes "
                        "wrong, of K tried per answer (0: all)")  # fmt: skip
    sample.add_argument("--model", metavar="FOLDER", type=Path, help="sample from this, not the config's model.path")
    sample.add_argument("--fresh", action="store_true", help="ask every question again")
    sample.set_defaults(verb=_sample)


def _train(args: argparse.Namespace) -> int:
    from mmreason.config import load_plan
    from mmreason.config.pointing import pointed

    is_first = os.environ.get("LOCAL_RANK", "0") == "0"
    try:
        overrides = [*pointed(args.config, model=args.model, data=args.data, run_dir=args.run_dir), *args.overrides]
        plan = load_plan(args.config, overrides)
    except ConfigError:
        if is_first or args.debug:
            raise
        time.sleep(FIRST_SAYS_S)  # the first process of this node says the same; who ends earlier has it ended unheard
        return 2
    _quiet_libraries()
    from mmreason.recipes.chain import run_plan
    from mmreason.training import StopRequested

    try:
        if args.smoke:
            from mmreason.recipes.smoke import smoke, smoke_folder

            folder = smoke(plan, Path(args.run_dir) if args.run_dir else smoke_folder(plan), say=_show)
        else:
            folder = run_plan(plan, _say_once)
    except StopRequested:
        return 0  # what was asked for; the same command goes on
    if os.environ.get("RANK", "0") == "0":
        _show(folder)
    return 0


def _say_once(line: str) -> None:
    """On standard error, by the first of all processes."""
    if os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr, flush=True)


def _recipes(args: argparse.Namespace) -> int:
    from mmreason.recipes.listing import shown, table

    folder = args.recipe is None or Path(args.recipe).is_dir()
    _show(*(table(args.recipe and Path(args.recipe)) if folder else shown(args.recipe)))
    return 0


def _init(args: argparse.Namespace) -> int:
    from mmreason.starting import init

    init(args.file, method=args.method, model=args.model, data=args.data or ())
    _show(f"{args.file} written; look through it, then: mmreason check {args.file}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from mmreason.checking import CheckOptions, check

    _quiet_configs()
    if args.out:
        _write_lines(args.out, [], "a")  # a place that cannot be written is better known now than after the check
    options = CheckOptions(
        rows=args.rows, decode=args.decode, processes=args.processes, answer_format=args.answer_format
    )
    report = check(args.config, args.overrides, options, say=_show)
    if args.out:
        _write_lines(args.out, [{"kind": finding.kind, "line": finding.line} for finding in report.findings])
    problems = len(report.findings)
    _show(f"{problems} problem{'s' if problems > 1 else ''} found" if problems else "no problem found")
    return 2 if problems else 0


def _write_lines(path: Path, rows: Sequence[object], mode: Literal["w", "a"] = "w") -> None:
    try:
        with path.open(mode, encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    except OSError as error:
        raise DataError(f"--out {path}: cannot be written ({error.strerror})") from error


def _extent(text: str) -> int | None:
    """How many rows: a number, or "all"."""
    if text == "all":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}, expected a number of rows or 'all'")
    return int(text)


def _eval(args: argparse.Namespace) -> int:
    from mmreason.config import load_config

    config = load_config(args.config, args.overrides)
    views = [name.strip() for name in args.views.split(",") if name.strip()]
    given = {name: getattr(args, name) for name in ("model", "out", "fresh", "engine")}
    _quiet_libraries()
    with _sigterm_exits():
        found = mmreason.evaluate(config, views=views, **given)
    if found.is_main:
        _show(found)
    return 0


def _sample(args: argparse.Namespace) -> int:
    from mmreason.config import load_config

    config = load_config(args.config, args.overrides)
    _quiet_libraries()
    names = ("keep", "unique", "per_question", "inconsistent", "expert", "every_row", "pairs", "critical")
    with _sigterm_exits():
        found = mmreason.sample(
            config, out=args.out, model=args.model, fresh=args.fresh, **{name: getattr(args, name) for name in names}
        )
    if found.is_main:
        _show(found)
    return 0


def _infer(args: argparse.Namespace) -> int:
    values = options_of(args)
    _quiet_libraries()
    with _sigterm_exits():
        found = mmreason.infer(values.pop("source"), *values.pop("overrides"), **values)
    print(found, file=sys.stderr, flush=True)
    return 1 if found.errors and not found.answered else 0


def _demo(args: argparse.Namespace) -> int:
    _quiet_libraries()
    from mmreason.demo.run import main as demo
    from mmreason.training import StopRequested

    try:
        demo(args.folder, seed=args.seed, control=not args.no_control, engine=args.engine)
    except StopRequested:
        print("mmreason: stopped; the same command goes on", file=sys.stderr)
    return 0


def _quiet_libraries() -> None:
    """Take out what libraries print on every run and no user can act on; their other messages stay."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns that it had to guess
    import transformers

    transformers.utils.logging.disable_progress_bar()
    _quiet_configs()


def _quiet_configs() -> None:
    """Take out what every Qwen2.5-Omni checkpoint brings up: its talker's config names tokens of another vocabulary."""
    config_logger = logging.getLogger("transformers.configuration_utils")
    config_logger.addFilter(lambda record: not record.getMessage().startswith("Model config: "))


def _score(args: argparse.Namespace) -> int:
    with _sigterm_exits():
        summary = mmreason.score(args.file, *(args.reward or ()), config=args.config, out=args.out)
    for noted in summary.facts:
        print(", ".join(f"{key} {value}" for key, value in noted.items()), file=sys.stderr)
    means = ", ".join(f"{name} {mean:.4g}" for name, mean in summary.means.items())
    print(
        f"{summary.lines} lines, {summary.completions} completions, {summary.failed} without a score"
        + (f"; means: {means}" if means else "")
        + (f"; first error: {summary.first_error}" if summary.first_error else ""),
        file=sys.stderr,
    )
    return 1 if 0 < summary.completions == summary.failed else 0


def _serve_reward(args: argparse.Namespace) -> int:
    from mmreason.serving.config import service_config

    names = ("device", "host", "port", "media_roots", "key_env")
    config = service_config(
        args.what, args.overrides, {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    )
    from mmreason.serving.server import serve

    serve(config, _show)
    return 0


@contextmanager
def _sigterm_exits() -> Iterator[None]:
    """SIGTERM ends the program as an exception does, so that half-written files are removed on the way."""
    previous = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _report(args: argparse.Namespace) -> int:
    _show(mmreason.report(args.folder))
    return 0


def _rewards(args: argparse.Namespace) -> int:
    from mmreason.rewards import describe

    for reward in describe():
        _show(f"{reward.name:12} {reward.help}", *(f"{'':14}{name}={value}" for name, value in reward.options.items()))
    _show("In a config each also has weight, tasks (to which it applies) and gate (a reward that has to be above 0).")
    return 0


def _doctor(args: argparse.Namespace) -> int:
    lines, works = mmreason.doctor()
    _show(*lines)
    return 0 if works else 1


if __name__ == "__main__":
    sys.exit(main())
