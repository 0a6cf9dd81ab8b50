"""`[objective] kind = "autoencoder"`: reconstruction, for training an autoencoder."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from velatura.recipe.section import Section


class AutoencoderObjective(Section):
    """Reconstruct images: L1 + L2 of pixels and of their gradients, and a small KL term."""

    kind: Literal["autoencoder"] = Field(
        "autoencoder", description="The objective; left out, it is the family's own."
    )
    kl_weight: float = Field(
        1e-6, ge=0, description="Weight of the posterior's KL divergence per latent value."
    )
    gradient_weight: float = Field(0.5, ge=0, description="Weight of the difference of image gradients.")
    crop: int | None = Field(None, ge=16, description="Train on random square crops of this edge, in pixels.")
