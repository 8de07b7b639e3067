"""Further terms of GRPO's loss (`grpo.terms`): their names, and the options that each of them has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TermOption:
    """Example: `TermOption(default="constant", choices=("constant", "linear"), help="...")`"""

    default: Any
    """None: there is none, and the option must be given."""
    help: str
    choices: tuple[str, ...] = ()
    """Its values, where it is one of some names; a text without them; else a number of the default's type."""
    low: float = -math.inf
    high: float = math.inf
    """Bounds of a number, themselves allowed."""


_SCHEDULE = {
    "schedule": TermOption(
        default="constant",
        choices=("constant", "linear", "cosine"),
        help="from the weight to `end` x the weight over the run",
    ),
    "end": TermOption(default=0.0, low=0.0, help="share of the weight that linear and cosine end with"),
}
_ENTROPY = {"by_entropy": TermOption(default=False, help="times e^-H (imitation) or e^H (likelihood) of each answer")}

TERMS: dict[str, dict[str, TermOption]] = {
    "imitation": {**_SCHEDULE, **_ENTROPY},
    "demo_policy": dict(_SCHEDULE),
    "likelihood": {
        **_SCHEDULE,
        **_ENTROPY,
        "positive": TermOption(default=1.0, low=0.0, help="factor of right answers (SRFT: 0.1)"),
        "threshold": TermOption(default=0.0, help="answers with a reward over this are right"),
    },
    "distill": {
        **_SCHEDULE,
        "teacher": TermOption(default=None, help="folder of a checkpoint with the same tokenizer"),
        "estimator": TermOption(
            default="exact",
            choices=("exact", "k2", "k3", "k1+", "k3+", "k3*"),
            help="exact: over the whole vocabulary; else from the sampled tokens",
        ),
        "answers": TermOption(default="wrong", choices=("wrong", "all"), help="answers that the teacher corrects"),
        "threshold": TermOption(default=0.0, help="answers with a reward over this are right"),
    },
    "perception": {
        **_SCHEDULE,
        "mask_ratio": TermOption(default=0.6, low=0.0, high=1.0, help="share of the patches that are black"),
        "estimator": TermOption(
            default="k3", choices=("k2", "k3", "k1+", "k3+", "k3*"), help="of the KL, as grpo.kl_estimator"
        ),
        "limit": TermOption(default=0.0, low=0.0, help="no token's KL counts for more; 0: no limit (PAPO's code: 0.2)"),
    },
    "entropy": {
        **_SCHEDULE,
        "sampled": TermOption(default=False, help="-log pi of the sampled tokens instead, as PAPO's code has it"),
    },
}

WITH_DEMOS = ("imitation", "demo_policy")
"""These need demonstrations of the prompts; `demos` of the rows."""

NO_DEMOS = "grpo.terms need demonstrations, but no row of data.train has `demos`; give some, or drop them"

ALONE = ("distill", "perception")
"""These may be given once: there is one column each for what they need."""


def option_of(term: str, options: Mapping[str, Any], name: str) -> Any:
    """The value of an option, given or by default."""
    return options.get(name, TERMS[term][name].default)


def wrong_options(term: str, options: Mapping[str, Any], where: str) -> Iterator[str]:
    """What is wrong with the options of a term; a line each."""
    known = TERMS[term]
    for name, value in options.items():
        if name not in known:
            yield f"{where}.{name}: {term} has no such option; expected some of {', '.join(known)}"
        elif expected := _unfit(known[name], value):
            yield f"{where}.{name}: {value!r}, expected {expected}"
    for name, option in known.items():
        if option.default is None and name not in options:
            yield f"{where}.{name}: missing; {term} needs it ({option.help})"


def _unfit(option: TermOption, value: Any) -> str:
    """What was expected instead; empty where the value will do."""
    if option.choices:
        return "" if value in option.choices else f"one of {', '.join(option.choices)}"
    if isinstance(option.default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if option.default is None:
        return "" if isinstance(value, str) and value else "a text"
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if number and option.low <= value <= option.high:
        return ""
    bounds = [f"{word} {bound:g}" for word, bound in (("at least", option.low), ("at most", option.high))]
    named = [text for text, bound in zip(bounds, (option.low, option.high), strict=True) if math.isfinite(bound)]
    return " ".join(["a number", " and ".join(named)]).strip()
