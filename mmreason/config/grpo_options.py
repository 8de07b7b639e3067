"""The constants that some variants of `grpo` have and others do not: keys of `grpo.options`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """Example: SAPO's temperature: `Option(key="clip", read_by=("sapo",), default=1.0, above=0.0, help="...")`"""

    key: str
    """The key whose value decides whether this one is read: of `grpo`, or with its section. "": always read."""
    read_by: tuple[str, ...]
    """Values of that key which read it; (): every value but none and 0."""
    default: float | None
    """None: must be given."""
    above: float
    """Values must be larger than this."""
    most: float = float("inf")
    """And not larger than this."""
    switch: bool = False
    """Only 0 and 1."""
    help: str


READ_BY: dict[str, tuple[str, ...]] = {"sft": (), "dpo": ("kl_coef",)}
"""Keys of `grpo` that the other methods read."""

DEVIATIONS = (
    "group",
    "batch",
    "reinforce_pp",
    "reinforce_pp_tokens",
    "reinforce_pp_baseline",
    "reinforce_pp_baseline_tokens",
    "gdpo",
    "gae",
)
WEIGHTS = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "geometric_mask")
DISCO = ("disco_b", "disco", "disco_ratio")
INFINITE = float("inf")

OPTIONS: dict[str, Option] = {
    "epsilon": Option(
        key="advantage",
        read_by=DEVIATIONS,
        default=1e-4,
        above=0.0,
        help="added to a deviation before dividing by it (verl: 1e-6)",
    ),
    "dual": Option(
        key="clip",
        read_by=("ppo", "gppo"),
        default=INFINITE,
        above=1.0,
        help="with a negative advantage the loss is at most dual x |A| (verl, EasyR1: 3)",
    ),
    "tau_positive": Option(
        key="clip", read_by=("sapo",), default=1.0, above=0.0, help="SAPO's temperature for advantages over 0"
    ),
    "tau_negative": Option(
        key="clip", read_by=("sapo",), default=1.05, above=0.0, help="SAPO's temperature for the others"
    ),
    "tau": Option(
        key="clip",
        read_by=("disco", "disco_ratio"),
        default=None,
        above=0.0,
        help="how much more hard wrong answers count: DisCO has 10 for disco, 1 for disco_ratio",
    ),
    "drift_beta": Option(
        key="clip", read_by=DISCO, default=1e3, above=0.0, help="price of a KL to the old policy over drift_delta"
    ),
    "drift_delta": Option(
        key="clip", read_by=DISCO, default=1e-4, above=-1e-300, help="KL to the old policy that costs nothing"
    ),
    "max_log_ratio": Option(
        key="clip",
        read_by=("ppo", "none", "gppo", "cispo", "sapo", "geometric", *DISCO),
        default=20.0,
        above=0.0,
        help="log-ratios, also to the reference, are cut to +-this before exp() (EasyR1, Video-R1, GSPO in verl: 10)",
    ),
    "policy_weight": Option(
        key="clip",
        read_by=("ppo", "none", "gppo", "cispo", "sapo", "geometric", *DISCO),
        default=1.0,
        above=-1e-300,
        help="factor of the policy loss itself; 0 leaves the KL and grpo.terms",
    ),
    "kl_end": Option(
        key="kl_schedule",
        read_by=("linear", "cosine", "accuracy"),
        default=None,
        above=-1e-300,
        help="the coefficient that the schedule ends with",
    ),
    "kl_target": Option(
        key="kl_schedule", read_by=("adaptive",), default=None, above=0.0, help="KL per token to keep to"
    ),
    "kl_gain": Option(
        key="kl_schedule",
        read_by=("adaptive",),
        default=0.1,
        above=0.0,
        help="share of the (clipped) relative error by which the coefficient moves in a step",
    ),
    "weight_low": Option(
        key="off_policy", read_by=WEIGHTS, default=0.0, above=-1e-300, help="lower bound of off-policy weights"
    ),
    "weight_high": Option(
        key="off_policy", read_by=WEIGHTS, default=2.0, above=0.0, help="upper bound of off-policy weights (TRL: 3)"
    ),
    "replay": Option(
        key="",
        read_by=(),
        default=0.0,
        above=-1e-300,
        most=1.0,
        help="share of the prompts that are hard samples again; needs replay_below",
    ),
    "replay_below": Option(
        key="",
        read_by=(),
        default=0.0,
        above=-INFINITE,
        help="a sample is hard while the mean reward of its last group is below this; needs replay",
    ),
    "gamma": Option(
        key="advantage", read_by=("gae",), default=1.0, above=0.0, most=1.0, help="discount per token"
    ),
    "lam": Option(
        key="advantage",
        read_by=("gae",),
        default=1.0,
        above=-1e-300,
        most=1.0,
        help="GAE's lambda: below 1 less variance and a bias by what the critic gets wrong (ReFT, TRL: 0.95)",
    ),
    "vf_coef": Option(
        key="advantage", read_by=("gae",), default=0.1, above=-1e-300, help="weight of the value loss (ReFT: 5)"
    ),
    "value_clip": Option(
        key="advantage",
        read_by=("gae",),
        default=0.2,
        above=-1e-300,
        help="values are fitted as if they moved no further than this in a batch (TRL: 0.2, verl: 0.5); 0: no clip",
    ),
    "whiten": Option(
        key="advantage",
        read_by=("gae",),
        default=1.0,
        above=-1e-300,
        most=1.0,
        switch=True,
        help="1: advantages less their mean, over their deviation, over all tokens of the batch",
    ),
    "support": Option(
        key="",
        read_by=(),
        default=1.0,
        above=-1e-300,
        most=1.0,
        switch=True,
        help="1: with top_p or top_k, log-probs are over the ids that were left to choose among; 0: over all",
    ),
    "temperature_gain": Option(
        key="rollout.entropy_target",
        read_by=(),
        default=0.1,
        above=0.0,
        most=1.0,
        help="share of the (clipped) relative error by which the temperature moves in a step",
    ),
    "temperature_low": Option(
        key="rollout.entropy_target", read_by=(), default=0.5, above=0.0, help="the temperature goes no lower"
    ),
    "temperature_high": Option(
        key="rollout.entropy_target", read_by=(), default=1.25, above=0.0, help="the temperature goes no higher"
    ),
}
