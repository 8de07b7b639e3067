"""Several stages in one file: what is merged, what each begins with, and mistakes with file, line and stage."""

from dataclasses import fields
from pathlib import Path

import pytest

from mmreason.config import GrpoConfig, Plan, load_config, load_plan
from mmreason.config.plans import SampleOptions
from mmreason.config.pointing import pointed
from mmreason.config.recipe_files import find_config, recipe_files
from mmreason.config.stages import merged
from mmreason.errors import ConfigError
from mmreason.evaluation.selection import Selection

TWO = """\
recipe: {paper: P, method: SFT then GRPO, modality: image, fidelity: formula}
run_dir: runs/x
model: {path: base-model}
data: {train: [{path: a.jsonl}], suffix: Think.}
train: {learning_rate: 1e-5}
stages:
  - name: cold_start
    train: {method: sft, steps: 3}
  - name: rl
    rewards: [{name: accuracy}]
    rollout: {n: 4}
"""


@pytest.fixture
def two(tmp_path: Path) -> Path:
    (tmp_path / "two.yaml").write_text(TWO)
    return tmp_path / "two.yaml"


def refused(file: Path, *overrides: str) -> list[str]:
    """The lines of the error, without the folder."""
    with pytest.raises(ConfigError) as caught:
        load_plan(file, overrides)
    return str(caught.value).replace(f"{file.parent}/", "").splitlines()


def test_stages_are_the_common_part_with_their_own_keys_over_it(two: Path) -> None:
    first, second = load_plan(two).stages
    assert (first.name, first.after, second.name, second.after) == ("cold_start", None, "rl", "cold_start")
    assert (first.config.run_dir, second.config.run_dir) == ("runs/x/cold_start", "runs/x/rl")
    assert (first.config.model.path, second.config.model.path) == ("base-model", "runs/x/cold_start/model")
    assert (first.config.train.method, first.config.train.steps, first.config.train.learning_rate) == ("sft", 3, 1e-5)
    assert (second.config.train.method, second.config.train.learning_rate, second.config.rollout.n) == ("grpo", 1e-5, 4)
    assert second.config.data == first.config.data


def test_a_stage_may_begin_elsewhere_and_read_what_an_earlier_one_wrote(two: Path) -> None:
    third = "  - {name: dpo, from: cold_start, rewards: null, train: {method: sft}, data: {suffix: null}}\n"
    fourth = '  - {name: again, from: base, train: {method: sft}, data: {train: [{path: "{rl}/rows.jsonl"}]}}\n'
    two.write_text(f"{TWO}{third}{fourth}  - {{name: own, model: {{path: other}}, train: {{method: sft}}}}\n")
    stages = {stage.name: stage for stage in load_plan(two).stages}
    assert stages["dpo"].config.model.path == "runs/x/cold_start/model"
    assert stages["dpo"].config.data.suffix == ""
    assert stages["again"].config.model.path == "base-model"
    assert stages["again"].config.data.train[0].path == "runs/x/rl/rows.jsonl"
    assert (stages["own"].config.model.path, stages["own"].after) == ("other", None)


def test_overrides_are_for_all_stages_or_for_one(two: Path) -> None:
    plan = load_plan(two, ["run_dir=y", "model.path=mine", "train.steps=7", "rl.rollout.n=6"])
    first, second = (stage.config for stage in plan.stages)
    assert (first.run_dir, first.model.path, first.train.steps, first.rollout.n) == ("y/cold_start", "mine", 7, 8)
    assert (second.run_dir, second.model.path, second.train.steps) == ("y/rl", "y/cold_start/model", 7)
    assert second.rollout.n == 6


def test_pointing_at_a_model_data_and_a_folder(two: Path) -> None:
    def plan(*data: str) -> Plan:
        return load_plan(two, pointed(two, model="m: x", data=data, run_dir="z"))

    first, second = (stage.config for stage in plan("b.jsonl", "rl=c.jsonl").stages)
    assert (first.model.path, first.run_dir) == ("m: x", "z/cold_start")
    assert [source.path for source in first.data.train] == ["b.jsonl"]
    assert [source.path for source in second.data.train] == ["b.jsonl", "c.jsonl"]
    with pytest.raises(ConfigError, match=r"--data rm=c.jsonl: no stage 'rm'; there is cold_start, rl"):
        plan("rm=c.jsonl")


def test_data_made_by_an_earlier_stage_is_not_pointed_elsewhere(two: Path) -> None:
    two.write_text(TWO + '    data: {train: [{path: "{cold_start}/rows.jsonl"}]}\n')
    first, second = load_plan(two, pointed(two, model=None, data=["b.jsonl"], run_dir=None)).stages
    assert first.config.data.train[0].path == "b.jsonl"
    assert second.config.data.train[0].path == "runs/x/cold_start/rows.jsonl"


def test_common_keys_of_grpo_are_for_the_stages_that_read_them(two: Path) -> None:
    two.write_text(TWO.replace("stages:", "grpo: {clip: none, kl_coef: 0.1}\nstages:"))
    first, second = load_plan(two, ["grpo.mask_truncated=false"]).stages
    assert first.config.grpo == GrpoConfig()
    assert (second.config.grpo.clip, second.config.grpo.mask_truncated) == ("none", False)
    assert load_config(f"{two}:cold_start").grpo == GrpoConfig()
    two.write_text(TWO.replace("steps: 3}", "steps: 3}\n    grpo: {clip: none}"))
    assert refused(two)[0].startswith("two.yaml:9: grpo: clip given, but train.method sft reads nothing")
    two.write_text(TWO)
    assert refused(two, "cold_start.grpo.clip=none")[0].endswith("drop the others (stage cold_start)")
    only = TWO.replace("stages:", "grpo: {clip: none}\nstages:").partition("  - name: rl")[0]
    two.write_text(only)
    assert "grpo: clip given" in refused(two)[0], "no stage reads it"


