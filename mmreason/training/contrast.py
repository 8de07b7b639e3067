"""Contrast rollouts: answers to the same questions with their media changed. They are scored and never trained on.

Nothing here waits for another process: one whose prompts have no such media samples nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmreason.errors import MMReasonError
from mmreason.processors.views import applies
from mmreason.rollout.base import SamplingParams
from mmreason.training.run import Run
from mmreason.types import Sample, Score, Segment, View


def contrast_scores(
    run: Run,
    view: View,
    prompts: Sequence[tuple[Sample, Segment]],
    params: SamplingParams,
    seeds: Sequence[Sequence[int]],
    shown_by: int,
) -> list[tuple[Score, ...]]:
    """Scores of `len(seeds[i])` answers to prompt i in `view`.

    () for a prompt whose media the view leaves as they are. `shown_by` seeds the view. A prompt that cannot be made in
    this view gives scores without a total.
    """
    places = [place for place, (sample, _) in enumerate(prompts) if applies(view, sample)]
    with run.timed("encode"):
        encoded = run.encoder.prompts([prompts[place][0] for place in places], view, shown_by)
    scores: list[tuple[Score, ...]] = [()] * len(prompts)
    usable: list[tuple[int, Segment]] = []
    for place, made in zip(places, encoded, strict=True):
        if isinstance(made, MMReasonError):
            scores[place] = (Score(total=None, error=f"view {view}: {made}"),) * len(seeds[place])
        else:
            usable.append((place, made[1]))
    if not usable:
        return scores
    n = len(seeds[usable[0][0]])
    with run.timed("rollout"):
        answers = run.rollouts.generate([prompt for _, prompt in usable], n, params, [seeds[p] for p, _ in usable])
    with run.timed("reward"):  # of the sample as it was: boxes refer to the real picture
        groups = [(prompts[place][0], group) for (place, _), group in zip(usable, answers, strict=True)]
        marks = run.rewards.score(groups)
    for (place, _), found in zip(usable, marks, strict=True):
        scores[place] = tuple(found)
    return scores
