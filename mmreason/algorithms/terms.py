"""Further terms of a loss, each a pure function of one packed row. T: tokens of the row.

Each gives its loss without its weight; losses and metrics add up over rows and processes, as in `losses`. Rollouts
carry `weight`, demonstrations `demo_weight`: shares in the step's mean over each kind by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmreason.algorithms.kl import KL_ESTIMATORS
from mmreason.algorithms.ratios import answer_sum
from mmreason.types import LossOutput

Options = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TermRow:
    """What a term sees of one row: [T] each.

    Example: an answer of one token and a demonstration of one: `TermRow(logprob=[-1., -2.], entropy=[.5, .6],
    weight=[1., 0.], demo_weight=[0., 1.], answer=[1, 2], columns={"advantage": [-1., 1.], "reward": [0., 1.]})`
    """

    logprob: Tensor
    """log policy, with gradient."""
    entropy: Tensor
    """Of the distribution that each token comes from, with gradient."""
    weight: Tensor
    demo_weight: Tensor
    answer: Tensor
    """int64: number of the answer or demonstration that a token belongs to."""
    columns: Mapping[str, Tensor]
    """What was noted before the update, by name."""
    divergence: Tensor | None = None
    """KL(policy || teacher) over the vocabulary, with gradient, where a term asked for it."""

    def column(self, name: str) -> Tensor:
        """A column; zeros where no token of the row has it."""
        return self.columns.get(name, torch.zeros_like(self.weight))

    def answer_entropy(self) -> Tensor:
        """[T]: every token gets the mean entropy over the weighted tokens of its answer, without gradient."""
        counted = ((self.weight != 0) | (self.demo_weight != 0)).to(self.entropy.dtype)
        sums = answer_sum(self.entropy.detach() * counted, self.answer)
        return sums / answer_sum(counted, self.answer).clamp(min=1)


def imitation(row: TermRow, options: Options) -> LossOutput:
    """-log pi on demonstrations: supervised fine-tuning beside the policy gradient.

    `by_entropy`: times sg(e^-H), SRFT's (Fu et al. 2025, arXiv 2506.19767) with weight .5: H 0 -> .5, 1 -> .18394. H is
    the mean over the demonstration's own tokens; what we have of the paper says "policy entropy" only: OUR choice.
    """
    nll = -row.logprob * row.demo_weight
    factor = (-row.answer_entropy()).exp() if options["by_entropy"] else torch.ones_like(nll)
    metrics = {"nll": _sum(nll), "factor": _sum(factor * row.demo_weight)}
    return LossOutput(loss=(nll * factor).sum(), metrics=metrics)


def demo_policy(row: TermRow, options: Options) -> LossOutput:
    """-(pi / 1) A on demonstrations: off-policy policy gradient without a clip.

    Fu et al. 2025 (SRFT): the policy that wrote the demonstrations counts as 1, and A is normalised over rollouts AND
    demonstrations of a prompt.
    """
    ratio = row.logprob.exp()
    loss = -(ratio * row.column("advantage") * row.demo_weight).sum()
    metrics = {"ratio": _sum(ratio * row.demo_weight), "advantage": _sum(row.column("advantage") * row.demo_weight)}
    return LossOutput(loss=loss, metrics=metrics)


def likelihood(row: TermRow, options: Options) -> LossOutput:
    """-positive log pi on right rollouts, + log pi on wrong ones.

    Fu et al. 2025 (SRFT) with rewards +-1: `positive` .1 and `by_entropy` for w_RL = .1 sg(e^H): H 0 -> .1, 1 ->
    .271828. Expectations are over all rollouts, right and wrong ones in their shares; H is of the answer, OUR choice.
    """
    right = row.column("reward") > options["threshold"]
    factor = row.answer_entropy().exp() if options["by_entropy"] else torch.ones_like(row.weight)
    signed = torch.where(right, -options["positive"] * factor, torch.ones_like(factor))
    metrics = {"right": _sum(right * row.weight), "factor": _sum(factor * row.weight)}
    return LossOutput(loss=(signed * row.logprob * row.weight).sum(), metrics=metrics)


def distill(row: TermRow, options: Options) -> LossOutput:
    """KL(policy || teacher) of every token of the rollouts that the teacher corrects (column "taught").

    VOLD (2510.23497): on the policy's own rollouts, and there on those with reward 0. `estimator: exact` sums over the
    vocabulary: (.7, .3) against (.5, .5) -> .082283; the others are those of `algorithms.kl`. The mean is over all
    rollouts, taught or not: OUR choice. `unreadable`: share of tokens in answers with an id the teacher has no row for.
    """
    taught = row.column("taught") * row.weight
    if options["estimator"] == "exact":
        kl = row.divergence if row.divergence is not None else torch.zeros_like(row.weight)
    else:
        kl = KL_ESTIMATORS[options["estimator"]](row.logprob, row.column("logprob.teacher"), row.column("logprob.old"))
    loss = (kl * taught).sum()
    unreadable = row.column("unreadable") * row.weight
    return LossOutput(loss=loss, metrics={"taught": _sum(taught), "unreadable": _sum(unreadable)})


def perception(row: TermRow, options: Options) -> LossOutput:
    """-KL(policy || policy with pictures masked): the policy shall need what it sees. PAPO's implicit perception loss.

    Wang et al. 2025 (PAPO, arXiv 2507.06448): k3 with x = log masked - log pi, maximised; weight .01 to .02. Masked
    log-probs are those before the update and have no gradient, the default of the public code; the paper's equation has
    the policy there, too. `limit`: larger values are cut and have no gradient (their `kl_prcp_clipping`). k3's gradient
    is the forward KL's (`algorithms.kl`); `k3+` has that of the KL itself. Answers to prompts without pictures give 0.
    """
    seen, masked = row.column("masked") * row.weight, row.column("logprob.masked")
    kl = KL_ESTIMATORS[options["estimator"]](row.logprob, masked, row.column("logprob.old"))
    cut = kl.clamp(max=options["limit"]) if options["limit"] else kl
    metrics = {"kl": _sum(kl * seen), "masked": _sum(seen), "cut": _sum((cut != kl) * seen)}
    return LossOutput(loss=-(cut * seen).sum(), metrics=metrics)


def entropy(row: TermRow, options: Options) -> LossOutput:
    """The rollouts' mean entropy; a positive weight makes it small, a negative one large.

    One half of PAPO's double entropy loss (weight .03 to .05); the other half, of the masked view, has no gradient
    where masked log-probs have none. `sampled`: -log pi, as their code: on-policy its gradient has expectation 0.
    """
    values = -row.logprob if options["sampled"] else row.entropy
    return LossOutput(loss=(values * row.weight).sum(), metrics={})


LOSSES: dict[str, Callable[[TermRow, Options], LossOutput]] = {
    "imitation": imitation,
    "demo_policy": demo_policy,
    "likelihood": likelihood,
    "distill": distill,
    "perception": perception,
    "entropy": entropy,
}


def _sum(values: Tensor) -> float:
    return float(values.detach().sum())
