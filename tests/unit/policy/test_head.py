"""The chunked scoring head against log_softmax written out, in every number and gradient."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from mmreason.policy.head import Against, ScoringHead, ScoringPlan
from mmreason.types import Support

TOKENS, HIDDEN, VOCABULARY = 11, 6, 20


SUPPORT = Support(
    counts=torch.tensor([3, 0, 1, 2, 4]), ids=torch.tensor([5, 6, 8, 1, 19, 0, 2, 7, 9, 18], dtype=torch.int32)
)


class TinyModel(nn.Module):
    """Embeddings and an LM head, tied on wish."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, HIDDEN)
        self.lm_head = nn.Linear(HIDDEN, VOCABULARY, bias=False)
        if tied:
            self.lm_head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.lm_head(self.embed(ids[None]))
        return logits


def plan(**changes: object) -> ScoringPlan:
    values = {"source": torch.tensor([3, 3, 4, 9, 0]), "targets": torch.tensor([5, 7, 1, 19, 2]), "chunk": 2, **changes}
    return ScoringPlan(**values)  # type: ignore[arg-type]


def written_out(model: TinyModel, ids: Tensor, plan: ScoringPlan) -> Tensor:
    logits = model(ids)[0, plan.source] / plan.temperature
    if plan.banned is not None:
        logits[:, plan.banned] = float("-inf")
    if plan.support is not None:
        every = iter(plan.support.ids.tolist())
        for row, count in enumerate(plan.support.counts.tolist()):
            inside = [next(every) for _ in range(count)]
            if inside:
                logits[row, [id for id in range(VOCABULARY) if id not in inside]] = float("-inf")
    logp = torch.log_softmax(logits, -1)
    likely = torch.where(logp == float("-inf"), torch.zeros_like(logp), logp)
    entropy = -(logp.exp() * likely).sum(1)
    return torch.stack([logp.gather(1, plan.targets[:, None])[:, 0], entropy], dim=1)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("weight_trained", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0.5},
        {"banned": torch.tensor([0, 4, 11])},
        {"chunk": 100},
        {"support": SUPPORT},
        {"support": SUPPORT, "temperature": 0.5, "banned": torch.tensor([0, 4])},
    ],
)
def test_scores_and_gradients(changes: dict[str, object], weight_trained: bool, tied: bool) -> None:
    torch.manual_seed(0)
    plain = TinyModel(tied)
    scored = copy.deepcopy(plain)
    head = ScoringHead.install(scored)
    for model in (plain, scored):
        model.lm_head.weight.requires_grad_(weight_trained)
        model.embed.weight.requires_grad_(weight_trained or not tied)
    ids, what = torch.arange(TOKENS), plan(**changes)
    weights = torch.randn(5, 2)
    expected = written_out(plain, ids, what)
    with head.scoring(what):
        scores = scored(ids)[0]
    assert scores.shape == (5, 2)
    assert (scores - expected).abs().max() < 1e-5
    if not any(parameter.requires_grad for parameter in plain.parameters()):
        return
    torch.autograd.backward((expected * weights).sum())
    torch.autograd.backward((scores * weights).sum())
    for ours, theirs in zip(scored.parameters(), plain.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None and theirs.grad is not None:
            assert (ours.grad - theirs.grad).abs().max() < 1e-5


def test_double_check_by_finite_differences() -> None:
    """gradcheck in float64 is not possible (the head works in float32), so one direction by hand."""
    torch.manual_seed(1)
    head = ScoringHead.install(TinyModel())
    hidden = torch.randn(1, TOKENS, HIDDEN, requires_grad=True)
    direction, step = torch.randn(1, TOKENS, HIDDEN), 1e-2
    with head.scoring(plan()):
        (gradient,) = torch.autograd.grad(head(hidden).sum(), hidden)
        slope = (head(hidden + step * direction).sum() - head(hidden - step * direction).sum()) / (2 * step)
    assert math.isclose(float((gradient * direction).sum()), float(slope.detach()), rel_tol=1e-2)


def test_shares_the_weight_and_its_name() -> None:
    model = TinyModel(tied=True)
    names, weight = list(model.state_dict()), model.lm_head.weight
    head = ScoringHead.install(model)
    assert list(model.state_dict()) == names
    assert head.weight is weight is model.embed.weight


def test_gives_logits_outside_of_scoring() -> None:
    model = TinyModel()
    plain = copy.deepcopy(model)
    ScoringHead.install(model)
    ids = torch.arange(TOKENS)
    assert torch.equal(model(ids), plain(ids))


def test_plan_is_dropped_when_the_forward_fails() -> None:
    head = ScoringHead.install(TinyModel())
    with pytest.raises(RuntimeError, match="boom"), head.scoring(plan()):
        raise RuntimeError("boom")
    assert head.plan is None


def test_nothing_to_score_still_gives_a_gradient() -> None:
    """Rows of dummy trees take part in every collective."""
    model = TinyModel()
    head = ScoringHead.install(model)
    nothing = torch.zeros(0, dtype=torch.int64)
    with head.scoring(plan(source=nothing, targets=nothing)):
        scores = model(torch.arange(TOKENS))[0]
    torch.autograd.backward(scores.sum())
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())


