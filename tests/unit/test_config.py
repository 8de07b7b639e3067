"""mmreason.config: what it takes, and that every mistake is named in one line, all of them at once."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from mmreason.algorithms.advantages import ADVANTAGES
from mmreason.algorithms.clips import CLIP_SCHEDULES, CLIPS, Bounds
from mmreason.algorithms.kl import KL_ESTIMATORS, KL_SCHEDULES
from mmreason.algorithms.off_policy import CORRECTIONS
from mmreason.algorithms.ratios import RATIOS
from mmreason.config import GrpoConfig, RunConfig, build_config, inspect_config, leaf_keys, load_config
from mmreason.config.columns import columns_of, spans_of, tags_of
from mmreason.config.grpo_options import OPTIONS
from mmreason.config.helps import helps
from mmreason.config.sections import ADVANTAGE_NAMES
from mmreason.errors import ConfigError

GRPO = """
run_dir: runs/a
model: {path: /models/m}
rewards:
  - name: accuracy
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "run.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def mistakes(folder: Path, text: str, *overrides: str) -> list[str]:
    """The lines of the one error that this config gives, without the place (file and line, or override) in front."""
    file = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        load_config(file, overrides)
    places = [*(re.escape(f"override {override!r}") for override in overrides), rf"{re.escape(str(file))}(?::\d+)?"]
    return [re.sub(rf"^(?:{'|'.join(places)}): (?=[\w.]+: )", "", line) for line in str(caught.value).split("\n")]


def test_a_mistake_is_named_with_the_place_where_it_was_made(tmp_path: Path) -> None:
    model, train = "model:\n  path: m\n  frez: 1\n", "train: {method: sft,\n  steps: 0}\n"
    text = f"run_dir: r\n{model}{train}data:\n  train:\n    - {{limit: 2}}\n"
    file = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(file, ["rollout.top_p=2", "model.dtype=int8"])
    assert sorted(line.partition(": ")[0] for line in str(caught.value).split("\n")) == [
        f"{file}:4",
        f"{file}:6",
        f"{file}:9",
        "override 'model.dtype=int8'",
        "override 'rollout.top_p=2'",
    ]


def test_inspecting_keeps_what_is_usable(tmp_path: Path) -> None:
    sources = "[{path: a.jsonl}, {limit: 3}, {path: b.jsonl, limit: 0}]"
    wrong = f"train: {{steps: x, method: sft}}\ndata: {{train: {sources}, no: 1}}\n"
    config, sections, mistakes = inspect_config(write(tmp_path, GRPO + wrong))
    assert config is None
    assert len(mistakes.split("\n")) == 4
    assert [(source.path, source.limit) for source in sections["data"].train] == [("a.jsonl", None), ("b.jsonl", None)]
    assert (sections["train"].method, sections["train"].steps) == ("sft", 1000)
    assert [reward.name for reward in sections["rewards"]] == ["accuracy"]
    config, _, mistakes = inspect_config(write(tmp_path, GRPO))
    assert config is not None
    assert mistakes == ""


@pytest.mark.parametrize("data", ["5", "[1]", "{train: 7}", "{train: {path: a}}"])
def test_inspecting_survives_sections_of_another_shape(tmp_path: Path, data: str) -> None:
    config, sections, mistakes = inspect_config(write(tmp_path, GRPO + f"data: {data}\n"))
    assert config is None
    assert "data" in mistakes
    assert sections["data"].train == ()


def test_minimal_config_has_the_documented_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GRPO))
    assert config.train.method == "grpo"
    assert (config.grpo.clip_low, config.grpo.clip_high, config.grpo.kl_coef) == (0.2, 0.28, 0.0)
    assert config.model.freeze == ("vision", "audio")
    assert config.rewards[0].name == "accuracy"
    assert config.rewards[0].weight == 1.0


def test_values_cannot_change(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GRPO))
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3  # type: ignore[misc]  # that mypy sees it too is the point


