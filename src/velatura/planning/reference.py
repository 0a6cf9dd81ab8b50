"""Plans of FLUX.1-dev as Markdown: `python -m velatura.planning.reference > docs/reference/plans.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from velatura.planning.choose import Plan
from velatura.planning.devices import GIB, KNOWN
from velatura.planning.estimate import Estimator
from velatura.planning.proposing import propose
from velatura.recipe.recipe import Recipe
from velatura.recipe.toml import parse_recipe

CARDS = ("4060", "3080-10", "3060-12", "4060-ti-16", "4090", "a6000", "h100", "h200")
RESOLUTIONS = (512, 1024)


_TITLE = """\
# Plans for FLUX.1-dev

<!-- written by `make docs` from the planner itself; do not edit -->

What `velatura plan --device NAME` chooses for cards of 8, 10, 12, 16, 24, 48, 80 and 141 GB, whose memory a program
sees as a little less, and what it then needs there at the peak of the training step. One image at a time, AdamW, bf16,
captions and latents cached, no previews. `ahead`: the autoencoder does not fit in that memory, and images are encoded
in the machine's own first. Seconds are an estimate for one image, not compiled.
[The guide](../guides/planning.md) says how the figures are made.
"""
_FULL = """\
All 11.9 billion weights. In float32 with gradients and AdamW's two averages they take 16 bytes each, 177 GiB.
[The guide](../guides/planning.md#a-budget-in-the-recipe) says what the settings give up.
"""
_RECIPE = """
name = "plan"
[model]
family = "flux"
model = "black-forest-labs/FLUX.1-dev"
[[data]]
folder = "photos"
resolution = {resolution}
[{trained}]
[training]
precision = "bf16"
"""
_NOWHERE = Path("nowhere")


def reference() -> str:
    """The whole page."""
    full = ("## Full fine-tuning\n", _FULL, *_tables("full"))
    return "\n".join([_TITLE, "## A LoRA of rank 16\n", *_tables("adapter"), *full])


def _tables(trained: str) -> Iterator[str]:
    for resolution in RESOLUTIONS:
        recipe = _recipe(resolution, trained)
        yield f"At {resolution}x{resolution}:\n"
        yield from _head("card", "GiB", "settings", "step, GiB", "host, GiB", "seconds")
        for card in CARDS:
            device = KNOWN[card]
            yield _row(card, propose(Estimator.of_recipe(recipe, _NOWHERE, device), recipe, device.budget))
        yield ""


def _head(*names: str) -> Iterator[str]:
    yield "| " + " | ".join(names) + " |"
    yield "|" + "---|" * len(names)


def _row(card: str, made: Plan) -> str:
    estimate, budget = made.estimate, _gib(made.budget)
    peak, host = _gib(estimate.occupied(estimate.step)), _gib(estimate.sizes.of_host)
    if not made.fits:
        return f"| {card} | {budget} | does not fit, even with {_settings(made)} | {peak} | {host} | |"
    ahead = ", ahead" if estimate.encoded_elsewhere(made.budget) else ""
    return f"| {card} | {budget} | {_settings(made)}{ahead} | {peak} | {host} | {estimate.seconds:.2g} |"


def _settings(made: Plan) -> str:
    return ", ".join(f"`{line}`" for line in made.sets) or "as it is"


def _recipe(resolution: int, trained: str) -> Recipe:
    return parse_recipe(_RECIPE.format(resolution=resolution, trained=trained))


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}"


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")  # type: ignore[union-attr]
    sys.stdout.write(reference())
