"""The LM head that scores tokens without ever holding [tokens, vocabulary] logits.

`ScoringHead` takes the place of a model's `lm_head` and shares its weight (same name in the state dict, still tied
where it was tied). By default it gives float32 logits. Inside `with head.scoring(plan):` it gives log-prob and
entropy of the planned tokens instead, computed chunk by chunk in float32 and recomputed in backward. Because that
happens inside the wrapped model's own forward, the hooks of DDP, DeepSpeed ZeRO-3 and accelerate see an ordinary
module, and models that always run their head (Qwen2.5-Omni's thinker) need no special case.

    log-prob = log_softmax(logits / temperature, banned ids and those outside the support at -inf)[target]

Against a teacher it also gives KL(model || teacher) of each token's whole distribution, from the teacher's hidden
states and head: its logits, too, exist for one chunk at a time.

Shapes: T tokens of the row, N scored tokens, C tokens of a chunk, D hidden size, E that of a teacher, V vocabulary, K
banned ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmreason.support import outside
from mmreason.types import Support


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """A teacher's view of the planned tokens. Example: `Against(hidden=[2, E], head=[V, E], taught=[True, False])`"""

    hidden: Tensor
    """[N, E]: what the teacher's head gets for each planned token."""
    head: Tensor
    """[V, E]: the teacher's head. Where the vocabularies differ in size, ids that both have are compared."""
    taught: Tensor
    """bool [N]: the tokens to compare; the others get 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringPlan:
    """Which tokens to score. Example: `ScoringPlan(source=tensor([8, 9]), targets=tensor([5, 7]))`"""

    source: Tensor
    """int64 [N]: row index whose hidden state predicts each token."""
    targets: Tensor
    """int64 [N]: the tokens."""
    temperature: float = 1.0
    banned: Tensor | None = None
    """int64 [K]: ids that cannot be sampled."""
    chunk: int = 1024
    """Logits of this many tokens exist at a time."""
    support: Support | None = None
    """Of the N tokens, on the CPU: ids outside it cannot be sampled either."""
    against: Against | None = None
    """With a teacher there is a third number per token: KL(model || teacher)."""
    hidden: bool = False
    """Give the hidden states of the planned tokens instead of scores."""


class CriticHead(nn.Linear):
    """The value of the text so far, from its last token's hidden state: one number, float32 whatever the input's type.

    It begins with 0 everywhere.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__(hidden, 1, dtype=torch.float32)

    def reset_parameters(self) -> None:
        """All 0."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return nn.functional.linear(input.float(), self.weight.float(), self.bias.float())


class ScoringHead(nn.Linear):
    """An LM head that can score. Made by `install`, so that its weight is the model's own."""

    plan: ScoringPlan | None = None
    critic: CriticHead | None
    """Set where values are wanted, too. It reads the very hidden states that the tokens are predicted from."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.register_module("critic", None)

    @classmethod
    def install(cls, model: nn.Module) -> ScoringHead:
        """Replace `model.lm_head` by a ScoringHead with the same weight."""
        old = model.lm_head
        assert isinstance(old, nn.Linear), f"lm_head is a {type(old).__name__}"
        assert old.bias is None, "an LM head with a bias is not known here"
        with torch.device("meta"):  # no second copy of the largest matrix, not even for a moment
            head = cls(old.in_features, old.out_features)
        head.weight = old.weight
        model.lm_head = head
        return head

    @contextmanager
    def scoring(self, plan: ScoringPlan) -> Iterator[None]:
        """Inside, forward([1, T, D]) returns float32 [1, N, 2]: log-prob and entropy of each planned token; against a
        teacher one column more, with a critic one more at the end. [1, N, D] where the plan asks for hidden states.

        A batch [B, T, D] counts as one row of B x T tokens.
        """
        assert self.plan is None, "scoring inside scoring"
        self.plan = plan
        try:
            yield
        finally:
            self.plan = None

    def forward(self, input: Tensor) -> Tensor:
        """Logits, or inside `scoring` what its plan asks for."""
        if self.plan is None:  # in float32 as well, so that sampling and scoring agree under autocast
            with torch.autocast(input.device.type, enabled=False):
                return nn.functional.linear(input.float(), self.weight.float())
        hidden_ND = input.flatten(0, 1).index_select(0, self.plan.source)
        if self.plan.hidden:
            return hidden_ND[None]
        scores: Tensor = _Score.apply(hidden_ND, self.weight, self.plan)  # type: ignore[no-untyped-call]
        if self.critic is not None:
            scores = torch.cat([scores, self.critic(hidden_ND)], dim=1)
        return scores[None]


class _Score(torch.autograd.Function):
    """(hidden [N, D], weight [V, D]) -> [N, 2] log-prob and entropy, in float32 whatever the inputs' type; [N, 3]
    against a teacher."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, plan: ScoringPlan) -> Tensor:
        ctx.save_for_backward(hidden_ND, weight_VD)
        ctx.plan = plan
        width = 2 if plan.against is None else 3
        scores = torch.zeros(hidden_ND.shape[0], width, dtype=torch.float32, device=hidden_ND.device)
        weight, teacher_VE = weight_VD.float(), _teacher_weight(plan)
        for chunk in _chunks(plan):
            logp_CV = _log_probs(hidden_ND, weight, plan, chunk)
            scores[chunk, 0] = logp_CV.gather(1, plan.targets[chunk, None])[:, 0]
            scores[chunk, 1] = -(logp_CV.exp() * _finite(logp_CV)).sum(1)
            if plan.against is not None:
                taught = plan.against.taught[chunk]
                kl = _divergence(logp_CV[taught], chunk, plan, teacher_VE)[0]
                scores[chunk, 2] = scores[chunk, 2].masked_scatter(taught, kl)
        return scores

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD = ctx.saved_tensors
        plan: ScoringPlan = ctx.plan
        weight, teacher_VE = weight_VD.float(), _teacher_weight(plan)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden_ND) if needs_hidden else None
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        for chunk in _chunks(plan):
            logp_CV = _log_probs(hidden_ND, weight, plan, chunk)
            grad_CV = _logit_grad(logp_CV, grads[0][chunk, :2], plan.targets[chunk])
            if plan.against is not None:
                taught = plan.against.taught[chunk]
                slope_CV = _divergence(logp_CV[taught], chunk, plan, teacher_VE)[1]
                grad_CV[taught, : slope_CV.shape[1]] += grads[0][chunk][taught, 2:] * slope_CV
            grad_CV /= plan.temperature
            if grad_hidden is not None:
                grad_hidden[chunk] = (grad_CV @ weight).to(hidden_ND.dtype)
            if grad_weight is not None:
                grad_weight.addmm_(grad_CV.T, hidden_ND[chunk].float())
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight_VD.dtype), None


