"""Velatura: teach image diffusion models something new, and paint with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from velatura.sampling.pipeline import Pipeline

__all__ = ["Pipeline", "__version__"]


def __getattr__(name: str) -> Any:
    """Load `Pipeline` on first use, so that importing the package stays cheap."""
    if name == "Pipeline":
        from velatura.sampling.pipeline import Pipeline

        return Pipeline
    raise AttributeError(f"module 'velatura' has no attribute '{name}'")
