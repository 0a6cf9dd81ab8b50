"""What a weights file is, told from its keys and shapes alone, so that a wrong file is refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from velatura.checkpoints.checkpoint import Checkpoint
from velatura.checkpoints.flux_keys import flux_config, without_prefix
from velatura.errors import ModelError

OURS = ("flux-denoiser", "sd1-unet", "autoencoder", "clip-text-encoder", "t5-encoder", "lora")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """One network found in a file.

    kind: one of `OURS`, or what else it is; layout: whose names it has ("bfl", "ldm", "diffusers", …); title: for
    people.
    """

    kind: str
    layout: str
    title: str


@dataclass(frozen=True)
class _Sign:  # positional: a table
    """Keys that only one architecture has: all of `has` and none of `lacks`, below the usual prefixes."""

    kind: str
    layout: str
    title: str
    has: tuple[str, ...]
    lacks: tuple[str, ...] = ()


_DENOISERS = (  # the first that fits counts
    _Sign("chroma-denoiser", "any", "a Chroma denoiser", ("distilled_guidance_layer.in_proj.weight",)),
    _Sign("flux2-denoiser", "bfl", "a FLUX.2 denoiser", ("double_stream_modulation_img.lin.weight",)),
    _Sign(
        "flux2-denoiser", "diffusers", "a FLUX.2 denoiser", ("double_stream_modulation_img.linear.weight",)
    ),
    _Sign("hunyuan-image-denoiser", "own", "a HunyuanImage denoiser", ("byt5_in.fc1.weight",)),
    _Sign(
        "hunyuan-video-denoiser", "own", "a HunyuanVideo denoiser", ("double_blocks.0.img_attn_qkv.weight",)
    ),
    _Sign("flux-controlnet", "diffusers", "a FLUX ControlNet", ("controlnet_x_embedder.weight",)),
    _Sign("flux-denoiser", "bfl", "a FLUX denoiser", ("img_in.weight", "vector_in.in_layer.weight")),
    _Sign(
        "flux-denoiser",
        "diffusers",
        "a FLUX denoiser",
        ("x_embedder.weight", "context_embedder.weight", "time_text_embed.text_embedder.linear_1.weight"),
    ),
    _Sign("sd3-denoiser", "own", "an SD 3 denoiser", ("joint_blocks.0.x_block.attn.qkv.weight",)),
    _Sign(
        "sd3-denoiser", "diffusers", "an SD 3 denoiser", ("pos_embed.proj.weight", "context_embedder.weight")
    ),
    _Sign(
        "qwen-image-denoiser",
        "diffusers",
        "a Qwen-Image denoiser",
        ("transformer_blocks.0.img_mod.1.weight",),
    ),
    _Sign("z-image-denoiser", "own", "a Z-Image denoiser", ("cap_pad_token", "cap_embedder.0.weight")),
    _Sign(
        "lumina2-denoiser",
        "own",
        "a Lumina Image 2.0 denoiser",
        ("cap_embedder.0.weight", "x_embedder.weight"),
    ),
    _Sign(
        "lumina2-denoiser",
        "diffusers",
        "a Lumina Image 2.0 denoiser",
        ("time_caption_embed.caption_embedder.0.weight",),
    ),
    _Sign(
        "wan-denoiser",
        "own",
        "a Wan video denoiser",
        ("patch_embedding.weight", "blocks.0.cross_attn.k.weight"),
    ),
    _Sign("pixart-denoiser", "diffusers", "a PixArt denoiser", ("adaln_single.linear.weight",)),
    _Sign("auraflow-denoiser", "own", "an AuraFlow denoiser", ("double_layers.0.attn.w1q.weight",)),
    _Sign("sd-controlnet", "ldm", "a Stable Diffusion ControlNet", ("zero_convs.0.0.weight",)),
    _Sign(
        "sd-controlnet",
        "diffusers",
        "a Stable Diffusion ControlNet",
        ("controlnet_cond_embedding.conv_in.weight",),
    ),
    _Sign("sdxl-unet", "ldm", "an SDXL UNet", ("input_blocks.0.0.weight", "label_emb.0.0.weight")),
    _Sign("sdxl-unet", "diffusers", "an SDXL UNet", ("conv_in.weight", "add_embedding.linear_1.weight")),
)
_OTHERS = (
    _Sign("ip-adapter", "own", "an IP-Adapter", ("image_proj.proj.weight",)),
    _Sign("textual-inversion", "own", "a textual inversion", ("emb_params",)),
    _Sign("upscaler", "own", "an upscaler (ESRGAN)", ("conv_first.weight",)),
    _Sign("open-clip", "own", "an OpenCLIP text encoder", ("transformer.resblocks.0.attn.in_proj_weight",)),
    _Sign("language-model", "transformers", "a language model", ("model.layers.0.self_attn.q_proj.weight",)),
)
_ATTENTION_K = re.compile(r"(attn2\.to_k\.weight)$")
_LORA = re.compile(
    r"\.lora_(down|up|A|B)(\.\w+)?\.weight$|[._]lora(_linear_layer)?\.(down|up)\.weight$|\.hada_w|\.lokr_w"
)
_QUANTISED = (".quant_state.", ".absmax", ".qweight")
_NAMES = {
    "flux-denoiser": "a FLUX denoiser",
    "sd1-unet": "an SD 1.x UNet",
    "autoencoder": "an image autoencoder",
    "clip-text-encoder": "a CLIP text encoder",
    "t5-encoder": "a T5 encoder",
    "lora": "a LoRA",
}


def contents(checkpoint: Checkpoint) -> tuple[Identity, ...]:
    """Every network that is recognised in a file; a merged file has several. Empty when none is."""
    if any(_LORA.search(key) for key in checkpoint):
        return (Identity(kind="lora", layout=_lora_layout(checkpoint), title="a LoRA or another adapter"),)
    searches: tuple[Callable[[Checkpoint], Identity | None], ...] = (_denoiser, _autoencoder, _clip, _t5)
    found = [identity for search in searches if (identity := search(checkpoint)) is not None]
    if not found:
        others = (_match(sign, checkpoint) for sign in _OTHERS)
        found = [identity for identity in others if identity is not None][:1]
    return tuple(found)


def identify(checkpoint: Checkpoint) -> Identity:
    """The principal network in a file; kind "unknown" when nothing is recognised."""
    found = contents(checkpoint)
    first = ", ".join(checkpoint.keys()[:3])
    return (
        found[0]
        if found
        else Identity(kind="unknown", layout="unknown", title=f"nothing known (it has {first}, …)")
    )


def expect(checkpoint: Checkpoint, kinds: str | Collection[str]) -> Identity:
    """The network of one of these kinds in the file. Raises ModelError that says what it is and what was wanted."""
    wanted = [kinds] if isinstance(kinds, str) else list(kinds)
    found = contents(checkpoint)
    for identity in found:
        if identity.kind in wanted and not _quantised(checkpoint):
            return identity
    titles = " or ".join(_NAMES.get(kind, kind) for kind in wanted)
    looks = " with ".join(identity.title for identity in found) or identify(checkpoint).title
    if _quantised(checkpoint):
        looks += ", quantised by a tool whose format is not read here: get the bf16, fp16 or fp8 version"
    raise ModelError(f"{checkpoint.name}: this looks like {looks}; {titles} was wanted.")


def _match(sign: _Sign, keys: Checkpoint) -> Identity | None:
    fits = all(key in keys for key in sign.has) and not any(key in keys for key in sign.lacks)
    return Identity(kind=sign.kind, layout=sign.layout, title=sign.title) if fits else None


def _denoiser(checkpoint: Checkpoint) -> Identity | None:
    inner = without_prefix(checkpoint)
    for sign in _DENOISERS:
        if (identity := _match(sign, inner)) is not None:
            return _with_flux_details(identity, checkpoint) if identity.kind == "flux-denoiser" else identity
    return _sd_unet(inner)


def _with_flux_details(identity: Identity, checkpoint: Checkpoint) -> Identity:
    try:
        config = flux_config(checkpoint)
    except ModelError as problem:
        return Identity(
            kind="damaged-flux", layout=identity.layout, title=f"a damaged FLUX denoiser ({problem})"
        )
    blocks = f"{config['num_layers']} + {config['num_single_layers']} blocks"
    guidance = "with" if config["guidance_embeds"] else "without"
    title = f"{identity.title} ({blocks}, {config['in_channels']} input channels, {guidance} guidance)"
    return Identity(kind=identity.kind, layout=identity.layout, title=title)


def _sd_unet(inner: Checkpoint) -> Identity | None:
    ldm, diffusers = (
        "input_blocks.0.0.weight" in inner,
        "down_blocks.0.resnets.0.time_emb_proj.weight" in inner,
    )
    if not ldm and not diffusers:
        return None
    widths = {inner.shape(key)[-1:] for key in inner if _ATTENTION_K.search(key)}
    two = widths == {(1024,)}
    kind, title = ("sd2-unet", "an SD 2.x UNet") if two else ("sd1-unet", "an SD 1.x UNet")
    return Identity(kind=kind, layout="ldm" if ldm else "diffusers", title=title)


def _autoencoder(checkpoint: Checkpoint) -> Identity | None:
    for prefix in ("", "first_stage_model.", "vae."):
        shape = _shape(checkpoint, f"{prefix}decoder.conv_in.weight")
        layouts = {
            "ldm": "encoder.down.0.block.0.conv1.weight",
            "diffusers": "encoder.down_blocks.0.resnets.0.conv1.weight",
        }
        for layout, key in layouts.items():
            if prefix + key in checkpoint and len(shape) == 4:
                return Identity(
                    kind="autoencoder",
                    layout=layout,
                    title=f"an image autoencoder ({shape[1]} latent channels)",
                )
    return None


def _clip(checkpoint: Checkpoint) -> Identity | None:
    for key in checkpoint:
        if key.endswith("embeddings.token_embedding.weight"):
            width = _width(checkpoint, key)
            names = {768: "CLIP-L", 1024: "OpenCLIP-H", 1280: "OpenCLIP-G"}
            title = f"a CLIP text encoder ({names.get(width, f'width {width}')})"
            return Identity(kind="clip-text-encoder", layout="transformers", title=title)
    return None


def _t5(checkpoint: Checkpoint) -> Identity | None:
    for key in checkpoint:
        if key.endswith("encoder.block.0.layer.0.SelfAttention.q.weight"):
            width = _width(checkpoint, key)
            names = {4096: "T5-XXL", 2048: "T5-XL", 1024: "T5-large", 768: "T5-base"}
            title = f"a T5 encoder ({names.get(width, f'width {width}')})"
            return Identity(kind="t5-encoder", layout="transformers", title=title)
    return None


def _shape(checkpoint: Checkpoint, key: str) -> tuple[int, ...]:
    return checkpoint.shape(key) if key in checkpoint else ()


def _width(checkpoint: Checkpoint, key: str) -> int:
    """Columns of a matrix; 0 for a number."""
    return next(reversed(checkpoint.shape(key)), 0)


def _lora_layout(keys: Iterable[str]) -> str:
    first = next(iter(keys))
    return "kohya" if first.startswith("lora_") else "dotted"


def _quantised(keys: Iterable[str]) -> bool:
    return any(mark in key for key in keys for mark in _QUANTISED)
