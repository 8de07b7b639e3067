"""Semantic consistency of a video's frames and what the thinking says of them (VideoRFT).

Source: VideoRFT (2505.12434, section 3.2) and its code, QiWang98/VideoRFT src/r1-v/src/open_r1/grpo.py. Paper and code
differ, and `mode` and `text` choose apart:

    mode  paper      min(1, w max(0, cos(t, mean of the frames' vectors)))
          code       mean over frames of min(1, w max(0, cos(t, frame)))
    text  sentences  the last think block without its first sentence; nothing left, or no block: 0
          code       the first think block after its first ".", be it in "1.5 m" or "Mr."; the empty text where that is
                     all; without a "." the whole block, without a block the whole response

The paper takes "the tokens after the first full stop"; what ends a sentence is our reading. So is that the mean is one
of unit vectors. The encoder cuts texts at its own length in both. Frames are uint8 here: the public code hands
float frames of 0..255 to ToPILImage, which multiplies by 255 and wraps, so that its encoder sees colour negatives (119
becomes 137). That is a mistake, not a variant, and there is no option for it. Nor are exceptions 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from mmreason.rewards.base import extract_answer
from mmreason.rewards.remote import Nonsense, OnOutage
from mmreason.rewards.service import Send, asker, patience_of
from mmreason.types import Rollout, Sample, Score

Mode = Literal["paper", "code"]
TextRule = Literal["sentences", "code"]

_STOP = re.compile(r"[.!?\u3002\uff01\uff1f]+[\"')\]\u201d\u2019]*(?=\s|$)|[\u3002\uff01\uff1f]+")
_NO_STOP = re.compile(r"(?:\b(?:[A-Z]|(?i:Mrs?|Ms|Dr|Prof|St|No|Fig|vs|etc|approx|e\.g|i\.e|cf))|^\s*\d+)\.$")
"""Ends of what looks like a sentence and is none: an initial, an abbreviation, the number of a list."""


def semantic(
    sample: Sample,
    rollouts: Sequence[Rollout],
    *,
    url: str,
    mode: Mode = "paper",
    text: TextRule = "sentences",
    scale: float = 2.0,
    send: Send = "path",
    api_key_env: str | None = None,
    retries: int = 3,
    request_s: float = 60.0,
    deadline_s: float = 300.0,
    on_outage: OnOutage = "pause",
    outage_s: float = 900.0,
) -> list[Score]:
    """How well the thinking matches the pictures: clipped SigLIP cosine, 0 to 1 (VideoRFT). Usually behind a gate.

    `url`: a service with scorer siglip. `mode`, `text`: as the paper has it, or its code. `scale`: w. `send` and what
    follows: as for `service`. Samples without image or video are left out. Part: "cosine" with the mean of frames.
    """
    if not any(ref.kind in ("image", "video") for ref in sample.media):
        return [Score(total=None)] * len(rollouts)
    texts = [described(rollout.text, text) for rollout in rollouts]
    ask = asker(
        url, api_key_env, patience_of(retries, request_s, deadline_s, on_outage, outage_s), ("image", "video"), False
    )
    wanted = list(dict.fromkeys(text for text in texts if text is not None))
    values = dict(zip(wanted, ask(sample, wanted, send), strict=True)) if wanted else {}
    return [_score(None if text is None else values[text], mode, scale) for text in texts]


def described(response: str, rule: TextRule) -> str | None:
    """What of a response is compared with the pictures; None where nothing is."""
    if rule == "sentences":
        thinking = extract_answer(response, "think")
        return None if thinking is None else without_first_sentence(thinking) or None
    _, opening, rest = response.partition("<think>")
    block, closing, _ = rest.partition("</think>")
    if not opening or not closing:
        return response
    return block.partition(".")[2].lstrip() if "." in block else block


def without_first_sentence(text: str) -> str:
    """All after the first sentence; "" for a text of one.

    Example: "A Mr. Li drove 1.5 km. He stops." -> "He stops."
    """
    for match in _STOP.finditer(text):
        if not _NO_STOP.search(text[max(0, match.end() - 12) : match.end()]):
            return text[match.end() :].strip()
    return ""


def consistency(frames: Sequence[float], mean: float, mode: Mode, scale: float) -> float:
    """R_s from the cosines with each frame, and with the mean of the frames; 0 to 1."""
    if mode == "paper":
        return _clipped(mean, scale)
    return sum(_clipped(cosine, scale) for cosine in frames) / len(frames)


def _clipped(cosine: float, scale: float) -> float:
    return min(1.0, scale * max(0.0, cosine))


def _score(value: Any, mode: Mode, scale: float) -> Score:
    if value is None:
        return Score(total=0.0)
    try:
        frames, mean = [float(cosine) for cosine in value["frames"]], float(value["mean"])
    except (TypeError, KeyError, ValueError):
        raise Nonsense("the service does not tell cosines; is its scorer siglip?") from None
    return Score(total=consistency(frames, mean, mode, scale), parts={"cosine": mean})
