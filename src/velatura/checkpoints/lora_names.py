"""How LoRA tools name a layer's tensors, and which part and module each name means.

kohya        lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight      underscores; FLUX fused, SD split
diffusers    transformer.transformer_blocks.0.attn.to_q.lora_A.weight     also ai-toolkit and SimpleTuner
peft         base_model.model.transformer_blocks.0.attn.to_q.lora_A.default.weight, or without any prefix
onetrainer   lora_transformer_transformer_blocks_0_attn_to_q.lora_down.weight
comfy        diffusion_model.double_blocks.0.img_attn.qkv.lora_down.weight, .lora_A.weight too
diffsynth    blocks.0.attn.a_to_qkv.lora_A.default.weight
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from velatura.checkpoints.flux_keys import DOUBLE, OUTER, SINGLE
from velatura.checkpoints.lora_layer import Layout, LoraFormat, Part
from velatura.errors import ModelError

Role = Literal["down", "up", "alpha"]

_ROLES: tuple[tuple[re.Pattern[str], Role], ...] = (
    (re.compile(r"\.lora_down\.weight$|\.lora_A(\.\w+)?\.weight$|[._]lora\.down\.weight$"), "down"),
    (re.compile(r"\.lora_up\.weight$|\.lora_B(\.\w+)?\.weight$|[._]lora\.up\.weight$"), "up"),
    (re.compile(r"\.lora_linear_layer\.down\.weight$"), "down"),
    (re.compile(r"\.lora_linear_layer\.up\.weight$"), "up"),
    (re.compile(r"\.alpha$"), "alpha"),
)
_OTHER_ADAPTERS = (
    (re.compile(r"dora_scale$|lora_magnitude_vector"), "a DoRA"),
    (re.compile(r"\.hada_[wt]\d"), "a LoHa"),
    (re.compile(r"\.lokr_[wt]\d"), "a LoKr"),
    (re.compile(r"\.oft_"), "an OFT adapter"),
    (re.compile(r"\.lora_mid\."), "a LoCon with a Tucker core"),
    (re.compile(r"(qkv|proj)_lora\d?\."), "an XLabs LoRA"),
    (
        re.compile(r"_norm\.scale$|\.lora_B\.bias$|\.(diff|diff_b|w_norm|b_norm)$"),
        "an adapter that changes norms or biases too",
    ),
)
_PREFIXES: tuple[tuple[str, Part, LoraFormat], ...] = (  # the first that fits counts
    ("lora_unet_", "denoiser", "kohya"),
    ("lora_te_", "clip_l", "kohya"),
    ("lora_te1_", "clip_l", "kohya"),
    ("lora_te3_", "t5", "kohya"),
    ("lora_transformer_", "denoiser", "onetrainer"),
    ("base_model.model.transformer.", "denoiser", "peft"),
    ("base_model.model.diffusion_model.", "denoiser", "peft"),
    ("base_model.model.", "denoiser", "peft"),
    ("transformer.", "denoiser", "diffusers"),
    ("unet.", "denoiser", "diffusers"),
    ("text_encoder.", "clip_l", "diffusers"),
    ("text_encoder_2.", "t5", "diffusers"),
    ("diffusion_model.", "denoiser", "comfy"),
    ("text_encoders.clip_l.transformer.", "clip_l", "comfy"),
    ("text_encoders.t5xxl.transformer.", "t5", "comfy"),
    ("pipe.dit.", "denoiser", "diffsynth"),
    ("", "denoiser", "peft"),
)
_DIFFSYNTH_DOUBLE = {
    "norm1_a.linear": "img_mod.lin",
    "norm1_b.linear": "txt_mod.lin",
    "attn.a_to_qkv": "img_attn.qkv",
    "attn.b_to_qkv": "txt_attn.qkv",
    "attn.a_to_out": "img_attn.proj",
    "attn.b_to_out": "txt_attn.proj",
    "ff_a.0": "img_mlp.0",
    "ff_a.2": "img_mlp.2",
    "ff_b.0": "txt_mlp.0",
    "ff_b.2": "txt_mlp.2",
}
_DIFFSYNTH_SINGLE = {"norm.linear": "modulation.lin", "to_qkv_mlp": "linear1", "proj_out": "linear2"}
# components of module paths beside those in the FLUX tables
# fmt: off
_OTHER_WORDS = (
    "double_blocks", "single_blocks", "transformer_blocks", "single_transformer_blocks",
    "down_blocks", "mid_block", "up_blocks", "attentions", "resnets", "downsamplers", "upsamplers",
    "conv", "conv1", "conv2", "conv_shortcut", "time_emb_proj", "attn1", "attn2", "proj_in",
    "conv_in", "conv_out", "time_embedding", "to_q", "to_k", "to_v", "to_out", "text_model",
    "encoder", "layers", "self_attn", "q_proj", "k_proj", "v_proj", "out_proj", "mlp", "fc1", "fc2",
    "block", "layer", "SelfAttention", "DenseReluDense", "q", "k", "v", "o", "wi_0", "wi_1", "wo",
)
# fmt: on
_OLD_CLIP = {
    "to_q": "q_proj",
    "to_k": "k_proj",
    "to_v": "v_proj",
    "to_out": "out_proj",
}  # diffusers before 0.22
_MOST_PARTS = 60  # between underscores, of a layer's name: twice what any has
_UNET_ROOTS = ("down_blocks", "mid_block", "up_blocks", "conv_in", "conv_out", "time_embedding")
_BFL_ROOTS = {"double_blocks", "single_blocks", *(rule.file.split(".")[0] for rule in OUTER)}
_SPLIT_ROOTS = {
    "transformer_blocks",
    "single_transformer_blocks",
    *(place.split(".")[0] for rule in OUTER for place in rule.places),
}


@dataclass(frozen=True, kw_only=True)
class Place:
    """The layer that a key speaks of: `module` is dotted."""

    part: Part
    module: str


def is_adapter_key(key: str) -> bool:
    """Whether a tensor's name ends as those of LoRAs, or of adapters that are refused by name."""
    return any(pattern.search(key) for pattern, _ in (*_ROLES, *_OTHER_ADAPTERS))


