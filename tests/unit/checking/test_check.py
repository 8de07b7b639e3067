"""`mmreason check`: everything that is wrong, in one run, a line each, with file and line."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmreason.checking import CheckOptions, CheckReport, check
from mmreason.cli import main
from mmreason.demo.media import DemoFiles, write_demo_data
from mmreason.errors import ConfigError
from tests.integration.runs import SMALL_MEDIA
from tests.media_files import cut, write_audio, write_image, write_video

ROOT = Path(__file__).parents[3]


def row(text: str = "What is shown?", *, media: tuple[str, str] | None = None, **keys: Any) -> str:
    parts = [{"type": media[0], media[0]: media[1]}] if media else []
    content = [*parts, {"type": "text", "text": text}]
    return json.dumps({"messages": [{"role": "user", "content": content}], "answer": "red", **keys})


def write_run(folder: Path, model: Path | str, lines: list[str], /, **sections: Any) -> Path:
    """A config with one data file of these lines."""
    (folder / "train.jsonl").write_text("".join(line + "\n" for line in lines))
    values = {
        "run_dir": str(folder / "run"),
        "model": {"path": str(model)},
        "data": {"train": [{"path": str(folder / "train.jsonl")}]},
        "media": dict(SMALL_MEDIA),
        "rewards": [{"name": "accuracy"}, {"name": "format", "weight": 0.1}],
        **sections,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return folder / "run.yaml"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoFiles:
    return write_demo_data(tmp_path_factory.mktemp("demo"), seed=2, train=30, eval=5, sft=5, choices=2)


def lines(report: CheckReport, kind: str) -> list[str]:
    return [finding.line for finding in report.findings if finding.kind == kind]


def test_good_data_is_measured_and_nothing_is_found(tiny_omni: Path, demo: DemoFiles, tmp_path: Path) -> None:
    data = {"train": [{"path": str(demo.train)}], "eval": [{"path": str(demo.eval)}]}
    file = write_run(tmp_path, tiny_omni, [], data=data)
    said: list[str] = []
    report = check(file, (), CheckOptions(decode=None), say=said.append)
    assert report.ok, str(report)
    assert said == list(report.tables)
    shown = "\n".join(said)
    assert "train   video " in shown
    assert "tokens per prompt" in shown
    assert "at the worst moment" in shown
    (golds,) = [line for line in said if line.startswith("accuracy")]
    assert golds.split()[1:4] == ["1.000", "0.000", "0.000"]
    assert not (tmp_path / "run").exists(), "a dry run leaves nothing behind"


def broken_lines(folder: Path) -> dict[str, str]:
    """One line of a data file per kind of damage, after two good ones -> what `check` has to say of it."""
    write_image(folder / "good.png")
    (folder / "empty.png").touch()
    (folder / "notes.png").write_text("a picture, honestly")
    cut(write_video(folder / "cut.mp4"), 0.4)
    write_audio(folder / "sound.wav")
    return {
        '{"messages": [': "not a JSON object",
        row(anwser="red"): "unknown key 'anwser'; did you mean 'answer'?",
        '{"answer": "red"}': "messages: missing or empty",
        row(id="twice"): "",
        row(id="twice", answer="blue"): "id 'twice' stands at",
        row(media=("image", "nowhere.png")): "missing: there is no such file",
        row(media=("image", "empty.png")): "empty: the file has no bytes",
        row(media=("image", "notes.png")): "wrong type: ",
        row(media=("video", "cut.mp4")): "truncated: ",
        row(media=("video", "sound.wav")): "wrong type: ",
        row(media=("image", "../../etc/passwd")): "lies outside the media root",
        row(task="numeric", answer="many"): "cannot be scored; expected one number",
        row("Look: the answer is violet. What is it?", answer="violet"): "the answer stands in the prompt",
    }


CONFIG_MISTAKES = {
    "train": {"stepz": 5},
    "rollout": {"n": 1},
    "model": {"path": "m", "dtype": "int8"},
    "scoring": {"combine": "maximum"},
}


def test_twelve_kinds_of_damage_and_four_of_config_in_one_run(tmp_path: Path) -> None:
    damage = broken_lines(tmp_path)
    good = [row(media=("image", "good.png")), row(answer="blue")]
    file = write_run(tmp_path, "m", [*good, *damage], **CONFIG_MISTAKES)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "mmreason.cli", "check", str(file)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    said = done.stdout.splitlines()
    for number, expected in enumerate(damage.values(), 3):
        if expected:
            named = [line for line in said if line.startswith(f"{tmp_path}/train.jsonl:{number}: ")]
            assert len(named) == 1, (number, expected, said)
            assert expected in named[0]
    for key in ("train.stepz", "model.dtype", "scoring.combine"):
        assert [line for line in said if line.startswith(f"{file}:") and f" {key}: " in line], (key, said)
    assert [line for line in said if "rollout.n: 1, but a group needs at least 2 answers" in line]
    assert said[-1] == "16 problems found"
    assert not [line for line in said if line.startswith(f"{tmp_path}/train.jsonl:1:")]
    assert " torch\n" not in done.stderr, "a config with mistakes must not wait for torch"
    assert "| mmreason" in done.stderr


def test_lines_of_the_config_are_those_of_the_file(tmp_path: Path) -> None:
    file = write_run(tmp_path, "m", [], **CONFIG_MISTAKES)
    text = file.read_text().splitlines()
    for line in lines(check(file), "config"):
        place, _, rest = line.removeprefix(f"{file}:").partition(": ")
        if place.isdecimal():
            assert rest.split(":")[0].split(".")[-1] in text[int(place) - 1]


def test_the_same_damage_with_a_usable_config(tiny_omni: Path, tmp_path: Path) -> None:
    damage = broken_lines(tmp_path)
    damage[row("a" * 4000, answer="b")] = ""
    damage[row("What does <|im_end|> mean?")] = "spells the special token '<|im_end|>'"
    file = write_run(tmp_path, tiny_omni, list(damage), train={"row_tokens": 2048}, data={
        "train": [{"path": str(tmp_path / "train.jsonl")}], "max_prompt_tokens": 500})  # fmt: skip
    report = check(file, (), CheckOptions(rows=None, decode=None))
    for number, expected in enumerate(damage.values(), 1):
        named = [f.line for f in report.findings if f.line.startswith(f"{tmp_path}/train.jsonl:{number}: ")]
        assert [expected in line for line in named] == [True] * bool(expected), (number, expected, str(report))
    assert "1 of 5 rows would be dropped:" in report.tables or "would be dropped" in str(report)
    assert "tokens > data.max_prompt_tokens (500)" in str(report)


def test_many_findings_of_a_kind_are_counted_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_run(tmp_path, "m", ["{"] * 50, model={})
    assert main(["check", str(file), "--out", str(tmp_path / "all.jsonl")]) == 2
    said = capsys.readouterr().out.splitlines()
    assert sum("not a JSON object" in line for line in said) == 20
    assert "... and 30 more of kind 'data'; --out FILE holds all of them" in said
    kept = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert [item["kind"] for item in kept] == ["config", *["data"] * 50]


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"rewards": [{"name": "acuracy"}]}, "acuracy: no such name in mmreason.rewards; did you mean 'accuracy'?"),
        ({"rewards": [{"name": "iou", "options": {"powr": 2}}]}, "reward iou: unknown option 'powr'"),
        ({"train": {"method": "sft", "deepspeed": "nowhere.json"}}, "train.deepspeed: nowhere.json cannot be read"),
        ({"train": {"method": "sft"}}, "no `demos`, but train.method is sft"),
        ({"data": {"train": [{"path": "nowhere.jsonl"}]}}, "nowhere.jsonl: "),
        ({"data": {"train": []}}, "data.train: empty"),
        ({"run_dir": "/dev/null/run"}, "run_dir: /dev/null/run: no folder can be made there"),
        ({"model": {"path": "nowhere"}}, "model.path: nowhere: no checkpoint there"),
        ({"model": {"path": "./no/where"}}, "model.path: ./no/where: there is no such folder"),
        ({"run_dir": "a" * 300}, "no folder can be made there"),
        ({"train": {"trackers": ["comet_ml"]}}, "train.trackers: comet_ml is not installed"),
        ({"model": {"lora": {"targets": ["q_proj", "nope"]}}}, "model.lora.targets: 'nope' names no linear layer"),
        ({"data": {"max_prompt_tokens": 2}}, "1 of 1 rows cannot be used"),
        ({"rewards": [{"name": "format", "options": {"pattern": "x+y"}}]}, "fits none of the usual ways"),
        ({"shaping": [{"name": "length_bonus", "options": {"lo": 1}}]}, "shaping length_bonus: unknown option 'lo'"),
    ],
)
def test_what_the_config_names_is_looked_at(
    sections: dict[str, Any], expected: str, tiny_omni: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    file = write_run(tmp_path, tiny_omni, [row()])
    values = yaml.safe_load(file.read_text())
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    file.write_text(yaml.safe_dump(values))
    found = [finding.line for finding in check(file).findings]
    assert [line for line in found if expected in line], found


@pytest.mark.parametrize("text", ["[]", '{"zero_optimization": 3}', '{"zero_optimization": {"stage": "x"}}', "{"])
def test_a_deepspeed_file_of_another_kind(text: str, tiny_vl: Path, tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text(text)
    report = check(write_run(tmp_path, tiny_vl, [row()], train={"deepspeed": str(tmp_path / "ds.json")}))
    (line,) = lines(report, "plug-in")
    assert f"train.deepspeed: {tmp_path}/ds.json" in line


def test_too_few_rows(tiny_vl: Path, tmp_path: Path) -> None:
    (line,) = lines(check(write_run(tmp_path, tiny_vl, [])), "data")
    assert line == "data.train: no usable rows for 1 process"
    (line,) = lines(check(write_run(tmp_path, tiny_vl, [row()]), (), CheckOptions(processes=2)), "data")
    assert line == "data.train: 1 usable rows for 2 processes"


def test_terms_that_need_demonstrations(tmp_path: Path) -> None:
    terms = {"terms": [{"name": "imitation"}]}
    wanted = "grpo.terms need demonstrations, but no row of data.train has `demos`; give some, or drop them"
    model = tmp_path / "none"
    assert lines(check(write_run(tmp_path, model, [row(), row()], grpo=terms)), "data") == [wanted]
    assert not lines(check(write_run(tmp_path, model, [row(), row(demos=["red"])], grpo=terms)), "data")
    assert not lines(check(write_run(tmp_path, model, [row()], grpo={"terms": [{"name": "entropy"}]})), "data")


def test_numbers_that_cannot_be() -> None:
    for make in (partial(CheckOptions, processes=0), partial(CheckOptions, rows=-1), partial(CheckOptions, decode=-5)):
        with pytest.raises(ConfigError, match="expected at least 1 process"):
            make()


def test_a_model_outside_the_table_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama/config.json").write_text('{"model_type": "llama"}')
    (line,) = lines(check(write_run(tmp_path, tmp_path / "llama", [row()])), "model")
    assert "model_type 'llama' is not in the family table" in line
    assert "docs/families.md" in line


def test_sources_that_cannot_be_read_do_not_hide_the_others(tmp_path: Path) -> None:
    sources = [{"path": str(tmp_path / "gone.jsonl")}, {"path": str(tmp_path / "train.jsonl")}]
    file = write_run(tmp_path, "m", ["{"], data={"train": sources}, model={})
    found = lines(check(file), "data")
    assert len(found) == 2
    assert "gone.jsonl" in found[0]
    assert "train.jsonl:1" in found[1]


FIRST_LINE = """
import os, sys, time
from mmreason.cli import main