def test_bfloat16_weights_are_scored_in_float32() -> None:
    torch.manual_seed(0)
    model = TinyModel().to(torch.bfloat16)
    exact = copy.deepcopy(model).float()
    head = ScoringHead.install(model)
    with head.scoring(plan()):
        scores = model(torch.arange(TOKENS))[0]
    assert scores.dtype == torch.float32
    assert (scores - written_out(exact, torch.arange(TOKENS), plan())).abs().max() < 1e-5
    torch.autograd.backward(scores.sum())
    assert model.lm_head.weight.grad is not None
    assert model.lm_head.weight.grad.dtype == torch.bfloat16


def test_sampling_and_scoring_agree_under_autocast() -> None:
    torch.manual_seed(0)
    model = TinyModel()
    head = ScoringHead.install(model)
    hidden = 8 * torch.randn(1, TOKENS, HIDDEN, dtype=torch.bfloat16)
    wanted = plan(chunk=1024)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        sampled = head(hidden)[0, wanted.source].log_softmax(-1).gather(1, wanted.targets[:, None])[:, 0]
        with head.scoring(wanted):
            scored = head(hidden)[0, :, 0]
    assert sampled.dtype == torch.float32
    torch.testing.assert_close(sampled, scored, atol=1e-6, rtol=0)


@pytest.mark.parametrize("changes", [{}, {"temperature": 0.5}, {"banned": torch.tensor([0, 4, 11])}, {"chunk": 100}])
@pytest.mark.parametrize("words", [VOCABULARY, VOCABULARY - 3, VOCABULARY + 4])
def test_divergence_from_a_teacher_is_exact_in_value_and_gradient(changes: dict[str, object], words: int) -> None:
    """Vocabularies of other sizes are compared over the ids that both have; untaught tokens get 0."""
    torch.manual_seed(3)
    plain = TinyModel()
    scored = copy.deepcopy(plain)
    head = ScoringHead.install(scored)
    hidden, teacher = torch.randn(5, 7), torch.randn(words, 7)
    taught = torch.tensor([True, False, True, True, False])
    what = plan(against=Against(hidden=hidden, head=teacher, taught=taught), **changes)
    both = min(words, VOCABULARY)
    ids = torch.arange(TOKENS)
    student = plain(ids)[0, what.source][:, :both] / what.temperature
    other = (hidden @ teacher.T)[:, :both] / what.temperature
    if what.banned is not None:
        keep = [index for index in range(both) if index not in what.banned]
        student, other = student[:, keep], other[:, keep]
    logp, logq = student.log_softmax(-1), other.log_softmax(-1)
    expected = (logp.exp() * (logp - logq)).sum(-1) * taught
    with head.scoring(what):
        scores = scored(ids)[0]
    torch.testing.assert_close(scores[:, 2], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scores[:, :2], written_out(plain, ids, what), atol=1e-5, rtol=1e-5)
    weights = torch.randn(5, 3)
    torch.autograd.backward((scores * weights).sum())
    torch.autograd.backward((written_out(plain, ids, what) * weights[:, :2]).sum() + (expected * weights[:, 2]).sum())
    for ours, theirs in zip(scored.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-4)


def test_the_teachers_head_is_converted_once_for_all_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    head = ScoringHead.install(TinyModel())
    teacher = torch.randn(VOCABULARY, 7, dtype=torch.bfloat16)
    against = Against(hidden=torch.randn(5, 7), head=teacher, taught=torch.ones(5, dtype=torch.bool))
    converted, convert = [], Tensor.float

    def counted(tensor: Tensor) -> Tensor:
        converted.append(tensor.dtype)
        return convert(tensor)

    monkeypatch.setattr(Tensor, "float", counted)
    with head.scoring(plan(against=against, chunk=1)):
        head(torch.randn(1, TOKENS, HIDDEN, requires_grad=True)).sum().backward()
    assert converted.count(torch.bfloat16) == 2, "once forward, once backward"


def test_the_worked_number_of_vold() -> None:
    """Student (.7, .3), teacher (.5, .5): KL .082283."""
    head = ScoringHead.install(TinyModel())
    head.weight = nn.Parameter(torch.tensor([[math.log(0.7)], [math.log(0.3)]]))
    against = Against(hidden=torch.ones(1, 1), head=torch.zeros(2, 1), taught=torch.tensor([True]))
    what = ScoringPlan(source=torch.tensor([0]), targets=torch.tensor([1]), against=against)
    with head.scoring(what):
        assert head(torch.ones(1, 1, 1))[0, 0, 2].item() == pytest.approx(0.082283, abs=1e-6)
