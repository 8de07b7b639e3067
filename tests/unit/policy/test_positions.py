"""Positions and placeholder expansion: by hand, and against transformers' get_rope_index on the real classes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from mmreason.errors import AlignmentError
from mmreason.policy.families import FAMILIES
from mmreason.policy.positions import MediaRules, expand_ids, rope_positions
from mmreason.types import MediaTensors

IMAGE, VIDEO, AUDIO, VISION_START, VISION_END, AUDIO_START, AUDIO_END = range(190, 197)
VL = MediaRules(
    placeholder={"image": IMAGE, "video": VIDEO},
    wrapper={"image": (VISION_START, VISION_END), "video": (VISION_START, VISION_END)},
    merge_size=2,
    positions_per_second=2.0,
)
OMNI = MediaRules(
    placeholder={**VL.placeholder, "audio": AUDIO},
    wrapper={**VL.wrapper, "audio": (AUDIO_START, AUDIO_END)},
    merge_size=2,
    positions_per_second=25.0,
    seconds_per_chunk=2.0,
)
VL2 = replace(VL, positions_per_second=None)
VL3 = replace(VL2, steps_apart=True)
AUDIO_ONLY = MediaRules(placeholder={"audio": AUDIO}, wrapper={})
TEXT = {"vocab_size": 200, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
VISION = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 1, "out_hidden_size": 32}


def image(height: int, width: int) -> MediaTensors:
    return MediaTensors(kind="image", kwargs={}, tokens=height * width // 4, grid=(1, height, width))


def video(steps: int, height: int, width: int, seconds: float | None) -> MediaTensors:
    grid = (steps, height, width)
    tokens = steps * height * width // 4
    return MediaTensors(kind="video", kwargs={}, tokens=tokens, grid=grid, seconds_per_grid=seconds)


def told(steps: int, height: int, width: int) -> MediaTensors:
    """A video whose steps stand apart, each after a time in words of another length."""
    return replace(video(steps, height, width, 0.5), stamps=tuple((20,) * (3 + k % 2) for k in range(steps)))


def audio(frames: int, joined: bool = False) -> MediaTensors:
    kwargs = {"feature_attention_mask": torch.ones(1, frames)}
    return MediaTensors(kind="audio", kwargs=kwargs, tokens=((frames - 1) // 2 - 1) // 2 + 1, joined=joined)


def prompt(media: Sequence[MediaTensors], rules: MediaRules) -> Tensor:
    """Two text tokens, each item in its start and end tokens with one text token after it; expanded."""
    ids = [7, 8]
    for item in media:
        if not item.joined:
            around = rules.wrapper.get(item.kind, ())
            ids += [*around[:1], rules.placeholder[item.kind], *around[1:], 9]
    return expand_ids(torch.tensor(ids), media, rules)


def test_text_counts_up_on_all_axes() -> None:
    positions, following = rope_positions(torch.tensor([5, 6, 7]), (), 4, VL)
    assert positions.tolist() == [[4, 5, 6]] * 3
    assert following == 7


def test_image_by_hand() -> None:
    """[7, 8, start, 2 x 3 features, end, 9] from position 10: the image spans 13..15, text goes on at 16."""
    positions, following = rope_positions(prompt([image(4, 6)], VL), [image(4, 6)], 10, VL)
    assert positions.tolist() == [
        [10, 11, 12, 13, 13, 13, 13, 13, 13, 16, 17],
        [10, 11, 12, 13, 13, 13, 14, 14, 14, 16, 17],
        [10, 11, 12, 13, 14, 15, 13, 14, 15, 16, 17],
    ]
    assert following == 18


def test_text_after_a_long_video_goes_on_past_its_time_axis() -> None:
    """Three steps of 1.5 s at 2 positions per second: times 3, 6, 9 + 0; the end token is at 10, not at 3 + 1."""
    item = video(3, 2, 2, 1.5)
    positions, following = rope_positions(prompt([item], VL), [item], 0, VL)
    assert positions[0].tolist() == [0, 1, 2, 3, 6, 9, 10, 11]
    assert positions[1].tolist() == [0, 1, 2, 3, 3, 3, 10, 11]
    assert following == 12


def test_times_are_truncated_not_rounded() -> None:
    item = video(4, 2, 2, 0.4)
    positions, _ = rope_positions(prompt([item], VL), [item], 0, VL)
    assert (positions[0, 3:7] - 3).tolist() == [0, 0, 1, 2]  # 0, 0.8, 1.6, 2.4


def test_steps_without_seconds_count_up_by_one() -> None:
    """Qwen2-VL: three steps of 1 x 2 tokens from position 3, whatever their seconds; the end token is at 5 + 1."""
    item = video(3, 2, 4, 7.5)
    positions, following = rope_positions(prompt([item], VL2), [item], 0, VL2)
    assert positions.tolist() == [
        [0, 1, 2, 3, 3, 4, 4, 5, 5, 6, 7],
        [0, 1, 2, 3, 3, 3, 3, 3, 3, 6, 7],
        [0, 1, 2, 3, 4, 3, 4, 3, 4, 6, 7],
    ]
    assert following == 8


def test_a_video_told_in_words() -> None:
    """Qwen3-VL: two steps of 1 x 2 tokens; each has its time before it, its own start and end, and the place of an
    image; the placeholder's own start and end tokens stay around them all."""
    item = told(2, 2, 4)
    ids = prompt([item], VL3)
    steps = [[20] * words + [VISION_START, VIDEO, VIDEO, VISION_END] for words in (3, 4)]
    assert ids.tolist() == [7, 8, VISION_START, *steps[0], *steps[1], VISION_END, 9]
    positions, following = rope_positions(ids, [item], 0, VL3)
    assert positions[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 7, 9, 10, 11, 12, 13, 14, 15, 15, 17, 18, 19]
    assert positions[1, 7:9].tolist() == [7, 7]
    assert positions[2, 7:9].tolist() == [7, 8]
    assert following == 20


