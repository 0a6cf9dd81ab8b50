"""A FLUX so small that whole trainings run in a second, as a diffusers folder, and pictures to train it on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from velatura.events import Event, Events, Notice
from velatura.families.flux import FluxFamily
from velatura.families.locate import POCKET
from velatura.interfaces import PARTS, Family, ModelFiles, Parts
from velatura.recipe.defaults import fill_in
from velatura.recipe.recipe import Recipe

WIDTH = 32
SHAPES: dict[str, dict[str, Any]] = {  # changes to the configs of the pocket FLUX
    "transformer": {
        "num_layers": 1,
        "num_single_layers": 2,
        "attention_head_dim": 32,
        "num_attention_heads": 1,
        "joint_attention_dim": WIDTH,
        "pooled_projection_dim": WIDTH,
        "axes_dims_rope": [8, 12, 12],
    },
    "vae": {
        "block_out_channels": [8, 16, 32, 32],
        "norm_num_groups": 4,
        "scaling_factor": 0.7,
        "shift_factor": 0.1,
    },
    "text_encoder": {
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
    },
    "text_encoder_2": {
        "d_model": WIDTH,
        "d_ff": 48,
        "d_kv": 16,
        "num_heads": 2,
        "num_layers": 1,
        "dropout_rate": 0.1,
    },
}
SAMPLING = {"size": 64, "steps": 3, "guidance": 0.0, "cfg": 1.0}
CPU = torch.device("cpu")


def write_flux(folder: Path, *, seed: int = 0, **changes: dict[str, Any]) -> Path:
    """A random FLUX whose output depends on all its inputs; `changes`: to the config of a part."""
    configs = folder.with_name(f"{folder.name}-configs")
    shutil.copytree(POCKET / "flux", configs, ignore=shutil.ignore_patterns("*.safetensors"))
    (configs / "velatura.json").write_text(json.dumps({"sampling": SAMPLING}))
    for part, shape in SHAPES.items():
        path = configs / part / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **shape, **changes.get(part, {})}))
    files = ModelFiles(model=str(configs), from_scratch=PARTS)
    family = FluxFamily()
    parts = family.load(files, PARTS, device=CPU, dtype=torch.float32, seed=seed)
    assert parts.denoiser is not None
    open_gates(parts.denoiser, seed)
    family.save(parts, files, folder, PARTS, dtype=torch.float32)
    shutil.rmtree(configs)
    return folder


def open_gates(denoiser: nn.Module, seed: int = 0) -> None:
    """Give small random values to what starts at zero: modulations, the output layer, and all biases."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in denoiser.parameters():
        if not parameter.any():
            parameter.data.normal_(0, 0.2, generator=generator)


def load(folder: Path, **options: Any) -> tuple[Family, Parts]:
    """The family and all parts of a folder, in float32."""
    family = FluxFamily()
    return family, family.load(
        ModelFiles(model=str(folder)), PARTS, device=CPU, dtype=torch.float32, **options
    )


def write_pictures(
    folder: Path, sizes: list[tuple[int, int]], *, captions: bool = True, seed: int = 0
) -> Path:
    """Smooth random pictures `00.png`, `01.png`, … of (width, height), with captions beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (width, height) in enumerate(sizes):
        coarse = np.random.default_rng((seed, number)).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(
            folder / f"{number:02d}.png"
        )
        if captions:
            (folder / f"{number:02d}.txt").write_text(f"a red cube number {number}")
    return folder


def recipe(base: Path, model: Path, /, **sections: Any) -> Recipe:
    """A strict recipe from plain tables: six pictures in `<base>/photos` unless `data` (or a list of it) says otherwise."""
    data = sections.pop("data", {})
    sources = data if isinstance(data, list) else [data]
    table: dict[str, Any] = {
        "name": "tiny",
        "seed": 3,
        "data": [{"folder": str(base / "photos"), "resolution": 64, **source} for source in sources],
        **sections,
        "model": {"model": str(model), **sections.get("model", {})},
        "training": {"precision": "fp32", "compile": False, **sections.get("training", {})},
        "output": {"folder": str(base / "runs"), "save_dtype": "fp32", **sections.get("output", {})},
    }
    if "full" not in table:
        table["adapter"] = {"rank": 4, **sections.get("adapter", {})}
    assert not fill_in(table, base)
    return Recipe.model_validate(table)


class Log:
    """Remembers all events of a run."""

    def __init__(self) -> None:
        self.seen: list[Event] = []
        self.events = Events(self.seen.append)

    def of(self, kind: type[Event]) -> list[Any]:
        """The events of one kind."""
        return [event for event in self.seen if isinstance(event, kind)]

    @property
    def texts(self) -> str:
        """All notices as one text."""
        return "\n".join(notice.message for notice in self.of(Notice))
