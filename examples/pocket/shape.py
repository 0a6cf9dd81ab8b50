"""Writes the shape of the pocket FLUX: the configs of all parts and the two tokenizers, without weights.

    python examples/pocket/shape.py src/velatura/pocket/models/flux

The parts are the real classes at a small width, so that every loader of FLUX folders reads them. The tokenizers are
trained on the captions of the pocket world: each of its words is one token, and any other word is spelled.
"""

from __future__ import annotations

import json
import string
import sys
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer, T5Tokenizer

from velatura.pocket.captions import PLAIN_WORDS, caption
from velatura.pocket.layout import sample_scene
from velatura.pocket.scenes import COLOURS, CONCEPTS, LIGHTS, MATERIALS, SHAPES, SIZES

TEXT_LENGTH = 28  # tokens that either encoder reads; the longest caption of the world has 27
DENOISER = {
    "_class_name": "FluxTransformer2DModel",
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 3,
    "num_single_layers": 6,
    "attention_head_dim": 32,
    "num_attention_heads": 6,
    "joint_attention_dim": 192,
    "pooled_projection_dim": 128,
    "guidance_embeds": False,
    "axes_dims_rope": [8, 12, 12],
}
AUTOENCODER = {
    "_class_name": "AutoencoderKL",
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [16, 32, 64, 128],
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": 16,
    "norm_num_groups": 8,
    "sample_size": 96,
    "scaling_factor": 1.0,
    "shift_factor": 0.0,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "force_upcast": False,
}
SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
INDEX = {
    "_class_name": "FluxPipeline",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "T5Tokenizer"],
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
SAMPLING = {"size": 96, "steps": 20, "guidance": 0.0, "cfg": 2.5}


def clip_config(vocabulary: int, end: int) -> dict[str, object]:
    """A CLIP text model of two layers."""
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": TEXT_LENGTH,
        "hidden_act": "quick_gelu",
        "projection_dim": 128,
        "vocab_size": vocabulary,
        "bos_token_id": end - 1,
        "eos_token_id": end,
        "pad_token_id": end,
    }


def t5_config(vocabulary: int) -> dict[str, object]:
    """A T5 encoder of two layers."""
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "d_model": 192,
        "d_ff": 384,
        "d_kv": 48,
        "num_heads": 4,
        "num_layers": 2,
        "feed_forward_proj": "gated-gelu",
        "dropout_rate": 0.0,
        "is_encoder_decoder": False,
        "use_cache": False,
        "tie_word_embeddings": False,
        "vocab_size": vocabulary,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }


def world_words() -> list[str]:
    """Every word that captions can hold."""
    named = {*COLOURS, *CONCEPTS, *LIGHTS, *MATERIALS, *SHAPES, *SIZES, *PLAIN_WORDS}
    rng = np.random.default_rng(0)
    for _ in range(4000):
        named |= set(caption(sample_scene(rng), rng).replace(",", "").split())
    return sorted(named - set(CONCEPTS))  # a concept is unknown, and so spelled, until somebody teaches it


def clip_tokenizer(words: list[str]) -> CLIPTokenizer:
    """Byte-pair merges that build every word of the world; start and end are the last ids, as in CLIP."""
    alphabet = [*string.ascii_lowercase, *string.digits, *",.-'!?"]
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        show_progress=False,
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        special_tokens=[],
    )
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.train_from_iterator([" ".join(words), " ".join(alphabet)], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    pieces = sorted({*model["vocab"], *alphabet, *(f"{letter}</w>" for letter in alphabet)})
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    merges = [tuple(merge) for merge in model["merges"]]
    return CLIPTokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=merges,
        model_max_length=TEXT_LENGTH,
    )


def t5_tokenizer(words: list[str]) -> T5Tokenizer:
    """A unigram vocabulary of whole words (likely) and single characters (unlikely)."""
    letters = [*string.ascii_lowercase, *string.ascii_uppercase, *string.digits, *",.-'!?"]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{word}", -2.0) for word in words] + [("▁", -4.0)]
    pieces += [(letter, -6.0) for letter in letters]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=TEXT_LENGTH)


def write(folder: Path) -> None:
    """Write everything into `folder`."""
    words = world_words()
    clip, t5 = clip_tokenizer(words), t5_tokenizer(words)
    for name, tokenizer in (("tokenizer", clip), ("tokenizer_2", t5)):
        tokenizer.save_pretrained(folder / name)
    configs = {
        "transformer/config.json": DENOISER,
        "vae/config.json": AUTOENCODER,
        "text_encoder/config.json": clip_config(len(clip), clip.eos_token_id),
        "text_encoder_2/config.json": t5_config(len(t5)),
        "scheduler/scheduler_config.json": SCHEDULER,
        "model_index.json": INDEX,
        "velatura.json": {"sampling": SAMPLING},
    }
    for name, config in configs.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
