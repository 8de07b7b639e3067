"""mmreason: train open vision- and audio-language models to reason over images, video and audio.

Every verb of the command line is a function here. A config is the path of a YAML file, a dictionary, or a `RunConfig`;
overrides are texts such as "train.steps=100". Mistakes raise `mmreason.errors.MMReasonError`. Importing this imports
nothing else: what a function needs is imported when it is called. Two more verbs are functions of their packages:
`mmreason.demo.run.main` and `mmreason.rewards.describe`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from mmreason.checking import CheckReport
    from mmreason.config import RunConfig
    from mmreason.diagnosis import Diagnosis
    from mmreason.evaluation.sampling import Sampled
    from mmreason.evaluation.verb import Evaluation
    from mmreason.inference.verb import Inferred
    from mmreason.scoring import ScoreSummary

__version__ = "0.1.0"
__all__ = ["check", "doctor", "evaluate", "infer", "init", "report", "sample", "score", "train"]

Config: TypeAlias = "RunConfig | Mapping[str, Any] | str | Path"


def init(
    file: str | Path = "run.yaml", *, method: str = "grpo", model: str | None = None, data: Sequence[str] = ()
) -> Path:
    """`mmreason init`: write a config with every key, its default and its reason; returns its path."""
    from mmreason.starting import init as write

    return write(file, method=method, model=model, data=data)


def check(
    config: Config,
    *overrides: str,
    rows: int | None = 2000,
    decode: int | None = 100,
    processes: int = 1,
    answer_format: str | None = None,
) -> CheckReport:
    """`mmreason check`: what is wrong with a run before it starts; the report prints as its lines and has `findings`.

    `rows`, `decode`: how many rows are measured, and encoded in full; None for all. `processes`: devices, for the
    memory forecast. `answer_format`: how an answer is written, with {answer} in it; None: as reward `format` asks.
    """
    from mmreason.checking import CheckOptions
    from mmreason.checking import check as look

    options = CheckOptions(rows=rows, decode=decode, processes=processes, answer_format=answer_format)
    return look(config, overrides, options)


def train(config: Config, *overrides: str) -> Path:
    """`mmreason train`: train all stages to the end; returns the folder of the trained model.

    `config` may also be the name of a shipped recipe. Calling it again with the same config goes on where an earlier
    call stopped. Raises `training.StopRequested` after an interrupt, when all is saved. In a thread other than the main
    one, interrupts are not seen.
    """
    from mmreason.config import load_plan

    checked = load_plan(config, overrides)
    from mmreason.recipes.chain import run_plan  # imports torch: a wrong config is refused before that

    return run_plan(checked)


def evaluate(
    config: Config,
    *overrides: str,
    model: str | Path | None = None,
    out: str | Path | None = None,
    fresh: bool = False,
    views: Sequence[str] = (),
    engine: Literal["hf", "vllm"] = "hf",
) -> Evaluation:
    """`mmreason eval`: answer `data.eval`; the result prints as a table and has `metrics` and `result.rows`.

    `model`: a checkpoint other than `model.path`. `out`: folder of eval.jsonl and eval.json, other than run_dir.
    `fresh`: ask questions that are answered there again. `views`: ask also with media changed ("none", "shuffled",
    "blank", "noise", "muted"), to tell how much of the accuracy comes from them. `engine`: our decode loop, or vLLM.
    """
    from mmreason.config import load_config

    checked = load_config(config, overrides)
    from mmreason.evaluation.verb import evaluate_config

    return evaluate_config(checked, model=model, out=out, fresh=fresh, views=views, engine=engine)


def sample(
    config: Config,
    *overrides: str,
    out: str | Path,
    model: str | Path | None = None,
    fresh: bool = False,
    **selection: Any,
) -> Sampled:
    """`mmreason sample`: `rollout.n` answers to each row of `data.train`, the chosen ones written as rows to `out`.

    `selection`: fields of `evaluation.selection.Selection`. Answers are kept beside `out`, so that another selection,
    or going on after a stop, asks no question again. `model`: a checkpoint other than `model.path`.
    """
    from mmreason.config import load_config

    checked = load_config(config, overrides)
    from mmreason.evaluation.sampling import sample_config
    from mmreason.evaluation.selection import Selection

    return sample_config(checked, Path(out), Selection(**selection), model=model, fresh=fresh)


def infer(
    source: str | Path, *overrides: str, model: str | Path, out: str | Path, ray: int | None = None, **options: Any
) -> Inferred:
    """`mmreason infer`: answer a prompt about every item of a folder, an archive, a list or rows; a row each in `out`.

    `options`: fields of `inference.options.InferOptions`, such as `prompt`. The same call goes on where an earlier one
    stopped. `ray`: answer so many shards on a Ray cluster.
    """
    from mmreason.inference.options import InferOptions

    asked = InferOptions(source=source, model=str(model), out=out, overrides=overrides, **options)
    if ray is not None:
        from dataclasses import replace

        from mmreason.inference.cluster import infer_on_ray

        infer_on_ray(asked, ray)
        asked = replace(asked, overwrite=False)  # nothing is left; what was done is counted, and shown
    from mmreason.inference.verb import infer as answer_all

    return answer_all(asked)


def score(file: str | Path, *rewards: str, config: Config | None = None, out: str | Path | None = None) -> ScoreSummary:
    """`mmreason score`: score the completions of a JSONL file by rewards ("accuracy rel_tol=0.01") or a config's.

    Lines go to `out`, else to standard output; returned are counts and `means`.
    """
    from mmreason.scoring import score_with

    return score_with(file, rewards, config, out)


def report(run_dir: str | Path) -> Path:
    """`mmreason report`: write report.html of a run that is going on, was killed or has finished; returns its path."""
    from mmreason.errors import DataError
    from mmreason.reporting import require_run, write_report

    folder = Path(run_dir)
    try:
        require_run(folder)
        return write_report(folder, title=folder.resolve().name)
    except OSError as error:
        raise DataError(f"{folder}: the report cannot be written ({error.strerror})") from error


def doctor() -> Diagnosis:
    """`mmreason doctor`: what works on this machine, and how to mend what does not; it prints as its lines."""
    from mmreason.diagnosis import doctor as look

    return look()
