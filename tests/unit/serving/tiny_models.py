"""Tiny random scorers of real classes, saved and opened as real checkpoints are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
)

WORDS = "question answer red blue green car owl drives left right the a is in and it then stops ."
SIZES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def tokenizer(length: int) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<pad>", "<unk>", "</s>"]
    words.train_from_iterator([WORDS], trainers.WordLevelTrainer(special_tokens=special))
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=words, model_max_length=length, model_input_names=["input_ids"], **names
    )


def save_siglip(folder: Path) -> Path:
    """A SigLIP of 32 x 32 pixels and 16 tokens."""
    torch.manual_seed(1)
    words = tokenizer(16)
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = SiglipConfig(
        text_config={**SIZES, "vocab_size": len(words), "max_position_embeddings": 16, **ids},
        vision_config={**SIZES, "image_size": 32, "patch_size": 8},
    )
    SiglipModel(config).save_pretrained(folder)
    pictures = SiglipImageProcessor(size={"height": 32, "width": 32})
    SiglipProcessor(image_processor=pictures, tokenizer=words).save_pretrained(folder)
    return folder


def save_reward_model(folder: Path, *, outputs: int = 1, template: bool = True) -> Path:
    """A Llama with a score head."""
    torch.manual_seed(2)
    words = tokenizer(64)
    words.model_input_names = ["input_ids", "attention_mask"]
    if template:
        words.chat_template = "{% for m in messages %}{{ m.role }} : {{ m.content }} </s> {% endfor %}"
    config = LlamaConfig(**SIZES, vocab_size=len(words), num_key_value_heads=2, pad_token_id=0, initializer_range=0.2)
    config.num_labels = outputs
    LlamaForSequenceClassification(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