def parse_key(key: str, name: str) -> tuple[Place, Role, LoraFormat]:
    """What a tensor of a LoRA file is. `name` is the file, for messages. Raises ModelError."""
    for pattern, role in _ROLES:
        if (match := pattern.search(key)) is not None:
            module, part, kind = _place(key[: match.start()], key, name)
            return Place(part=part, module=module), role, kind
    for pattern, what in _OTHER_ADAPTERS:
        if pattern.search(key):
            raise ModelError(f"{name}: '{key}' says that this is {what}; plain LoRA files are read.")
    raise ModelError(f"{name}: '{key}' is not a key of a LoRA file.")


def _place(stem: str, key: str, name: str) -> tuple[str, Part, LoraFormat]:
    prefix, part, kind = next(entry for entry in _PREFIXES if stem.startswith(entry[0]))
    path = stem.removeprefix(prefix).replace(".processor.", ".")
    module = _dotted(path) if prefix.endswith("_") else path
    if module is None:
        raise ModelError(f"{name}: '{key}' names no layer of FLUX or SD 1.x: is it a LoRA for another model?")
    if part == "denoiser" and module.endswith(".to_out"):
        module += ".0"  # diffusers before 0.22 named the list, not its layer
    if part == "clip_l":
        module = _clip_module(module)
    from_diffsynth = _from_diffsynth(module) if part == "denoiser" else None
    return (module, part, kind) if from_diffsynth is None else (from_diffsynth, part, "diffsynth")


def _clip_module(module: str) -> str:
    """With `text_model.` before it, which transformers 5 leaves out, and the leaf as transformers names it."""
    path, _, leaf = module.removeprefix("text_model.").rpartition(".")
    return f"text_model.{path}.{_OLD_CLIP.get(leaf, leaf)}"


def _from_diffsynth(module: str) -> str | None:
    """The BFL name of a layer that is named as in DiffSynth, else None."""
    match = re.fullmatch(r"(single_)?blocks\.(\d+)\.(.+)", module)
    if match is None:
        return None
    leaf = (_DIFFSYNTH_SINGLE if match[1] else _DIFFSYNTH_DOUBLE).get(match[3])
    return leaf and f"{'single' if match[1] else 'double'}_blocks.{match[2]}.{leaf}"


@lru_cache(maxsize=1)
def _words() -> frozenset[str]:
    """Every component of a module's path, some of which have underscores of their own."""
    rules = (*OUTER, *DOUBLE, *SINGLE)
    paths = [rule.file for rule in rules] + [place for rule in rules for place in rule.places]
    return frozenset(word for path in paths for word in path.split(".")) | frozenset(_OTHER_WORDS)


def _dotted(name: str) -> str | None:
    """`double_blocks_0_img_attn_qkv` -> `double_blocks.0.img_attn.qkv`; None when it has an unknown word."""
    parts = name.split("_")
    if len(parts) > _MOST_PARTS:
        return None
    # what is read from each part on; found from the end, so that a name takes no longer the more ways it can be read
    tails: list[str | None] = [*[None] * len(parts), ""]
    for start in reversed(range(len(parts))):
        for stop in range(len(parts), start, -1):  # the longest word first: linear_1, not linear.1
            word, tail = "_".join(parts[start:stop]), tails[stop]
            if tail is not None and (word in _words() or word.isdecimal()):
                tails[start] = f"{word}.{tail}" if tail else word
                break
    return tails[0]


def layout_of(modules: list[str], name: str) -> Layout | None:
    """The layout that a denoiser's module names are in; None without any. Raises ModelError for a mixture."""
    found: dict[Layout, str] = {}
    for module in modules:
        root = module.split(".")[0]
        if root in _BFL_ROOTS:
            found["bfl"] = module
        elif root in _SPLIT_ROOTS:
            found["diffusers"] = module
        elif root in _UNET_ROOTS:
            found["unet"] = module
        else:
            raise ModelError(
                f"{name}: '{module}' is no layer of FLUX or SD 1.x: is it a LoRA for another model?"
            )
    if len(found) > 1:
        raise ModelError(f"{name}: names of several layouts in one file: {', '.join(found.values())}.")
    return next(iter(found), None)


def file_stem(place: Place, kind: LoraFormat, layout: Layout) -> str:
    """The name of a layer in a file of a format, to which `.lora_down.weight` and the like are added."""
    if kind == "kohya":
        prefixes = {
            "denoiser": "lora_unet_",
            "clip_l": "lora_te_" if layout == "unet" else "lora_te1_",
            "t5": "lora_te3_",
        }
        return prefixes[place.part] + place.module.replace(".", "_")
    if kind == "comfy":
        encoders = {"clip_l": "text_encoders.clip_l.transformer.", "t5": "text_encoders.t5xxl.transformer."}
        return encoders.get(place.part, "diffusion_model.") + place.module
    if kind == "diffusers":
        denoiser = "unet." if layout == "unet" else "transformer."
        return {"denoiser": denoiser, "clip_l": "text_encoder.", "t5": "text_encoder_2."}[
            place.part
        ] + place.module
    raise ModelError(f"LoRA files are not written in the format '{kind}'; there are kohya, diffusers, comfy.")
