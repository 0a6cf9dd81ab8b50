"""Tiny random models of the kinds that caption and segment, saved as the library saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipProcessor,
    CLIPVisionConfig,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    Florence2VisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SegformerConfig,
    SegformerForSemanticSegmentation,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[DEC]",
    "<image>",
    "a",
    "photo",
    "of",
    "dog",
    "cat",
    "on",
    "grass",
    "USER",
]


def tokenizer() -> PreTrainedTokenizerFast:
    """A word is a token."""
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = [("[CLS]", 2), ("[SEP]", 3)]
    inner.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        bos_token="[DEC]", extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip


def _layers(**more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return {**sizes, **more}


def write_blip(folder: Path) -> Path:
    ids = {"bos_token_id": 4, "pad_token_id": 0, "eos_token_id": 3, "sep_token_id": 3}
    text = _layers(vocab_size=len(WORDS), encoder_hidden_size=16, max_position_embeddings=64, **ids)
    vision = _layers(image_size=32, patch_size=16)
    torch.manual_seed(0)
    BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    BlipProcessor(BlipImageProcessorPil(size=size), tokenizer()).save_pretrained(folder)
    return folder


def write_llava(folder: Path) -> Path:
    """A model that chats: its answer continues the question."""
    vision = CLIPVisionConfig(**_layers(image_size=32, patch_size=16, projection_dim=16))
    text = LlamaConfig(**_layers(vocab_size=len(WORDS), num_key_value_heads=2, max_position_embeddings=64))
    text.bos_token_id, text.eos_token_id, text.pad_token_id = 4, 3, 0
    torch.manual_seed(0)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=5, vision_feature_layer=-1)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    template = (
        "{% for m in messages %}USER {% for c in m['content'] %}{% if c['type'] == 'image' %}<image> "
        "{% else %}{{ c['text'] }} {% endif %}{% endfor %}{% endfor %}"
    )
    image = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    LlavaProcessor(
        image, tokenizer(), patch_size=16, vision_feature_select_strategy="default", chat_template=template,
        num_additional_image_tokens=1, image_token="<image>",
    ).save_pretrained(folder)  # fmt: skip
    return folder


def write_florence(folder: Path) -> Path:
    """A model that is asked by tasks."""
    vision = Florence2VisionConfig(
        depths=(1,), patch_size=(7,), patch_stride=(8,), patch_padding=(3,), patch_prenorm=(False,), embed_dim=(8,),
        num_heads=(1,), num_groups=(1,), window_size=4, projection_dim=16, drop_path_rate=0.0,
    )  # fmt: skip
    text = BartConfig(
        vocab_size=len(WORDS), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=64,
        bos_token_id=4, eos_token_id=3, pad_token_id=0, decoder_start_token_id=3, forced_eos_token_id=3,
    )  # fmt: skip
    torch.manual_seed(0)
    config = Florence2Config(vision_config=vision, text_config=text, image_token_id=5)
    Florence2ForConditionalGeneration(config).save_pretrained(folder)
    image = CLIPImageProcessorPil(
        size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32}, image_seq_length=17
    )
    words = tokenizer()
    words.eos_token = "[SEP]"
    Florence2Processor(image, words).save_pretrained(folder)
    return folder


def write_segformer(folder: Path, labels: tuple[str, ...] = ("background", "dog", "Tree, plant")) -> Path:
    """Sees what is bright as the second label: a network of one layer, with its weights set by hand."""
    config = SegformerConfig(
        num_encoder_blocks=1, depths=[1], sr_ratios=[1], hidden_sizes=[8], patch_sizes=[3], strides=[2],
        num_attention_heads=[1], mlp_ratios=[1], decoder_hidden_size=8,
        id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)},
    )  # fmt: skip
    torch.manual_seed(0)
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