def test_who_only_hears_counts_up() -> None:
    media = [audio(97), audio(8)]
    ids = prompt(media, AUDIO_ONLY)
    assert ids.tolist() == [7, 8, *[AUDIO] * 24, 9, *[AUDIO] * 2, 9]
    positions, following = rope_positions(ids, media, 5, AUDIO_ONLY)
    assert positions.tolist() == [list(range(5, 5 + len(ids)))] * 3
    assert following == 5 + len(ids)


def test_a_segment_continues_where_its_parent_ended() -> None:
    """Positions of prompt and answer in one piece equal those of the two pieces."""
    media = [image(4, 4), video(3, 4, 4, 1.0)]
    ids = torch.cat([prompt(media, VL), torch.tensor([3, 4, 5])])
    whole, after_whole = rope_positions(ids, media, 0, VL)
    first, following = rope_positions(ids[:-3], media, 0, VL)
    second, after = rope_positions(ids[-3:], (), following, VL)
    assert torch.equal(torch.cat([first, second], 1), whole)
    assert after == after_whole


def test_sound_of_a_video_is_interleaved_in_chunks() -> None:
    """Two seconds per chunk: 50 sound tokens, and the video's steps at 0 s and 1 s, then those at 2 s."""
    media = [video(3, 2, 4, 1.0), audio(240, joined=True)]
    ids = prompt(media, OMNI)
    assert media[1].tokens == 60
    inside = [VIDEO] * 4 + [AUDIO] * 50 + [VIDEO] * 2 + [AUDIO] * 10
    assert ids.tolist() == [7, 8, VISION_START, AUDIO_START, *inside, AUDIO_END, VISION_END, 9]
    positions, following = rope_positions(ids, media, 0, OMNI)
    assert positions[:, 2:4].tolist() == [[2, 2]] * 3  # both start tokens share a position
    assert positions[0, 4:8].tolist() == [3, 3, 28, 28]
    assert positions[0, 8:58].tolist() == list(range(3, 53))
    assert positions[0, 58:60].tolist() == [53, 53]
    assert positions[0, 60:70].tolist() == list(range(53, 63))
    assert positions[:, 70:72].tolist() == [[63, 63]] * 3
    assert positions[0, 72] == 64
    assert following == 65


# ---- against transformers ------------------------------------------------------------------------------------------


TOKENS: dict[str, Any] = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
}