def test_lists_become_tuples_and_ints_are_taken_for_floats(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GRPO + "rollout: {stop: ['</answer>'], temperature: 1}\n"))
    assert config.rollout.stop == ("</answer>",)
    assert config.rollout.temperature == 1.0


@pytest.mark.parametrize("text", ["1e-6", "1.0e-6", "1E-06", "0.000001"])
def test_numbers_with_an_exponent_are_numbers(tmp_path: Path, text: str) -> None:
    file = write(tmp_path, GRPO + f"train: {{learning_rate: {text}}}\n")
    assert load_config(file).train.learning_rate == pytest.approx(1e-6)
    assert load_config(file, [f"train.learning_rate={text}"]).train.learning_rate == pytest.approx(1e-6)


def test_reward_options_stay_as_written(tmp_path: Path) -> None:
    options = {"labels": ["a", "b"], "nested": {"threshold": 0.5, "options": [1, [2]]}, "name": "x"}
    values: dict[str, Any] = {"run_dir": "r", "model": {"path": "m"}, "rewards": [{"name": "f", "options": options}]}
    assert build_config(values).rewards[0].options == options


def test_every_mistake_in_one_message(tmp_path: Path) -> None:
    text = """
run_dir: 7
model: {path: /m, dtyp: float32, head_chunk: 0}
rollout: {n: many}
rewards: [{nam: accuracy}]
"""
    assert mistakes(tmp_path, text) == [
        "run_dir: got 7; input should be a valid string",
        "model.head_chunk: got 0; input should be greater than or equal to 1",
        "model.dtyp: unknown key; did you mean 'dtype'?",
        "rollout.n: got 'many'; input should be a valid integer",
        "rewards.0.name: required, but not given",
        "rewards.0.nam: unknown key; did you mean 'name'?",
    ]


def test_unknown_key_of_another_section_is_found_there(tmp_path: Path) -> None:
    assert mistakes(tmp_path, GRPO, "learning_rate=0.1") == [
        "learning_rate: unknown key; did you mean 'train.learning_rate'?"
    ]


def test_unknown_key_near_nothing_lists_what_there_is(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, GRPO + "scoring: {zzzz: 1}\n")
    assert line == "scoring.zzzz: unknown key; known here: combine, on_error, workers, deadline_s"


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.steps=1.5", "train.steps: got 1.5; input should be a valid integer"),
        ("train.steps=true", "train.steps: got True; input should be a valid integer"),
        ("train.steps='5'", "train.steps: got '5'; input should be a valid integer"),
        ("train.learning_rate=.nan", "train.learning_rate: got nan; input should be a finite number"),
        ("train.method=ppo", "train.method: got 'ppo'; input should be 'sft', 'grpo' or 'dpo'"),
        ("model.freeze=vision", "model.freeze: got 'vision'; input should be a list, as in [a, b]"),
        ("rollout.top_p=2", "rollout.top_p: got 2; input should be less than or equal to 1"),
        ("seed=100000000000000000000000", "seed: got 100000000000000000000000; input should be less than "
         "9223372036854775808"),
        ("model.lora.targets=[]", "model.lora.targets: got (); the list should have at least 1 item after validation, "
         "not 0"),
        ("train.steps=010", "train.steps: got '010'; input should be a valid integer"),
        ("train.steps=1:30", "train.steps: got '1:30'; input should be a valid integer"),
        ("train.learning_rate=1:30.5", "train.learning_rate: got '1:30.5'; input should be a valid number"),
        ("run_dir=" + "9" * 300, "run_dir: got " + "9" * 77 + "...; input should be a valid string"),
        (
            "train.learning_rates={tower: 1}",
            "train.learning_rates.tower: got 'tower'; input should be 'vision', 'audio', 'projector', 'language' or "
            "'critic'",
        ),
        ("data=3", "data: got 3; expected a section with keys train, eval, media_root, system, suffix, show_options, "
         "max_prompt_tokens, max_bad_fraction, order, difficulty, pass_rate, mix"),
        (
            "data.eval=[5]",
            "data.eval.0: got 5; expected a section with keys path, format, adapter, split, streaming, limit",
        ),
    ],
)  # fmt: skip
def test_wrong_value(tmp_path: Path, override: str, line: str) -> None:
    assert mistakes(tmp_path, GRPO, override) == [line]


