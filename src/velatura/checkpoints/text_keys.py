"""Text encoder files: CLIP and T5, alone or inside merged checkpoints, to the names of transformers.

Files write `text_model.…` before CLIP's names; transformers 5 modules do not, older ones do: the map asks the
module.
"""

from __future__ import annotations

from collections.abc import Iterable

from velatura.checkpoints.checkpoint import Checkpoint
from velatura.checkpoints.flux_keys import count_blocks
from velatura.checkpoints.keymap import KeyMap, Rule
from velatura.errors import ModelError

CLIP_IGNORED = (
    "text_projection*",  # CLIP's head for matching images: diffusion models read the states before it
    "logit_scale",
    "vision_model.*",  # the other half of a whole CLIP
    "visual_projection.*",
    "*position_ids",  # 0, 1, 2, …: modules make their own
)
T5_IGNORED = (
    "logit_scale",  # a leftover of ComfyUI's wrapper
    "spiece_model",  # the tokenizer, packed as bytes
)
_CLIP_ANCHOR = "embeddings.token_embedding.weight"
_T5_ANCHOR = "encoder.block.0.layer.0.SelfAttention.q.weight"


def clip_text_encoder(checkpoint: Checkpoint, module_names: Iterable[str]) -> tuple[Checkpoint, KeyMap]:
    """The CLIP text encoder within a file and the map to a module with these parameter names.

    Understands any prefix (`text_model.`, `cond_stage_model.transformer.text_model.`,
    `text_encoders.clip_l.transformer.text_model.`, …). Load with `ignore=CLIP_IGNORED`. Raises ModelError.
    """
    inner, root = _clip(checkpoint)
    nested = any(name.startswith("text_model.") for name in module_names)
    return inner, KeyMap([Rule(root, "text_model" if nested else "")])


def _clip(checkpoint: Checkpoint) -> tuple[Checkpoint, str]:
    """The encoder with what belongs to it, and its root there: "text_model" or nothing."""
    inner = _inside(checkpoint, _CLIP_ANCHOR, "CLIP text encoder", root="text_model.")
    return inner, "" if _CLIP_ANCHOR in inner else "text_model"


def t5_encoder(checkpoint: Checkpoint) -> tuple[Checkpoint, KeyMap]:
    """The T5 encoder within a file (any prefix) and its map; load with `ignore=T5_IGNORED`.

    Raises ModelError.
    """
    return _inside(checkpoint, _T5_ANCHOR, "T5 encoder"), KeyMap.same()


def _inside(checkpoint: Checkpoint, anchor: str, what: str, root: str = "") -> Checkpoint:
    """The tensors that share the prefix which stands before `anchor` (or before `root` and `anchor`)."""
    prefixes = {key.removesuffix(anchor).removesuffix(root) for key in checkpoint if key.endswith(anchor)}
    prefixes = {prefix for prefix in prefixes if not prefix or prefix.endswith(".")}
    if len(prefixes) == 1:
        (prefix,) = prefixes
        return checkpoint.under(prefix) if prefix else checkpoint
    if prefixes:
        several = ", ".join(sorted(prefixes))
        raise ModelError(f"{checkpoint.name}: several {what}s in it ({several}); give a file with one.")
    raise ModelError(
        f"{checkpoint.name}: no {what} in it: expected …{anchor}; it starts with {checkpoint.keys()[:3]}."
    )


def clip_config(checkpoint: Checkpoint) -> dict[str, int]:
    """Arguments of `CLIPTextConfig` read off the shapes.

    Heads are taken to be 64 wide, as in every published CLIP.
    """
    inner, root = _clip(checkpoint)
    inner = inner.under(root + ".") if root else inner
    vocabulary, width = inner.sizes(_CLIP_ANCHOR, 2)
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": inner.sizes("encoder.layers.0.mlp.fc1.weight", 2)[0],
        "num_hidden_layers": count_blocks(inner, "encoder.layers"),
        "num_attention_heads": max(width // 64, 1),
        "max_position_embeddings": inner.sizes("embeddings.position_embedding.weight", 2)[0],
    }


def t5_config(checkpoint: Checkpoint) -> dict[str, int]:
    """Arguments of `T5Config` read off the shapes; the number of heads is that of the position bias table."""
    inner, _ = t5_encoder(checkpoint)
    inside = inner.sizes(_T5_ANCHOR, 2)[0]
    buckets, heads = inner.sizes("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", 2)
    embedding = "shared.weight" if "shared.weight" in inner else "encoder.embed_tokens.weight"
    vocabulary, width = inner.sizes(embedding, 2)
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": inside // heads,
        "d_ff": inner.sizes("encoder.block.0.layer.1.DenseReluDense.wo.weight", 2)[1],
        "num_layers": count_blocks(inner, "encoder.block"),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
    }