class Out:
    def write(self, text):
        os.write(1, f"{time.process_time()} {text}".encode())
        os._exit(0)

    def flush(self):
        pass

sys.stdout = Out()
main(["check", sys.argv[1]])
"""
"""The processor time of this process when `check` says its first line, and that line."""


def test_a_wrong_config_is_answered_before_anything_slow_is_loaded(tmp_path: Path) -> None:
    """Processor time, since wall time depends on what else runs here; the best of three, with bytecode on disk."""
    file = write_run(tmp_path, "m", [row()] * 10, train={"stepz": 1})
    line = [sys.executable, "-c", FIRST_LINE, str(file)]
    warm = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
    seconds = []
    for _ in range(4):
        said = subprocess.run(line, env=warm, capture_output=True, text=True, timeout=60, check=True).stdout
        assert "train.stepz" in said
        seconds.append(float(said.split()[0]))
    assert min(seconds[1:]) < 0.5, seconds


def test_what_an_earlier_stage_will_make_is_said_and_the_rest_is_checked(tiny_vl: Path, tmp_path: Path) -> None:
    file = write_run(tmp_path, tiny_vl, [row()] * 4)
    values = yaml.safe_load(file.read_text())
    written = [{"path": "{rft}/rows.jsonl"}, *values["data"]["train"]]
    values["stages"] = [
        {"name": "rft", "sample": {}},
        {"name": "sft", "train": {"method": "sft"}, "data": {"train": written}, "rewards": None},
        {"name": "rl"},
    ]
    file.write_text(yaml.safe_dump(values))
    report = check(f"{file}:rl")
    run = tmp_path / "run"
    assert f"model {run}/sft/model: will be made by stage sft; checked with {tiny_vl} instead" in report.tables
    assert not [finding for finding in report.findings if finding.kind == "model"]
    assert "4 rows" in str(report)
    assert "tokens per prompt" in str(report)
    second = check(f"{file}:sft")
    assert f"data.train {run}/rft/rows.jsonl: will be made by stage rft; not checked" in second.tables
    assert not [finding for finding in second.findings if "rows.jsonl" in finding.line]
    (run / "sft/model").mkdir(parents=True)
    assert "model" in {finding.kind for finding in check(f"{file}:rl").findings}, "there, but no model"


def test_what_a_filter_and_a_mixture_leave(tmp_path: Path) -> None:
    rows = [row(source="ab"[i % 2], meta={"pass_rate": i / 10}, id=str(i)) for i in range(10)]
    data = {"train": [{"path": str(tmp_path / "train.jsonl")}], "pass_rate": [0.1, 0.8], "mix": {"a": 3, "b": 1}}
    file = write_run(tmp_path, tmp_path / "none", rows, data=data)
    tables = "\n".join(check(file, (), CheckOptions()).tables)
    assert "train   text                   8 rows" in tables
    assert "data.pass_rate 0.1 to 0.8 leaves 8 of 10 training rows" in tables
    assert "an epoch has 6 rows of a (75.0%), which has 4" in tables
    assert "an epoch has 2 rows of b (25.0%), which has 4" in tables
    report = check(file, ["data.order=gaussian", "data.mix={}"], CheckOptions())
    assert "data.order gaussian: the first epoch has " in str(report)
    report = check(file, ["data.pass_rate=[0.95, 1]"], CheckOptions())
    assert lines(report, "data") == [
        "data.pass_rate: [0.95, 1.0] leaves none of 10 rows; their pass rates are 0 to 0.9"
    ]
    report = check(file, ["data.mix={a: 1}"], CheckOptions())
    assert "source 'b' (4 rows) is not in it" in lines(report, "data")[0]