def test_impossible_combinations_all_at_once(tmp_path: Path) -> None:
    text = """
run_dir: r
model: {path: m, trust_remote_code: true, freeze: [vision, audio, projector, language]}
rollout: {n: 1}
media: {video_min_frames: 9, video_max_frames: 8, image_min_pixels: 100, image_max_pixels: 50, video_max_pixels: 9}
grpo: {updates_per_batch: 3}
train: {learning_rates: {vision: 1e-5}, row_tokens: 512}
"""
    assert [line.split(": ")[0] for line in mistakes(tmp_path, text)] == [
        "model.trust_remote_code",
        "rewards",
        "rollout.n",
        "media.video_min_frames",
        "media.image_min_pixels",
        "media.video_min_pixels",
        "grpo.updates_per_batch",
        "train.learning_rates.vision",
        "model.freeze",
        "rollout.max_new_tokens",
    ]


@pytest.mark.parametrize(
    ("grpo", "line"),
    [
        ("options: {temp: 1}", "grpo.options.temp: no such option; expected some of epsilon, dual,"),
        ("options: {dual: 3}, clip: sapo", "grpo.options.dual: grpo.clip is sapo, which does not read it; drop this"),
        ("options: {weight_high: 3}", "grpo.options.weight_high: grpo.off_policy is none, which does not read it"),
        ("options: {replay: 2, replay_below: 1}", "grpo.options.replay: 2.0, expected at most 1"),
        ("options: {replay: 0.1}", "grpo.options.replay_below: missing; options.replay needs it"),
        ("options: {replay_below: 0.1}", "grpo.options.replay_below: options.replay is 0, which does not read it"),
        ("options: {temperature_low: 1}", "grpo.options.temperature_low: rollout.entropy_target is not set, which"),
        ("advantage: grop", "grpo.advantage: got 'grop'; expected one of group, group_mean, batch, rloo,"),
        ("options: {gamma: 0.9}", "grpo.options.gamma: grpo.advantage is group, which does not read it; drop"),
        ("advantage: gae", "grpo.drop_constant_groups: true, but grpo.advantage gae learns from such groups too"),
        (
            "advantage: gae, drop_constant_groups: false, options: {whiten: 0.5}",
            "grpo.options.whiten: 0.5, expected 0 or 1",
        ),
        ("options: {epsilon: 0}", "grpo.options.epsilon: 0.0, expected more than 0"),
        ("options: {dual: 1.2}", "grpo.options.dual: 1.2, expected more than 1 + grpo.clip_high (1.28)"),
        ("off_policy: token_mask, options: {weight_low: 2}", "grpo.options.weight_low: 2.0, expected less than"),
        ("kl_coef: 0.1, kl_schedule: linear", "grpo.options.kl_end: missing; grpo.kl_schedule is linear and needs it"),
        ("kl_coef: 0.1, kl_schedule: adaptive", "grpo.options.kl_target: missing; grpo.kl_schedule is adaptive"),
        ("kl_schedule: linear, options: {kl_end: 0}", "grpo.kl_schedule: linear, but grpo.kl_coef is 0"),
        ("kl_in: reward", "grpo.kl_in: reward, but grpo.kl_coef is 0"),
        ("kl_in: reward, kl_coef: 0.1, kl_estimator: k3+", "grpo.kl_estimator: k3+ chooses a gradient"),
        ("kl_in: reward, kl_coef: 0.1, kl_estimator: k1, advantage: gdpo", "grpo.kl_in: reward, but grpo.advantage"),
        ("clip: geometric, ratio: sequence", "grpo.ratio: sequence, but grpo.clip geometric clips tokens"),
        ("clip: sapo, clip_schedule: shrink", "grpo.clip_schedule: shrink, but grpo.clip sapo has no bounds"),
        ("clip: disco_b, mask_truncated: false, advantage: contrast", "train.aggregation: token_mean, but grpo.clip"),
        (
            "terms: [{name: distill, options: {teacher: t}}]",
            "grpo.drop_constant_groups: true, but grpo.terms distill corrects wrong",
        ),
        ("advantage: remax", "grpo.drop_constant_groups: true, but grpo.advantage remax learns from such groups too"),
        ("keep_mean: [0.9, 0.1]", "grpo.keep_mean: [0.9, 0.1], expected the lower bound first"),
        ("advantage: gdpo}\nscoring: {combine: product", "scoring.combine: product, but grpo.advantage gdpo sums"),
        ("}\nshaping: [{name: temporal_bonus}", "grpo.contrast_view: null, but shaping temporal_bonus compares with"),
        (
            "}\nshaping: [{name: resample_correct, options: {keep: 8}}",
            "shaping.0.options.keep: 8, expected min_right + ",
        ),
        (
            "}\nshaping: [{name: resample_correct, options: {keep: 3}}",
            "shaping.0.options.keep: 3, expected min_right + ",
        ),
        (
            "advantage: contrast}\nshaping: [{name: length_bonus, options: {span: think}}",
            "grpo.advantage: contrast, but",
        ),
    ],
)
def test_algorithms_that_cannot_be(tmp_path: Path, grpo: str, line: str) -> None:
    text = f"grpo: {{{grpo}}}\n" if "shaping" not in grpo else f"grpo: {{{grpo}]\n"
    (found,) = mistakes(tmp_path, GRPO + text)
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("grpo", "line"),
    [
        ("grpo: {advantage: contrast}", "grpo.advantage: contrast"),
        ("grpo: {ratio: sequence}", "grpo.ratio: sequence"),
        ("grpo: {clip: geometric}", "grpo.clip: geometric"),
        ("grpo: {kl_in: reward, kl_coef: 0.1, kl_estimator: k1}", "grpo.kl_in: reward"),
        ("scoring: {combine: first}", "scoring.combine: first"),
    ],
)
def test_what_has_no_meaning_with_spans_is_refused(tmp_path: Path, grpo: str, line: str) -> None:
    rewards = "rewards: [{name: accuracy, span: rest}, {name: format, span: observation}]"
    (found,) = mistakes(tmp_path, f"run_dir: r\nmodel: {{path: m}}\n{rewards}\n{grpo}\n")
    assert found.startswith(f"{line}, but rewards have a span of their own (rewards[].span), and ")


