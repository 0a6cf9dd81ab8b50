"""The configs of published models that are shipped with the package."""

from __future__ import annotations

import difflib
import json
from importlib import resources
from typing import Any

from velatura.errors import ModelError

_PACKAGE = "velatura.checkpoints.configs"


def config_names() -> tuple[str, ...]:
    """Names that `load_config` takes."""
    files = (file.name for file in resources.files(_PACKAGE).iterdir())
    return tuple(sorted(name.removesuffix(".json") for name in files if name.endswith(".json")))


def load_config(name: str) -> dict[str, Any]:
    """The config of a published model's part as its class takes it, e.g. "flux-dev-transformer".

    Raises ModelError for an unknown name.

    Keys that begin with `_` (the class's name) are for the reader and are left out, so `Class(**config)`
    works. The CLIP configs say `eos_token_id: 49407` where the hub's say 2: with 2 transformers pools at the
    highest token id, which is the same place until a new token is added (textual inversion), and the wrong
    one from then on.
    """
    if name not in config_names():
        near = difflib.get_close_matches(name, config_names(), n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ModelError(f"No config '{name}'; there are {', '.join(config_names())}.{hint}")
    config = json.loads((resources.files(_PACKAGE) / f"{name}.json").read_text("utf-8"))
    return {key: value for key, value in config.items() if not key.startswith("_")}
