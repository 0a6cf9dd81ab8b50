"""`[adapter] kind = "lora"`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from velatura.recipe.path_keys import FileOrFolder
from velatura.recipe.section import Section


class LoraAdapter(Section):
    """Low-rank adapter: y = W x + strength * (alpha / rank) * B A x."""

    kind: Literal["lora"] = Field("lora", description="What the layers are.")
    rank: int = Field(16, ge=1, le=1024, description="Rank of the update.")
    alpha: float | None = Field(None, gt=0, description="Scale is alpha / rank; default: equal to rank.")
    targets: list[str] | str = Field(
        ["attention", "mlp"],
        min_length=1,
        description="Groups ('attention', 'mlp', 'modulation', …), patterns over module paths such as "
        "'transformer_blocks.*.attn.*', or a preset: 'sd-scripts'.",
    )
    share_down: bool = Field(True, description="Layers that read the same input share the down projection.")
    init_from: FileOrFolder | None = Field(
        None,
        description="Start from this LoRA file, whose layers then count; or from the values in a state's folder of "
        "another run with the same layers.",
    )