def test_columns_and_spans() -> None:
    def made(rewards: list[Any], shaping: list[Any] | None = None) -> RunConfig:
        return build_config({"run_dir": "r", "model": {"path": "m"}, "rewards": rewards, "shaping": shaping or []})

    plain = made([{"name": "iou"}, {"name": "iou", "weight": 2.0}], [{"name": "iou"}])
    assert [(column.label, column.weight) for column in columns_of(plain)] == [("iou", 1), ("iou#2", 2), ("iou#3", 1)]
    assert (spans_of(plain), tags_of(plain)) == (("all",), ())
    both = made([{"name": "iou", "span": "rest"}, {"name": "format", "span": "look"}])
    assert (spans_of(both), tags_of(both)) == (("look", "rest"), ("look",))
    assert spans_of(made([{"name": "iou", "span": "look"}])) == ("look",), "nothing rewards the rest"
    assert spans_of(made([{"name": "iou", "span": "look"}, {"name": "format"}])) == ("look", "rest")
    bonus = [{"name": "length_bonus", "options": {"span": "look", "accuracy": "iou"}}]
    assert spans_of(made([{"name": "iou"}], bonus)) == ("look", "rest")


def test_one_answer_will_do_where_none_are_compared(tmp_path: Path) -> None:
    one = GRPO + "rollout: {n: 1}\n"
    alone, terms = "grpo.options={policy_weight: 0}", "grpo.terms=[{name: imitation}]"
    loss = [alone, terms, "grpo.drop_constant_groups=false"]
    assert load_config(write(tmp_path, one), loss).rollout.n == 1
    (line,) = mistakes(tmp_path, one, *loss[:2])
    assert line.startswith("grpo.drop_constant_groups: true, but rollout.n is 1, so every group is constant; use")
    demonstrations = "grpo.terms=[{name: demo_policy}]"  # its advantages are those of the group
    for wrong in ([terms, loss[2]], [alone, demonstrations, loss[2]]):
        assert mistakes(tmp_path, one, *wrong) == ["rollout.n: 1, but a group needs at least 2 answers to compare"]


