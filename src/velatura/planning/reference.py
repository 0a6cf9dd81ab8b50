"""Plans of FLUX.1-dev as Markdown: `python -m velatura.planning.reference > docs/reference/plans.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from velatura.planning.choose import Plan, propose
from velatura.planning.devices import GIB, KNOWN
from velatura.planning.estimate import Estimator
from velatura.recipe.recipe import Recipe
from velatura.recipe.toml import parse_recipe

BUDGETS = (8, 10, 12, 16, 24, 48, 80, 141)  # GiB
BUDGETS_OF_FULL = (24, 48, 80, 141)
RESOLUTIONS = (512, 1024)
SLOWER, FASTER = KNOWN["4090"], KNOWN["h100"]
FAST = 80  # GiB: from here on the speed of the faster one


_TITLE = """\
# Plans for FLUX.1-dev

<!-- written by `make docs` from the planner itself; do not edit -->

What `velatura plan` chooses for a given memory of the device, and what it then needs there at the peak of the training
step. One image at a time, AdamW, bf16, captions and latents cached, no previews. `ahead`: the autoencoder does not fit
in that budget, and images are encoded in the machine's own memory first. Seconds are an estimate for one image, not
compiled: with the speed of a GeForce 4090 up to 48 GiB, of an H100 from 80 GiB on.
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
    full = ("## Full fine-tuning\n", _FULL, *_tables("full", BUDGETS_OF_FULL))
    return "\n".join([_TITLE, "## A LoRA of rank 16\n", *_tables("adapter", BUDGETS), *full])


def _tables(trained: str, budgets: Sequence[int]) -> Iterator[str]:
    for resolution in RESOLUTIONS:
        recipe = _recipe(resolution, trained)
        slower, faster = (Estimator.of_recipe(recipe, _NOWHERE, device) for device in (SLOWER, FASTER))
        yield f"At {resolution}x{resolution}:\n"
        yield from _head("GiB", "settings", "step, GiB", "host, GiB", "seconds")
        for budget in budgets:
            yield _row(propose(faster if budget >= FAST else slower, recipe, budget * GIB))
        yield ""


def _head(*names: str) -> Iterator[str]:
    yield "| " + " | ".join(names) + " |"
    yield "|" + "---|" * len(names)


def _row(made: Plan) -> str:
    estimate, budget = made.estimate, made.budget // GIB
    peak, host = _gib(estimate.occupied(estimate.step)), _gib(estimate.sizes.of_host)
    if not made.fits:
        return f"| {budget} | does not fit, even with {_settings(made)} | {peak} | {host} | |"
    ahead = ", ahead" if estimate.encoded_elsewhere(made.budget) else ""
    return f"| {budget} | {_settings(made)}{ahead} | {peak} | {host} | {estimate.seconds:.2g} |"


def _settings(made: Plan) -> str:
    return ", ".join(f"`{line}`" for line in made.sets) or "as it is"


def _recipe(resolution: int, trained: str) -> Recipe:
    return parse_recipe(_RECIPE.format(resolution=resolution, trained=trained))


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}"


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")  # type: ignore[union-attr]
    sys.stdout.write(reference())
