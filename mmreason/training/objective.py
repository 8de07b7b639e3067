"""From the config's names to the row loss of one step, and the KL's way into loss or reward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmreason.algorithms.clips import CLIP_SCHEDULES, Bounds
from mmreason.algorithms.critic import value_loss
from mmreason.algorithms.kl import KL_ESTIMATORS, KL_SCHEDULES, KLState
from mmreason.algorithms.losses import Objective, add, kl_loss, policy_loss
from mmreason.algorithms.ratios import Tokens
from mmreason.algorithms.terms import TermRow
from mmreason.config import RunConfig
from mmreason.errors import ConfigError
from mmreason.policy.policy import TokenScores
from mmreason.training.update import RowLoss
from mmreason.types import Batch, LossOutput


def objective_of(config: RunConfig, finished: int) -> Objective:
    """The objective of the step after `finished` ones."""
    grpo, option = config.grpo, config.grpo.option
    factor = CLIP_SCHEDULES[grpo.clip_schedule](finished, config.train.steps)
    bounds = Bounds(
        low=grpo.clip_low * factor,
        high=grpo.clip_high * factor,
        dual=option("dual"),
        tau_positive=option("tau_positive"),
        tau_negative=option("tau_negative"),
        tau=option("tau"),
        drift_beta=option("drift_beta"),
        drift_delta=option("drift_delta"),
        max_log_ratio=option("max_log_ratio"),
    )
    return Objective(
        ratio=grpo.ratio,
        clip=grpo.clip,
        bounds=bounds,
        correction=grpo.off_policy,
        weight_low=option("weight_low"),
        weight_high=option("weight_high"),
    )


def kl_coefficient(
    config: RunConfig, finished: int, sampled: Mapping[str, float], carried: Mapping[str, float]
) -> float:
    """The KL's weight in the step after `finished` ones.

    `sampled`: the step's sampling metrics; `carried`: coefficient and KL of the step before. Raises ConfigError when
    the schedule follows the accuracy and no reward tells right from wrong.
    """
    grpo = config.grpo
    if grpo.kl_coef and grpo.kl_schedule == "accuracy" and "correct" not in sampled:
        raise ConfigError(
            "grpo.kl_schedule: accuracy, but no reward says which answers are right (flag `correct`); add accuracy"
        )
    state = KLState(
        start=grpo.kl_coef,
        end=grpo.option("kl_end"),
        done=finished / config.train.steps,
        accuracy=sampled.get("correct", 0.0),
        last=carried.get("kl_coef"),
        last_kl=carried.get("kl"),
        target=grpo.option("kl_target"),
        gain=grpo.option("kl_gain"),
    )
    return KL_SCHEDULES[grpo.kl_schedule](state)


def row_loss(
    config: RunConfig,
    objective: Objective,
    coefficient: float,
    terms: Sequence[Callable[[TermRow], LossOutput]] = (),
) -> RowLoss:
    """The loss of one row: policy loss, KL with its `coefficient`, further `terms`."""
    grpo = config.grpo
    factor = grpo.option("policy_weight")

    def loss(scores: TokenScores, row: Batch) -> LossOutput:
        columns = {name: column.to(scores.logprob.device) for name, column in row.columns.items()}
        answer = columns["answer"].long()
        tokens = Tokens(
            logprob=scores.logprob,
            old=columns["logprob.old"],
            advantage=columns["advantage"],
            weight=columns["weight"],
            answer=answer,
            group=(answer + config.rollout.n - 1) // config.rollout.n,  # answers of a group have n numbers in a row
        )
        out = policy_loss(tokens, objective, columns["logprob.sampling"])
        out = replace(out, loss=factor * out.loss)
        if "logprob.ref" in columns:
            kl = kl_loss(
                tokens,
                columns["logprob.ref"],
                coefficient=coefficient,
                estimator=grpo.kl_estimator,
                limit=objective.bounds.max_log_ratio,
            )
            out = add(out, kl)
        if scores.value is not None:
            out = add(out, _fit(scores.value, tokens.weight, columns, config))
        for term in terms:
            out = add(out, term(term_row(tokens, scores, columns)))
        return out

    return loss


def _fit(value: Tensor, weight: Tensor, columns: Mapping[str, Tensor], config: RunConfig) -> LossOutput:
    """The critic's share in a row's loss; 0 for rows that another process has to fill up with."""
    blank, option = torch.zeros_like(weight), config.grpo.option
    old, target = columns.get("value.old", blank), columns.get("value.target", blank)
    out = value_loss(value, old, target, weight, clip=option("value_clip"))
    return replace(out, loss=option("vf_coef") * out.loss)


def term_row(tokens: Tokens, scores: TokenScores, columns: Mapping[str, Tensor]) -> TermRow:
    """What further terms of the loss see of a row."""
    return TermRow(
        logprob=tokens.logprob,
        entropy=scores.entropy,
        weight=tokens.weight,
        demo_weight=columns.get("weight.demo", torch.zeros_like(tokens.weight)),
        answer=tokens.answer,
        columns=columns,
        divergence=scores.divergence,
    )


def kl_sums(rows: Sequence[Batch], answers: int, estimator: str) -> Tensor:
    """float64 [answers]: sum of the KL estimate over each answer's tokens. Rows have old and reference log-probs."""
    sums = torch.zeros(answers + 1, dtype=torch.float64)
    for row in rows:
        columns = {name: column.detach().cpu().double() for name, column in row.columns.items()}
        old = columns["logprob.old"]
        values = KL_ESTIMATORS[estimator](old, columns["logprob.ref"], old) * row.loss_mask
        sums.index_add_(0, columns["answer"].long(), values)
    return sums[1:]