@pytest.mark.parametrize(
    ("method", "read"), [("dpo", "only kl_coef of this section"), ("sft", "nothing of this section")]
)
def test_what_a_method_does_not_read_of_grpo_is_refused(tmp_path: Path, method: str, read: str) -> None:
    text = f"run_dir: r\nmodel: {{path: m}}\ntrain: {{method: {method}, aggregation: sequence_sum}}\n"
    grpo = "grpo={kl_in: reward, kl_coef: 0.1, updates_per_batch: 2, options: {replay: 0.5, replay_below: 1}}"
    lines = mistakes(tmp_path, text, grpo, "grpo.terms=[{name: imitation}]")
    named = ["kl_coef"] * (method == "sft") + ["kl_in", "options", "terms", "updates_per_batch"]
    assert lines == [f"grpo: {', '.join(named)} given, but train.method {method} reads {read}; drop the others"]


def test_gates_that_are_no_rewards(tmp_path: Path) -> None:
    rewards = "[{name: iou, gate: acuracy}, {name: accuracy, gate: format}, {name: format, gate: accuracy}]"
    assert mistakes(tmp_path, f"run_dir: r\nmodel: {{path: m}}\nrewards: {rewards}\n") == [
        "rewards.0.gate: 'acuracy', expected the label of another reward; did you mean 'accuracy'?",
        "rewards.1.gate: the gates are a circle (accuracy -> format -> accuracy), so none would ever open",
    ]


def test_names_of_algorithms_are_those_of_the_tables() -> None:
    """Every choice of the config is a row, every row a choice; every option is read by choices that exist."""
    tables: dict[str, Iterable[str]] = {
        "advantage": ADVANTAGES,
        "ratio": RATIOS,
        "clip": CLIPS,
        "clip_schedule": CLIP_SCHEDULES,
        "kl_estimator": KL_ESTIMATORS,
        "kl_schedule": KL_SCHEDULES,
        "off_policy": ["none", *CORRECTIONS],
    }
    assert set(ADVANTAGE_NAMES) == set(tables["advantage"])
    for key in tables.keys() - {"advantage"}:
        assert set(get_args(GrpoConfig.model_fields[key].annotation)) == set(tables[key]), key
    for name, option in OPTIONS.items():
        assert set(option.read_by) <= set(tables.get(option.key, ()))
        assert name in helps(GrpoConfig)["options"]
    bounds, grpo = Bounds(), GrpoConfig()
    assert (bounds.low, bounds.high) == (grpo.clip_low, grpo.clip_high)
    for name in ("dual", "tau_positive", "tau_negative", "max_log_ratio"):
        assert getattr(bounds, name) == grpo.option(name)


def test_a_wrong_value_does_not_hide_the_impossible_combinations(tmp_path: Path) -> None:
    text = """
run_dir: 7
model: {path: m, trust_remote_code: true, dtyp: float32}
media: {video_min_frames: 9, video_max_frames: 2, image_min_pixels: many, image_max_pixels: 5}
train: {steps: abc, warmup_steps: 1, learning_rates: {vision: 1e-5}}
rewards: [{nam: accuracy}]
"""
    assert [line.split(": ")[0] for line in mistakes(tmp_path, text)] == [
        "run_dir",
        "model.dtyp",
        "media.image_min_pixels",  # and nothing of how it goes with image_max_pixels
        "rewards.0.name",
        "rewards.0.nam",
        "train.steps",
        "model.trust_remote_code",
        "media.video_min_frames",
        "train.learning_rates.vision",
    ]