def test_common_shaping_is_for_the_stages_that_sample(two: Path) -> None:
    given = "shaping: [{name: length_bonus}]"
    two.write_text(TWO.replace("stages:", f"{given}\nstages:"))
    first, second = load_plan(two).stages
    assert not first.config.shaping
    assert [shaper.name for shaper in second.config.shaping] == ["length_bonus"]
    two.write_text(TWO.replace("steps: 3}", "steps: 3}\n    " + given))
    assert "shaping: length_bonus given, but train.method sft samples no answers to shape; drop it" in refused(two)[0]


def test_one_stage_is_picked_by_name(two: Path) -> None:
    assert load_config(f"{two}:rl").model.path == "runs/x/cold_start/model"
    assert [stage.name for stage in load_plan(f"{two}:rl").stages] == ["rl"]
    with pytest.raises(ConfigError, match=r"holds the stages cold_start, rl; name one, as in .*two.yaml:cold_start"):
        load_config(two)
    with pytest.raises(ConfigError, match="no stage 'x'; there is cold_start, rl"):
        load_config(f"{two}:x")


def test_mistakes_name_file_line_and_stage(two: Path) -> None:
    two.write_text(TWO.replace("steps: 3", "stepz: 3").replace("n: 4", "n: 1").replace("suffix", "sufix"))
    assert refused(two, "rl.train.steps=0", "seed=-1") == [
        "override 'seed=-1': seed: got -1; input should be greater than or equal to 0",
        "two.yaml:4: data.sufix: unknown key; did you mean 'suffix'?",
        "two.yaml:8: train.stepz: unknown key; did you mean 'steps'? (stage cold_start)",
        "override 'train.steps=0': train.steps: got 0; input should be greater than or equal to 1 (stage rl)",
        "two.yaml:11: rollout.n: 1, but a group needs at least 2 answers to compare (stage rl)",
    ]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("name: rl", "name: grpo", "two.yaml:9: stage grpo: no possible name; use small letters, digits and _, and no "
         "section's name"),
        ("name: rl", "name: cold_start", "two.yaml:9: stage cold_start: a second stage of that name"),
        ("name: rl", "name: rl\n    from: x", "two.yaml:10: stage rl: from: 'x', expected one of base, cold_start"),
        ("name: rl", "name: rl\n    run_dir: x", "two.yaml:10: stage rl: run_dir: its folder is run_dir/NAME; "
         "drop it"),
        ("name: rl", "title: rl", "two.yaml:9: stages.1: expected keys, with a name among them, as in {name: rl, ...}"),
        ("name: rl", "name: rl\n    from: base\n    model: {path: x}", "two.yaml:10: stage rl: from and model.path "
         "given, expected one of them"),
        ("fidelity: formula", "fidelity: sure", "two.yaml:1: recipe.fidelity: got 'sure'; input should be "
         "'differential', 'formula' or 'inspired'"),
        ("paper: P, ", "papr: P, ", "two.yaml:1: recipe.paper: required, but not given"),
    ],
)  # fmt: skip
def test_mistakes_in_the_list_itself(old: str, new: str, line: str, two: Path) -> None:
    two.write_text(TWO.replace(old, new))
    assert line in refused(two)


def test_a_list_of_stages_is_a_list(two: Path) -> None:
    two.write_text("run_dir: x\nstages: {rl: 1}\n")
    expected = "two.yaml:2: stages: expected a list of stages, each with a name and what differs from the rest"
    assert refused(two) == [expected]


def test_merged() -> None:
    common = {"a": {"b": 1, "c": [1, 2]}, "d": 3}
    assert merged(common, {"a": {"c": [4]}, "d": None}) == {"a": {"b": 1, "c": [4]}}
    assert common == {"a": {"b": 1, "c": [1, 2]}, "d": 3}


def test_recipes_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, file = next(iter(recipe_files().items()))
    assert find_config(name) == (file, None)
    assert find_config(f"{name}:rl") == (file, "rl")
    monkeypatch.chdir(tmp_path)
    Path(name).write_text("run_dir: mine\n")  # a user's own file comes first
    assert find_config(name) == (Path(name), None)
    with pytest.raises(ConfigError, match=f"did you mean the recipe '{name}'"):
        load_plan(f"{name}x")


def test_a_stage_that_samples(two: Path) -> None:
    two.write_text(f"{TWO}  - {{name: rft, sample: {{per_question: 4}}}}\n  - {{name: more, train: {{method: sft}}}}\n")
    stages = {stage.name: stage for stage in load_plan(two, ["rewards=[{name: accuracy}]"]).stages}
    assert stages["rft"].sample is not None
    assert (stages["rft"].sample.per_question, stages["rft"].sample.keep) == (4, "correct")
    assert stages["rft"].config.model.path == stages["more"].config.model.path == "runs/x/rl/model"
    two.write_text(two.read_text().replace("name: more", "name: more, from: rft"))
    lines = refused(two)
    assert lines == ["two.yaml:13: stage more: from: 'rft', expected one of base, cold_start, rl"]


def test_options_of_a_sampling_stage_are_those_of_sample() -> None:
    selection = {field.name: field.default for field in fields(Selection)}
    assert SampleOptions().model_dump() == selection


def test_mistakes_in_a_sampling_stage(two: Path) -> None:
    two.write_text(f"{TWO}  - {{name: rft, sample: {{per_questions: 4}}}}\n")
    assert refused(two)[0] == ("two.yaml: sample.per_questions: unknown key; did you mean 'per_question'? (stage rft)")
