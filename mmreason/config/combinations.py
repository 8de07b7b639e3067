"""Combinations of settings that no single key can refuse. Each check yields a line per mistake."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mmreason.config.columns import span_mistakes
from mmreason.config.engines import engine_mistakes
from mmreason.config.grpo_options import DISCO, OPTIONS, READ_BY, Option
from mmreason.config.grpo_terms import ALONE, wrong_options
from mmreason.config.reward_names import gate_mistakes

if TYPE_CHECKING:
    from mmreason.config import RunConfig


BY_ITSELF = ("remax", "gae")
"""Values of grpo.advantage that compare an answer with no other of its group."""


def impossible(config: RunConfig) -> Iterator[str]:
    """The mistakes in a config whose keys are right each by itself."""
    for check in _CHECKS:
        yield from check(config)


def impossible_in(part: Any) -> Iterator[str]:
    """The same for a config with keys missing that are wrong in themselves: checks that ask for one say nothing."""
    for check in _CHECKS:
        with contextlib.suppress(AttributeError):
            yield from list(check(part))


def _code_is_pinned(config: RunConfig) -> Iterator[str]:
    if config.model.trust_remote_code and config.model.revision is None:
        yield "model.trust_remote_code: needs model.revision, so that the code that runs is the code you read"


def _grpo_has_rewards(config: RunConfig) -> Iterator[str]:
    if config.train.method == "grpo" and not config.rewards:
        yield "rewards: empty, but train.method is grpo; name at least one (`mmreason rewards` lists them)"


def _gates_are_rewards(config: RunConfig) -> Iterator[str]:
    yield from gate_mistakes(config.rewards)


def _groups_compare(config: RunConfig) -> Iterator[str]:
    grpo = config.grpo
    if config.train.method != "grpo" or config.rollout.n > 1 or grpo.advantage in BY_ITSELF:
        return
    if grpo.options.get("policy_weight") != 0 or any(term.name == "demo_policy" for term in grpo.terms):
        yield f"rollout.n: {config.rollout.n}, but a group needs at least 2 answers to compare"
    elif grpo.drop_constant_groups:
        yield "grpo.drop_constant_groups: true, but rollout.n is 1, so every group is constant; use false"


def _some_frames(config: RunConfig) -> Iterator[str]:
    low, high = config.media.video_min_frames, config.media.video_max_frames
    if low > high:
        yield f"media.video_min_frames: {low} is more than media.video_max_frames ({high})"


def _some_image_pixels(config: RunConfig) -> Iterator[str]:
    low, high = config.media.image_min_pixels, config.media.image_max_pixels
    if low > high:
        yield f"media.image_min_pixels: {low} is more than media.image_max_pixels ({high})"


def _some_video_pixels(config: RunConfig) -> Iterator[str]:
    low, high = config.media.video_min_pixels, config.media.video_max_pixels
    if low > high:
        yield f"media.video_min_pixels: {low} is more than media.video_max_pixels ({high})"


def _prompts_divide(config: RunConfig) -> Iterator[str]:
    updates, prompts = config.grpo.updates_per_batch, config.train.prompts_per_step
    if prompts % updates:
        yield f"grpo.updates_per_batch: {updates} does not divide train.prompts_per_step ({prompts})"


def _rates_of_trained_parts(config: RunConfig) -> Iterator[str]:
    for part in sorted(set(config.train.learning_rates) & set(config.model.freeze)):
        yield f"train.learning_rates.{part}: {part} is not trained; take it out of model.freeze, or drop this key"


def _something_is_trained(config: RunConfig) -> Iterator[str]:
    if not config.model.lora and set(config.model.freeze) >= {"vision", "audio", "projector", "language"}:
        yield "model.freeze: every part is frozen and model.lora is unset, so nothing would be trained"


def _adapters_are_in_the_language_model(config: RunConfig) -> Iterator[str]:
    ignored = set(config.train.learning_rates) - {"language", "critic"} if config.model.lora else set()
    for part in sorted(ignored):
        yield f"train.learning_rates.{part}: with model.lora only adapters in language are trained; drop this key"


def _answers_fit_in_a_row(config: RunConfig) -> Iterator[str]:
    answer, row = config.rollout.max_new_tokens, config.train.row_tokens
    if config.train.method == "grpo" and answer >= row:
        yield f"rollout.max_new_tokens: {answer} leaves no room for a prompt in a row of train.row_tokens ({row})"


def _options_exist_and_are_read(config: RunConfig) -> Iterator[str]:
    for name, value in config.grpo.options.items():
        option = OPTIONS.get(name)
        if option is None:
            yield f"grpo.options.{name}: no such option; expected some of {', '.join(OPTIONS)}"
        elif not _is_read(config, option):
            key, chosen = _chosen(config, option)
            yield f"grpo.options.{name}: {key} is {_shown(chosen)}, which does not read it; drop this option"
        elif not value > option.above:
            yield f"grpo.options.{name}: {value}, expected more than {max(option.above, 0):g}"
        elif value > option.most:
            yield f"grpo.options.{name}: {value}, expected at most {option.most:g}"
        elif option.switch and value not in (0, 1):
            yield f"grpo.options.{name}: {value}, expected 0 or 1"


def _needed_options_are_given(config: RunConfig) -> Iterator[str]:
    for name, option in OPTIONS.items():
        if option.default is None and name not in config.grpo.options and _is_read(config, option):
            key, chosen = _chosen(config, option)
            yield f"grpo.options.{name}: missing; {key} is {_shown(chosen)} and needs it ({option.help})"


def _chosen(config: RunConfig, option: Option) -> tuple[str, Any]:
    """The key that decides whether an option is read, and its value."""
    section, _, name = option.key.rpartition(".")
    return f"{section or 'grpo'}.{name}", getattr(getattr(config, section or "grpo"), name)


def _is_read(config: RunConfig, option: Option) -> bool:
    if not option.key:
        return True
    _, chosen = _chosen(config, option)
    return chosen in option.read_by if option.read_by else bool(chosen)


def _shown(value: Any) -> str:
    return "not set" if value is None else str(value)


def _bounds_are_in_order(config: RunConfig) -> Iterator[str]:
    grpo = config.grpo
    dual = grpo.options.get("dual")
    low, high = grpo.options.get("weight_low", 0.0), grpo.options.get("weight_high", 2.0)
    if dual is not None and dual <= 1 + grpo.clip_high:
        yield f"grpo.options.dual: {dual}, expected more than 1 + grpo.clip_high ({1 + grpo.clip_high:g})"
    if low >= high:
        yield f"grpo.options.weight_low: {low}, expected less than weight_high ({high:g})"
    if grpo.keep_mean is not None and grpo.keep_mean[0] >= grpo.keep_mean[1]:
        yield f"grpo.keep_mean: {list(grpo.keep_mean)}, expected the lower bound first"


def _clip_suits_its_ratio(config: RunConfig) -> Iterator[str]:
    grpo = config.grpo
    if grpo.clip == "geometric" and grpo.ratio != "token":
        yield f"grpo.ratio: {grpo.ratio}, but grpo.clip geometric clips tokens before it takes their mean; use token"
    if grpo.clip_schedule != "constant" and grpo.clip in ("none", "sapo", *DISCO):
        yield f"grpo.clip_schedule: {grpo.clip_schedule}, but grpo.clip {grpo.clip} has no bounds to move"


def _disco_is_whole(config: RunConfig) -> Iterator[str]:
    grpo, train = config.grpo, config.train
    if grpo.clip not in DISCO:
        return
    for key, value, needed in (
        ("grpo.advantage", grpo.advantage, "contrast"),
        ("train.aggregation", train.aggregation, "sequence_mean"),
        ("grpo.ratio", grpo.ratio, "token"),
        ("grpo.off_policy", grpo.off_policy, "none"),
        ("grpo.mask_truncated", grpo.mask_truncated, False),  # every answer counts in the means
    ):
        if value != needed:
            yield f"{key}: {value}, but grpo.clip {grpo.clip} needs {needed}"


def _kl_has_a_coefficient(config: RunConfig) -> Iterator[str]:
    grpo = config.grpo
    for key, value, plain in (("kl_schedule", grpo.kl_schedule, "constant"), ("kl_in", grpo.kl_in, "loss")):
        if value != plain and not grpo.kl_coef:
            yield f"grpo.{key}: {value}, but grpo.kl_coef is 0, so there is no KL; give it the value to begin with"


def _kl_in_the_reward(config: RunConfig) -> Iterator[str]:
    grpo = config.grpo
    if grpo.kl_in == "reward" and grpo.kl_estimator[-1] in "+*":
        yield f"grpo.kl_estimator: {grpo.kl_estimator} chooses a gradient, and in the reward there is none; use k1"
    if grpo.kl_in == "reward" and grpo.advantage == "gdpo":
        yield "grpo.kl_in: reward, but grpo.advantage gdpo has no total reward to take it off; use loss"


def _some_need_no_spread(config: RunConfig) -> Iterator[str]:
    advantage = config.grpo.advantage
    if advantage in BY_ITSELF and config.grpo.drop_constant_groups:
        yield f"grpo.drop_constant_groups: true, but grpo.advantage {advantage} learns from such groups too; use false"
    corrected = [term.options.get("answers", "wrong") for term in config.grpo.terms if term.name == "distill"]
    if "wrong" in corrected and config.grpo.drop_constant_groups:
        yield (
            "grpo.drop_constant_groups: true, but grpo.terms distill corrects wrong answers, and this leaves out the "
            "groups that are all wrong; use false"
        )


def _critic_is_there(config: RunConfig) -> Iterator[str]:
    advantage = config.grpo.advantage
    if "critic" in config.train.learning_rates and (advantage != "gae" or config.train.method != "grpo"):
        yield f"train.learning_rates.critic: grpo.advantage is {advantage}, which has none; use gae, or drop this key"
    if advantage == "gae" and any(term.name == "demo_policy" for term in config.grpo.terms):
        yield "grpo.terms: demo_policy, but grpo.advantage gae gives demonstrations no advantage; use imitation"
    if advantage == "gae" and any(shaper.name == "difficulty_weight" for shaper in config.shaping):
        yield "shaping: difficulty_weight weighs groups, which grpo.advantage gae does not compare; drop it"


def _rewards_apart_are_summed(config: RunConfig) -> Iterator[str]:
    if config.grpo.advantage == "gdpo" and config.scoring.combine != "sum":
        yield f"scoring.combine: {config.scoring.combine}, but grpo.advantage gdpo sums normalised rewards; use sum"


def _pass_rates_are_in_order(config: RunConfig) -> Iterator[str]:
    if config.data.pass_rate is not None and config.data.pass_rate[0] > config.data.pass_rate[1]:
        yield f"data.pass_rate: {list(config.data.pass_rate)}, expected the lower bound first"


def _replay_is_whole(config: RunConfig) -> Iterator[str]:
    given = config.grpo.options
    if given.get("replay") and "replay_below" not in given:
        yield "grpo.options.replay_below: missing; options.replay needs it (samples of a lower mean reward are hard)"
    if "replay_below" in given and not given.get("replay"):
        yield "grpo.options.replay_below: options.replay is 0, which does not read it; drop this option"


def _support_is_narrowed(config: RunConfig) -> Iterator[str]:
    if "support" in config.grpo.options and config.rollout.top_p == 1 and not config.rollout.top_k:
        yield "grpo.options.support: rollout.top_p is 1 and top_k 0, so every id can be chosen; drop this option"


def _ahead_is_possible(config: RunConfig) -> Iterator[str]:
    rollout = config.rollout
    if not rollout.ahead:
        return
    if rollout.engine != "server":
        yield (
            f"rollout.ahead: 1, but rollout.engine {rollout.engine} samples with what trains meanwhile; use server, "
            "or ahead: 0"
        )
    if config.train.method != "grpo":
        yield f"rollout.ahead: 1, but train.method {config.train.method} samples nothing; use ahead: 0"
    if config.train.save_every == 1:
        yield "rollout.ahead: 1, but nothing is sampled ahead over a checkpoint; raise train.save_every, which is 1"
    if config.train.method == "grpo" and config.grpo.clip in DISCO:
        yield f"rollout.ahead: 1, but grpo.clip {config.grpo.clip} has no weight for answers one step old; use ahead: 0"
    if rollout.entropy_target is not None:
        yield "rollout.ahead: 1, but rollout.entropy_target sets the temperature by the step before; drop one of them"


def _temperature_is_within_its_bounds(config: RunConfig) -> Iterator[str]:
    rollout, option = config.rollout, config.grpo.option
    if rollout.entropy_target is None:
        return
    if config.train.method != "grpo":
        target, method = rollout.entropy_target, config.train.method
        yield f"rollout.entropy_target: {target:g}, but train.method {method} samples nothing; drop this key"
    low, high = option("temperature_low"), option("temperature_high")
    if not low <= rollout.temperature <= high:
        yield (
            f"rollout.temperature: {rollout.temperature:g}, but with rollout.entropy_target it stays from {low:g} to "
            f"{high:g} (grpo.options.temperature_low, temperature_high)"
        )


def _something_is_mixed(config: RunConfig) -> Iterator[str]:
    if config.data.mix and not any(config.data.mix.values()):
        yield "data.mix: every weight is 0, so nothing would be left to train on"


def _terms_are_whole(config: RunConfig) -> Iterator[str]:
    for index, term in enumerate(config.grpo.terms):
        yield from wrong_options(term.name, term.options, f"grpo.terms.{index}.options")
    names: list[str] = [term.name for term in config.grpo.terms]
    for name in ALONE:
        if names.count(name) > 1:
            yield f"grpo.terms: {name} is given twice, expected once"


def _something_is_learnt(config: RunConfig) -> Iterator[str]:
    grpo = config.grpo
    if grpo.options.get("policy_weight") == 0 and not grpo.terms and not grpo.kl_coef:
        yield "grpo.options.policy_weight: 0, and there are no grpo.terms, so nothing would be learnt"


def _temporal_bonus_has_a_contrast(config: RunConfig) -> Iterator[str]:
    named = any(shaper.name == "temporal_bonus" for shaper in config.shaping)
    if named and config.grpo.contrast_view is None:
        yield "grpo.contrast_view: null, but shaping temporal_bonus compares with answers in one; use shuffled"


def _more_is_sampled_than_kept(config: RunConfig) -> Iterator[str]:
    for place, shaper in enumerate(config.shaping):
        if shaper.name != "resample_correct":
            continue
        numbers = [shaper.options.get(key, 2) for key in ("keep", "min_right", "min_wrong")]
        if "keep" not in shaper.options or not all(isinstance(number, int) for number in numbers):
            continue  # what is missing or no number is said where shapers are loaded
        keep, least = numbers[0], sum(numbers[1:])
        if not max(2, least) <= keep < config.rollout.n:
            yield (
                f"shaping.{place}.options.keep: {keep}, expected min_right + min_wrong ({least}) or more and less than "
                f"rollout.n ({config.rollout.n}): some of the answers that are sampled are left out; raise rollout.n"
            )


def _grpo_is_read(config: RunConfig) -> Iterator[str]:
    method, fields = config.train.method, type(config.grpo).model_fields
    if method not in READ_BY:
        return
    unread = [
        name
        for name, field in fields.items()
        if name not in READ_BY[method] and getattr(config.grpo, name) != field.get_default(call_default_factory=True)
    ]
    if unread:
        read = f"only {', '.join(READ_BY[method])} of this section" if READ_BY[method] else "nothing of this section"
        yield f"grpo: {', '.join(unread)} given, but train.method {method} reads {read}; drop the others"


def _shaping_is_read(config: RunConfig) -> Iterator[str]:
    if config.shaping and config.train.method in READ_BY:
        named = ", ".join(shaper.name for shaper in config.shaping)
        yield f"shaping: {named} given, but train.method {config.train.method} samples no answers to shape; drop it"


def _dpo_is_whole(config: RunConfig) -> Iterator[str]:
    if config.train.method != "dpo":
        return
    if not config.grpo.kl_coef:
        yield "grpo.kl_coef: 0, but it is beta of train.method dpo; give it, for example 0.1"
    if config.train.aggregation not in ("sequence_sum", "sequence_mean"):
        yield (
            f"train.aggregation: {config.train.aggregation}, but train.method dpo compares answers; use sequence_sum, "
            "or sequence_mean for log-ratios per token"
        )


_CHECKS = (
    _grpo_is_read,
    _shaping_is_read,
    _dpo_is_whole,
    _code_is_pinned,
    _pass_rates_are_in_order,
    _something_is_mixed,
    _replay_is_whole,
    _support_is_narrowed,
    _ahead_is_possible,
    _temperature_is_within_its_bounds,
    _grpo_has_rewards,
    _gates_are_rewards,
    _groups_compare,
    _some_frames,
    _some_image_pixels,
    _some_video_pixels,
    _prompts_divide,
    _rates_of_trained_parts,
    _something_is_trained,
    _adapters_are_in_the_language_model,
    _answers_fit_in_a_row,
    _options_exist_and_are_read,
    _needed_options_are_given,
    _bounds_are_in_order,
    _clip_suits_its_ratio,
    _disco_is_whole,
    _kl_has_a_coefficient,
    _kl_in_the_reward,
    _some_need_no_spread,
    _critic_is_there,
    _rewards_apart_are_summed,
    _terms_are_whole,
    _something_is_learnt,
    _temporal_bonus_has_a_contrast,
    _more_is_sampled_than_kept,
    span_mistakes,
    engine_mistakes,
)