@functools.cache
def vl_model() -> transformers.PreTrainedModel:
    vision = {**VISION, "fullatt_block_indexes": [0], "tokens_per_second": 2}
    config = transformers.Qwen2_5_VLConfig(
        text_config={**TEXT, "rope_parameters": ROPE}, vision_config=vision, **TOKENS
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


@functools.cache
def vl2_model() -> transformers.PreTrainedModel:
    vision = {"depth": 1, "embed_dim": 16, "num_heads": 1, "mlp_ratio": 1, "hidden_size": 32}
    config = transformers.Qwen2VLConfig(text_config={**TEXT, "rope_parameters": ROPE}, vision_config=vision, **TOKENS)
    return transformers.Qwen2VLForConditionalGeneration(config)


@functools.cache
def vl3_model() -> transformers.PreTrainedModel:
    config = transformers.Qwen3VLConfig(
        text_config={**TEXT, "head_dim": 16, "num_key_value_heads": 2, "rope_parameters": ROPE},
        vision_config={**VISION, "deepstack_visual_indexes": [0], "num_position_embeddings": 16},
        **TOKENS,
    )
    return transformers.Qwen3VLForConditionalGeneration(config)


@functools.cache
def omni_model() -> transformers.Qwen2_5OmniThinkerForConditionalGeneration:
    config = transformers.Qwen2_5OmniThinkerConfig(
        text_config={**TEXT, "rope_parameters": ROPE},
        vision_config={**VISION, "fullatt_block_indexes": [0]},
        audio_config={"encoder_layers": 1, "encoder_attention_heads": 1, "encoder_ffn_dim": 8, "d_model": 8},
        audio_token_index=AUDIO,
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        vision_start_token_id=VISION_START,  # type: ignore[call-arg]  # a key of published configs
        vision_end_token_id=VISION_END,
        audio_start_token_id=AUDIO_START,
        audio_end_token_id=AUDIO_END,
    )
    return transformers.Qwen2_5OmniThinkerForConditionalGeneration(config)


@pytest.mark.parametrize(
    ("family", "model", "rules"),
    [
        ("qwen2_vl", vl2_model, VL2),
        ("qwen2_5_vl", vl_model, VL),
        ("qwen3_vl", vl3_model, VL3),
        ("qwen2_5_omni", omni_model, OMNI),
    ],
)
def test_the_table_has_these_rules(
    family: str, model: Callable[[], transformers.PreTrainedModel], rules: MediaRules
) -> None:
    assert FAMILIES[family].rules(model().config) == rules


def test_the_table_has_the_rules_of_who_only_hears() -> None:
    family = FAMILIES["qwen2_audio"]
    assert family.rules(transformers.Qwen2AudioConfig(audio_token_index=AUDIO)) == AUDIO_ONLY
    assert family.position_axes == 1


def grids(media: Sequence[MediaTensors], kind: str) -> Tensor | None:
    found = [item.grid for item in media if item.kind == kind]
    return torch.tensor(found) if found else None


def seconds(media: Sequence[MediaTensors]) -> Tensor | None:
    found = [item.seconds_per_grid for item in media if item.kind == "video"]
    return torch.tensor(found) if found else None


def vl_theirs(model: Any, ids: Tensor, media: Sequence[MediaTensors]) -> Tensor:
    kinds = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
    positions: Tensor
    positions, _ = model.model.get_rope_index(
        ids[None],
        mm_token_type_ids=kinds[None],
        image_grid_thw=grids(media, "image"),
        video_grid_thw=grids(media, "video"),
        second_per_grid_ts=seconds(media),
    )
    return positions[:, 0]


def omni_theirs(ids: Tensor, media: Sequence[MediaTensors]) -> Tensor:
    sounds = [item.kwargs["feature_attention_mask"].shape[1] for item in media if item.kind == "audio"]
    positions: Tensor
    get_rope_index: Any = omni_model().get_rope_index
    positions, _ = get_rope_index(
        ids[None],
        image_grid_thw=grids(media, "image"),
        video_grid_thw=grids(media, "video"),
        attention_mask=torch.ones_like(ids)[None],
        use_audio_in_video=any(item.joined for item in media),
        audio_seqlens=torch.tensor(sounds) if sounds else None,
        second_per_grids=seconds(media),
    )
    return positions[:, 0]


@pytest.mark.parametrize(
    "media",
    [
        [],
        [image(4, 6)],
        [image(4, 6), image(8, 4), image(2, 2)],
        [video(1, 4, 6, 1.0)],
        [video(2, 6, 6, 0.9), image(4, 4)],  # the time axis ends before the picture does: both rules agree
    ],
)
@pytest.mark.parametrize(("model", "rules"), [(vl_model, VL), (vl2_model, VL2)])
def test_vl_equals_transformers(
    model: Callable[[], transformers.PreTrainedModel], rules: MediaRules, media: list[MediaTensors]
) -> None:
    ids = prompt(media, rules)
    positions, _ = rope_positions(ids, media, 0, rules)
    assert torch.equal(positions, vl_theirs(model(), ids, media))


@pytest.mark.parametrize(("model", "rules", "last_step"), [(vl_model, VL, 19 * 2), (vl2_model, VL2, 19)])
def test_vl_differs_from_transformers_after_a_long_video(
    model: Callable[[], transformers.PreTrainedModel], rules: MediaRules, last_step: int
) -> None:
    """The known difference: transformers 5.19 goes on at max(height, width) + 1, the checkpoints and vLLM at max + 1.

    Everything up to the video's last feature is equal; what follows is shifted by a constant.
    """
    media = [image(4, 4), video(20, 4, 4, 1.0)]
    ids = prompt(media, rules)
    ours, _ = rope_positions(ids, media, 0, rules)
    theirs = vl_theirs(model(), ids, media)
    last = int((ids == VIDEO).nonzero().max())
    assert torch.equal(ours[:, : last + 1], theirs[:, : last + 1])
    shift = ours[:, last + 1 :] - theirs[:, last + 1 :]
    assert set(shift.flatten().tolist()) == {last_step + 1 - 2}  # the picture is 2 x 2 tokens


@pytest.mark.parametrize(
    "media",
    [
        [image(4, 6), image(8, 4)],
        [told(1, 4, 6)],
        [told(20, 4, 4)],
        [told(3, 4, 8), image(4, 4), told(2, 8, 4)],
    ],
)
def test_vl3_equals_transformers(media: list[MediaTensors]) -> None:
    ids = prompt(media, VL3)
    positions, _ = rope_positions(ids, media, 0, VL3)
    assert torch.equal(positions, vl_theirs(vl3_model(), ids, media))


@pytest.mark.parametrize(
    "media",
    [
        [image(4, 6), image(8, 4)],
        [video(20, 4, 4, 1.0)],
        [video(3, 4, 4, 0.37), image(4, 4), video(2, 2, 6, 2.5)],
        [audio(97), image(4, 4)],
        [image(4, 4), audio(4), video(3, 4, 4, 0.5), audio(230)],
        [video(2, 4, 4, 1.0), audio(130, joined=True)],
        [video(5, 4, 4, 1.0), audio(430, joined=True)],
        [video(3, 4, 4, 0.5), audio(1400, joined=True)],
        [video(9, 4, 4, 1.3), audio(100, joined=True)],
        [video(4, 4, 4, 4.5), audio(900, joined=True)],  # steps that leap over whole chunks
        [video(2, 4, 4, 1.0), audio(130, joined=True), video(3, 4, 6, 1.0), audio(300, joined=True)],
        [image(4, 6), video(2, 4, 4, 1.0), audio(130, joined=True)],
    ],
)
def test_omni_equals_transformers(media: list[MediaTensors]) -> None:
    ids = prompt(media, OMNI)
    positions, _ = rope_positions(ids, media, 0, OMNI)
    assert torch.equal(positions, omni_theirs(ids, media))


# ---- what does not fit ---------------------------------------------------------------------------------------------


def test_more_placeholders_than_items() -> None:
    ids = prompt([image(4, 4), image(4, 4)], VL)
    with pytest.raises(AlignmentError, match="all 1 media items"):
        rope_positions(ids, [image(4, 4)], 0, VL)


def test_fewer_placeholders_than_items() -> None:
    with pytest.raises(AlignmentError, match="2 media items, but the ids hold placeholders for 1 fewer"):
        rope_positions(prompt([image(4, 4)], VL), [image(4, 4), image(4, 6)], 0, VL)


def test_run_shorter_than_the_item() -> None:
    ids = prompt([image(4, 4)], VL)
    with pytest.raises(AlignmentError, match="has 6 features, but only 4 placeholder"):
        rope_positions(ids, [image(4, 6)], 0, VL)


def test_another_kind_than_the_item() -> None:
    with pytest.raises(AlignmentError, match="0 placeholder tokens of its kind"):
        rope_positions(prompt([image(4, 4)], VL), [video(1, 4, 4, 1.0)], 0, VL)


def test_expanding_with_the_wrong_number_of_items() -> None:
    with pytest.raises(AlignmentError, match=r"1 placeholders \(image\) for 2 media items \(image, image\)"):
        expand_ids(torch.tensor([VISION_START, IMAGE, VISION_END]), [image(4, 4), image(4, 4)], VL)


def test_tokens_that_contradict_the_grid() -> None:
    item = MediaTensors(kind="image", kwargs={}, tokens=5, grid=(1, 4, 4))
    with pytest.raises(AlignmentError, match="says 5 tokens"):
        expand_ids(torch.tensor([VISION_START, IMAGE, VISION_END]), [item], VL)


def test_video_without_seconds() -> None:
    item = video(2, 4, 4, None)
    with pytest.raises(AlignmentError, match="seconds_per_grid"):
        rope_positions(prompt([item], VL), [item], 0, VL)


def test_video_told_in_fewer_words_than_steps() -> None:
    item = replace(told(2, 4, 4), grid=(3, 4, 4), tokens=12)
    with pytest.raises(AlignmentError, match="3 steps comes with 2 times in words"):
        expand_ids(torch.tensor([VISION_START, VIDEO, VISION_END]), [item], VL3)


def test_sound_without_its_video() -> None:
    with pytest.raises(AlignmentError, match="just after the video"):
        expand_ids(torch.tensor([1]), [audio(97, joined=True)], OMNI)


def test_joined_sound_outside_of_its_tokens() -> None:
    media = [video(2, 4, 4, 1.0), audio(97, joined=True)]
    ids = prompt(media, OMNI)
    without_start = torch.cat([ids[:3], ids[4:]])
    with pytest.raises(AlignmentError, match="vision start, audio start"):
        rope_positions(without_start, media, 0, OMNI)


def test_special_ids_are_all_tokens_that_may_not_be_sampled() -> None:
    assert OMNI.special_ids == tuple(range(190, 197))
