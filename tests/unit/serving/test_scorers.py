"""Tiny models of real classes against what transformers itself computes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoModelForSequenceClassification, AutoProcessor, AutoTokenizer

from mmreason.errors import ModelError
from mmreason.processors.base import Decoded
from mmreason.serving.scorers import Item, RewardModelScorer, SiglipScorer
from tests.unit.serving.tiny_models import save_reward_model, save_siglip


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_siglip(tmp_path_factory.mktemp("models") / "siglip")


def clip(seed: int, frames: int = 3) -> Decoded:
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, 20, 30, 3), dtype=np.uint8)
    return Decoded(kind="video", data=pixels, key=str(seed))


def test_cosines_are_those_of_the_models_forward(siglip: Path) -> None:
    """One (text, frame) pair at a time through the model's own forward, as VideoRFT does it."""
    video, texts = clip(1), ("a red car drives left", "the owl is blue . " * 9)
    (values,) = SiglipScorer(device="cpu", path=str(siglip), batch=2).score([Item(texts=texts, media=(video,))])
    processor, model = AutoProcessor.from_pretrained(siglip), AutoModel.from_pretrained(siglip).eval()
    for text, value in zip(texts, values, strict=True):
        vectors = []
        for frame, cosine in zip(video.data, value["frames"], strict=True):
            inputs = processor(
                images=[Image.fromarray(frame)], text=[text], return_tensors="pt", truncation=True, padding="max_length"
            )
            with torch.no_grad():
                outputs = model(**inputs)
            assert cosine == pytest.approx(float((outputs.image_embeds * outputs.text_embeds).sum()), abs=1e-5)
            vectors.append(outputs.image_embeds[0])
        mean = torch.stack(vectors).mean(0)
        assert value["mean"] == pytest.approx(float(mean @ outputs.text_embeds[0] / mean.norm()), abs=1e-5)


def test_a_batch_of_groups_is_as_one_by_one(siglip: Path) -> None:
    scorer = SiglipScorer(device="cpu", path=str(siglip))
    items = [
        Item(texts=("a red car", "an owl"), media=(clip(1), clip(2))),
        Item(texts=("an owl",), media=(clip(1),)),
        Item(texts=("blue",)),
        Item(texts=(), media=(clip(3),)),
    ]
    together, apart = scorer.score(items), [scorer.score([item])[0] for item in items]
    assert [len(values) for values in together] == [2, 1, 1, 0]
    assert together[2] == [{"frames": [], "mean": None}]
    for many, one in zip(together[:2], apart[:2], strict=True):
        for value, other in zip(many, one, strict=True):
            assert value["frames"] == pytest.approx(other["frames"], abs=1e-6)
            assert value["mean"] == pytest.approx(other["mean"], abs=1e-6)


def test_pixels_are_not_inverted(siglip: Path) -> None:
    """The public code's float frames of 0..255 became 256 - x on the way: 119 -> 137."""
    frame = np.full((20, 30, 3), 119, np.uint8)
    scorer = SiglipScorer(device="cpu", path=str(siglip))
    seen = scorer._processor(images=[frame], return_tensors="pt")["pixel_values"]
    assert float((seen * 0.5 + 0.5).mean() * 255) == pytest.approx(119, abs=0.5)


def test_a_model_without_two_towers_is_refused(tmp_path: Path) -> None:
    folder = save_reward_model(tmp_path / "rm")
    with pytest.raises(ModelError, match="has no text and image features"):
        SiglipScorer(device="cpu", path=str(folder))
    with pytest.raises(ModelError, match="cannot be loaded"):
        SiglipScorer(device="cpu", path=str(tmp_path / "nothing"))
    with pytest.raises(ModelError, match="dtype 'int8'"):
        SiglipScorer(device="cpu", path=str(save_siglip(tmp_path / "siglip")), dtype="int8")


@pytest.mark.parametrize("template", [True, False])
def test_a_reward_models_output(tmp_path: Path, template: bool) -> None:
    folder = save_reward_model(tmp_path / "rm", template=template)
    texts = ("red", "the owl is blue and the car is red", "")
    (values,) = RewardModelScorer(device="cpu", path=str(folder), batch=2).score(
        [Item(texts=texts, question="the car")]
    )
    words = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    for text, value in zip(texts, values, strict=True):
        whole = f"user : the car </s> assistant : {text} </s> " if template else f"the car\n\n{text}"
        with torch.no_grad():
            expected = float(model(**words(whole, return_tensors="pt")).logits[0, 0])
        assert value == pytest.approx(expected, abs=1e-5)
    assert len({round(value, 4) for value in values}) == 3


def test_what_is_too_long_is_refused_alone(tmp_path: Path) -> None:
    folder = save_reward_model(tmp_path / "rm", template=False)
    scorer = RewardModelScorer(device="cpu", path=str(folder), max_tokens=4)
    ((short, long),) = scorer.score([Item(texts=("red car", "red " * 9))])
    assert isinstance(short, float)
    assert long == {"total": None, "error": "9 tokens, more than max_tokens (4)"}


def test_a_classifier_is_no_reward_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has 3 outputs, expected a reward model with one"):
        RewardModelScorer(device="cpu", path=str(save_reward_model(tmp_path / "rm", outputs=3)))