def _chunks(plan: ScoringPlan) -> Iterator[slice]:
    for start in range(0, plan.targets.shape[0], plan.chunk):
        yield slice(start, start + plan.chunk)


def _log_probs(hidden_ND: Tensor, weight_VD: Tensor, plan: ScoringPlan, chunk: slice) -> Tensor:
    with torch.autocast(hidden_ND.device.type, enabled=False):
        logits_CV = hidden_ND[chunk].float() @ weight_VD.T
    if plan.temperature != 1.0:
        logits_CV /= plan.temperature
    if plan.banned is not None:
        logits_CV[:, plan.banned] = float("-inf")
    if plan.support is not None:
        logits_CV.masked_fill_(outside(plan.support, chunk, logits_CV.shape[1], logits_CV.device), float("-inf"))
    return torch.log_softmax(logits_CV, dim=-1)


def _finite(logp_CV: Tensor) -> Tensor:
    """Banned ids have probability 0 and log-prob -inf; their product is 0."""
    return logp_CV.masked_fill(logp_CV == float("-inf"), 0.0)


def _logit_grad(logp_CV: Tensor, grad_C2: Tensor, targets_C: Tensor) -> Tensor:
    """d(grad . scores) / d(logits / temperature): log-prob gives 1[v = target] - p, entropy gives -p (log p + H)."""
    p_CV = logp_CV.exp()
    grad_CV = p_CV * -grad_C2[:, :1]
    grad_CV.scatter_add_(1, targets_C[:, None], grad_C2[:, :1])
    if grad_C2[:, 1].any():
        p_logp_CV = p_CV * _finite(logp_CV)
        entropy_C1 = -p_logp_CV.sum(1, keepdim=True)
        grad_CV -= grad_C2[:, 1:] * (p_logp_CV + p_CV * entropy_C1)
    return grad_CV


def _teacher_weight(plan: ScoringPlan) -> Tensor | None:
    """The teacher's head in float32: made once for all chunks, as the model's own."""
    return None if plan.against is None else plan.against.head.float()


def _divergence(logp_CV: Tensor, chunk: slice, plan: ScoringPlan, teacher_VE: Tensor | None) -> tuple[Tensor, Tensor]:
    """KL(model || teacher) of the taught tokens of a chunk [C], and its slope by their logits / temperature [C, V].

    sum_v p (log p - log q); by logit v: p_v (log p_v - log q_v - KL), both renormalised over the ids that both have.
    """
    against = plan.against
    assert against is not None
    assert teacher_VE is not None
    size = min(logp_CV.shape[1], teacher_VE.shape[0])
    logp_CV = torch.log_softmax(logp_CV[:, :size], dim=-1)
    hidden_CE = against.hidden[chunk][against.taught[chunk]]
    with torch.autocast(hidden_CE.device.type, enabled=False):
        logits_CV = hidden_CE.float() @ teacher_VE[:size].T / plan.temperature
    # What the policy cannot sample, the teacher shall not have to explain.
    logq_CV = torch.log_softmax(logits_CV.masked_fill(logp_CV == float("-inf"), float("-inf")), dim=-1)
    gap_CV = _finite(logp_CV) - _finite(logq_CV)
    p_CV = logp_CV.exp()
    kl_C = (p_CV * gap_CV).sum(1)
    return kl_C, p_CV * (gap_CV - kl_C[:, None])
