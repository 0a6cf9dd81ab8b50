"""What makes a run the run it is: keys of the recipe, data and weights, kept in its states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from velatura.recipe.values import flat
from velatura.training.live import learned
from velatura.training.setup import Setup

PLACES = ("model", "denoiser", "autoencoder", "text_encoders", "tokenizers")
FREE: Any = {  # does not change what is learned, or counts by what is in it: files may move
    **dict.fromkeys(("name", "data", "previews", "output", "validation", "validation_sets"), True),
    "training": {
        "steps",
        "device",
        "compile",
        "checkpoint_blocks",
        "save_every",
        "resume",
        "live",
        "skip_nonfinite",
        "retry_on_oom",
    },
    "memory": {
        "budget",
        "planned",
        "cache_folder",
        "micro_batch",
        "offload_activations",
        "split_attention",
        "streamed",
        "text_encoders",
    },
    "ema": {"device", "saved", "previewed"},
    "optimizer": {"fused_backward", "offload"},
    "model": set(PLACES),
}
SETTINGS = "settings"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a run learns from. Of the data counts what it came to, not the `[[data]]` tables."""

    recipe: Mapping[str, Any]  # "optimizer.learning_rate": 0.0001
    data: str
    model: Mapping[str, str]  # part -> fingerprint of its weights; "settings" -> `ModelInfo.settings`
    usual: frozenset[str] = field(default=frozenset(), compare=False)  # keys at their defaults; not saved

    def record(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "usual"}


def identity_of(setup: Setup, start: Mapping[str, str]) -> Identity:
    """The identity of the run that is about to begin. `start`: see `starting.identity_of_start`."""
    recipe = setup.recipe
    keys = dict(flat(recipe.model_dump(mode="json", exclude=FREE)))
    said = dict(flat(recipe.model_dump(mode="json", exclude=FREE, exclude_defaults=True)))
    keys["training.precision"] = str(setup.dtype).removeprefix("torch.")  # "auto" chooses by the machine
    keys["training.attention"] = setup.attention.name  # what can be had
    each = "training.batch_size" if recipe.training.batch_tokens is None else "training.batch_tokens"
    keys[each] *= setup.team.size  # two processes with half of it are the same run
    keys |= start
    if recipe.training.live:
        keys |= learned(recipe)
    return Identity(
        recipe=keys,
        data=setup.dataset.fingerprint(),
        model={**setup.info.fingerprints, SETTINGS: setup.info.settings},
        usual=frozenset(keys.keys() - said.keys()),
    )


def is_free(key: str) -> bool:
    """Whether a key of the recipe may be another when a run goes on."""
    section, _, name = key.partition(".")
    free = FREE.get(section, ())
    return free is True or name in free
