"""The peers' own FLUX and LoRA, from clones of their repositories, as contestants of step.py.

Only their model modules are imported. Packages that these modules import and never call in a step (torchvision, cv2)
are stood in for where they are missing; einops, which they do call, has to be installed.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from contest import Step
from step_shape import AXES, DOUBLE, HEADS, JOINT, POOLED, RANK, SINGLE, WIDTH, Tokens, ids, item, written_out

# attention and MLP linears, as all contestants train them
DIFFSYNTH_TARGETS = [
    *("a_to_qkv", "b_to_qkv", "a_to_out", "b_to_out", "ff_a.0", "ff_a.2", "ff_b.0", "ff_b.2"),
    *("to_qkv_mlp", "proj_out"),
]


def peers(folder: Path) -> dict[str, Callable[..., Step]]:
    """The contestants that can be built from the clones in `folder`; says which cannot, and why."""
    known = {
        "sd-scripts": (sd_scripts, "library/flux_models.py"),
        "DiffSynth-Studio": (diffsynth, "diffsynth/models/flux_dit.py"),
    }
    found = {}
    for name, (make, file) in known.items():
        if not (folder / name / file).is_file():
            print(f"left out: {name}: {folder / name} has no {file}")
        elif importlib.util.find_spec("einops") is None:
            print(f"left out: {name}: it imports einops, which is not installed")
        else:
            found[name] = make
    return found


def sd_scripts(tokens: Tokens, dtype: torch.dtype, device: torch.device, folder: Path) -> Step:
    """Weights in `dtype`, LoRA in float32 under autocast, as its --mixed_precision does."""
    with importable(folder / "sd-scripts"):
        with stood_in("torchvision", "torchvision.transforms", "cv2"):
            import library.utils  # type: ignore[import-not-found] # noqa: F401
        from library.flux_models import Flux, FluxParams  # type: ignore[import-not-found]
        from networks.lora_flux import create_network  # type: ignore[import-not-found]

    torch.manual_seed(0)
    shape = FluxParams(
        in_channels=64, vec_in_dim=POOLED, context_in_dim=JOINT, hidden_size=WIDTH, mlp_ratio=4.0, num_heads=HEADS,
        depth=DOUBLE, depth_single_blocks=SINGLE, axes_dim=list(AXES), theta=10_000, qkv_bias=True,
        guidance_embed=False,
    )  # fmt: skip
    model = Flux(shape).to(device, dtype).requires_grad_(False)
    no_modulation = {"img_mod_dim": 0, "txt_mod_dim": 0, "single_mod_dim": 0}
    network = create_network(1.0, RANK, RANK, None, [], model, **no_modulation)
    network.apply_to([], model, apply_text_encoder=False, apply_unet=True)
    network.to(device).requires_grad_(True)
    data = {name: tensor.to(device, dtype) for name, tensor in item(tokens).items()}
    text_ids, image_ids = ids(tokens, device)

    def predict(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = model(
            img=noisy,
            img_ids=image_ids[None],
            txt=data["text"],
            txt_ids=text_ids[None],
            y=data["pooled"],
            timesteps=t,
        )
        return out

    return written_out(predict, network.parameters(), tokens, dtype, device, autocast=True)


def diffsynth(tokens: Tokens, dtype: torch.dtype, device: torch.device, folder: Path) -> Step:
    """Its blocks, which its pipeline runs one after the other; LoRA by peft in `dtype`, as its training module does.

    Its network has FLUX.1's widths written into it, so it is put together from its parts here.
    """
    from peft import LoraConfig, inject_adapter_in_model

    with importable(folder / "DiffSynth-Studio"):
        package = ModuleType("diffsynth")  # its own __init__ imports every model and data reader
        package.__path__ = [str(folder / "DiffSynth-Studio" / "diffsynth")]
        sys.modules["diffsynth"] = package
        from diffsynth.models import flux_dit as parts  # type: ignore[import-not-found]

    torch.manual_seed(0)
    model: Any = torch.nn.Module()
    model.pos_embedder = parts.RoPEEmbedding(WIDTH, 10_000, list(AXES))
    model.time_embedder = parts.TimestepEmbeddings(256, WIDTH)
    model.pooled_text_embedder = torch.nn.Sequential(
        torch.nn.Linear(POOLED, WIDTH), torch.nn.SiLU(), torch.nn.Linear(WIDTH, WIDTH)
    )
    model.context_embedder = torch.nn.Linear(JOINT, WIDTH)
    model.x_embedder = torch.nn.Linear(64, WIDTH)
    model.blocks = torch.nn.ModuleList(parts.FluxJointTransformerBlock(WIDTH, HEADS) for _ in range(DOUBLE))
    model.single_blocks = torch.nn.ModuleList(
        parts.FluxSingleTransformerBlock(WIDTH, HEADS) for _ in range(SINGLE)
    )
    model.final_norm_out = parts.AdaLayerNormContinuous(WIDTH)
    model.final_proj_out = torch.nn.Linear(WIDTH, 64)
    model.to(device, dtype).requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=DIFFSYNTH_TARGETS), model)
    trained = [parameter for name, parameter in model.named_parameters() if "lora_" in name]
    data = {name: tensor.to(device, dtype) for name, tensor in item(tokens).items()}
    text_ids, image_ids = ids(tokens, device)
    positions = torch.cat((text_ids, image_ids))[None]

    def predict(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        vector = model.time_embedder(t * 1000, dtype) + model.pooled_text_embedder(data["pooled"])
        image, text = model.x_embedder(noisy), model.context_embedder(data["text"])
        rotary = model.pos_embedder(positions)
        for block in model.blocks:
            image, text = block(image, text, vector, rotary)
        joined = torch.cat((text, image), dim=1)
        for block in model.single_blocks:
            joined, text = block(joined, text, vector, rotary)
        out: torch.Tensor = model.final_proj_out(model.final_norm_out(joined[:, tokens.text :], vector))
        return out

    return written_out(predict, trained, tokens, dtype, device, autocast=False)


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Modules in `folder` can be imported."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextmanager
def stood_in(*names: str, unused: Sequence[str] = ()) -> Iterator[None]:
    """Modules that are made up, with every name in them: `names` where they are missing, `unused` in any case."""
    # both ask what is installed: before any is made up
    from diffusers import EulerAncestralDiscreteScheduler  # noqa: F401
    from transformers import CLIPTextModel  # noqa: F401

    missing = [name for name in names if importlib.util.find_spec(name.partition(".")[0]) is None]
    missing += unused
    for name in missing:
        sys.modules[name] = _StandIn(name)
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None