def test_adapters_train_nothing_outside_the_language_model(tmp_path: Path) -> None:
    lines = mistakes(tmp_path, GRPO, "model.lora.rank=4", "train.learning_rates.projector=1")
    assert [line.split(": ")[0] for line in lines] == ["train.learning_rates.projector"]


def test_missing_and_wrong_sections_leave_the_rest_to_be_checked(tmp_path: Path) -> None:
    lines = mistakes(tmp_path, "media: 3\ntrain: {method: grpo, row_tokens: 512}\n")
    assert [line.split(": ")[0] for line in lines] == ["run_dir", "model", "media", "rewards", "rollout.max_new_tokens"]


def test_lora_trains_even_when_every_part_is_frozen(tmp_path: Path) -> None:
    frozen = "model.freeze=[vision, audio, projector, language]"
    assert load_config(write(tmp_path, GRPO), [frozen, "model.lora={}"]).model.lora is not None


def test_sft_needs_no_reward(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, GRPO), ["rewards=[]", "train.method=sft"]).rewards == ()


def test_overrides_reach_sections_lists_and_empty_sections(tmp_path: Path) -> None:
    overrides = ["grpo.kl_coef=0.1", "rewards.0.weight=2", "model.lora.rank=4", "data.suffix=a=b", "data.system="]
    config = load_config(write(tmp_path, GRPO + "grpo:\n"), overrides)
    assert config.grpo.kl_coef == 0.1
    assert config.rewards[0].weight == 2.0
    assert config.model.lora is not None
    assert config.model.lora.rank == 4
    assert config.data.suffix == "a=b"
    assert config.data.system is None


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("steps", "override 'steps': expected dotted.key=value, for example train.steps=100"),
        ("=5", "override '=5': expected dotted.key=value, for example train.steps=100"),
        ("train..steps=5", "override 'train..steps=5': expected dotted.key=value, for example train.steps=100"),
        ("seed.x=5", "override 'seed.x=5': x stands under a value, not under a section"),
        ("rewards.1.name=iou", "override 'rewards.1.name=iou': 1 is no item of a list of 1, counted from 0"),
        ("rewards.name=iou", "override 'rewards.name=iou': name is no item of a list of 1, counted from 0"),
        ("data.suffix=a: b: c", "override 'data.suffix=a: b: c': the value is not valid YAML "
         "(mapping values are not allowed here); quote it"),
    ],
)  # fmt: skip
def test_wrong_override(tmp_path: Path, override: str, line: str) -> None:
    assert mistakes(tmp_path, GRPO + "seed: 1\n", override) == [line]


@pytest.mark.parametrize("date", ["2024-13-45", "2024-01-01", "2001-12-14t21:59:43.10-05:00"])
def test_dates_are_texts(tmp_path: Path, date: str) -> None:
    assert load_config(write(tmp_path, GRPO.replace("runs/a", date))).run_dir == date
    assert load_config(write(tmp_path, GRPO), [f"run_dir={date}"]).run_dir == date


@pytest.mark.parametrize(("text", "value"), [("0x10", 16), ("0b11", 3), ("1_000", 1000), ("0", 0), ("+7", 7)])
def test_other_integers_are_still_read(tmp_path: Path, text: str, value: int) -> None:
    assert load_config(write(tmp_path, GRPO), [f"seed={text}"]).seed == value


@pytest.mark.parametrize(
    "value",
    [
        "&a [*a]",
        "&a {x: *a}",
        "[" * 3000 + "]" * 3000,
        "[" * 60 + "]" * 60,
        "1" * 5000,
        "0x" + "f" * 5000,
        "!!timestamp 2024-13-45",
        "!!timestamp soon",
        "!!bool maybe",
        '!!int ""',
        '"a\\0b"',
        '"a\\ud800b"',
        "{a: &a [x,x,x,x,x,x,x,x,x], b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a], c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b], "
        "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c], e: [*d,*d,*d,*d,*d,*d,*d,*d,*d]}",
    ],
)
def test_values_that_yaml_cannot_hold_are_one_line(tmp_path: Path, value: str) -> None:
    (line,) = mistakes(tmp_path, GRPO + f"data: {value}\n")
    assert "not valid YAML: " in line
    (line,) = mistakes(tmp_path, GRPO, f"data={value}")
    assert line.startswith("override 'data=")
    assert "not valid YAML" in line
    assert len(line) < 500


def test_yaml_means_the_same_where_a_library_has_changed_the_loader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(yaml.SafeLoader.yaml_constructors, "tag:yaml.org,2002:timestamp", lambda loader, node: "x")
    (line,) = mistakes(tmp_path, GRPO + "data: !!timestamp 2024-13-45\n")
    assert "not valid YAML: " in line


def test_wrong_overrides_and_wrong_values_come_together(tmp_path: Path) -> None:
    lines = mistakes(tmp_path, GRPO + "sed: 1\n", "steps", "train.steps=0", "=")
    assert [line.split(":")[0] for line in lines] == ["override 'steps'", "override '='", "train.steps", "sed"]


def test_what_an_override_replaces_is_the_overrides(tmp_path: Path) -> None:
    override = "rewards=[{name: accuracy, weigth: 2}]"
    with pytest.raises(ConfigError, match=r"^override .*: rewards.0.weigth: unknown key; did you mean 'weight'"):
        load_config(write(tmp_path, GRPO), [override])


def test_yaml_syntax_error_names_the_line(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, "run_dir: a\nmodel: [1, 2\nseed: 1\n")
    assert "not valid YAML" in line
    assert "line 3" in line


def test_key_given_twice(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, "run_dir: a\nmodel: {path: m}\nrun_dir: b\n")
    assert "key run_dir twice" in line
    assert "line 3" in line


def test_merge_keys_still_work(tmp_path: Path) -> None:
    text = GRPO + "data:\n  train: [&d {path: a.jsonl, limit: 3}]\n  eval: [{<<: *d, limit: 2}]\n"
    config = load_config(write(tmp_path, text))
    assert (config.data.eval[0].path, config.data.eval[0].limit) == ("a.jsonl", 2)


def test_yaml_makes_no_objects(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, "run_dir: !!python/object/apply:os.getcwd []\n")
    assert "could not determine a constructor" in line


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "is empty, expected keys such as run_dir: and model:"),
        (b"- a\n", "holds list, expected keys such as run_dir: and model:"),
        (b"\xff\xfe\x00", "is not text (invalid start byte at byte 0); give a YAML file"),
    ],
)
def test_file_that_is_no_config(tmp_path: Path, content: bytes, line: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert str(caught.value) == f"{file}: {line}"


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.yaml: cannot be read \(No such file or directory\)"):
        load_config(tmp_path / "no.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
        load_config(tmp_path)


def test_a_config_survives_json(tmp_path: Path) -> None:
    overrides = ["model.lora.rank=4", "model.freeze=[vision]", "train.learning_rates={language: 1e-5}"]
    config = load_config(write(tmp_path, GRPO), overrides)
    assert build_config(config.model_dump(mode="json")) == config


def test_leaf_keys_are_dotted_and_lists_are_marked() -> None:
    keys = leaf_keys()
    assert {"run_dir", "train.steps", "rewards[].options", "data.train[].path", "model.lora.rank"} <= set(keys)
    assert len(set(keys)) == len(keys)
    assert "model" not in keys
    assert set(RunConfig.model_fields) == {key.split(".")[0].removesuffix("[]") for key in keys}


def test_an_empty_section_is_one_of_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GRPO + "media:\ngrpo:\n  # clip_low: 0.1\n"))
    assert (config.media.video_fps, config.grpo.clip_low) == (2.0, 0.2)
    assert mistakes(tmp_path, GRPO.replace("{path: /models/m}", "")) == [
        "model: got None; expected a section with keys path, revision, trust_remote_code, dtype, attention, freeze, "
        "lora, gradient_checkpointing, head_chunk, self_check"
    ]
